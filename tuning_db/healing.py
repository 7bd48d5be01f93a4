"""What to do about a file that cannot be used as it is: begin another, and lose nothing that can be read.

Other processes may have the damaged file open. It is moved while it is locked exclusively, so none of them is
in the middle of a write, and each sees at its next use that another file lies at the path (`Connections`).
"""

from __future__ import annotations

import itertools
import sqlite3
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from .connection import WRITE_TIMEOUT_S, gate
from .errors import (
    ContradictionError,
    DamagedError,
    NewerSchemaError,
    TuningDBError,
    UnwritableError,
    translated,
)
from .locks import single_flight
from .migrations import version
from .salvage import Wreck
from .schema import version_of
from .store import TuningDB
from .writing import Intake

HEAL_TIMEOUT_S = 120.0  # to wait for another process that heals the same file
_SUFFIXES = ("-journal", "")  # of the files that are one database; a crash between leaves a pair to move
_SALVAGED = "salvaged "  # begins the names in `meta` of the files whose rows were taken over


def open_healed(
    path: Path | str, *, columns: Mapping[str, type], application: str = "", warn: Callable[[str], None]
) -> TuningDB:
    """Open a database as `TuningDB.open` does, but let no damage stop it; now or later.

    A damaged file is moved aside with its journal, and a fresh one begun with every run and trial in it that
    fits its checksum; so it is too if damage is met later, by a method of the database returned. A file of a
    newer schema is left alone, and one beside it used. `warn` is told, once for each.

    Raises:
        ValueError: a column's name or type is unfit.
        TuningDBError: ForeignFileError or UnwritableError, as `TuningDB.open`.
    """
    path = Path(path)

    def mend() -> None:
        _heal(path, columns, application, warn)

    try:
        database = TuningDB.open(path, columns=columns, application=application)
    except NewerSchemaError as error:
        beside = path.with_name(f"{path.stem}.v{version()}{path.suffix}")
        warn(f"{path}: {error.reason}; {beside} is used until this package is upgraded")
        return open_healed(beside, columns=columns, application=application, warn=warn)
    except DamagedError:
        mend()
        database = TuningDB.open(path, columns=columns, application=application)
    database.mend = mend
    if _unfinished(database):
        with _flight(path, warn):
            _take_over(database, warn)
    return database


def _heal(path: Path, columns: Mapping[str, type], application: str, warn: Callable[[str], None]) -> None:
    """Move the file at `path` aside if it is damaged indeed, and begin another with what can be salvaged.

    Raises:
        TuningDBError: the file cannot be moved, or no other begun.
    """
    with _flight(path, warn):
        if _move_aside(path, application):
            with TuningDB.open(path, columns=columns, application=application) as database:
                _take_over(database, warn)


@contextmanager
def _flight(path: Path, warn: Callable[[str], None]) -> Iterator[None]:
    with single_flight(path, "heal", HEAL_TIMEOUT_S, warn) as held:
        if not held:
            reason = "another process is still salvaging its rows"
            raise TuningDBError(path, reason, "try again when that one is done")
        yield


def _move_aside(path: Path, application: str) -> bool:
    """Move a damaged file away, with its journal; return False where it is whole, or away already."""
    with _exclusively(path) as connection:
        if not path.exists() or (connection is not None and _is_whole(connection, path, application)):
            return False
        aside = next(name for name in _names(path) if not name.exists())
        try:
            for suffix in _SUFFIXES:
                part = path.with_name(path.name + suffix)
                if part.exists():
                    part.replace(aside.with_name(aside.name + suffix))
        except OSError as error:
            reason = f"the file is damaged and cannot be moved ({error})"
            raise UnwritableError(path, reason, "move it away, or choose another path") from None
    return True


def _names(path: Path) -> Iterator[Path]:
    return (path.with_name(f"{path.name}.damaged-{number}") for number in itertools.count(1))


@contextmanager
def _exclusively(path: Path) -> Iterator[sqlite3.Connection | None]:
    """Lock everybody out of the file; give a connection, or None where SQLite can do nothing with it."""
    uri = f"{path.absolute().as_uri()}?mode=rw"
    with gate, ExitStack() as stack:
        connection: sqlite3.Connection | None = None
        try:
            connection = sqlite3.connect(uri, uri=True, timeout=WRITE_TIMEOUT_S, isolation_level=None)
            stack.callback(connection.close)
            connection.text_factory = lambda raw: raw.decode("utf-8", "replace")
            connection.execute("PRAGMA trusted_schema = OFF")
            connection.execute("BEGIN EXCLUSIVE")
        except (sqlite3.Error, UnicodeDecodeError) as error:
            meaning = translated(path, error)
            if not isinstance(meaning, DamagedError) and path.exists():
                raise meaning from error
            connection = None
        yield connection


def _is_whole(connection: sqlite3.Connection, path: Path, application: str) -> bool:
    """Return whether nothing is wrong with the file's structure.

    Raises:
        TuningDBError: it is not ours, or newer.
    """
    try:
        version_of(connection, path, application)
        (found,) = connection.execute("PRAGMA integrity_check(1)").fetchone()
    except DamagedError:
        return False
    except (sqlite3.Error, UnicodeDecodeError) as error:
        meaning = translated(path, error)
        if not isinstance(meaning, DamagedError):
            raise meaning from error
        return False
    return bool(found == "ok")


def _unfinished(database: TuningDB) -> list[Path]:
    """Return the files that were moved aside and whose rows have not been taken over yet."""
    with database.reading() as connection:
        done = {name for (name,) in connection.execute("SELECT name FROM meta")}
    aside = itertools.takewhile(Path.exists, _names(database.path))
    return [path for path in aside if _SALVAGED + path.name not in done]


def _take_over(database: TuningDB, warn: Callable[[str], None]) -> None:
    """Take the runs and trials of the files moved aside over; of each one in one transaction, so once."""
    for aside in _unfinished(database):
        try:
            wreck = Wreck(aside, database.columns)
            with database.intake(bulk=True) as intake:
                count = _take(intake, wreck)
                values = (_SALVAGED + aside.name, f"{count} trials")
                intake.connection.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", values)
        except OSError as error:
            warn(f"nothing could be salvaged from {aside} ({error})")
        else:
            warn(f"{database.path} was damaged; it is kept as {aside.name}, {count} trials were salvaged")


def _take(intake: Intake, wreck: Wreck) -> int:
    for candidates in wreck.runs.values():
        with suppress(ContradictionError):
            for run in candidates:
                intake.run(run)
    count = 0
    for run, problem, values in wreck.trials():
        with suppress(ContradictionError):
            count += intake.trials(intake.run(run), problem, [values]).new
    return count
