"""What happens inside a write transaction: rows are taken in, and winners and sizes derived from them."""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from .errors import ContradictionError, DamagedError, TuningDBError
from .nearest import put_size, stored_columns
from .ranking import COMPETING_OUTCOMES, best_rows
from .records import EnvironmentRecord, ProblemRecord, RunRecord, Trial, canonical, storable
from .rows import (
    TRIAL_COLUMNS,
    WINNER_COLUMNS,
    BadRowError,
    StoredTrial,
    check_declared,
    checksum,
    environment_from,
    insert,
    quoted,
    select_trials,
    sound,
    trial_values,
)

_SAME, _REPLACED, _CONTRADICTS = "same", "replaced", "contradicts"
_OUTCOME, _SOURCE = TRIAL_COLUMNS.index("outcome"), TRIAL_COLUMNS.index("source")

# A started trial gives way to what comes next, a finished one to nothing.
_PUT_TRIAL = f"""
    {insert("trials", ("run_id", "problem_id", *TRIAL_COLUMNS, "checksum"))}
    ON CONFLICT (problem_id, run_id, config_hash, source) DO UPDATE
    SET {", ".join(f"{name} = excluded.{name}" for name in (*TRIAL_COLUMNS, "checksum"))}
    WHERE trials.outcome = 'started'"""
_WRITTEN = f"{select_trials('e.doc,')} WHERE p.key = ? AND r.id = ? AND t.config_hash = ? AND t.source = ?"
_PUT_ENVIRONMENT = insert("environments", ("hash", "hard_hash", "arch", "device", "doc"))
_PUT_RUN = insert("runs", ("id", "environment_id", "origin", "info", "finished"))
_PUT_WINNER = insert("winners", ("environment_id", "problem_id", *WINNER_COLUMNS, "checksum"))
_COMPETING = f"""{select_trials()}
    WHERE t.problem_id = ? AND r.environment_id = ? AND t.outcome IN {COMPETING_OUTCOMES}"""


@dataclass(frozen=True)
class Run:
    """A run in the file, and the environment it ran in."""

    id: str
    environment_id: int
    environment_hash: str
    finished: bool


@dataclass(frozen=True)
class Taken:
    """What became of trials that came in; those neither new nor refused were there already."""

    new: int
    refused: tuple[int, ...]  # places of those that are finished already, with another result


