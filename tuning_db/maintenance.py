"""Looking after a database: check it, derive its winners anew, remove what is not wanted, give space back."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

from .errors import DamagedError
from .misses import misses_of
from .nearest import sound_problem
from .ranking import best_rows, rank
from .records import EnvironmentRecord, ProblemRecord
from .rows import (
    WINNER_COLUMNS,
    BadRowError,
    StoredTrial,
    counts,
    environment_from,
    select_trials,
    trial_from,
    verify,
)
from .store import TuningDB
from .transfer import Accept
from .writing import derive

MAX_MESSAGES = 20  # of each kind in a report

Drop = Callable[[EnvironmentRecord, "str | None"], bool]
"""Says whether what was tried of a source in an environment is no longer wanted; None: nothing was tried."""

_COUNTED = ("trials", "runs", "problems", "environments", "quarantine", "misses")


@dataclass
class Report:
    """What a check found."""

    trials: int = 0  # looked at
    winners: int = 0  # looked at
    misses: int = 0  # looked at; they are no fault of the file
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
    with db.reading() as connection:
        (report.misses,) = connection.execute("SELECT count(*) FROM misses").fetchone()
        report.bad_rows += misses_of(connection, list(db.columns))[1]
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
    rows = connection.execute(f"{select_trials('e.doc,')} WHERE t.problem_id = ?", (of_problem,))
    for document, environment_hash, *row in rows:
        report.trials += 1
        try:
            trial = StoredTrial.read(environment_hash, *row)
            environment = environment_from(environment_hash, document)
            reason = accept(environment, problem, trial_from(row[4:])) if accept else None
            sound.setdefault(environment_hash, []).append(trial)
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


def rebuild(db: TuningDB) -> int:
    """Derive every winner anew from the trials and return how many winners there are."""
    with db.writing() as connection:
        db.bad_rows += derive(connection)
        (count,) = connection.execute("SELECT count(*) FROM winners").fetchone()
    return int(count)


@dataclass(frozen=True)
class Pruned:
    """How many rows a pruning removed."""

    trials: int
    runs: int
    problems: int
    environments: int
    quarantined: int
    misses: int


def prune(
    db: TuningDB,
    *,
    best: int | None = None,
    drop: Drop | None = None,
    quarantine: bool = False,
    misses: bool = False,
    dry_run: bool = False,
) -> Pruned:
    """Remove what is no longer wanted, in one transaction; what is left keeps its winners as they are.

    A file that still has the rows brings them back when it is merged.

    Args:
        db: the database.
        best: keep, of every problem, environment and source, only the trials of so many configurations, 2 at
            least, of those tied with the winner, of the default one, and the "wrong" and "started" ones,
            which say what must not be tried again. Predictions are counted for each predictor.
        drop: remove the trials of the environments and sources for which this returns True, and the
            environments that are left without any, and with nothing that was missed in them.
        quarantine: empty the quarantine.
        misses: forget all that was missed.
        dry_run: count what would go, and leave it.

    Raises:
        ValueError: `best` is less than 2, so a winner's margin would be lost.
    """
    if best is not None and best < 2:
        raise ValueError(f"best={best} would lose the winners' margins; keep 2 or more")
    pruned = None
    with suppress(_UndoneError), _unchecked_references(db), db.writing() as connection:
        before = counts(connection, _COUNTED)
        if misses:
            connection.execute("DELETE FROM misses")
        if drop is not None:
            _drop(connection, drop)
        if best is not None:
            for (of_problem,) in connection.execute("SELECT id FROM problems").fetchall():
                _keep_best(connection, of_problem, best)
        if quarantine:
            connection.execute("DELETE FROM quarantine")
        # Runs stay as long as their environment: one may be under way and its next trial not here yet.
        unused = "NOT IN (SELECT problem_id FROM trials UNION SELECT problem_id FROM misses)"
        connection.execute(f"DELETE FROM problem_sizes WHERE problem_id {unused}")
        connection.execute(f"DELETE FROM problems WHERE id {unused}")
        after = counts(connection, _COUNTED)
        pruned = Pruned(*(before[name] - after[name] for name in _COUNTED))
        if dry_run:
            raise _UndoneError
    assert pruned is not None
    return pruned


class _UndoneError(Exception):
    """Ends a transaction whose changes are not wanted."""


@contextmanager
def _unchecked_references(db: TuningDB) -> Iterator[None]:
    """Keep SQLite from looking through all trials for each run deleted; its trials are deleted first."""
    with db.reading() as connection:
        connection.execute("PRAGMA foreign_keys = OFF")
        try:
            yield
        finally:
            connection.execute("PRAGMA foreign_keys = ON")


def _drop(connection: sqlite3.Connection, drop: Drop) -> None:
    pairs = connection.execute(
        """SELECT DISTINCT e.id, e.hash, e.doc, t.source FROM environments e
        LEFT JOIN runs r ON r.environment_id = e.id LEFT JOIN trials t ON t.run_id = r.id"""
    ).fetchall()
    kept = {number for (number,) in connection.execute("SELECT environment_id FROM misses")}
    for number, stored_hash, document, source in pairs:
        if not _dropped(drop, stored_hash, document, source):
            kept.add(number)
            continue
        pair = {"environment": number, "source": source}
        connection.execute(
            "DELETE FROM winners WHERE environment_id = :environment AND source = :source", pair
        )
        connection.execute(
            """DELETE FROM trials WHERE source = :source
            AND run_id IN (SELECT id FROM runs WHERE environment_id = :environment)""",
            pair,
        )
    for number in {pair[0] for pair in pairs} - kept:
        connection.execute("DELETE FROM runs WHERE environment_id = ?", (number,))
        connection.execute("DELETE FROM environments WHERE id = ?", (number,))


def _dropped(drop: Drop, stored_hash: str, document: str, source: str | None) -> bool:
    try:
        return drop(environment_from(stored_hash, document), source)
    except BadRowError:
        return True  # no reader sees its rows


def _keep_best(connection: sqlite3.Connection, of_problem: int, best: int) -> None:
    """Delete the problem's trials but for the best, the tied, the default, the wrong and the started ones."""
    trials: dict[tuple[str, str], list[tuple[int, StoredTrial]]] = {}
    unwanted = []
    rows = connection.execute(f"{select_trials('t.id,')} WHERE t.problem_id = ?", (of_problem,))
    for number, environment_hash, *row in rows:
        try:
            trial = StoredTrial.read(environment_hash, *row)
            trials.setdefault((environment_hash, trial.source), []).append((number, trial))
        except BadRowError:
            unwanted.append(number)
    for numbered in trials.values():
        kept = _kept([trial for _, trial in numbered], best)
        unwanted += [
            number
            for number, trial in numbered
            if trial.outcome not in ("wrong", "started") and trial.config_hash not in kept
        ]
    connection.executemany("DELETE FROM trials WHERE id = ?", [(number,) for number in unwanted])


def _kept(trials: list[StoredTrial], best: int) -> set[str]:
    """Return the config hashes of one source in one environment that are to be kept."""
    kept = {trial.config_hash for trial in trials if trial.is_default}
    for ranking in rank(trials):
        kept |= {one.config_hash for one in ranking.contenders[: max(best, 1 + ranking.ties)]}
    return kept


def vacuum(db: TuningDB) -> int:
    """Rewrite the file without its free pages and return how many bytes smaller it is.

    Raises:
        TuningDBError: the file cannot be written, or another process keeps it busy.
    """
    db.check_writable()
    before = db.info()["size_bytes"]
    with db.reading() as connection:
        connection.execute("VACUUM")
    return int(before - db.info()["size_bytes"])
