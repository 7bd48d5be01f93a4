"""Queries and what becomes of their rows: records, or, where a checksum does not fit, a count of bad rows."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from .records import EnvironmentRecord, ProblemRecord, RunRecord, Trial, Winner
from .rows import (
    TRIAL_COLUMNS,
    WINNER_COLUMNS,
    BadRowError,
    StoredTrial,
    environment_from,
    quoted,
    run_from,
    trial_from,
    verify,
    winner_from,
)
from .rule import Contender, Ranking, rank


@dataclass(frozen=True)
class Ranked:
    """A configuration of one problem with its place in one environment, among those of all sources."""

    environment: EnvironmentRecord
    place: int  # 0 is the best
    config: dict[str, Any]
    source: str
    provenance: str  # "measured" or "predicted": what its place rests on
    predictor: str  # which predicted; places are among the predictions of one predictor
    time_us: float  # microseconds, median over the runs


def select_trials(more: str = "") -> str:
    """Return a query for trials.

    Its columns: hash of the environment, key of the problem, id of the run and whether that has finished,
    checksum, TRIAL_COLUMNS, `more`.
    """
    names = ", ".join(f"t.{name}" for name in TRIAL_COLUMNS)
    return f"""SELECT e.hash, p.key, r.id, r.finished, t.checksum, {names} {more}
        FROM trials t JOIN problems p ON p.id = t.problem_id
        JOIN runs r ON r.id = t.run_id JOIN environments e ON e.id = r.environment_id"""


def stored_trials(rows: Iterable[Sequence[Any]], into: list[StoredTrial]) -> int:
    """Append the sound trials among `rows` of `select_trials` to `into`; return how many rows were bad."""
    bad = 0
    for environment_hash, key, run_id, finished, stored, *values in rows:
        try:
            verify((environment_hash, key, run_id), values, stored)
            into.append(StoredTrial(values, finished=bool(finished)))
        except BadRowError:
            bad += 1
    return bad


def collect_trials(rows: Iterable[Sequence[Any]], into: list[Trial]) -> int:
    """Append the sound trials among `rows` of `select_trials` to `into`; return how many rows were bad."""
    bad = 0
    for environment_hash, key, run_id, _, stored, *values in rows:
        try:
            verify((environment_hash, key, run_id), values, stored)
            into.append(trial_from(values))
        except BadRowError:
            bad += 1
    return bad


def select_problem_columns(columns: Iterable[str]) -> str:
    """Return what a select list goes on with to ask for the problem's named columns."""
    return "".join(f", p.{quoted(name)}" for name in columns)


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


@lru_cache(maxsize=16)
def _select_winners(columns: tuple[str, ...]) -> str:
    return f"""SELECT e.hash, e.doc, w.checksum, {", ".join("w." + name for name in WINNER_COLUMNS)}
        {select_problem_columns(columns)}
        FROM problems p JOIN winners w ON w.problem_id = p.id JOIN environments e ON e.id = w.environment_id
        WHERE p.key = ?"""


def winners_of(
    connection: sqlite3.Connection, problem_key: str, columns: Sequence[str], into: list[Winner]
) -> int:
    """Append the sound winners of a problem to `into`, by environment hash, source and predictor.

    Return how many rows were bad.
    """
    bad, own = 0, len(WINNER_COLUMNS)
    query = _select_winners(tuple(columns))
    for environment_hash, document, stored, *rest in connection.execute(query, (problem_key,)):
        values, named = rest[:own], rest[own:]
        try:
            verify((environment_hash, problem_key), values, stored)
            environment = environment_from(environment_hash, document)
            into.append(winner_from(environment, problem_from(problem_key, columns, named), values))
        except BadRowError:
            bad += 1
    into.sort(key=lambda winner: (winner.environment.hash, winner.source, winner.predictor))
    return bad


def runs_of(connection: sqlite3.Connection, problem_key: str, into: list[RunRecord]) -> int:
    """Append the runs that have trials of a problem to `into`, by id; return how many rows were bad."""
    bad = 0
    query = """SELECT DISTINCT r.id, r.origin, r.info, r.finished, e.hash, e.doc
        FROM trials t JOIN problems p ON p.id = t.problem_id
        JOIN runs r ON r.id = t.run_id JOIN environments e ON e.id = r.environment_id
        WHERE p.key = ? ORDER BY r.id"""
    for run_id, origin, info, finished, environment_hash, document in connection.execute(
        query, (problem_key,)
    ):
        try:
            environment = environment_from(environment_hash, document)
            into.append(run_from(run_id, environment, origin, info, finished))
        except BadRowError:
            bad += 1
    return bad


def environments_of(connection: sqlite3.Connection, into: dict[int, EnvironmentRecord]) -> int:
    """Put every sound environment into `into`, by id; return how many rows were bad."""
    bad = 0
    for number, stored_hash, document in connection.execute("SELECT id, hash, doc FROM environments"):
        try:
            into[number] = environment_from(stored_hash, document)
        except BadRowError:
            bad += 1
    return bad


def ranked_of(
    connection: sqlite3.Connection,
    problem_key: str,
    environments: Iterable[EnvironmentRecord],
    limit: int,
    into: list[Ranked],
) -> int:
    """Append the best configurations of a problem in each environment to `into`; return how many were bad."""
    bad = 0
    query = f"{select_trials()} WHERE p.key = ? AND e.hash = ? AND t.outcome IN ('ok', 'wrong')"
    for environment in sorted(environments, key=lambda one: one.hash):
        trials: list[StoredTrial] = []
        bad += stored_trials(connection.execute(query, (problem_key, environment.hash)), trials)
        for ranking in rank(trials):
            for place, contender in enumerate(ranking.contenders[:limit]):
                try:
                    into.append(_ranked(environment, ranking, place, contender))
                except BadRowError:
                    bad += 1
    return bad


def _ranked(environment: EnvironmentRecord, ranking: Ranking, place: int, contender: Contender) -> Ranked:
    config = dict(contender.trials[0].config)
    named = contender.source, ranking.provenance, ranking.predictor, contender.time
    return Ranked(environment, place, config, *named)
