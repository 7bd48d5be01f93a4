"""What was asked for and had no entry: counted a problem and environment, until it has been tuned."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from .records import EnvironmentRecord, ProblemRecord, as_text, instant
from .rows import (
    BadRowError,
    checksum,
    environment_from,
    insert,
    parsed,
    problem_from,
    select_problem_columns,
    sound,
    verify,
)
from .writing import Intake

MOST_CALLS = 2**63 - 1  # of one row; a count that reaches it stands still
MISS_COLUMNS = ("calls", "served", "first_seen", "last_seen")
_NAMES = ", ".join(f"m.{name}" for name in MISS_COLUMNS)
_PUT = insert("misses", ("problem_id", "environment_id", *MISS_COLUMNS, "checksum")).replace(
    "INSERT", "INSERT OR REPLACE", 1
)
_FORGET = """DELETE FROM misses WHERE problem_id = (SELECT id FROM problems WHERE key = ?)
    AND environment_id = (SELECT id FROM environments WHERE hash = ?)"""


@dataclass(frozen=True)
class Miss:
    """A problem that was asked for in an environment and had no entry, with how often; or one more such call.

    Raises:
        ValueError: the calls are no count from 1 on, what served is no text, or a time is none.
    """

    problem: ProblemRecord
    environment: EnvironmentRecord
    calls: int
    served: str  # meanwhile, or last; any text of the caller's
    first_seen: str  # ISO 8601, kept in UTC to the second
    last_seen: str  # likewise

    def __post_init__(self) -> None:
        if type(self.calls) is not int or not 0 < self.calls <= MOST_CALLS:
            raise ValueError(f"calls={self.calls!r} is no count of calls; give 1 or more")
        object.__setattr__(self, "served", as_text("served", self.served))
        for name in ("first_seen", "last_seen"):
            object.__setattr__(self, name, instant(name, getattr(self, name)))


def joined(one: Miss, other: Miss) -> Miss:
    """Return both of one problem and environment as one: all calls, and what served last."""
    last = max(one, other, key=lambda miss: miss.last_seen)
    return replace(
        last,
        calls=min(one.calls + other.calls, MOST_CALLS),
        first_seen=min(one.first_seen, other.first_seen),
    )


def miss_from(environment: EnvironmentRecord, problem: ProblemRecord, values: Sequence[Any]) -> Miss:
    """Return the miss of a verified row (MISS_COLUMNS); raises BadRowError where it is none."""
    named = dict(zip(MISS_COLUMNS, values, strict=True))
    return parsed(lambda: Miss(problem, environment, **named))


def note(intake: Intake, misses: Iterable[Miss]) -> int:
    """Add misses to those in the file; return how many rows there were bad, which the new ones replace.

    Raises:
        ValueError: a column of a problem was not declared, or not with its type.
    """
    bad = 0
    for miss in misses:
        pair = intake.problem(miss.problem), intake.environment(miss.environment)
        try:
            before = _stored(intake.connection, pair, miss)
        except BadRowError:
            before, bad = None, bad + 1
        # What comes in is second: of one instant, it is the newest.
        now = miss if before is None else joined(miss, before)
        values = [getattr(now, name) for name in MISS_COLUMNS]
        intake.connection.execute(_PUT, (*pair, *values, checksum(_references(miss), values)))
    return bad


def _stored(connection: sqlite3.Connection, pair: tuple[int, int], miss: Miss) -> Miss | None:
    query = f"SELECT m.checksum, {_NAMES} FROM misses m WHERE problem_id = ? AND environment_id = ?"
    row = connection.execute(query, pair).fetchone()
    if row is None:
        return None
    verify(_references(miss), row[1:], row[0])
    return miss_from(miss.environment, miss.problem, row[1:])


def _references(miss: Miss) -> tuple[str, str]:
    return miss.environment.hash, miss.problem.key


def misses_of(connection: sqlite3.Connection, columns: Sequence[str]) -> tuple[list[Miss], int]:
    """Return all sound misses, by problem key and environment hash; and how many rows were bad."""
    own = len(MISS_COLUMNS)

    def read(environment_hash: str, document: str, key: str, stored: str, *rest: Any) -> Miss:
        verify((environment_hash, key), rest[:own], stored)
        environment = environment_from(environment_hash, document)
        return miss_from(environment, problem_from(key, columns, rest[own:]), rest[:own])

    query = f"""SELECT e.hash, e.doc, p.key, m.checksum, {_NAMES} {select_problem_columns(columns)}
        FROM misses m JOIN problems p ON p.id = m.problem_id JOIN environments e ON e.id = m.environment_id
        ORDER BY p.key, e.hash"""
    return sound(connection.execute(query), read)


def forget(connection: sqlite3.Connection, keys: Iterable[tuple[str, str]]) -> None:
    """Delete the misses of these problem keys and environment hashes; those not there are no error."""
    connection.executemany(_FORGET, keys)


def newest(found: Iterable[Miss]) -> Iterator[Miss]:
    """Yield of several states of one row the newest: pages no longer in use may tell older ones."""
    by_pair: dict[tuple[str, str], Miss] = {}
    for miss in found:
        known = by_pair.get(_references(miss), miss)
        by_pair[_references(miss)] = max(known, miss, key=lambda one: (one.last_seen, one.calls))
    yield from by_pair.values()
