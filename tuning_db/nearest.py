"""Near problems: those with the same text columns, by the distance of the logarithms of the integer ones.

The distance is a sum over the columns, so it is at least the difference of the sums of the logarithms. That
sum is kept, indexed; a search goes outward from the wanted one and stops where nothing nearer can follow.
"""

from __future__ import annotations

import heapq
import itertools
import math
import sqlite3
from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .records import ProblemRecord, canonical, digest
from .rows import BadRowError, problem_from, select_problem_columns

MOST_EXAMINED = 2000  # problems, some 10 us each. What lies further off in size is not looked at


@dataclass(frozen=True)
class Neighbour:
    """A problem near another."""

    problem: ProblemRecord
    differing: tuple[str, ...]  # text columns that are not the same
    distance: float  # sum over the integer columns of |log2(one / other)|


def logarithm(value: int) -> float:
    """Return log2 of a size; below 1, where there is none, `value - 1`, which goes on from it smoothly."""
    return math.log2(value) if value >= 1 else value - 1.0


def size_and_kind(columns: Mapping[str, Any]) -> tuple[float, int]:
    """Return the sum of the logarithms of the integer columns, and a hash of the text columns.

    A column that a problem lacks counts as 1, or as empty text.
    """
    size = math.fsum(logarithm(value) for value in columns.values() if isinstance(value, int))
    texts = {name: value for name, value in columns.items() if isinstance(value, str) and value}
    return size, int(digest(canonical(texts))[:15], 16)  # 60 bits: SQLite's integers have a sign


def put_size(connection: sqlite3.Connection, of_problem: int, columns: Mapping[str, Any]) -> None:
    """Note the size and the kind of a problem, which has these columns."""
    size, kind = size_and_kind(columns)
    connection.execute(
        "INSERT OR REPLACE INTO problem_sizes (problem_id, kind, log_size) VALUES (?, ?, ?)",
        (of_problem, kind, size),
    )


def fits(columns: Mapping[str, Any], log_size: Any, kind: Any) -> bool:
    """Return whether a problem's columns, all of them, are those whose size and kind were noted."""
    return size_and_kind(columns) == (log_size, kind)


def stored_columns(connection: sqlite3.Connection, of_problem: int) -> dict[str, Any]:
    """Return all columns that the file has for a problem, but for its id and its key.

    Raises:
        sqlite3.DatabaseError: there is no such problem: an index of the damaged file says otherwise.
    """
    cursor = connection.execute("SELECT * FROM problems WHERE id = ?", (of_problem,))
    names = [name for name, *_ in cursor.description]
    row = cursor.fetchone()
    if row is None:
        raise sqlite3.DatabaseError("an index is malformed: it has a row that its table has not")
    return dict(zip(names[2:], row[2:], strict=True))


def sound_problem(connection: sqlite3.Connection, of_problem: int, wanted: Container[str]) -> ProblemRecord:
    """Return a problem with the wanted ones of its columns.

    Raises:
        BadRowError: its columns are not those that were written.
    """
    columns = stored_columns(connection, of_problem)
    key, *noted = connection.execute(
        """SELECT p.key, s.log_size, s.kind FROM problems p
        LEFT JOIN problem_sizes s ON s.problem_id = p.id WHERE p.id = ?""",
        (of_problem,),
    ).fetchone()
    if not fits(columns, *noted):
        raise BadRowError(f"the columns of problem {key} are not what was written")
    names = [name for name in columns if name in wanted]
    return problem_from(key, names, [columns[name] for name in names])


def search(
    connection: sqlite3.Connection,
    wanted: ProblemRecord,
    columns: Sequence[str],
    environments: Sequence[int],
    limit: int,
) -> tuple[list[Neighbour], int]:
    """Return the problems nearest to `wanted`, itself left out, and how many rows were bad.

    Only problems with a winner in one of the environments (ids). Fewest differing text columns come first,
    then the least distance, then the key.

    `columns` are all declared columns of the file.
    """
    found: list[Neighbour] = []
    bad = 0
    kinds = _kinds(connection, wanted, columns)
    for _, alike in itertools.groupby(kinds, key=lambda pair: len(pair[0])):
        for differing, kind in alike:
            best, worse = _nearest_of_kind(connection, wanted, kind, columns, environments, limit)
            found += [Neighbour(problem, differing, distance) for distance, _, problem in best]
            bad += worse
        if len(found) >= limit:
            break
    found.sort(key=lambda one: (len(one.differing), one.distance, one.problem.key))
    return found[:limit], bad


