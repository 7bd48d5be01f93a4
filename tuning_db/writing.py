"""What happens inside a write transaction: insert runs and trials, derive winners."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .errors import TuningDBError
from .reading import collect_trials, select_trials
from .records import EnvironmentRecord, ProblemRecord, Trial, canonical, plain, storable
from .rows import (
    TRIAL_COLUMNS,
    WINNER_COLUMNS,
    BadRowError,
    checksum,
    environment_from,
    environment_id,
    problem_id,
    trial_values,
    winner_values,
)
from .rule import choose

COMPETING_OUTCOMES = ("ok", "wrong")  # what `choose` looks at


def _insert(table: str, columns: tuple[str, ...]) -> str:
    return f"INSERT INTO {table} ({', '.join(columns)}) VALUES ({', '.join('?' * len(columns))})"


# A started trial gives way to what comes next, a finished one to nothing.
_PUT_TRIAL = f"""
    {_insert("trials", ("run_id", "problem_id", *TRIAL_COLUMNS, "checksum"))}
    ON CONFLICT (run_id, problem_id, config_hash) DO UPDATE
    SET {", ".join(f"{name} = excluded.{name}" for name in (*TRIAL_COLUMNS, "checksum"))}
    WHERE trials.outcome = 'started'"""
_PUT_WINNER = _insert("winners", ("environment_id", "problem_id", *WINNER_COLUMNS, "checksum"))
_COMPETING = f"""
    {select_trials()}
    WHERE t.problem_id = ? AND r.environment_id = ? AND t.outcome IN {COMPETING_OUTCOMES}"""


@dataclass(frozen=True)
class Run:
    """A run in the file, and the environment it ran in."""

    id: str
    environment_id: int
    environment_hash: str


def find_run(connection: sqlite3.Connection, path: Path, run_id: str) -> Run:
    """Return the run of that id.

    Raises:
        TuningDBError: there is none.
    """
    row = connection.execute(
        "SELECT e.id, e.hash FROM runs r JOIN environments e ON e.id = r.environment_id WHERE r.id = ?",
        (run_id,),
    ).fetchone()
    if row is None:
        raise TuningDBError(path, f"it has no run {run_id!r}", "begin one with start()")
    return Run(run_id, *row)


def put_run(
    connection: sqlite3.Connection,
    path: Path,
    run_id: str,
    environment: EnvironmentRecord,
    origin: str,
    info: Mapping[str, Any],
) -> Run:
    """Insert a run, unless it is there already, and return it.

    Raises:
        TuningDBError: the run is there with another environment.
    """
    connection.execute(
        "INSERT INTO runs (id, environment_id, origin, info) VALUES (?, ?, ?, ?) ON CONFLICT DO NOTHING",
        (
            run_id,
            environment_id(connection, environment),
            storable(origin),
            canonical(plain("info", info, scalars=False)),
        ),
    )
    run = find_run(connection, path, run_id)
    if run.environment_hash != environment.hash:
        raise TuningDBError(path, f"run {run_id} belongs to another environment", "start a run of its own")
    return run


def put_trial(
    connection: sqlite3.Connection, path: Path, run: Run, problem_key: str, of_problem: int, trial: Trial
) -> bool:
    """Insert `trial`, or finish the one that was started; return whether anything changed.

    Raises:
        TuningDBError: the same configuration is already finished in this run, with another result.
    """
    values = trial_values(trial)
    fresh = checksum((run.environment_hash, problem_key, run.id), values)
    done = connection.execute(_PUT_TRIAL, (run.id, of_problem, *values, fresh))
    if done.rowcount:
        return True
    (kept,) = connection.execute(
        "SELECT checksum FROM trials WHERE run_id = ? AND problem_id = ? AND config_hash = ?",
        (run.id, of_problem, trial.config_hash),
    ).fetchone()
    if trial.finished and kept != fresh:
        raise TuningDBError(
            path, f"a trial of run {run.id} is finished and cannot change", "record it in another run"
        )
    return False


def put_trials(
    connection: sqlite3.Connection,
    path: Path,
    run: Run,
    problem: ProblemRecord,
    columns: Mapping[str, type],
    trials: Iterable[Trial],
) -> int:
    """Insert trials of one problem and settle its winner anew; return how many rows were bad.

    Raises:
        ValueError: a column of the problem was not declared.
        TuningDBError: `put_trial` refuses one.
    """
    of_problem = problem_id(connection, problem, columns)
    changed = False
    for trial in trials:
        put = put_trial(connection, path, run, problem.key, of_problem, trial)
        changed |= put and trial.outcome in COMPETING_OUTCOMES
    return settle(connection, run.environment_id, of_problem) if changed else 0


def settle(connection: sqlite3.Connection, of_environment: int, of_problem: int) -> int:
    """Derive the winner of one problem in one environment from its trials; return how many rows were bad.

    A bad row never competes. Where the environment itself is bad, or nothing competes, there is no winner.
    """
    connection.execute(
        "DELETE FROM winners WHERE environment_id = ? AND problem_id = ?", (of_environment, of_problem)
    )
    pair = connection.execute(
        "SELECT e.hash, e.doc, p.key FROM environments e, problems p WHERE e.id = ? AND p.id = ?",
        (of_environment, of_problem),
    ).fetchone()
    if pair is None:  # only a damaged file has trials without them
        return 1
    stored_hash, document, key = pair
    try:
        environment = environment_from(stored_hash, document)
    except BadRowError:
        return 1
    trials: list[Trial] = []
    rows = connection.execute(_COMPETING, (of_problem, of_environment))
    bad = collect_trials(rows, trials)
    winner = choose(environment, ProblemRecord(key), trials)
    if winner is not None:
        values = winner_values(winner)
        connection.execute(
            _PUT_WINNER, (of_environment, of_problem, *values, checksum((stored_hash, key), values))
        )
    return bad
