from __future__ import annotations

import hashlib
import io
import json
import math
import os
import re
import subprocess
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tuning_db import (
    EnvironmentRecord,
    ImportSummary,
    ProblemRecord,
    Trial,
    TuningDB,
    bounded_lines,
    check,
    export_lines,
    import_lines,
    quarantined,
    rebuild,
)
from tuning_db.jsonl import MAX_LINE_CHARS, BadLineError, LineReader, head_text, sealed, trial_text
from tuning_db.records import FINISHED_OUTCOMES, RunRecord
from tuning_db.rows import trial_from, trial_values
from tuning_db.transfer import MAX_QUARANTINED

Script = Callable[..., "subprocess.Popen[str]"]
COLUMNS = {"N": int, "dtype": str}
TRIAL = Trial({"B": 1}, "ok", samples_us=(1.5, 2.5), predicted_us=2.0, max_err=1e-7, detail={"x": [1]})
ENVIRONMENTS = [EnvironmentRecord({"arch": "sm_89"}, {"device": name}) for name in ("L4", "RTX 4090")]


def fill(db: TuningDB) -> None:
    for number, environment in enumerate(ENVIRONMENTS):
        for n in (2, 1):
            problem = ProblemRecord(f"N={n}", {"N": n, "dtype": "float16"})
            trials = [Trial({"B": b, "e": number}, "ok", samples_us=(n + b, n + b + 0.5)) for b in (1, 2)]
            failed = Trial(
                {"B": 3}, "compile", error="ptxas: \u201cregisters\u201d\n", detail={"log": ["a", None]}
            )
            db.record(environment, problem, [*trials, failed], origin="sweep", info={"rigor": n})
    run = db.start(ENVIRONMENTS[0], origin="interrupted")
    db.add(run, ProblemRecord("N=9"), Trial({"B": 1}, "started"))


def lines_of(db: TuningDB) -> list[str]:
    return list(export_lines(db))


def copied(path: Path, *sources: Iterable[str]) -> list[str]:
    """What a new database at `path` exports after importing the sources."""
    with TuningDB.open(path, columns=COLUMNS) as db:
        for source in sources:
            import_lines(db, source)
        exported, winners = lines_of(db), [db.winners(p.key) for p in db.problems()]
        rebuild(db)
        assert winners == [db.winners(p.key) for p in db.problems()]
        return exported


def test_a_round_trip_gives_the_same_bytes(db: TuningDB, tmp_path: Path) -> None:
    fill(db)
    lines = lines_of(db)
    assert (
        lines
        == lines_of(db)
        == copied(tmp_path / "copy", lines)
        == copied(tmp_path / "other", reversed(lines))
    )
    assert len(lines) == 12 and all(line.endswith("\n") and line.isascii() for line in lines)
    keys = [json.loads(line)["problem"]["key"] for line in lines]
    assert keys == sorted(keys)
    with TuningDB.open_readonly(tmp_path / "copy", columns=COLUMNS) as copy:
        for key in ("N=1", "N=2"):
            assert copy.winners(key) == db.winners(key) != []
        assert list(copy.problems()) == [p for p in db.problems() if p.key != "N=9"]


def test_an_import_may_be_repeated(db: TuningDB, tmp_path: Path) -> None:
    fill(db)
    lines = lines_of(db)
    with TuningDB.open(tmp_path / "copy", columns=COLUMNS) as copy:
        assert import_lines(copy, lines[:5]) == ImportSummary(inserted=5)
        assert import_lines(copy, [*lines, "\n"]) == ImportSummary(inserted=7, known=5)
        assert lines_of(copy) == lines


def changed(line: str, *place_and_value: Any, resealed: bool = True) -> str:
    """The line with another value at a place in it; its checksum made to fit unless told otherwise."""
    *place, name, value = place_and_value
    fields = json.loads(line)
    seal = fields.pop("verify")
    inner = fields
    for step in place:
        inner = inner[step]
    inner[name] = value
    body = json.dumps(fields, sort_keys=True, separators=(",", ":"))[:-1]
    return f'{body},"verify":"{hashlib.sha256(body.encode()).hexdigest() if resealed else seal}"}}\n'


def resealed(text: str) -> str:
    return f'{text},"verify":"{hashlib.sha256(text.encode()).hexdigest()}"}}\n'


