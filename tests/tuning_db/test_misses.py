"""Misses: they add up, whoever notes them, outlive damage, and go when they are forgotten."""

from __future__ import annotations

import itertools
import random
import sqlite3
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.tuning_db.test_concurrency import in_processes
from tuning_db import (
    BusyError,
    EnvironmentRecord,
    Miss,
    Pin,
    ProblemRecord,
    Pruned,
    Trial,
    TuningDB,
    UnwritableError,
    check,
    export_lines,
    import_lines,
    merge,
    open_healed,
    prune,
    rebuild,
    schema,
)
from tuning_db.connection import without_waiting
from tuning_db.misses import MOST_CALLS, newest

COLUMNS = {"N": int, "dtype": str}
HERE, THERE = (EnvironmentRecord({"arch": "sm_89"}, {"device": name}) for name in ("L4", "L40S"))


def day(number: int) -> str:
    return f"2026-01-{number:02}T00:00:00+00:00"


def miss(n: int = 1, calls: int = 1, first: int = 1, last: int = 1, served: str = "torch") -> Miss:
    problem = ProblemRecord(f"p{n}", {"N": n, "dtype": "float16"})
    return Miss(problem, HERE, calls, served, day(first), day(last))


def edited(db: TuningDB, statement: str, *values: object) -> None:
    with db.writing() as connection:
        connection.execute(statement, values)


# --- what is kept ---------------------------------------------------------------------------------


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
def test_misses_of_a_problem_and_environment_add_up_in_any_order(
    db: TuningDB, order: tuple[int, ...]
) -> None:
    parts = [
        miss(calls=5, first=3, last=4, served="torch"),
        miss(calls=2, first=1, last=2, served="a guess"),
        miss(calls=1, first=6, last=9, served="carried"),
    ]
    for place in order:
        db.note_misses([parts[place]])
    elsewhere = replace(miss(calls=7), environment=THERE)
    db.note_misses([miss(2, calls=3), elsewhere])
    joined = miss(calls=8, first=1, last=9, served="carried")
    assert db.misses() == [*sorted([joined, elsewhere], key=lambda one: one.environment.hash), miss(2, 3)]
    assert db.info()["misses"] == 3 and check(db).misses == 3 and check(db).ok


def test_of_one_instant_the_later_noted_served_last(db: TuningDB) -> None:
    db.note_misses([miss(served="torch"), miss(served="a guess")])
    db.note_misses([miss(served="carried")])
    assert db.misses() == [miss(calls=3, served="carried")]


def test_times_are_kept_in_utc_to_the_second(db: TuningDB) -> None:
    times = {"first_seen": "2026-01-01T01:30:00.75+02:00", "last_seen": "2026-01-01T00:00:00Z"}
    db.note_misses([replace(miss(), **times)])
    (found,) = db.misses()
    assert (found.first_seen, found.last_seen) == ("2025-12-31T23:30:00+00:00", day(1))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("calls", 0), ("calls", True), ("calls", 1.0), ("calls", 2**63), ("served", None),
        ("first_seen", "2026-01-01T00:00:00"), ("last_seen", "yesterday"), ("last_seen", None),
        ("first_seen", "0001-01-01T00:00:00+14:00"),
    ],
)  # fmt: skip
def test_a_miss_that_is_none_is_refused(field: str, value: Any) -> None:
    with pytest.raises(ValueError, match=f"^{field}="):
        replace(miss(), **{field: value})


def test_a_count_stands_still_at_the_largest_that_fits(db: TuningDB) -> None:
    db.note_misses([miss(calls=MOST_CALLS), miss(calls=2)])
    assert db.misses() == [miss(calls=MOST_CALLS)]


def test_nothing_noted_is_no_transaction(db: TuningDB, path: Path) -> None:
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        db.note_misses([])


# --- all or nothing, and by many ------------------------------------------------------------------


