"""Queries and what becomes of their rows: records, or, where a checksum does not fit, a count of bad rows."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Sequence
from typing import Any

from .records import ProblemRecord, Trial, Winner
from .rows import (
    TRIAL_COLUMNS,
    WINNER_COLUMNS,
    BadRowError,
    environment_from,
    trial_from,
    verify,
    winner_from,
)


def select_trials(more: str = "") -> str:
    """Return a query for trials: environment hash, problem key, run id, checksum, TRIAL_COLUMNS, `more`."""
    names = ", ".join(f"t.{name}" for name in TRIAL_COLUMNS)
    return f"""SELECT e.hash, p.key, r.id, t.checksum, {names} {more}
        FROM trials t JOIN problems p ON p.id = t.problem_id
        JOIN runs r ON r.id = t.run_id JOIN environments e ON e.id = r.environment_id"""


def collect_trials(rows: Iterable[Sequence[Any]], into: list[Trial]) -> int:
    """Append the sound trials among `rows` of `select_trials` to `into`; return how many rows were bad."""
    bad = 0
    for environment_hash, key, run_id, stored, *values in rows:
        try:
            verify((environment_hash, key, run_id), values, stored)
        except BadRowError:
            bad += 1
        else:
            into.append(trial_from(values))
    return bad


def select_problem_columns(columns: Iterable[str]) -> str:
    """Return what a select list goes on with to ask for the problem's named columns."""
    return "".join(f', p."{name}"' for name in columns)


def problem_from(key: str, columns: Sequence[str], values: Sequence[Any]) -> ProblemRecord:
    """Return the problem of a row.

    Raises:
        BadRowError: a column holds what no problem can.
    """
    named = zip(columns, values, strict=True)
    try:
        return ProblemRecord(key, {name: value for name, value in named if value is not None})
    except ValueError as error:
        raise BadRowError(str(error)) from None


def winners_of(
    connection: sqlite3.Connection, problem_key: str, columns: Sequence[str], into: list[Winner]
) -> int:
    """Append the sound winners of a problem to `into`, by environment hash; return how many rows were bad."""
    bad, own = 0, len(WINNER_COLUMNS)
    for environment_hash, document, stored, *rest in connection.execute(
        f"""SELECT e.hash, e.doc, w.checksum, {", ".join("w." + name for name in WINNER_COLUMNS)}
        {select_problem_columns(columns)}
        FROM problems p JOIN winners w ON w.problem_id = p.id JOIN environments e ON e.id = w.environment_id
        WHERE p.key = ? ORDER BY e.hash""",
        (problem_key,),
    ):
        values, named = rest[:own], rest[own:]
        try:
            verify((environment_hash, problem_key), values, stored)
            environment = environment_from(environment_hash, document)
            into.append(winner_from(environment, problem_from(problem_key, columns, named), values))
        except BadRowError:
            bad += 1
    return bad
