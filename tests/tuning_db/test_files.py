from __future__ import annotations

import errno
import fcntl
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path

import filelock
import pytest

from tuning_db import single_flight


def test_the_first_holds_and_the_second_waits_in_vain(path: Path) -> None:
    with single_flight(path, "key", timeout=1) as first:
        with single_flight(path, "key", timeout=0.2) as second:
            assert (first, second) == (True, False)
        with single_flight(path, "another key", timeout=0) as other:
            assert other
    with single_flight(path, "key", timeout=0) as again:
        assert again


def test_a_waiting_thread_goes_on_when_the_holder_is_done(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    order = []
    refused, flock = threading.Event(), fcntl.flock

    def try_and_tell(descriptor: int, operation: int) -> None:
        try:
            flock(descriptor, operation)
        except OSError:
            refused.set()
            raise

    def wait() -> None:
        with single_flight(path, "key", timeout=60) as held:
            order.append(("thread", held))

    with single_flight(path, "key", timeout=1):
        monkeypatch.setattr("fcntl.flock", try_and_tell)
        thread = threading.Thread(target=wait)
        thread.start()
        assert refused.wait(60)
        order.append(("main", True))
    thread.join()
    assert order == [("main", True), ("thread", True)]


def test_the_flight_ends_with_an_exception_in_the_block(path: Path) -> None:
    with pytest.raises(KeyError), single_flight(path, "key", timeout=0):
        raise KeyError
    with single_flight(path, "key", timeout=0) as held:
        assert held


def test_every_name_of_a_file_means_one_flight(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path.touch()
    link, folder = path.with_name("link.db"), path.parent / "folder"
    link.symlink_to(path)
    folder.symlink_to(path.parent)
    monkeypatch.chdir(path.parent)
    names = [path, link, folder / "link.db", Path("tuning.db"), folder / ".." / path.parent.name / path.name]
    for one in names:
        with single_flight(one, "key", timeout=0) as held:
            assert held
            for other in names:
                with single_flight(other, "key", timeout=0) as also:
                    assert not also


def test_a_key_never_reaches_the_file_system(path: Path) -> None:
    with single_flight(path, "../../N=1 /\0" + "x" * 500, timeout=0) as held:
        assert held
    (lock,) = Path(f"{path}.locks").iterdir()
    assert lock.name.endswith(".lock") and len(lock.name) == 37
    assert sorted(path.parent.iterdir()) == [Path(f"{path}.locks")]


@pytest.mark.parametrize("code", [errno.ENOLCK, errno.ESTALE, errno.ENOSYS, errno.EIO])
def test_without_locks_the_work_is_done_unguarded(
    path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    def broken(*_: object) -> None:
        raise OSError(code, "no locks here")

    monkeypatch.setattr("fcntl.flock", broken)
    warnings: list[str] = []
    with single_flight(path, "key", timeout=5, warn=warnings.append) as held:
        assert held
    assert len(warnings) == 1 and "no locks here" in warnings[0]


def test_a_timeout_is_no_lack_of_locks(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def late(*_: object, **__: object) -> None:
        raise filelock.Timeout("x")

    monkeypatch.setattr(filelock.FileLock, "acquire", late)
    warnings: list[str] = []
    with single_flight(path, "key", timeout=5, warn=warnings.append) as held:
        assert not held
    assert warnings == []


def test_a_folder_that_cannot_be_made_is_warned_of(
    tmp_path: Path, script: Callable[..., subprocess.Popen[str]]
) -> None:
    (tmp_path / "file").touch()
    with (
        pytest.warns(RuntimeWarning, match="no lock in"),
        single_flight(tmp_path / "file" / "x", "k", 1) as held,
    ):
        assert held
