"""Files of every version of the schema, and files that are not what they seem."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from tests.tuning_db.later import STEPS as LATER_STEPS
from tuning_db import (
    DamagedError,
    EnvironmentRecord,
    NewerSchemaError,
    ProblemRecord,
    Trial,
    TuningDB,
    TuningDBError,
    check,
    export_lines,
    import_lines,
    schema,
)
from tuning_db.files import backup_path

GOLDEN = Path(__file__).parent / "golden"
COLUMNS = {"N": int, "dtype": str}
VERSION = schema.newest()


@pytest.fixture
def later(monkeypatch: pytest.MonkeyPatch) -> int:
    """The number of a version to come, which this package writes during the test."""
    monkeypatch.setattr(schema, "STEPS", LATER_STEPS)
    return schema.newest()


def golden(path: Path, version: int) -> Path:
    """A file as a release with that version of the schema left it: `.dump`, after its two pragmas."""
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.executescript((GOLDEN / f"v{version}.sql").read_text(encoding="utf-8"))
    return path


def as_dump(path: Path) -> str:
    with closing(sqlite3.connect(path)) as connection:
        pragmas = [
            f"PRAGMA {name}={connection.execute(f'PRAGMA {name}').fetchone()[0]};"
            for name in ("application_id", "user_version")
        ]
        return "\n".join([*pragmas, *connection.iterdump()]) + "\n"


def test_every_version_has_a_golden_file() -> None:
    versions = list(range(1, VERSION + 1))
    assert sorted(GOLDEN.iterdir()) == [GOLDEN / f"v{version}.sql" for version in versions]


@pytest.mark.parametrize("version", range(1, VERSION + 1))
@pytest.mark.parametrize("steps", [schema.STEPS, LATER_STEPS], ids=len)
def test_a_file_of_every_version_opens_with_all_it_has(
    path: Path, version: int, steps: tuple[Any, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(schema, "STEPS", steps)
    golden(path, version)
    with TuningDB.open(path, columns=COLUMNS, application="golden") as db:
        assert db.info()["schema_version"] == len(steps)
        assert check(db).ok and db.bad_rows == 0
        assert [problem.key for problem in db.problems()] == [
            "N=1,dtype=float16", "N=64,dtype=float16", "N=7,dtype=float32",
        ]  # fmt: skip
        assert [problem.columns["N"] for problem in db.problems()] == [1, 64, 7]
        assert len(list(export_lines(db))) == 17  # finished trials
        winners = {w.environment.soft["device"]: w for w in db.winners("N=64,dtype=float16")}
        assert {device: winner.config for device, winner in winners.items()} == {
            "L4": {"B": 64}, "H100": {"B": 64},
        }  # fmt: skip
        assert (winners["L4"].measured_us, winners["L4"].default_us) == (1056.0, 1344.0)
        assert winners["L4"].noise == pytest.approx(0.25 / 8.25)
        assert (winners["L4"].source, winners["L4"].predictor, winners["L4"].finished) == ("5f2e", "", True)
        (predicted,) = db.winners("N=7,dtype=float32")
        assert (predicted.provenance, predicted.predicted_us, predicted.noise) == ("predicted", 3.0, None)
        assert (predicted.source, predicted.predictor, predicted.finished) == ("5f2e", "m1", False)
        assert [t.outcome for t in db.trials("N=7,dtype=float32")] == ["ok", "started"]
        (missed,) = db.misses()
        assert (missed.problem.key, missed.environment.soft["device"]) == ("N=7,dtype=float32", "L4")
        assert (missed.calls, missed.served, missed.last_seen) == (12, "torch", "2026-01-02T00:00:00+00:00")
        neighbour, *_ = db.nearest(ProblemRecord("x", {"N": 60, "dtype": "float16"}))
        assert neighbour.problem.key == "N=64,dtype=float16"
        db.record(EnvironmentRecord({}, {}), ProblemRecord("new"), [Trial({}, "ok")], origin="now")


def test_an_upgraded_file_is_like_a_new_one(tmp_path: Path, later: int) -> None:
    with TuningDB.open(golden(tmp_path / "old", VERSION), columns=COLUMNS, application="golden") as old:
        lines = list(export_lines(old))
    with TuningDB.open(tmp_path / "new", columns=COLUMNS, application="golden") as new:
        import_lines(new, lines)
        assert new.info()["schema_version"] == later
        assert lines == list(export_lines(new))
    shapes = []
    for name in ("old", "new"):
        with closing(sqlite3.connect(tmp_path / name)) as connection:
            shapes.append(set(connection.execute("SELECT type, name, tbl_name, sql FROM sqlite_schema")))
    assert shapes[0] == shapes[1]


def test_an_older_file_is_backed_up_before_it_is_upgraded(path: Path, later: int) -> None:
    before = as_dump(golden(path, 1))
    TuningDB.open(path, columns=COLUMNS).close()
    backup = backup_path(path, 1)
    assert sorted(as_dump(backup).splitlines()) == sorted(before.splitlines())
    kept = backup.read_bytes()
    assert sorted(path.parent.iterdir()) == [path, backup]
    TuningDB.open(path, columns=COLUMNS).close()  # once is enough
    assert backup.read_bytes() == kept


def test_rows_that_were_bad_before_an_upgrade_stay_bad(path: Path, later: int) -> None:
    golden(path, 1)
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("DROP TRIGGER finished_trials_are_immutable")
        connection.execute("UPDATE trials SET measured_us = 0.5 WHERE id = 2")
        connection.execute(
            """CREATE TRIGGER finished_trials_are_immutable BEFORE UPDATE ON trials