class Intake:
    """Takes rows into the file within one write transaction, and in the end settles what they may change.

    It remembers the ids it met, so many rows come in fast.
    """

    def __init__(self, connection: sqlite3.Connection, path: Path, columns: Mapping[str, type]) -> None:
        """Use `connection`, which is in a transaction, and the declared problem columns of the file."""
        self.connection = connection
        self._path = path
        self._columns = columns
        self._environments: dict[str, int] = {}
        self._runs: dict[str, Run] = {}
        self._problems: dict[str, int] = {}
        self._touched: set[tuple[int, int]] = set()  # environment and problem whose winner may change

    def find_run(self, run_id: str, begun: RunRecord | None = None) -> Run:
        """Return the run of that id, or else put the one that was `begun`.

        Raises:
            TuningDBError: there is neither.
        """
        row = self.connection.execute(
            """SELECT e.id, e.hash, r.finished
            FROM runs r JOIN environments e ON e.id = r.environment_id WHERE r.id = ?""",
            (run_id,),
        ).fetchone()
        if row is None and begun is not None:
            return self.run(begun)
        if row is None:
            raise TuningDBError(self._path, f"it has no run {run_id!r}", "begin one with start()")
        return Run(run_id, row[0], row[1], bool(row[2]))

    def run(self, record: RunRecord) -> Run:
        """Return the run, inserted unless it is there; one that has finished anywhere has finished.

        Raises:
            ContradictionError: the run there is of another environment.
        """
        run = self._runs.get(record.id)
        if run is None:
            of_environment = self.environment(record.environment)
            values = (record.id, of_environment, record.origin, canonical(record.info), record.finished)
            new = self.connection.execute(f"{_PUT_RUN} ON CONFLICT DO NOTHING", values).rowcount
            named = of_environment, record.environment.hash, record.finished
            run = Run(record.id, *named) if new else self.find_run(record.id)
            self._runs[record.id] = run
        if run.environment_hash != record.environment.hash:
            reason = f"run {record.id} belongs to another environment"
            raise ContradictionError(self._path, reason, "start a run of its own")
        return self.finish(run) if record.finished else run

    def finish(self, run: Run) -> Run:
        """Note that the run came to its end, which the winners tell of that rest on it; return it so."""
        if run.finished:
            return run
        self.connection.execute("UPDATE runs SET finished = 1 WHERE id = ?", (run.id,))
        tried = "SELECT DISTINCT problem_id FROM trials WHERE run_id = ?"
        for (of_problem,) in self.connection.execute(tried, (run.id,)):
            self._touched.add((run.environment_id, of_problem))
        self._runs[run.id] = replace(run, finished=True)
        return self._runs[run.id]

    def environment(self, environment: EnvironmentRecord) -> int:
        """Return the id of `environment`, inserted unless it is there."""
        known = self._environments.get(environment.hash)
        if known is not None:
            return known
        fields = {**environment.soft, **environment.hard}
        named = [
            None if fields.get(name) is None else storable(str(fields[name])) for name in ("arch", "device")
        ]
        values = (environment.hash, environment.hard_hash, *named, environment.document)
        row = self.connection.execute(
            f"""{_PUT_ENVIRONMENT} ON CONFLICT (hash) DO UPDATE SET hard_hash = excluded.hard_hash,
            arch = excluded.arch, device = excluded.device, doc = excluded.doc  -- mends one that was damaged
            RETURNING id""",
            values,
        ).fetchone()
        self._environments[environment.hash] = row[0]
        return int(row[0])

    def problem(self, problem: ProblemRecord) -> int:
        """Return the id of `problem`, inserted unless it is there; columns missing or wrong there are mended.

        Raises:
            ValueError: one of its columns was not declared, or not with its type.
        """
        known = self._problems.get(problem.key)
        if known is not None:
            return known
        check_declared(problem, self._columns)
        names = list(problem.columns)
        row = self.connection.execute(
            f"SELECT id {''.join(f', {quoted(name)}' for name in names)} FROM problems WHERE key = ?",
            (problem.key,),
        ).fetchone()
        if row is None:
            cursor = self.connection.execute(
                insert("problems", ["key", *map(quoted, names)]), (problem.key, *problem.columns.values())
            )
            of_problem = int(cursor.lastrowid or 0)
            put_size(self.connection, of_problem, problem.columns)
        else:
            of_problem = int(row[0])
            stored = dict(zip(names, row[1:], strict=True))
            differing = {name: value for name, value in problem.columns.items() if stored[name] != value}
            for name, value in differing.items():
                self.connection.execute(
                    f"UPDATE problems SET {quoted(name)} = ? WHERE id = ?", (value, of_problem)
                )
            if differing:
                put_size(self.connection, of_problem, stored_columns(self.connection, of_problem))
        self._problems[problem.key] = of_problem
        return of_problem

    def trials(self, run: Run, problem: ProblemRecord, trials: Sequence[tuple[Any, ...]]) -> Taken:
        """Insert trials (rows) of one problem in one run; one that was started is finished.

        Raises:
            ValueError: one of the problem's columns was not declared, or not with its type.
        """
        of_problem = self.problem(problem)
        references = (run.environment_hash, problem.key, run.id)
        rows = [(run.id, of_problem, *values, checksum(references, values)) for values in trials]
        new = self.connection.executemany(_PUT_TRIAL, rows).rowcount
        refused = []
        if new < len(rows):
            fates = [self._meet(references, row) for row in rows]
            new += fates.count(_REPLACED)
            refused = [place for place, fate in enumerate(fates) if fate == _CONTRADICTS]
        if new and any(values[_OUTCOME] in COMPETING_OUTCOMES for values in trials):
            self._touched.add((run.environment_id, of_problem))
        return Taken(new, tuple(refused))

    def _meet(self, references: tuple[str, str, str], row: tuple[Any, ...]) -> str:
        """See what is in the place of a row that may not have come in; put it in the place of a bad one."""
        place = (row[1], row[0], row[2], row[2 + _SOURCE])
        where = "WHERE problem_id = ? AND run_id = ? AND config_hash = ? AND source = ?"
        found = self.connection.execute(
            f"SELECT {', '.join(TRIAL_COLUMNS)}, checksum FROM trials {where}", place
        ).fetchone()
        if found is None:
            raise sqlite3.DatabaseError("an index is malformed: a row is in the way that is not there")
        *stored, kept = found
        if kept != checksum(references, stored):
            self.connection.execute(f"DELETE FROM trials {where}", place)
            self.connection.execute(_PUT_TRIAL, row)
            return _REPLACED
        return _SAME if kept == row[-1] or row[2 + _OUTCOME] == "started" else _CONTRADICTS

    def settle(self) -> int:
        """Derive the winners that may have changed; return how many rows were bad."""
        bad = sum(settle(self.connection, *pair) for pair in sorted(self._touched))
        self._touched.clear()
        return bad

    def put(self, run: Run, problem: ProblemRecord, trials: Sequence[Trial]) -> int:
        """Take in trials of one problem, settle it and read them back; return how many rows were bad.

        Raises:
            ValueError: a column of the problem was not declared.
            ContradictionError: one is finished already in this run, with another result.
            DamagedError: what was written cannot be found.
        """
        if self.trials(run, problem, [trial_values(trial) for trial in trials]).refused:
            reason = f"a trial of run {run.id} is finished and cannot change"
            raise ContradictionError(self._path, reason, "record it in another run")
        bad = self.settle()
        for trial in trials:
            if not self._finds(run, problem, trial):
                reason = "a trial just written cannot be found"
                raise DamagedError(self._path, reason, "move it away or restore a copy of it")
        return bad

    def _finds(self, run: Run, problem: ProblemRecord, trial: Trial) -> bool:
        """Look for a trial by the way that readers take: a damaged index hides a row that it took in."""
        place = problem.key, run.id, trial.config_hash, trial.source
        row = self.connection.execute(_WRITTEN, place).fetchone()
        if row is None:
            return False
        document, environment_hash, *_ = row
        try:
            StoredTrial.read(*row[1:])
            environment_from(environment_hash, document)
        except BadRowError:
            return False
        return True


def settle(connection: sqlite3.Connection, of_environment: int, of_problem: int) -> int:
    """Derive the winners of one problem in one environment from its trials; return how many rows were bad.

    A bad row never competes. Where the environment itself is bad, or nothing competes, there are no winners.
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
        environment_from(stored_hash, document)
        trials, bad = sound(connection.execute(_COMPETING, (of_problem, of_environment)), StoredTrial.read)
        rows = best_rows(trials)
    except BadRowError:
        return 1
    connection.executemany(
        _PUT_WINNER,
        [(of_environment, of_problem, *row, checksum((stored_hash, key), row)) for row in rows],
    )
    return bad


def derive(connection: sqlite3.Connection) -> int:
    """Fill both tables anew; return how many rows were bad."""
    connection.execute("DELETE FROM winners")
    connection.execute("DELETE FROM problem_sizes")
    for (of_problem,) in connection.execute("SELECT id FROM problems").fetchall():
        put_size(connection, of_problem, stored_columns(connection, of_problem))
    pairs = connection.execute(
        "SELECT DISTINCT r.environment_id, t.problem_id FROM trials t JOIN runs r ON r.id = t.run_id"
    ).fetchall()
    return sum(settle(connection, *pair) for pair in pairs)
