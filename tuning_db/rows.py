"""Records to rows and back, with the checksum that every trial and winner carries.

A checksum covers the row's own texts and numbers, as stored, and what the row refers to (environment hash,
problem key, run), so a flipped bit in either is seen when the row is read, before any of it is parsed.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Mapping, Sequence
from typing import Any

from .records import EnvironmentRecord, ProblemRecord, Trial, Winner, canonical, digest, storable

TRIAL_COLUMNS = (
    "config_hash", "config", "outcome", "predicted_us", "measured_us", "samples_us", "max_err", "error",
    "detail",
)  # fmt: skip
WINNER_COLUMNS = (
    "config_hash", "config", "provenance", "measured_us", "predicted_us", "max_err", "margin", "ties",
    "detail",
)  # fmt: skip


class BadRowError(Exception):
    """A stored row is not what was written; it counts as absent."""


def checksum(references: Sequence[str], values: Sequence[Any]) -> str:
    """Return the checksum of a row's `values` and of what it refers to.

    Raises:
        BadRowError: a value is of no kind the tables hold.
    """
    try:
        return digest(json.dumps([*references, *values]))
    except TypeError as error:
        raise BadRowError(str(error)) from None


def verify(references: Sequence[str], values: Sequence[Any], stored: str) -> None:
    """Raise BadRowError unless `stored` is the checksum of the row."""
    if checksum(references, values) != stored:
        raise BadRowError(f"checksum {stored} does not fit its row")


def trial_values(trial: Trial) -> tuple[Any, ...]:
    """Return the row of `trial`, in the order of TRIAL_COLUMNS."""
    return (
        trial.config_hash,
        canonical(trial.config),
        trial.outcome,
        trial.predicted_us,
        trial.measured_us,
        canonical(trial.samples_us),
        trial.max_err,
        trial.error,
        canonical(trial.detail),
    )


def trial_from(values: Sequence[Any]) -> Trial:
    """Return the trial of a verified row."""
    _, config, outcome, predicted_us, measured_us, samples_us, max_err, error, detail = values
    return Trial(
        config=json.loads(config),
        outcome=outcome,
        predicted_us=predicted_us,
        samples_us=tuple(json.loads(samples_us)),
        measured_us=measured_us,
        max_err=max_err,
        error=error,
        detail=json.loads(detail),
    )


def winner_values(winner: Winner) -> tuple[Any, ...]:
    """Return the row of `winner`, in the order of WINNER_COLUMNS."""
    return (
        winner.config_hash,
        canonical(winner.config),
        winner.provenance,
        winner.measured_us,
        winner.predicted_us,
        winner.max_err,
        winner.margin,
        winner.ties,
        canonical(winner.detail),
    )


def winner_from(environment: EnvironmentRecord, problem: ProblemRecord, values: Sequence[Any]) -> Winner:
    """Return the winner of a verified row."""
    _, config, provenance, measured_us, predicted_us, max_err, margin, ties, detail = values
    return Winner(
        environment=environment,
        problem=problem,
        config=json.loads(config),
        provenance=provenance,
        measured_us=measured_us,
        predicted_us=predicted_us,
        max_err=max_err,
        margin=margin,
        ties=ties,
        detail=json.loads(detail),
    )


def environment_from(stored_hash: str, document: str) -> EnvironmentRecord:
    """Return the environment of a row, checked against its hash.

    Raises:
        BadRowError: the document is not the one hashed.
    """
    if digest(document) != stored_hash:
        raise BadRowError(f"environment {stored_hash} does not fit its document")
    fields: dict[str, Any] = json.loads(document)
    return EnvironmentRecord(hard=fields["hard"], soft=fields["soft"])


def environment_id(connection: sqlite3.Connection, environment: EnvironmentRecord) -> int:
    """Return the id of `environment`, inserting it where it is new."""
    fields = {**environment.soft, **environment.hard}
    named = [None if fields.get(name) is None else storable(str(fields[name])) for name in ("arch", "device")]
    connection.execute(
        "INSERT INTO environments (hash, hard_hash, arch, device, doc) VALUES (?, ?, ?, ?, ?)"
        " ON CONFLICT DO NOTHING",
        (environment.hash, environment.hard_hash, *named, environment.document),
    )
    return _id(connection, "SELECT id FROM environments WHERE hash = ?", environment.hash)


def check_declared(problem: ProblemRecord, declared: Mapping[str, type]) -> None:
    """Raise ValueError where a column of the problem was not declared, or not with its type."""
    for name, value in problem.columns.items():
        if name not in declared or not isinstance(value, declared[name]):
            raise ValueError(
                f"columns[{name!r}]={value!r} was not declared so; open the database with such a column"
            )


def problem_id(connection: sqlite3.Connection, problem: ProblemRecord, declared: Mapping[str, type]) -> int:
    """Return the id of `problem`, inserting it where it is new.

    Raises:
        ValueError: one of its columns was not declared, or not with its type.
    """
    check_declared(problem, declared)
    names = "".join(f', "{name}"' for name in problem.columns)
    connection.execute(
        f"INSERT INTO problems (key{names}) VALUES (?{', ?' * len(problem.columns)}) ON CONFLICT DO NOTHING",
        (problem.key, *problem.columns.values()),
    )
    return _id(connection, "SELECT id FROM problems WHERE key = ?", problem.key)


def _id(connection: sqlite3.Connection, query: str, value: str) -> int:
    row = connection.execute(query, (value,)).fetchone()
    return int(row[0])