WHEN old.outcome <> 'started'
BEGIN SELECT RAISE(ABORT, 'a finished trial is never changed'); END"""
        )
    with TuningDB.open(path, columns=COLUMNS) as db:
        assert check(db).bad_rows == 1
        assert all(winner.measured_us != 0.5 for p in db.problems() for winner in db.winners(p.key))


def test_reading_leaves_an_older_file_alone(path: Path, later: int) -> None:
    before = golden(path, 1).read_bytes()
    with pytest.raises(TuningDBError, match=f"version 1, older than {later}; open it for writing once"):
        TuningDB.open_readonly(path, columns=COLUMNS)
    assert path.read_bytes() == before


def test_a_newer_schema_is_left_alone(path: Path) -> None:
    golden(path, VERSION)
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript(f"PRAGMA user_version = {VERSION + 1}; ALTER TABLE trials ADD COLUMN x TEXT")
    before = path.read_bytes()
    for opening in (TuningDB.open, TuningDB.open_readonly):
        with pytest.raises(NewerSchemaError, match=f"version {VERSION + 1}"):
            opening(path, columns=COLUMNS)
    assert path.read_bytes() == before


FALSE = {
    "a view for a table": """
        ALTER TABLE winners RENAME TO hidden;
        CREATE VIEW winners AS SELECT * FROM hidden""",
    "a trigger": """
        CREATE TRIGGER sneaky AFTER INSERT ON trials BEGIN DELETE FROM runs; END""",
    "a trigger on sqlite-utils' table": """
        CREATE TRIGGER sneaky AFTER INSERT ON _sqlite_migrations BEGIN DELETE FROM runs; END""",
    "another trigger of our name": """
        DROP TRIGGER finished_trials_are_immutable;
        CREATE TRIGGER finished_trials_are_immutable BEFORE UPDATE ON trials BEGIN DELETE FROM runs; END""",
    "a table with other types": """
        DROP TABLE winners; CREATE TABLE winners (id, environment_id, problem_id, config)""",
    "a virtual table": """
        DROP TABLE quarantine; CREATE VIRTUAL TABLE quarantine USING fts5(line_hash, reason, line)""",
    "a generated column": "ALTER TABLE problems ADD COLUMN x TEXT AS (upper(key))",
    "a default": "ALTER TABLE problems ADD COLUMN x TEXT DEFAULT 'x'",
    "an index that computes": "CREATE INDEX slow ON trials (length(detail))",
    "a missing table": "DROP TABLE winners",
    "no version": "PRAGMA user_version = 0",
}


@pytest.mark.parametrize("script", FALSE.values(), ids=FALSE.keys())
def test_a_file_that_is_not_what_it_seems_is_refused(path: Path, script: str) -> None:
    golden(path, VERSION)
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript(script)
    before = path.read_bytes()
    for opening in (TuningDB.open, TuningDB.open_readonly):
        with pytest.raises(DamagedError) as caught:
            opening(path, columns=COLUMNS, application="golden")
        assert str(path) in str(caught.value) and "\n" not in str(caught.value)
    assert path.read_bytes() == before


HARMLESS = {
    "a table": "CREATE TABLE notes (text)",
    "a view": "CREATE VIEW by_device AS SELECT * FROM winners JOIN environments",
    "an index": 'CREATE INDEX "idx_trials_outcome"\n    ON "trials" ("outcome")',
    "statistics": "ANALYZE",
    "a trigger elsewhere": """
        CREATE TABLE notes (text); CREATE TRIGGER t AFTER INSERT ON notes BEGIN SELECT 1; END""",
}


@pytest.mark.parametrize("script", HARMLESS.values(), ids=HARMLESS.keys())
def test_what_a_person_adds_for_queries_is_let_be(path: Path, script: str) -> None:
    golden(path, VERSION)
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript(script)
    with TuningDB.open(path, columns={**COLUMNS, "stride": int}) as db:
        assert db.winners("N=64,dtype=float16") and check(db).ok


def test_columns_may_come_from_several_callers(path: Path) -> None:
    for columns in ({"N": int}, {"dtype": str}, {"N": int, "stride": int}):
        with TuningDB.open(path, columns=columns):
            pass
    with TuningDB.open(path, columns={}) as db, db.reading() as connection:
        names = [row[0] for row in connection.execute("SELECT name FROM pragma_table_info('problems')")]
        assert names == ["id", "key", "N", "dtype", "stride"]


def test_a_backup_that_cannot_be_written_leaves_the_file_as_it_was(
    path: Path, later: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = as_dump(golden(path, 1))

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(TuningDBError, match="backup cannot be written"):
        TuningDB.open(path, columns=COLUMNS)
    assert as_dump(path) == before