def test_all_of_them_come_in_or_none(db: TuningDB) -> None:
    undeclared = replace(miss(2), problem=ProblemRecord("p2", {"K": 3}))
    with pytest.raises(ValueError, match="was not declared"):
        db.note_misses([miss(), undeclared])
    assert db.misses() == [] and list(db.problems()) == []


def note_some(index: int, path: Path, rounds: int) -> None:
    with TuningDB.open(path, columns=COLUMNS) as db:
        for step in range(rounds):
            at = day(1 + (7 * index + 5 * step) % 28)
            own = replace(miss(10 + index), first_seen=at, last_seen=at)
            shared = replace(own, problem=miss(1).problem, calls=1 + index)
            db.note_misses([shared, own, shared])


def test_many_processes_add_up(tmp_path: Path) -> None:
    path, processes, rounds = tmp_path / "new.db", 6, 12
    in_processes(processes, note_some, path, rounds)
    with TuningDB.open(path, columns=COLUMNS) as db:
        counted = {one.problem.key: one.calls for one in db.misses()}
        assert counted == {"p1": 2 * rounds * 21} | {f"p{10 + n}": rounds for n in range(processes)}
        days = [1 + (7 * i + 5 * s) % 28 for i in range(processes) for s in range(rounds)]
        (shared,) = (one for one in db.misses() if one.problem.key == "p1")
        assert (shared.first_seen, shared.last_seen) == (day(min(days)), day(max(days)))


def test_a_file_that_takes_no_writes_says_so_and_stays_as_it_was(db: TuningDB, path: Path) -> None:
    db.note_misses([miss()])
    with TuningDB.open_readonly(path, columns=COLUMNS) as readonly:
        for call in (lambda: readonly.note_misses([miss()]), lambda: readonly.forget_misses([("p1", "x")])):
            with pytest.raises(UnwritableError):
                call()
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with without_waiting(), pytest.raises(BusyError):
            db.note_misses([miss()])
    with db.reading() as connection:
        (pages,) = connection.execute("PRAGMA page_count").fetchone()
        connection.execute(f"PRAGMA max_page_count = {pages}")
    with pytest.raises(UnwritableError, match="full"):
        db.note_misses([miss(n, served="torch " * 100) for n in range(2, 99)])
    assert db.misses() == [miss()]
    edited(db, "UPDATE meta SET value = 'x' WHERE name = 'none'")  # what failed left no lock behind


def test_no_writer_writes_a_pin(db: TuningDB, path: Path) -> None:
    db.note_misses([miss()])
    run = db.start(HERE, origin="x")
    with db.writing() as connection:
        schema.mark_pinned(connection, Pin("L4", day(2)))
    for open_it in (TuningDB.open, TuningDB.open_readonly):
        with open_it(path, columns={**COLUMNS, "K": int}) as pin:
            assert pin.pinned and pin.pin == Pin("L4", day(2)) and dict(pin.columns) == COLUMNS
            assert (pin.info()["pin"], pin.info()["pinned_at"]) == ("L4", day(2))
            before = path.read_bytes()
            for write in (
                lambda pin: pin.note_misses([miss()]),
                lambda pin: pin.forget_misses([("p1", HERE.hash)]),
                lambda pin: pin.start(HERE, origin="x"),
                lambda pin: pin.add(run, miss().problem, Trial({}, "ok", measured_us=1.0)),
                lambda pin: pin.record(HERE, miss().problem, [], origin="x"),
                lambda pin: import_lines(pin, ["x"]),
                lambda pin: prune(pin, misses=True),
                rebuild,
            ):
                with pytest.raises(UnwritableError, match=r"a pin of L4 from 2026-01-02.*another file"):
                    write(pin)
            assert path.read_bytes() == before and pin.misses() == [miss()]


# --- what becomes of them -------------------------------------------------------------------------


