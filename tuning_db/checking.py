"""Is a database whole? Its pages, references, checksums, winners, and what the caller says of a trial."""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass, field

from .errors import DamagedError
from .nearest import sound_problem
from .reading import select_trials
from .records import EnvironmentRecord, ProblemRecord
from .rows import (
    WINNER_COLUMNS,
    BadRowError,
    StoredTrial,
    environment_from,
    trial_from,
    verify,
)
from .rule import best_rows
from .store import TuningDB
from .transfer import Accept

MAX_MESSAGES = 20  # of each kind in a report


@dataclass
class Report:
    """What a check found."""

    trials: int = 0  # looked at
    winners: int = 0  # looked at
    structure: list[str] = field(default_factory=list)  # what SQLite finds wrong with the file
    bad_rows: int = 0  # rows whose checksum does not fit, or that are nonsense; readers skip them
    stale_winners: int = 0  # winners missing, or not the ones the trials give; a rebuild mends them
    refused: int = 0  # trials that `accept` refuses
    reasons: list[str] = field(default_factory=list)  # why, for the first of them
    quarantined: int = 0  # lines in quarantine; they are no fault of the file

    @property
    def ok(self) -> bool:
        """Whether nothing is wrong."""
        return not (self.structure or self.bad_rows or self.stale_winners or self.refused)


def check(db: TuningDB, accept: Accept | None = None) -> Report:
    """Look at all of a database: pages, references, checksums, winners, and what `accept` says of each trial.

    Where the file is damaged so that it cannot be read on, the report ends there.

    Raises:
        TuningDBError: the file cannot be read for another reason.
    """
    report = Report()
    try:
        _check(db, accept, report)
    except DamagedError as error:
        report.structure.append(error.reason)
    return report


def _check(db: TuningDB, accept: Accept | None, report: Report) -> None:
    with db.reading() as connection:
        found = connection.execute(f"PRAGMA integrity_check({MAX_MESSAGES})").fetchall()
        report.structure += [text for (text,) in found if text != "ok"]
        for table, row, parent, _ in connection.execute("PRAGMA foreign_key_check").fetchmany(MAX_MESSAGES):
            report.structure.append(f"row {row} of {table} refers to a row of {parent} that is not there")
        (report.quarantined,) = connection.execute("SELECT count(*) FROM quarantine").fetchone()
        (trials,) = connection.execute("SELECT count(*) FROM trials").fetchone()
        problems = connection.execute("SELECT id, key FROM problems ORDER BY key").fetchall()
    for of_problem, key in problems:
        with db.reading() as connection:
            try:
                problem = sound_problem(connection, of_problem, db.columns)
            except BadRowError:
                report.bad_rows += 1
                problem = ProblemRecord(key)
            _check_problem(connection, of_problem, problem, accept, report)
    # Rows that refer to nothing were not met on the way.
    report.bad_rows += max(0, trials - report.trials)


def _check_problem(
    connection: sqlite3.Connection,
    of_problem: int,
    problem: ProblemRecord,
    accept: Accept | None,
    report: Report,
) -> None:
    sound: dict[str, list[StoredTrial]] = {}
    environments: dict[str, EnvironmentRecord] = {}
    rows = connection.execute(f"{select_trials(', e.doc')} WHERE t.problem_id = ?", (of_problem,))
    for environment_hash, key, run_id, finished, stored, *values, document in rows:
        report.trials += 1
        try:
            verify((environment_hash, key, run_id), values, stored)
            environment = environments[environment_hash] = environment_from(environment_hash, document)
            reason = accept(environment, problem, trial_from(values)) if accept else None
            sound.setdefault(environment_hash, []).append(StoredTrial(values, finished=bool(finished)))
        except BadRowError:
            report.bad_rows += 1
            continue
        if reason is not None:
            report.refused += 1
            if len(report.reasons) < MAX_MESSAGES:
                report.reasons.append(f"{problem.key}: {reason}")
    expected = set()
    for name, trials in sound.items():
        try:
            expected |= {(name, *row) for row in best_rows(trials)}
        except BadRowError:
            report.bad_rows += 1
    found = set()
    for environment_hash, stored, *values in connection.execute(
        f"""SELECT e.hash, w.checksum, {", ".join("w." + name for name in WINNER_COLUMNS)}
        FROM winners w JOIN environments e ON e.id = w.environment_id WHERE w.problem_id = ?""",
        (of_problem,),
    ):
        report.winners += 1
        try:
            verify((environment_hash, problem.key), values, stored)
        except BadRowError:
            report.bad_rows += 1
        found.add((environment_hash, *values))
    # One that was changed is counted once, not as one too many and one missing.
    report.stale_winners += max(len(found - expected), len(expected - found))