BROKEN: list[tuple[str, Callable[[str], str]]] = [
    ("checksum", lambda line: line[: len(line) // 2]),
    ("checksum", lambda _: "null"),
    ("checksum", lambda _: "[" * 100_000),
    ("characters", lambda line: " " * MAX_LINE_CHARS + line),
    ("checksum", lambda line: changed(line, "trial", "samples_us", [0.001], resealed=False)),
    ("checksum", lambda line: changed(line, "problem", "columns", "N", 5, resealed=False)),
    ("checksum", lambda line: changed(line, "run", "origin", "elsewhere", resealed=False)),
    ("checksum", lambda line: line.replace('"hard":', '"hard" :')),
    ("go on", lambda _: resealed("[1")),
    ("go on", lambda _: resealed('{"environment":{},"run":{}')),
    ("JSONDecodeError", lambda _: resealed('{"environment":')),
    ("RecursionError", lambda _: resealed('{"environment":' + "[" * 100_000)),
    ("lacks a field", lambda line: changed(line, "problem", "path", "/etc/passwd")),
    ("lacks a field", lambda line: changed(line, "run", "path", "/etc/passwd")),
    ("outcome='started'", lambda line: changed(line, "trial", "outcome", "started")),
    ("outcome='perfect'", lambda line: changed(line, "trial", "outcome", "perfect")),
    ("duration", lambda line: changed(line, "trial", "measured_us", -1.0)),
    ("not written as", lambda line: changed(line, "trial", "measured_us", 1)),
    ("duration", lambda line: changed(line, "trial", "predicted_us", math.inf)),
    ("duration", lambda line: changed(line, "trial", "predicted_us", math.nan)),
    ("no number", lambda line: changed(line, "trial", "predicted_us", {})),
    ("duration", lambda line: changed(line, "trial", "samples_us", [1.0, math.nan])),
    ("no number", lambda line: changed(line, "trial", "samples_us", [1.0, None])),
    ("not iterable", lambda line: changed(line, "trial", "samples_us", 5)),
    ("not written as", lambda line: changed(line, "trial", "max_err", math.nan)),
    ("not written as", lambda line: changed(line, "trial", "max_err", True)),
    ("error=.* is no text", lambda line: changed(line, "trial", "error", ["x"])),
    ("not written as", lambda line: changed(line, "trial", "error", "\ud800")),
    ("source=None is no text", lambda line: changed(line, "trial", "source", None)),
    ("predictor=5 is no text", lambda line: changed(line, "trial", "predictor", 5)),
    ("finished", lambda line: changed(line, "run", "finished", 1)),
    ("config=.* maps no names", lambda line: changed(line, "trial", "config", [])),
    ("detail=.* maps no names", lambda line: changed(line, "trial", "detail", "x")),
    ("no JSON scalar", lambda line: changed(line, "trial", "config", {"B": {}})),
    ("out of range|not JSON", lambda line: changed(line, "trial", "detail", {"x": math.nan})),
    ("unexpected keyword", lambda line: changed(line, "trial", "extra", 1)),
    ("not written as", lambda line: resealed(line.rpartition(',"verify"')[0].replace('"max_err":null,', ""))),
    ("Extra data", lambda line: resealed(line.rpartition(',"verify"')[0] + "{}")),
    ("hard", lambda line: changed(line, "environment", "hard", {"x": {"y": 1}})),
    ("unexpected keyword", lambda line: changed(line, "environment", "extra", {})),
    ("key", lambda line: changed(line, "problem", "key", "")),
    ("declared", lambda line: changed(line, "problem", "columns", "N", "five")),
    ("64 bits", lambda line: changed(line, "problem", "columns", "N", 10**30)),
    ("no text", lambda line: changed(line, "run", "id", None)),
    ("info", lambda line: changed(line, "run", "info", [1])),
    ("TypeError", lambda line: changed(line, "run", 5)),
]


@pytest.mark.parametrize(("reason", "breaking"), BROKEN, ids=range(len(BROKEN)))
def test_a_line_not_as_exported_is_quarantined(
    db: TuningDB, tmp_path: Path, reason: str, breaking: Callable[[str], str]
) -> None:
    fill(db)
    lines = lines_of(db)
    broken = breaking(lines[3])
    with TuningDB.open(tmp_path / "copy", columns=COLUMNS) as copy:
        summary = import_lines(copy, [*lines[:3], broken, *lines[4:]])
        assert (summary.inserted, summary.quarantined) == (11, 1)
        ((why, line),) = quarantined(copy)
        assert summary.reasons == (f"line 4: {why}",)
        assert re.search(reason, why) and len(why) < 400 and "\n" not in why
        assert broken.startswith(line) if len(broken) > MAX_LINE_CHARS else line == broken
        assert lines_of(copy) == [*lines[:3], *lines[4:]] and check(copy).ok


def test_a_contradiction_is_quarantined(db: TuningDB, tmp_path: Path) -> None:
    fill(db)
    lines = lines_of(db)
    forged = changed(lines[0], "trial", "max_err", 0.5)
    elsewhere = changed(lines[1], "environment", "hard", {"arch": "sm_90"})
    with TuningDB.open(tmp_path / "copy", columns=COLUMNS) as copy:
        summary = import_lines(copy, [*lines[:2], forged, elsewhere, forged])
        assert (summary.inserted, summary.known, summary.quarantined) == (2, 0, 3)
        assert ["another result" in why or "another environment" in why for why, _ in quarantined(copy)] == [
            True,
            True,
        ]
        assert lines_of(copy) == lines[:2]


def test_the_caller_may_refuse_trials_and_change_its_mind(db: TuningDB, tmp_path: Path) -> None:
    fill(db)

    def accept(environment: EnvironmentRecord, problem: ProblemRecord, trial: Trial) -> str | None:
        legal = environment in ENVIRONMENTS and problem.key in ("N=1", "N=2") and trial.config["B"] != 1
        return None if legal else f"B={trial.config['B']} is not legal today"

    with TuningDB.open(tmp_path / "copy", columns=COLUMNS) as copy:
        for _ in range(2):  # repeated, it holds no more lines
            summary = import_lines(copy, export_lines(db), accept)
            assert summary.quarantined == len(summary.reasons) == len(quarantined(copy)) == 4
            assert summary.inserted + summary.known == 8
        assert summary.reasons[0].endswith(": B=1 is not legal today")
        assert {trial.config["B"] for trial in copy.trials("N=1")} == {2, 3}
        assert copy.winners("N=1")[0].config["B"] == 2
        again = import_lines(copy, [line for _, line in quarantined(copy)])
        assert (again.inserted, quarantined(copy)) == (4, [])
        assert lines_of(copy) == lines_of(db)


def test_a_flood_of_bad_lines_fills_no_disk(db: TuningDB) -> None:
    summary = import_lines(db, (f"garbage {number}" for number in range(MAX_QUARANTINED + 50)))
    assert summary.quarantined == MAX_QUARANTINED + 50 and len(summary.reasons) == 20
    assert len(quarantined(db)) == MAX_QUARANTINED


def test_an_endless_line_fills_no_memory() -> None:
    text = io.StringIO("first\n" + "x" * (3 * MAX_LINE_CHARS) + "\nlast\n")
    assert [len(line) for line in bounded_lines(text)] == [6, MAX_LINE_CHARS + 1, 5]


def test_columns_unknown_here_are_dropped(db: TuningDB, tmp_path: Path) -> None:
    fill(db)
    line = changed(lines_of(db)[0], "problem", "columns", 'x"; DROP TABLE runs; --', 1)
    with TuningDB.open(tmp_path / "copy", columns={"N": int}) as copy:
        assert import_lines(copy, [line]).inserted == 1
        assert list(copy.problems()) == [ProblemRecord("N=1", {"N": 1})]


def test_a_bad_row_is_not_exported_and_an_import_mends_it(db: TuningDB) -> None:
    fill(db)
    lines = lines_of(db)
    with db.writing() as connection:
        connection.execute("DROP TRIGGER finished_trials_are_immutable")
        connection.execute("UPDATE trials SET measured_us = 0.1 WHERE id = 1")
        connection.execute("UPDATE environments SET doc = '{}' WHERE id = 2")
    assert len(lines_of(db)) == 5 and db.bad_rows == 7
    summary = import_lines(db, lines)
    assert (summary.inserted, summary.known, summary.quarantined) == (1, 11, 0)
    assert lines_of(db) == lines and check(db).stale_winners == 0


json_scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text()
any_trial = st.builds(
    Trial,
    config=st.dictionaries(st.text(), json_scalars.filter(lambda value: value not in (math.inf, -math.inf))),
    outcome=st.sampled_from(FINISHED_OUTCOMES),
    predicted_us=st.none() | st.floats(1e-9, 1e9),
    samples_us=st.lists(st.floats(1e-9, 1e9), max_size=4).map(tuple),
    max_err=st.none() | st.floats(0, 1e9),
    error=st.none() | st.text(),
    detail=st.dictionaries(st.text(), st.lists(st.text() | st.integers() | st.booleans(), max_size=3)),
    source=st.text(),
    predictor=st.text(),
)


@given(any_trial, st.text(min_size=1), st.text(), st.dictionaries(st.text(), st.text()), st.booleans())
@settings(deadline=None)
def test_any_trial_reads_back_from_its_line(
    trial: Trial, key: str, origin: str, info: dict[str, str], finished: bool
) -> None:
    try:
        problem = ProblemRecord(key, {"N": 1})
    except ValueError:
        return
    run = RunRecord("r", ENVIRONMENTS[0], origin, info, finished)
    line = sealed(head_text(run.environment.document, problem, run), trial_text(trial_values(trial)))
    head, read, values = LineReader(COLUMNS).read(line)
    assert (head.run, head.problem, read) == (run, problem, trial)
    assert values == trial_values(trial) and trial_from(values) == trial


@given(st.integers(0, 10_000), st.integers(0, 255))
@settings(deadline=None)
def test_no_changed_byte_goes_unseen(place: int, byte: int) -> None:
    problem = ProblemRecord("N=1", {"N": 1})
    run = RunRecord("r", ENVIRONMENTS[0], "sweep")
    line = sealed(head_text(run.environment.document, problem, run), trial_text(trial_values(TRIAL)))
    raw = bytearray(line.encode())
    raw[place % len(raw)] = byte
    other = raw.decode("utf-8", "replace")
    if other != line:
        with pytest.raises(BadLineError):
            LineReader(COLUMNS).read(other)


def test_an_import_from_a_pipe_that_stalls_locks_nobody_out(
    db: TuningDB, path: Path, tmp_path: Path, environment: EnvironmentRecord, script: Script
) -> None:
    tried = [Trial({"B": b}, "ok", predicted_us=1.0 + b, detail={"x": "y" * 2000}) for b in range(100)]
    db.record(environment, ProblemRecord("p"), tried, origin="x")
    lines = list(export_lines(db))
    pipe, into = tmp_path / "pipe", tmp_path / "into.db"
    os.mkfifo(pipe)
    code = """
import sys
from tuning_db import *
with TuningDB.open(sys.argv[2], columns={}) as db, open(sys.argv[1]) as text:
    told = []
    print(import_lines(db, bounded_lines(text), progress=lambda done, of: told.append(of)).inserted)
"""
    with script(code, pipe, into) as importer:
        with pipe.open("w", encoding="utf-8") as writing:
            writing.writelines(lines[:90])
            writing.flush()  # more than a pipe holds, so the import is reading
            with TuningDB.open(into, columns={}) as other:
                with other.reading() as connection:
                    connection.execute("PRAGMA busy_timeout = 0")
                    connection.execute("BEGIN IMMEDIATE")
                    connection.execute("ROLLBACK")
                assert other.info()["trials"] == 0
            writing.writelines(lines[90:])
        assert importer.communicate() == ("100\n", "")


def test_lines_that_end_nowhere_or_hold_anything_are_kept_apart(db: TuningDB) -> None:
    odd = ["no end", "two\nin one", "\udcff\ud800", "", " \n", "x\r\n"]
    summary = import_lines(db, odd)
    assert (summary.quarantined, [reason.split(":")[0] for reason in summary.reasons]) == (
        4,
        ["line 1", "line 2", "line 3", "line 6"],
    )


def test_an_import_that_finds_no_room_to_read_changes_nothing(path: Path, script: Script) -> None:
    code = """
import os, resource, signal, sys, tempfile
from tuning_db import *
from tuning_db import jsonl
jsonl.SPOOL_BYTES = 1000
with TuningDB.open(sys.argv[1], columns={}) as db:
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
    try:
        import_lines(db, ["x" * 1000 + "\\n"] * 100)
    except UnwritableError as error:
        print(error)
"""
    out, err = script(code, path).communicate()
    assert err == "" and "TMPDIR" in out and "no room" in out