def test_what_is_forgotten_is_gone_in_that_environment_alone(db: TuningDB) -> None:
    elsewhere = replace(miss(), environment=THERE)
    db.note_misses([miss(), miss(2), elsewhere])
    db.forget_misses([("p1", HERE.hash), ("p2", THERE.hash), ("p9", HERE.hash)])
    assert db.misses() == [elsewhere, miss(2)]
    db.note_misses([miss(calls=4)])
    assert miss(calls=4) in db.misses()


@pytest.mark.parametrize("column", ["calls = 9", "served = 'x'", "last_seen = 'x'", "problem_id = 2"])
def test_a_row_that_was_changed_counts_as_absent_until_it_is_noted_again(db: TuningDB, column: str) -> None:
    db.note_misses([miss(1), miss(2)])
    db.forget_misses([("p2", HERE.hash)])
    edited(db, f"UPDATE misses SET {column}")
    assert db.misses() == [] and db.bad_rows == 1
    report = check(db)
    assert (report.bad_rows, report.misses, report.ok) == (1, 1, False)
    db.note_misses([miss(1, calls=2), miss(2, calls=2)])
    assert db.misses() == [miss(1, calls=2), miss(2, calls=2)] and check(db).ok


def test_pruning_keeps_what_they_refer_to_unless_told_to_forget(db: TuningDB) -> None:
    trial = Trial({"B": 1}, "ok", measured_us=1.0)
    db.record(THERE, ProblemRecord("p9", {"N": 9}), [trial], origin="x")
    db.note_misses([miss()])
    gone = prune(db, drop=lambda *_: True)
    assert gone == Pruned(trials=1, runs=1, problems=1, environments=1, quarantined=0, misses=0)
    assert db.misses() == [miss()] and check(db).ok and db.environments() == [HERE]
    assert prune(db, drop=lambda *_: True, misses=True) == Pruned(0, 0, 1, 1, 0, 1)
    assert db.misses() == [] and db.environments() == []


def test_a_rebuild_keeps_them_and_neither_export_nor_merge_carries_them(db: TuningDB, tmp_path: Path) -> None:
    db.note_misses([miss()])
    db.record(HERE, miss().problem, [Trial({"B": 1}, "ok", measured_us=1.0)], origin="x")
    rebuild(db)
    assert db.misses() == [miss()] and check(db).ok
    assert len(list(export_lines(db))) == 1
    with TuningDB.open(tmp_path / "other.db", columns=COLUMNS, application="tests") as other:
        other.note_misses([miss(calls=3)])
        for _ in range(2):
            merge(other, db.path)
        assert other.misses() == [miss(calls=3)] and other.info()["trials"] == 1


# --- damage ---------------------------------------------------------------------------------------


def test_they_are_taken_over_from_a_damaged_file_once(path: Path) -> None:
    with TuningDB.open(path, columns=COLUMNS) as db:
        for n in range(60):
            db.note_misses([miss(n, calls=2, served=f"torch {n}")])
        db.note_misses([miss(n, last=3) for n in range(0, 60, 2)])
        db.forget_misses([("p0", HERE.hash)])
        expected = db.misses()
    raw = bytearray(path.read_bytes())
    raw[:100] = random.Random(2).randbytes(100)
    path.write_bytes(raw)
    warnings: list[str] = []
    for _ in range(2):
        with open_healed(path, columns=COLUMNS, warn=warnings.append) as healed:
            found = {one.problem.key: one for one in healed.misses()}
            found.pop("p0", None)  # what was forgotten may still lie in a page that is no longer in use
            assert list(found.values()) == expected and check(healed).ok
    assert len(warnings) == 1


def test_of_several_states_of_a_row_the_newest_is_taken_over() -> None:
    states = [miss(calls=2, last=5), miss(calls=9, last=4), miss(calls=3, last=5), miss(2)]
    for order in itertools.permutations(states):
        assert {one.problem.key: one for one in newest(order)} == {"p1": miss(calls=3, last=5), "p2": miss(2)}
