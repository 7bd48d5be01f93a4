"""`autoconv db`: what it shows, what it lets in and what it keeps out, and that it changes what it should."""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from autoconv import lookup, settings
from autoconv.config import Config
from autoconv.cost.version import predictor_of
from autoconv.device import find
from autoconv.environment import Environment
from autoconv.kernels.aten import ATEN
from autoconv.kernels.source import source_of
from autoconv.problem import Problem
from tests.cli.conftest import Run
from tests.cli.test_commands import documented
from tuning_db import Trial, TuningDB

PROBLEM = Problem(64, 64, 128, 3, 4096, stride=3, dilation=4)
HERE = Environment.current(find("rtx4090"))
TILES = {"BLOCK_CO": 128, "BLOCK_L": 64, "BLOCK_R": 32}

Fill = Callable[..., Path]


def config(warps: int) -> Config:
    return Config("dense", TILES, num_warps=warps, num_stages=2)


def trial(warps: int) -> Trial:
    source = source_of("dense") or ""
    detail = {"x": "y" * 200}
    return Trial(config(warps).document(), "ok", measured_us=float(warps), detail=detail, source=source)


ILLEGAL = Trial({"kernel": "retired", "num_warps": 4, "num_stages": 2}, "ok", measured_us=1.0)


@pytest.fixture
def user() -> Path:
    """The user's database; not there yet."""
    return settings.load().database


@pytest.fixture
def other(tmp_path: Path) -> Path:
    return tmp_path / "other.db"


def fill(path: Path, *trials: Trial, problem: Problem = PROBLEM, environment: Environment = HERE) -> Path:
    path.parent.mkdir(exist_ok=True)
    problem_record, environment_record = lookup.records(problem, environment)
    with TuningDB.open(path, columns=lookup.COLUMNS, application=lookup.APPLICATION) as database:
        database.record(environment_record, problem_record, trials, origin="test")
    return path


def fields_of(shown: Any, command: str, status: int = 0) -> dict[str, Any]:
    assert shown.exit_code == status, shown.output
    (line,) = shown.stdout.splitlines()
    fields = json.loads(line)
    assert set(fields) == documented(f"db {command}")
    return fields


# --- info, check ----------------------------------------------------------------------------------


def test_info_and_check_of_another_file_and_of_the_packaged_one(run: Run, user: Path, other: Path) -> None:
    fill(other, trial(4), trial(8))
    assert fields_of(run("db", "info", str(other), "--json"), "info")["trials"] == 2
    checked = fields_of(run("db", "check", str(other), "--json"), "check")
    assert (checked["ok"], checked["trials"], checked["winners"], checked["path"]) == (True, 2, 1, str(other))
    packaged = fields_of(run("db", "info", "--packaged", "--json"), "info")
    assert packaged["trials"] > 0 and packaged["path"] == str(lookup.PREBUILT)
    assert not user.exists()
    both = run("db", "check", str(other), "--packaged")
    assert both.exit_code == 2 and "not both" in both.stderr


def test_every_record_of_the_packaged_file_is_legal_for_today_s_kernels(run: Run) -> None:
    shown = run("db", "check", "--packaged", "--json")
    fields = fields_of(shown, "check")
    assert fields["ok"] and fields["trials"] > 0
    assert (fields["refused"], fields["reasons"], fields["bad_rows"]) == (0, [], 0)


