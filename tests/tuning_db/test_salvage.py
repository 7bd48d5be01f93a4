"""Pages are read as SQLite wrote them, and from damaged ones no wrong trial comes."""

from __future__ import annotations

import random
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tuning_db import EnvironmentRecord, ProblemRecord, Trial, TuningDB
from tuning_db.rows import trial_values
from tuning_db.salvage import Salvaged, Wreck, rows_of

COLUMNS = {"N": int, "dtype": str}
ENVIRONMENT = EnvironmentRecord({"arch": "sm_89"}, {"device": "L4"})

values = st.none() | st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False) | st.text() | st.binary()


@given(st.lists(st.tuples(values, values), max_size=30), st.sampled_from([512, 1024, 4096, 65536]))
@settings(max_examples=60, deadline=None)
def test_rows_are_read_as_sqlite_wrote_them(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[object, object]], page_size: int
) -> None:
    path = tmp_path_factory.mktemp("pages") / "x.db"
    with closing(sqlite3.connect(path)) as connection:
        connection.execute(f"PRAGMA page_size = {page_size}")
        connection.execute("CREATE TABLE t (id INTEGER PRIMARY KEY, a, b)")
        connection.executemany("INSERT INTO t (a, b) VALUES (?, ?)", rows)
        connection.commit()
    found = {row.rowid: tuple(row.values()) for row in rows_of(path) if len(row.types) == 3}
    assert found == {number: (None, *row) for number, row in enumerate(rows, start=1)}


@pytest.mark.parametrize("length", [0, 1, 400, 487, 3_990, 4_060, 4_070, 5_000, 100_000, 1_000_000])
def test_long_rows_overflow_their_page(tmp_path: Path, length: int) -> None:
    path = tmp_path / "x.db"
    text = "".join(random.Random(length).choices("abc\u00e4", k=length))
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE t (id INTEGER PRIMARY KEY, a TEXT)")
        connection.execute("INSERT INTO t (id, a) VALUES (?, ?)", (2**40 + length, text))
        connection.commit()
    (row,) = (row for row in rows_of(path) if len(row.types) == 2)
    assert (row.rowid, row.values()) == (2**40 + length, [None, text])


def tried(n: int) -> list[Trial]:
    return [
        Trial({"B": 1}, "ok", samples_us=(n + 1.5, n + 2.0), max_err=1.0, predicted_us=4.0),
        Trial({"B": 2}, "crash", error="\u2716" * (n * 200), detail={"log": ["x" * n * 300]}),
        Trial({"B": 3}, "started"),
    ]


@pytest.fixture
def sound(tmp_path: Path) -> Path:
    path = tmp_path / "sound.db"
    with TuningDB.open(path, columns={**COLUMNS, "op": str}) as db:
        for n in range(30):
            problem = ProblemRecord(f"p{n}", {"N": n, "dtype": "f16", "op": "{odd}"})
            db.record(ENVIRONMENT, problem, tried(n), origin="sweep", info={"n": n}, run_id=f"r{n}")
    return path


def salvaged(path: Path) -> set[tuple[object, ...]]:
    return {flat(found) for found in Wreck(path, COLUMNS).trials()}


def flat(found: Salvaged) -> tuple[object, ...]:
    run, problem, row = found
    return run.id, run.environment.hash, problem.key, tuple(problem.columns.items()), row


def test_everything_in_a_sound_file_is_found(sound: Path) -> None:
    wreck = Wreck(sound, COLUMNS)
    assert {run.info["n"] for runs in wreck.runs.values() for run in runs} == set(range(30))
    assert salvaged(sound) == {
        (f"r{n}", ENVIRONMENT.hash, f"p{n}", (("N", n), ("dtype", "f16")), trial_values(trial))
        for n in range(30)
        for trial in tried(n)
    }


def test_what_is_found_in_a_damaged_file_was_in_it(sound: Path, tmp_path: Path) -> None:
    whole = salvaged(sound)
    without_columns = {(*found[:3], (), found[4]) for found in whole}
    raw, rng, found = sound.read_bytes(), random.Random(5), 0
    torn = tmp_path / "torn.db"
    for _ in range(60):
        damaged = bytearray(raw[: rng.choice([len(raw), rng.randrange(len(raw))])])
        for _ in range(rng.choice([1, 16, 256]) if damaged else 0):
            damaged[rng.randrange(len(damaged))] = rng.randrange(256)
        torn.write_bytes(damaged)
        some = salvaged(torn)
        assert some <= whole | without_columns
        found += len(some)
    assert found > 60 * len(whole) / 4


def test_what_is_no_database_has_no_rows(tmp_path: Path) -> None:
    for content in (
        b"",
        b"x",
        b"\x0d" * 9999,
        random.Random(1).randbytes(50_000),
        b"SQLite format 3\0" * 999,
    ):
        (tmp_path / "x").write_bytes(content)
        assert salvaged(tmp_path / "x") == set()
