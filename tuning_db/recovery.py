"""What to do about a file that cannot be used as it is: begin another, and lose nothing that can be read.

Other processes may have the damaged file open. It is moved while it is locked, so none of them is in the
middle of a write, and each sees at its next use that another file lies at the path (`Connections`). Where the
path is a link, the file it leads to is the one that is moved and begun anew.
"""

from __future__ import annotations

import itertools
import os
import shutil
import sqlite3
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from .connection import WRITE_TIMEOUT_S, gate, patience
from .errors import (
    DamagedError,
    ForeignFileError,
    NewerSchemaError,
    TuningDBError,
    UnwritableError,
    translated,
)
from .files import aside_names, in_the_way, is_ours, real_path, single_flight, suffixed
from .misses import note
from .salvage import Wreck
from .schema import newest, version_of
from .store import TuningDB
from .transfer import Accept, Importing, ImportSummary

HEAL_TIMEOUT_S = 120.0  # to wait for another process that heals the same file
# Of the files that are one database, the file itself last: a crash between leaves it where it will be found.
_SUFFIXES = ("-journal", "-wal", "-shm", "")
_ROOM = 1 << 16  # bytes: a page at the least, whatever the size of pages
_SALVAGED = "salvaged "  # begins the names in `meta` of the files whose rows were taken over


def open_healed(
    path: Path | str,
    *,
    columns: Mapping[str, type],
    application: str = "",
    warn: Callable[[str], None],
    accept: Accept | None = None,
) -> TuningDB:
    """Open a database as `TuningDB.open` does, but let no damage stop it; now or later.

    A damaged file is moved aside with its journal or write-ahead log, and a fresh one begun with every run,
    trial and miss in them that fits its checksum; so it is too if damage is met later, by a method of the
    database returned. Trials come in as by `import_lines`: what `accept` refuses is kept in quarantine. A
    file of a newer schema is left alone, and one beside it used. `warn` is told, once for each. Whatever else
    lies beside the file under a name of ours, and is no regular file of its owner, is left alone.

    Raises:
        ValueError: a column's name or type is unfit.
        TuningDBError: ForeignFileError or UnwritableError, as `TuningDB.open`.
    """
    path = Path(path)

    def mend() -> None:
        _heal(real_path(path), columns, application, accept, warn)

    try:
        database = TuningDB.open(path, columns=columns, application=application)
    except NewerSchemaError as error:
        beside = _beside(real_path(path))
        warn(f"{path}: {error.reason}; {beside} is used until this package is upgraded")
        return open_healed(beside, columns=columns, application=application, warn=warn, accept=accept)
    except DamagedError:
        mend()
        database = TuningDB.open(path, columns=columns, application=application)
    database.mend = mend
    if not database.pinned and _unfinished(database):
        with _flight(path, warn):
            _take_over(database, accept, warn)
    return database


def _beside(path: Path) -> Path:
    """Return what to use in the place of a newer file."""
    beside = path.with_name(f"{path.stem}.v{newest()}{path.suffix}")
    if in_the_way(beside, path):
        reason = f"it is no regular file of the owner of {path.name}"
        raise ForeignFileError(beside, reason, "move it away, or choose another path")
    return beside


def _heal(
    path: Path,
    columns: Mapping[str, type],
    application: str,
    accept: Accept | None,
    warn: Callable[[str], None],
) -> None:
    """Move the file at `path` aside if it is damaged indeed, and begin another with what can be salvaged.

    Raises:
        TuningDBError: the file cannot be moved, or no other begun.
    """
    with _flight(path, warn):
        aside = _move_aside(path, application)
        if aside is not None:
            with TuningDB.open(path, columns=columns, application=application) as database:
                _give_access(path, aside)
                _take_over(database, accept, warn)


def _give_access(path: Path, aside: Path) -> None:
    """Let those use the new file who could use the old one."""
    with suppress(OSError):  # who is not root may not give files away, nor to each group
        status = aside.stat()
        shutil.copymode(aside, path)
        os.chown(path, status.st_uid, status.st_gid)


@contextmanager
def _flight(path: Path, warn: Callable[[str], None]) -> Iterator[None]:
    with single_flight(path, "heal", patience(HEAL_TIMEOUT_S), warn) as held:
        if not held:
            reason = "another process is still salvaging its rows"
            raise TuningDBError(path, reason, "try again when that one is done")
        yield


def _move_aside(path: Path, application: str) -> Path | None:
    """Move a damaged file away, with what belongs to it; return where, None where it is whole, or away."""
    with _exclusively(path) as connection:
        if not path.exists() or (connection is not None and _is_whole(connection, path, application)):
            return None
        parts = [suffix for suffix in _SUFFIXES if os.path.lexists(suffixed(path, suffix))]
        aside = next(
            name
            for name in aside_names(path)
            if not any(os.path.lexists(suffixed(name, suffix)) for suffix in parts)
        )
        try:
            for suffix in parts:
                suffixed(path, suffix).replace(suffixed(aside, suffix))
        except OSError as error:
            reason = f"the file is damaged and cannot be moved ({error})"
            raise UnwritableError(path, reason, "move it away, or choose another path") from None
    return aside


@contextmanager
def _exclusively(path: Path) -> Iterator[sqlite3.Connection | None]:
    """Lock all writers out of the file, and readers unless it is in WAL mode, when they do no harm.

    Gives a connection, or None where SQLite can do nothing with the file.
    """
    uri = f"{path.absolute().as_uri()}?mode=rw"
    with gate, ExitStack() as stack:
        connection: sqlite3.Connection | None = None
        try:
            waits = patience(WRITE_TIMEOUT_S)
            connection = sqlite3.connect(uri, uri=True, timeout=waits, isolation_level=None)
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
    """Return whether nothing is wrong with the file's structure, and it has room for more.

    SQLite's check passes over a header that promises free pages which are not there; who writes meets it.

    Raises:
        TuningDBError: it is not ours, or newer.
    """
    try:
        version_of(connection, path, application)
        (found,) = connection.execute("PRAGMA integrity_check(1)").fetchone()
        connection.execute("SAVEPOINT room")
        connection.execute("CREATE TABLE room (bytes BLOB)")
        connection.execute("INSERT INTO room VALUES (zeroblob(?))", (_ROOM,))
        connection.execute("ROLLBACK TO room")
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
    path = real_path(database.path)
    aside = itertools.takewhile(os.path.lexists, aside_names(path))
    return [name for name in aside if _SALVAGED + name.name not in done and is_ours(name, path)]


def _take_over(database: TuningDB, accept: Accept | None, warn: Callable[[str], None]) -> None:
    """Take over what the files moved aside have, of each one in one transaction, so once."""
    for aside in _unfinished(database):
        try:
            wreck = Wreck(aside, database.columns)
            with database.intake(bulk=True) as intake:
                summary = _take(Importing(intake, database.columns, accept), wreck)
                note(intake, wreck.misses())
                values = (_SALVAGED + aside.name, f"{summary.inserted} trials")
                intake.connection.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", values)
        except OSError as error:
            warn(f"nothing could be salvaged from {aside} ({error})")
        else:
            also = f", {summary.quarantined} are in quarantine" if summary.quarantined else ""
            told = f"{summary.inserted} trials were salvaged{also}"
            warn(f"{database.path} was damaged; it is kept as {aside.name}, {told}")


def _take(importing: Importing, wreck: Wreck) -> ImportSummary:
    for candidates in wreck.runs.values():
        for run in candidates:
            importing.begin(run)
    for number, found in enumerate(wreck.trials(), start=1):
        importing.salvage(number, *found)
    return importing.summary()
