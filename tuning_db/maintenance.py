"""Looking after a database: derive its winners anew, leave out what is not wanted, give its space back."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from .errors import UnwritableError
from .reading import select_trials
from .records import EnvironmentRecord
from .rows import BadRowError, StoredTrial, environment_from, verify
from .rule import rank
from .settling import derive
from .store import TuningDB

Drop = Callable[[EnvironmentRecord, "str | None"], bool]
"""Says whether what was tried of a source in an environment is no longer wanted; None: nothing was tried."""

_COUNTED = ("trials", "runs", "problems", "environments", "quarantine")


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


def prune(
    db: TuningDB,
    *,
    best: int | None = None,
    drop: Drop | None = None,
    quarantine: bool = False,
) -> Pruned:
    """Remove what is no longer wanted, in one transaction; what is left keeps its winners as they are.

    A file that still has the rows brings them back when it is merged.

    Args:
        db: the database.
        best: keep, of every problem, environment and source, only the trials of so many configurations, 2 at
            least, of those tied with the winner, of the default one, and the "wrong" and "started" ones,
            which say what must not be tried again. Predictions are counted for each predictor.
        drop: remove the trials of the environments and sources for which this returns True, and the
            environments that are left without any.
        quarantine: empty the quarantine.

    Raises:
        ValueError: `best` is less than 2, so a winner's margin would be lost.
    """
    if best is not None and best < 2:
        raise ValueError(f"best={best} would lose the winners' margins; keep 2 or more")
    with _unchecked_references(db), db.writing() as connection:
        before = _counts(connection)
        if drop is not None:
            _drop(connection, drop)
        if best is not None:
            for (of_problem,) in connection.execute("SELECT id FROM problems").fetchall():
                _keep_best(connection, of_problem, best)
        if quarantine:
            connection.execute("DELETE FROM quarantine")
        # Runs stay as long as their environment: one may be under way and its next trial not here yet.
        unused = "NOT IN (SELECT problem_id FROM trials)"
        connection.execute(f"DELETE FROM problem_sizes WHERE problem_id {unused}")
        connection.execute(f"DELETE FROM problems WHERE id {unused}")
        after = _counts(connection)
    return Pruned(*(one - other for one, other in zip(before, after, strict=True)))


@contextmanager
def _unchecked_references(db: TuningDB) -> Iterator[None]:
    """Keep SQLite from looking through all trials for each run deleted; its trials are deleted first."""
    with db.reading() as connection:
        connection.execute("PRAGMA foreign_keys = OFF")
        try:
            yield
        finally:
            connection.execute("PRAGMA foreign_keys = ON")


def _counts(connection: sqlite3.Connection) -> list[int]:
    return [connection.execute(f"SELECT count(*) FROM {name}").fetchone()[0] for name in _COUNTED]


def _drop(connection: sqlite3.Connection, drop: Drop) -> None:
    pairs = connection.execute(
        """SELECT DISTINCT e.id, e.hash, e.doc, t.source FROM environments e
        LEFT JOIN runs r ON r.environment_id = e.id LEFT JOIN trials t ON t.run_id = r.id"""
    ).fetchall()
    kept = set()
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
    rows = connection.execute(f"{select_trials(', t.id')} WHERE t.problem_id = ?", (of_problem,))
    for environment_hash, key, run_id, _, stored, *values, number in rows:
        try:
            verify((environment_hash, key, run_id), values, stored)
            trial = StoredTrial(values)
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
    if db.readonly:
        raise UnwritableError(db.path, "it was opened for reading only", "open it with TuningDB.open()")
    before = db.info()["size_bytes"]
    with db.reading() as connection:
        connection.execute("VACUUM")
    return int(before - db.info()["size_bytes"])