def _nearest_of_kind(
    connection: sqlite3.Connection,
    wanted: ProblemRecord,
    kind: int,
    columns: Sequence[str],
    environments: Sequence[int],
    limit: int,
) -> tuple[list[tuple[float, str, ProblemRecord]], int]:
    """Return the nearest problems with distance and key, nearest first, and how many rows were bad."""
    bad = 0
    size, _ = size_and_kind(wanted.columns)
    logarithms = [_logarithm_of(wanted.columns.get(name)) for name in columns]
    best: list[tuple[float, str, ProblemRecord]] = []
    for examined, (gap, row) in enumerate(_outward(connection, kind, size, columns, environments)):
        if examined >= MOST_EXAMINED or (len(best) == limit and gap > best[-1][0]):
            break
        log_size, key, *values = row
        distance = _distance(logarithms, values)
        if key == wanted.key or (len(best) == limit and (distance, key) > best[-1][:2]):
            continue  # as most are; the few others are looked at closely
        try:
            problem = problem_from(key, columns, values)
        except BadRowError:
            bad += 1
            continue
        if fits(problem.columns, log_size, kind):
            best = sorted([*best, (distance, key, problem)], key=lambda found: found[:2])[:limit]
        else:
            bad += 1
    return best, bad


def _distance(logarithms: Sequence[float | None], values: Sequence[Any]) -> float:
    """Return the distance of a row's columns from the wanted ones; None stands for a text."""
    total = 0.0
    for wanted, value in zip(logarithms, values, strict=True):
        here = _logarithm_of(value)
        if wanted is not None and here is not None:
            total += abs(wanted - here)
    return total


def _logarithm_of(value: Any) -> float | None:
    """Return the logarithm of a column, which counts as 1 where a problem lacks it; None of a text."""
    if value is None:
        return 0.0
    return logarithm(value) if isinstance(value, int) else None


def _kinds(
    connection: sqlite3.Connection, wanted: ProblemRecord, columns: Sequence[str]
) -> list[tuple[tuple[str, ...], int]]:
    """Return every kind in the file with the text columns in which it differs, those with fewest first."""
    found = []
    row = connection.execute("SELECT min(kind) FROM problem_sizes").fetchone()
    while row is not None and isinstance(row[0], int):  # None: there are no more
        (kind,) = row
        example = connection.execute(
            f"""SELECT p.key {select_problem_columns(columns)} FROM problem_sizes s
            JOIN problems p ON p.id = s.problem_id WHERE s.kind = ? LIMIT 1""",
            (kind,),
        ).fetchone()
        if example is not None:
            there = dict(zip(columns, example[1:], strict=True))
            found.append((_differing(wanted.columns, there), kind))
        row = connection.execute("SELECT min(kind) FROM problem_sizes WHERE kind > ?", (kind,)).fetchone()
    return sorted(found, key=lambda pair: (len(pair[0]), pair))


def _differing(here: Mapping[str, Any], there: Mapping[str, Any]) -> tuple[str, ...]:
    texts = {name for columns in (here, there) for name, value in columns.items() if isinstance(value, str)}
    return tuple(sorted(name for name in texts if (here.get(name) or "") != (there.get(name) or "")))


def _outward(
    connection: sqlite3.Connection,
    kind: int,
    size: float,
    columns: Sequence[str],
    environments: Sequence[int],
) -> Iterator[tuple[float, tuple[Any, ...]]]:
    """Yield the kind's problems that have winners there, each after its distance in size, nearest first."""

    def walk(comparison: str, order: str) -> Iterator[tuple[float, tuple[Any, ...]]]:
        rows = connection.execute(
            f"""SELECT s.log_size, p.key {select_problem_columns(columns)} FROM problem_sizes s
            JOIN problems p ON p.id = s.problem_id
            WHERE s.kind = ? AND s.log_size {comparison} ? AND EXISTS (
                SELECT 1 FROM winners w WHERE w.problem_id = p.id
                AND w.environment_id IN ({", ".join("?" * len(environments))}))
            ORDER BY s.log_size {order}""",
            (kind, size, *environments),
        )
        return ((abs(row[0] - size), row) for row in rows if (type(row[0]), type(row[1])) == (float, str))

    return heapq.merge(walk(">=", "ASC"), walk("<", "DESC"), key=lambda found: found[0])
