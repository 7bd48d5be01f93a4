"""Siblings: the problems that differ in their sizes alone, with all that was tried of them."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from tuning_db import EnvironmentRecord, Layers, Miss, ProblemRecord, Trial, TuningDB
from tuning_db.siblings import MOST_SIBLINGS, sibling_of

COLUMNS = {"K": int, "dtype": str, "N": int, "L": int}
SIZES = ("N", "L", "no column of this file")
HERE = EnvironmentRecord({"arch": "sm_89"}, {"device": "RTX 4090"})
ELSEWHERE = EnvironmentRecord({"arch": "sm_80"}, {"device": "A100"})


@pytest.fixture
def db(tmp_path: Path) -> Iterator[TuningDB]:
    with TuningDB.open(tmp_path / "siblings.db", columns=COLUMNS, application="tests") as opened:
        yield opened


def problem(n: int, length: int, k: int = 3, **others: str) -> ProblemRecord:
    columns = {"N": n, "L": length, "K": k, "dtype": "float16", **others}
    return ProblemRecord(",".join(f"{name}={value}" for name, value in columns.items()), columns)


def trials(*times: float) -> list[Trial]:
    """Configurations of two sources, measured, and one that failed."""
    measured = [
        Trial({"a": place}, "ok", samples_us=(time,), source="xy"[place % 2])
        for place, time in enumerate(times)
    ]
    return [*measured, Trial({"a": -1}, "wrong", max_err=1.0)]


def siblings(db: TuningDB, wanted: ProblemRecord, alike: str = "") -> list[str]:
    found = db.siblings(wanted, SIZES, lambda key: alike in key, lambda one: one == HERE)
    return [one.key for one in found]


def test_they_are_alike_in_all_but_their_sizes_and_come_nearest_first(db: TuningDB) -> None:
    wanted = problem(2, 100)
    near, nearer, other = problem(1, 300), problem(4, 40), problem(2, 101, k=5)
    for one in (near, nearer, other, problem(2, 99, dtype="float32")):
        db.record(HERE, one, trials(1.0), origin="test")
    assert siblings(db, wanted) == [nearer.key, near.key]
    db.record(HERE, wanted, trials(1.0), origin="test")
    equal = problem(4, 50)  # the same product: not before itself
    db.record(HERE, equal, trials(1.0), origin="test")
    assert siblings(db, wanted) == [wanted.key, equal.key, nearer.key, near.key]
    assert siblings(db, wanted, alike="L=3") == [near.key]  # the caller knows more than the columns


def test_a_problem_without_a_winner_in_those_environments_is_none(db: TuningDB) -> None:
    db.record(ELSEWHERE, problem(1, 10), trials(1.0), origin="test")
    db.record(HERE, problem(1, 20), trials(), origin="test")
    assert siblings(db, problem(1, 15)) == []


def test_what_was_missed_and_not_tuned_takes_no_place(db: TuningDB) -> None:
    tuned = problem(1, 1500)
    db.record(HERE, tuned, trials(1.0), origin="test")
    at = "2026-01-01T00:00:00+00:00"
    for length in range(960, 960 + 2 * MOST_SIBLINGS):
        db.note_misses([Miss(problem(1, length), HERE, 1, "torch", at, at)])
        db.record(ELSEWHERE, problem(2, length // 2), trials(1.0), origin="test")
    assert siblings(db, problem(1, 1000)) == [tuned.key]


def test_each_comes_with_its_winners_and_all_that_passed(db: TuningDB) -> None:
    db.record(HERE, problem(1, 10), trials(3.0, 1.0, 2.0), origin="test")
    db.record(ELSEWHERE, problem(1, 10), trials(9.0), origin="test")
    (one,) = db.siblings(problem(1, 15), SIZES, lambda _: True, lambda environment: environment == HERE)
    assert sorted((winner.source, winner.measured_us) for winner in one.winners) == [("x", 2.0), ("y", 1.0)]
    assert [(ranked.config["a"], ranked.time_us) for ranked in one.ranked] == [(1, 1.0), (2, 2.0), (0, 3.0)]
    assert {ranked.environment.hash for ranked in one.ranked} == {HERE.hash}
    assert one == sibling_of(HERE, problem(1, 10), trials(3.0, 1.0, 2.0))


def test_each_tells_the_sources_that_were_timed_or_failed(db: TuningDB) -> None:
    made = [
        Trial({"a": 0}, "ok", measured_us=1.0, max_err=0.0, source="timed"),
        Trial({"a": 1}, "wrong", max_err=1.0, source="wrong"),
        Trial({"a": 2}, "launch", source="failed"),
        Trial({"a": 3}, "ok", 1.0, max_err=0.0, source="predicted", predictor="p"),
        Trial({"a": 4}, "compiled", 1.0, source="compiled", predictor="p"),
    ]
    db.record(HERE, problem(1, 10), made, origin="test")
    db.record(ELSEWHERE, problem(1, 10), trials(9.0), origin="test")
    (one,) = db.siblings(problem(1, 15), SIZES, lambda _: True, lambda environment: environment == HERE)
    assert one.tried == {(HERE.hash, source) for source in ("timed", "wrong", "failed")}
    assert one == sibling_of(HERE, problem(1, 10), made)


def test_no_more_are_read_than_answer_at_once(db: TuningDB) -> None:
    for length in range(1, MOST_SIBLINGS + 5):
        db.record(HERE, problem(1, length), trials(1.0), origin="test")
    found = siblings(db, problem(1, 7))
    assert len(found) == MOST_SIBLINGS and found[0] == problem(1, 7).key


def test_damaged_rows_are_left_out_and_counted(db: TuningDB) -> None:
    for length in (10, 20):
        db.record(HERE, problem(1, length), trials(1.0), origin="test")
    with db.writing() as connection:
        connection.execute("UPDATE winners SET checksum = 'bad' WHERE problem_id = 1")
    assert siblings(db, problem(1, 15)) == [problem(1, 20).key]
    assert db.bad_rows == 1


def test_the_index_over_the_columns_finds_them(db: TuningDB, tmp_path: Path) -> None:
    """Without it a file of a hundred thousand problems would be read whole."""
    seen: list[str] = []
    with db.reading() as connection:
        connection.set_trace_callback(seen.append)
        siblings(db, problem(1, 15))
        connection.set_trace_callback(None)
    (query,) = [one for one in seen if "FROM problems" in one and "ORDER BY" in one]
    with closing(sqlite3.connect(tmp_path / "siblings.db")) as connection:
        steps = [step for *_, step in connection.execute(f"EXPLAIN QUERY PLAN {query}")]
    assert "SEARCH problems USING COVERING INDEX problems_by_columns (K=? AND dtype=?)" in steps


def test_every_layer_gives_its_own(tmp_path: Path) -> None:
    databases = []
    for name, length in (("first", 10), ("second", 20)):
        opened = TuningDB.open(tmp_path / name, columns=COLUMNS)
        opened.record(HERE, problem(1, length), trials(1.0), origin="test")
        databases.append((name, opened))
    layers = Layers(databases, pytest.fail)
    found = layers.siblings(problem(1, 15), SIZES, lambda _: True, lambda _: True)
    assert [(layer, one.key) for layer, one in found] == [
        ("first", problem(1, 10).key),
        ("second", problem(1, 20).key),
    ]
    assert not layers.in_trouble
    layers.close()
