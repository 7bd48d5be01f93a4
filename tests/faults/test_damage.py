"""Damaged files, files that take no writes, filesystems without locks."""

from __future__ import annotations

import errno
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

Scenario = Callable[..., Any]


def test_a_corrupted_file_gives_no_wrong_winner_and_takes_new_ones(
    tmp_path: Path, scenario: Scenario, stress: Any
) -> None:
    times = stress.pick(60, 2000)
    found = scenario("damage", "corruptions", tmp_path, times, 5)
    stress.report("a corrupted file is opened, used and healed", times, found["lost"])
    assert (found["wrong"], found["lost"], found["unsound"], found["told twice"]) == (0, 0, 0, 0)
    assert found["hits"] > 0 and found["healed"] > times / 4 and len(found["ways"]) == 8


def test_what_only_the_log_of_a_torn_file_in_wal_mode_holds_is_salvaged(
    tmp_path: Path, scenario: Scenario, stress: Any
) -> None:
    times = stress.pick(4, 200)
    found = scenario("damage", "damaged_in_wal_mode", tmp_path, times, 8)
    stress.report("a file in WAL mode, open elsewhere, is torn and healed", times, found["lost"])
    assert (found["lost"], found["unsound"]) == (0, 0) and found["healed"] > times / 2


def test_a_corrupted_donor_brings_nothing_untrue(tmp_path: Path, scenario: Scenario, stress: Any) -> None:
    times = stress.pick(30, 600)
    found = scenario("damage", "corrupt_donors", tmp_path, times, 6)
    stress.report("a corrupted file is merged", times, found["lost"])
    assert (found["untrue"], found["changed"], found["lost"], found["unsound"]) == (0, 0, 0, 0)
    assert found["refused"] > times / 4


def test_lock_errors_are_errors_and_lose_nothing(tmp_path: Path, scenario: Scenario, stress: Any) -> None:
    codes = [errno.ENOLCK, errno.ESTALE, errno.ENOSYS, errno.EIO, errno.EACCES, errno.EPERM]
    times = len(codes) * stress.pick(1, 20)
    found = scenario("locks", "lock_errors", tmp_path / "tuning.db", codes, times)
    if "unsupported" in found:
        pytest.skip("this Python's SQLite keeps its test door shut")
    stress.report("locks fail: ENOLCK, ESTALE, ENOSYS, EIO, EACCES, EPERM", times, found["lost"])
    assert found == {"wrong": 0, "refused": 2 * times, "lost": 0}


@pytest.fixture
def public(scenario: Scenario) -> Iterator[Path]:
    """A folder that every user can reach, which pytest's own is not, and nobody write to."""
    folder = Path(tempfile.mkdtemp())
    scenario("damage", "prepared", folder / "tuning.db")
    (folder / "tuning.db").chmod(0o444)
    folder.chmod(0o555)
    yield folder
    folder.chmod(0o755)
    shutil.rmtree(folder)


def test_what_takes_no_writes_serves_reads(public: Path, scenario: Scenario, stress: Any) -> None:
    times = stress.pick(1, 10)
    before = (public / "tuning.db").read_bytes()
    for _ in range(times):
        found = scenario("damage", "read_only", public)
        assert found["hits"] == 8
        assert len(found["refused"]) == 8 and all(str(public) in line for line in found["refused"])
    stress.report("file, folder and home take no writes", 8 * times, 0)
    assert (public / "tuning.db").read_bytes() == before
    assert [path.name for path in public.iterdir()] == ["tuning.db"]