def test_a_packaged_file_that_was_changed_is_told(
    run: Run, other: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(other, trial(4))
    other.with_name("other.db.sha256").write_text("0" * 64)
    monkeypatch.setattr(lookup, "PREBUILT", other)
    (said,) = fields_of(run("db", "check", "--packaged", "--json"), "check", 1)["structure"]
    assert "not the one that was packaged" in said


def test_a_config_that_is_none_today_fails_the_check(run: Run, user: Path) -> None:
    fill(user, trial(4), ILLEGAL)
    shown = run("db", "check", "--json")
    fields = fields_of(shown, "check", 1)
    assert (fields["ok"], fields["refused"]) == (False, 1)
    assert "kernel=retired" in fields["reasons"][0]
    assert "checking" in shown.stderr
    assert "kernel=retired" in run("db", "check").stdout


@pytest.mark.parametrize("torn", [b"this is no database " * 300, b""])
def test_a_damaged_file_fails_the_check_and_stays_as_it_was(run: Run, user: Path, torn: bytes) -> None:
    user.parent.mkdir()
    user.write_bytes(torn)
    fields = fields_of(run("db", "check", "--json"), "check", 1)
    assert fields["structure"] and not fields["ok"]
    assert user.read_bytes() == torn and [path.name for path in user.parent.iterdir()] == [user.name]


def test_a_row_edited_by_hand_fails_the_check(run: Run, user: Path) -> None:
    fill(user, trial(4), trial(8))
    with closing(sqlite3.connect(user, isolation_level=None)) as connection:
        connection.execute("UPDATE winners SET measured_us = 0.1")
    fields = fields_of(run("db", "check", "--json"), "check", 1)
    assert (fields["bad_rows"], fields["stale_winners"]) == (1, 1)
    assert fields_of(run("db", "rebuild", "--json"), "rebuild")["winners"] == 1
    assert fields_of(run("db", "check", "--json"), "check")["ok"]


# --- export, import, merge ------------------------------------------------------------------------


def test_an_export_is_imported_and_exported_again_byte_for_byte(
    run: Run, user: Path, other: Path, tmp_path: Path
) -> None:
    fill(other, trial(4), trial(8))
    fill(other, trial(2), problem=replace(PROBLEM, N=1))
    text = run("db", "export", str(other)).stdout
    assert len(text.splitlines()) == 3 and all(json.loads(line)["verify"] for line in text.splitlines())
    path = tmp_path / "trials.jsonl"
    written = fields_of(run("db", "export", str(other), "--output", str(path), "--json"), "export")
    assert (written["trials"], path.read_text(encoding="utf-8")) == (3, text)
    assert fields_of(run("db", "import", str(path), "--json"), "import")["inserted"] == 3
    assert fields_of(run("db", "import", str(path), "--json"), "import")["known"] == 3
    assert run("db", "export").stdout == text
    found = lookup.find(lookup.open_layers(settings.load()), PROBLEM, HERE, predictor_of)
    assert found is not None and (found.config, found.layer) == (config(4), "user")


def test_an_export_follows_a_link_and_keeps_the_mode(run: Run, other: Path, tmp_path: Path) -> None:
    fill(other, trial(4))
    folder = tmp_path / "out"
    folder.mkdir()
    target, link, dangling = folder / "trials.jsonl", tmp_path / "link", tmp_path / "dangling"
    target.write_text("stale")
    target.chmod(0o664)
    link.symlink_to(target)
    dangling.symlink_to(folder / "new.jsonl")
    text = run("db", "export", str(other)).stdout
    for output in (link, dangling):
        assert run("db", "export", str(other), "--output", str(output)).exit_code == 0
        assert output.is_symlink() and output.read_text(encoding="utf-8") == text
    assert target.stat().st_mode & 0o777 == 0o664
    mask = os.umask(0)
    os.umask(mask)
    assert (folder / "new.jsonl").stat().st_mode & 0o777 == 0o666 & ~mask
    assert sorted(path.name for path in folder.iterdir()) == ["new.jsonl", "trials.jsonl"]


def test_an_export_writes_into_a_pipe_as_it_is(run: Run, other: Path, tmp_path: Path) -> None:
    fill(other, trial(4))
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    read: list[str] = []
    thread = threading.Thread(target=lambda: read.append(pipe.read_text(encoding="utf-8")))
    thread.start()
    assert run("db", "export", str(other), "--output", str(pipe)).exit_code == 0
    thread.join()
    assert read == [run("db", "export", str(other)).stdout] and pipe.is_fifo()


def test_an_export_never_replaces_the_database_it_reads(run: Run, user: Path, tmp_path: Path) -> None:
    fill(user, trial(4))
    link = tmp_path / "link"
    link.symlink_to(user)
    before = user.read_bytes()
    shown = run("db", "export", "--output", str(link))
    assert shown.exit_code == 2 and "the database itself" in shown.stderr and user.read_bytes() == before


def test_exports_to_one_file_at_once_leave_one_of_them_whole(run: Run, other: Path, tmp_path: Path) -> None:
    fill(other, *(trial(warps) for warps in (1, 2, 4, 8)))
    output = tmp_path / "out" / "trials.jsonl"
    output.parent.mkdir()
    command = [sys.executable, "-m", "autoconv", "db", "export", str(other), "--output", str(output)]
    exports = [subprocess.Popen(command, stderr=subprocess.PIPE, text=True) for _ in range(4)]
    assert [export.communicate()[1] for export in exports] == [""] * 4
    assert [export.returncode for export in exports] == [0] * 4
    assert output.read_text(encoding="utf-8") == run("db", "export", str(other)).stdout
    assert list(output.parent.iterdir()) == [output]


def test_an_export_to_a_full_disk_leaves_what_was_there(other: Path, tmp_path: Path) -> None:
    """RLIMIT_FSIZE stands in for the disk."""
    fill(other, *(replace(trial(warps), detail={"x": "y" * 20_000}) for warps in (1, 2, 4, 8)))
    output = tmp_path / "out" / "trials.jsonl"
    output.parent.mkdir()
    output.write_text("what was there")
    code = """
import resource, signal
from autoconv.cli import main
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (30_000, 30_000))
main()
"""
    command = [sys.executable, "-c", code, "db", "export", str(other), "--output", str(output)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == f"Error: {output}: it could not be written (File too large)\n"
    assert output.read_text() == "what was there" and list(output.parent.iterdir()) == [output]


def test_an_export_leaves_bad_rows_out_and_says_so(run: Run, other: Path) -> None:
    fill(other, trial(4), trial(8))
    with closing(sqlite3.connect(other, isolation_level=None)) as connection:
        (trigger,) = connection.execute("SELECT sql FROM sqlite_schema WHERE type = 'trigger'").fetchone()
        connection.execute("DROP TRIGGER finished_trials_are_immutable")
        connection.execute("UPDATE trials SET checksum = 'x' WHERE id = 1")
        connection.execute(trigger)
    shown = run("db", "export", str(other))
    assert (shown.exit_code, len(shown.stdout.splitlines())) == (1, 1), shown.output
    assert "1 bad rows were left out" in shown.stderr


def spoiled(line: str, **changes: Any) -> str:
    """The line with other fields in its trial, problem or environment, its checksum made to fit."""
    import hashlib

    fields = json.loads(line)
    del fields["verify"]
    for name, change in changes.items():
        fields[name] |= change
    body = json.dumps(fields, sort_keys=True, separators=(",", ":"))[:-1]
    return f'{body},"verify":"{hashlib.sha256(body.encode()).hexdigest()}"}}'


def test_an_import_keeps_out_what_is_none_of_today_s_with_the_reason(
    run: Run, user: Path, other: Path, tmp_path: Path
) -> None:
    fill(other, trial(4))
    (good,) = run("db", "export", str(other)).stdout.splitlines()
    evil = "x'); DROP TABLE trials; --"
    lines = {
        "its checksum does not fit": good.replace("4.0", "1.0"),
        "is the key of no problem": spoiled(good, problem={"key": evil}),
        "is not what the key says": spoiled(good, problem={"columns": {"N": 65}}),
        "kernel=../../etc/passwd": spoiled(
            good, trial={"config": {"kernel": "../../etc/passwd", "num_warps": 4, "num_stages": 2}}
        ),
        "accumulators of a block": spoiled(
            good, trial={"config": {**config(4).document(), "BLOCK_L": 2**19}}
        ),
        "is not as autoconv writes one": spoiled(good, environment={"soft": {"device": None}}),
        "RecursionError": spoiled(good).replace('"detail":{', '"detail":{"a":' + "[" * 50_000),
    }
    path = tmp_path / "evil.jsonl"
    path.write_text("\n".join([*lines.values(), good, "\udcff"]), encoding="utf-8", errors="surrogateescape")
    shown = run("db", "import", str(path), "--json")
    fields = fields_of(shown, "import", 1)
    assert (fields["inserted"], fields["quarantined"]) == (1, len(lines) + 1)
    said = "\n".join(fields["reasons"])
    for reason in lines:
        if reason != "RecursionError":  # its seal does not fit either, and is looked at first
            assert reason in said
    assert fields_of(run("db", "info", "--json"), "info")["trials"] == 1
    assert fields_of(run("db", "check", "--json"), "check")["quarantined"] == len(lines) + 1
    again = fields_of(run("db", "import", "--quarantined", "--json"), "import", 1)
    assert (again["inserted"], again["quarantined"]) == (0, len(lines) + 1)
    assert fields_of(run("db", "prune", "--quarantine", "--json"), "prune")["quarantined"] == len(lines) + 1
    assert fields_of(run("db", "check", "--json"), "check")["quarantined"] == 0


def test_merging_adds_what_is_new_and_keeps_out_what_is_illegal(run: Run, user: Path, other: Path) -> None:
    fill(user, trial(8))
    fill(other, trial(4), ILLEGAL)
    first = fields_of(run("db", "merge", str(other), "--json"), "merge", 1)
    assert (first["inserted"], first["quarantined"]) == (1, 1) and "kernel=retired" in first["reasons"][0]
    found = lookup.find(lookup.open_layers(settings.load()), PROBLEM, HERE, predictor_of)
    assert found is not None and found.config == config(4)
    second = fields_of(run("db", "merge", str(other), "--json"), "merge", 1)
    assert (second["inserted"], second["known"]) == (0, 1)


def test_a_damaged_donor_is_refused_whole(run: Run, user: Path, other: Path) -> None:
    fill(user, trial(8))
    fill(other, trial(4))
    other.write_bytes(other.read_bytes()[:20_000])
    before = user.read_bytes()
    shown = run("db", "merge", str(other), "--json")
    assert (shown.exit_code, shown.stdout) == (2, "")
    assert f"tuning database {other}: the file is damaged" in shown.stderr.splitlines()[-1]
    assert user.read_bytes() == before


# --- prune, vacuum --------------------------------------------------------------------------------


def test_prune_keeps_torch_s_own_times_of_any_version(run: Run, user: Path) -> None:
    """Else a kernel that torch had beaten would serve."""
    torchs = replace(trial(8), config=ATEN.document(), measured_us=1.0, source="torch 2.7.0, cuDNN 90100")
    fill(user, trial(8), torchs)
    assert run("db", "prune", "--outdated").stdout == "nothing to remove\n"
    found = lookup.find(lookup.open_layers(settings.load()), PROBLEM, HERE, predictor_of)
    assert found is not None and found.config == ATEN


def test_prune_refuses_to_tell_what_is_outdated_without_triton(
    run: Run, user: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(user, trial(8))
    monkeypatch.setattr("autoconv.environment._TRITON_PACKAGES", ())
    shown = run("db", "prune", "--outdated")
    assert shown.exit_code == 2 and "--outdated: cannot be told without Triton" in shown.stderr
    assert run("db", "prune", "--best", "2").exit_code == 0


def test_prune_removes_what_it_is_told_and_vacuum_gives_the_space_back(run: Run, user: Path) -> None:
    slower = [replace(config(8), num_stages=stages) for stages in (1, 3, 4, 5)]
    others = [replace(trial(8), config=one.document(), measured_us=9.0 + one.num_stages) for one in slower]
    fill(user, trial(4), trial(8), *others)
    for number in range(40):
        fill(user, trial(4), trial(8), environment=replace(HERE, triton=f"2.{number}"))
        fill(user, replace(trial(4), source=f"{number:016}"))
    outdated = fields_of(run("db", "prune", "--outdated", "--json"), "prune")
    assert (outdated["environments"], outdated["trials"]) == (40, 120)
    said = run("db", "prune", "--best", "2", "--dry-run").stdout
    assert said == "would remove 4 trials\n"
    best = fields_of(run("db", "prune", "--best", "2", "--json"), "prune")
    assert run("db", "prune", "--best", "2").stdout == "nothing to remove\n"
    assert (best["environments"], best["trials"]) == (0, 4)
    found = lookup.find(lookup.open_layers(settings.load()), PROBLEM, HERE, predictor_of)
    assert found is not None and found.config == config(4)
    before = user.stat().st_size
    freed = fields_of(run("db", "vacuum", "--json"), "vacuum")
    assert freed["freed_bytes"] > 0 and user.stat().st_size == before - freed["freed_bytes"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("prune",), "say what to remove"),
        (("prune", "--best", "1"), "2"),
        (("import",), "name a FILE"),
        (("import", "nowhere.jsonl"), "nowhere.jsonl"),
        (("merge",), "FILE"),
        (("export", "--output", "/proc/nowhere/x"), "cannot be written"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_a_wrong_call_is_told(run: Run, user: Path, arguments: tuple[str, ...], said: str) -> None:
    fill(user, trial(4))
    shown = run("db", *arguments)
    assert (shown.exit_code, shown.stdout) == (2, "")
    assert said in shown.stderr


def test_a_byte_order_mark_costs_no_record(run: Run, user: Path, other: Path, tmp_path: Path) -> None:
    text = tmp_path / "edited.jsonl"
    exported = run("db", "export", str(fill(other, trial(4), trial(8)))).stdout
    text.write_text(exported, encoding="utf-8-sig")
    shown = run("db", "import", str(text), "--json")
    told = json.loads(shown.stdout)
    assert (shown.exit_code, told["inserted"], told["quarantined"]) == (0, 2, 0)


def test_a_database_is_not_imported_as_text(run: Run, user: Path, other: Path, tmp_path: Path) -> None:
    text = tmp_path / "sound.jsonl"
    text.write_text(run("db", "export", str(fill(other, trial(4)))).stdout)
    shown = run("db", "import", str(text), str(other))
    assert (shown.exit_code, shown.stdout) == (2, "")
    said = "this is a database, not exported text; use `autoconv db merge`"
    assert shown.stderr == f"Error: tuning database {other}: {said}\n"
    assert not user.exists()
