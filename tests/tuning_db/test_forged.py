"""Rows that fit their checksum and are nonsense: somebody made them so. Readers miss and count them."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest

from tuning_db import EnvironmentRecord, ProblemRecord, Trial, TuningDB, check, export_lines, prune, rebuild
from tuning_db.rows import TRIAL_COLUMNS, WINNER_COLUMNS, checksum

GOOD = Trial({"BLOCK": 64}, "ok", predicted_us=4.0, samples_us=(5.0, 5.0, 6.0), max_err=1e-7)
OTHER = Trial({"BLOCK": 32}, "ok", predicted_us=5.0, samples_us=(7.0, 7.0, 8.0), max_err=1e-7)
COLUMNS = {"N": int, "dtype": str}

Forge = Callable[[str, str, Any], None]


@contextmanager
def lenient(path: Path) -> Iterator[sqlite3.Connection]:
    """Connect to a file without STRICT, CHECKs and trigger, and put them back, as whoever forges rows may."""
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        schema = connection.execute("SELECT sql, name FROM sqlite_schema WHERE sql IS NOT NULL").fetchall()
        connection.execute("PRAGMA writable_schema = ON")
        connection.execute("UPDATE sqlite_schema SET sql = replace(sql, ') STRICT', ')')")
        connection.execute("DROP TRIGGER finished_trials_are_immutable")
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("PRAGMA ignore_check_constraints = ON")
        yield connection
        connection.execute("PRAGMA writable_schema = ON")
        connection.executemany("UPDATE sqlite_schema SET sql = ? WHERE name = ?", schema)
        (trigger,) = [sql for sql, name in schema if name == "finished_trials_are_immutable"]
        connection.execute(trigger)


@pytest.fixture
def forge(db: TuningDB, path: Path, environment: EnvironmentRecord, problem: ProblemRecord) -> Forge:
    """Write a value into a column of the winner or of a trial, with a checksum that fits the row."""
    db.record(environment, problem, [GOOD, OTHER], origin="test", run_id="r1")
    of_trial = f"config_hash = '{GOOD.config_hash}'"
    references = {
        "winners": ((environment.hash, problem.key), WINNER_COLUMNS, "1"),
        "trials": ((environment.hash, problem.key, "r1"), TRIAL_COLUMNS, of_trial),
    }

    def put(table: str, column: str, value: Any) -> None:
        named, columns, where = references[table]
        with lenient(path) as connection:
            connection.execute(f"UPDATE {table} SET {column} = ? WHERE {where}", (value,))
            query = f"SELECT {', '.join(columns)} FROM {table} WHERE {where}"
            row = connection.execute(query).fetchone()
            connection.execute(f"UPDATE {table} SET checksum = ? WHERE {where}", (checksum(named, row),))

    return put


def reader(path: Path) -> TuningDB:
    return TuningDB.open_readonly(path, columns=COLUMNS, application="tests")


def config(**fields: Any) -> str:
    return json.dumps(fields, sort_keys=True, separators=(",", ":"))


OF_BOTH: Sequence[tuple[str, Any]] = [
    ("measured_us", "fast"), ("measured_us", b"\0"), ("measured_us", 0.0),
    ("measured_us", float("inf")), ("measured_us", -1.0), ("predicted_us", "soon"), ("max_err", "none"),
    ("config", config(BLOCK=[64])), ("config", config(BLOCK={"a": 1})), ("config", "[]"), ("config", "{"),
    ("config", "[" * 100_000), ("config", '{"BLOCK":NaN}'), ("config", '{"BLOCK":1e400}'),
    ("detail", "5"), ("detail", '{"default":true,"a":Infinity}'),
]  # fmt: skip


@pytest.mark.parametrize(
    ("column", "value"),
    [*OF_BOTH, ("provenance", "evil"), ("provenance", ""), ("ties", "many"), ("ties", 1.5),
     ("margin", "wide"), ("noise", "loud"), ("noise", float("-inf")), ("default_us", "slow"),
     ("default_us", 0.0), ("measured_us", None)],
    ids=lambda value: str(value)[:30],
)  # fmt: skip
def test_a_forged_winner_is_missed_and_counted(
    column: str, value: Any, forge: Forge, path: Path, problem: ProblemRecord
) -> None:
    with reader(path) as database:
        (before,) = database.winners(problem.key)
        assert before.config == GOOD.config and database.bad_rows == 0
    forge("winners", column, value)
    with reader(path) as database:
        assert database.winners(problem.key) == [] and database.bad_rows == 1
        assert not check(database).ok


@pytest.mark.parametrize(
    ("column", "value"),
    [*OF_BOTH, ("samples_us", "5"), ("samples_us", "[0,0,0]"), ("samples_us", '["a","b","c"]'),
     ("samples_us", "[null,null,null]"), ("error", b"\xff")],
    ids=lambda value: str(value)[:30],
)  # fmt: skip
def test_a_forged_trial_is_missed_and_counted(
    column: str, value: Any, forge: Forge, path: Path, problem: ProblemRecord
) -> None:
    forge("trials", column, value)
    with reader(path) as database:
        assert database.trials(problem.key) == [OTHER] and database.bad_rows == 1
    with reader(path) as database:
        assert [one.config for one in database.ranked(problem.key) if one.config != GOOD.config] == [
            OTHER.config
        ]
    with reader(path) as database:
        assert not check(database).ok
    with reader(path) as database:
        assert len(list(export_lines(database))) + database.bad_rows == 2
    with TuningDB.open(path, columns=COLUMNS, application="tests") as database:
        rebuild(database)
        database.winners(problem.key)
        prune(database, best=2)
        assert database.bad_rows > 0 or len(database.trials(problem.key)) == 1


@pytest.mark.parametrize(("column", "value"), [("log_size", "vast"), ("kind", "any")])
def test_a_forged_size_is_missed(
    column: str,
    value: str,
    db: TuningDB,
    path: Path,
    environment: EnvironmentRecord,
    problem: ProblemRecord,
) -> None:
    near = ProblemRecord("N=32,dtype=float16", {"N": 32, "dtype": "float16"})
    db.record(environment, near, [GOOD], origin="test")
    with reader(path) as database:
        assert [found.problem for found in database.nearest(problem)] == [near]
    with lenient(path) as connection:
        connection.execute(f"UPDATE problem_sizes SET {column} = ?", (value,))
    with reader(path) as database:
        assert database.nearest(problem) == []


def test_an_environment_of_another_type_is_missed_and_counted(
    forge: Forge, path: Path, problem: ProblemRecord
) -> None:
    forge("winners", "ties", 0)  # as it was
    with lenient(path) as connection:
        connection.execute("UPDATE environments SET doc = x'00'")
    with reader(path) as database:
        assert database.winners(problem.key) == [] and database.environments() == []
        assert database.bad_rows == 2
