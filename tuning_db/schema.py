"""Is this file ours, whole and of this version? And if not quite: make it so."""

from __future__ import annotations

import itertools
import os
import re
import shutil
import sqlite3
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from functools import lru_cache
from pathlib import Path

from sqlite_utils import Database

from . import migrations
from .connection import transaction
from .errors import (
    DamagedError,
    ForeignFileError,
    NewerSchemaError,
    TuningDBError,
    UnwritableError,
    translated,
)
from .names import in_the_way, real_path, suffixed

COLUMN_TYPES = {int: "INTEGER", str: "TEXT"}
_RESERVED = {"id", "key"}
_NAME = r"[A-Za-z_][A-Za-z0-9_]{0,62}"
_COLUMN_NAME = re.compile(_NAME)
_QUOTED = rf'["\[]?{_NAME}["\]]?'
_PLAIN_INDEX = re.compile(
    rf"CREATE (UNIQUE )?INDEX {_QUOTED}\s+ON {_QUOTED} \(\s*{_QUOTED}(,\s*{_QUOTED})*\s*\)"
)
_ADDED_COLUMNS = re.compile(rf"(, {_QUOTED} (INTEGER|TEXT))*")
_MIGRATIONS = "_sqlite_migrations"  # sqlite-utils makes that table, each version in its own way


def check_columns(columns: Mapping[str, type]) -> None:
    """Refuse declared problem columns that SQLite or this schema cannot hold.

    Raises:
        ValueError: a name is no identifier or is taken (in any case), or a type is not int or str.
    """
    seen = set(_RESERVED)
    for name, kind in columns.items():
        if not _COLUMN_NAME.fullmatch(name) or name.lower() in seen:
            raise ValueError(
                f"columns: {name!r} is taken or no identifier; use other letters, digits and underscores"
            )
        if kind not in COLUMN_TYPES:
            raise ValueError(f"columns[{name!r}]={kind!r} has no column type; use int or str")
        seen.add(name.lower())


def problem_columns(connection: sqlite3.Connection) -> dict[str, str]:
    """Return the columns that callers declared for problems so far, in their order, with their SQL types."""
    rows = connection.execute("SELECT name, type FROM pragma_table_info('problems')")
    return {name: kind for name, kind in rows if name not in _RESERVED}


def lacks(connection: sqlite3.Connection, columns: Mapping[str, type]) -> list[str]:
    """Return which of the declared problem columns the file does not have, in their order."""
    present = {name.lower() for name in problem_columns(connection)}
    return [name for name in columns if name.lower() not in present]


def version_of(connection: sqlite3.Connection, path: Path, application: str) -> int:
    """Return the version of the file's schema, 0 for an empty file, after a look at whether it can be used.

    Raises:
        ForeignFileError: it belongs to something else.
        NewerSchemaError: a later version wrote it.
        DamagedError: its tables are not as this package makes them.
    """
    # One statement, so one state of the file: another process may be creating the tables just now.
    identity, version, tables = connection.execute(
        """SELECT application_id, user_version, (SELECT count(*) FROM sqlite_schema)
        FROM pragma_application_id, pragma_user_version"""
    ).fetchone()
    if identity != migrations.APPLICATION_ID:
        if tables or identity or version:
            raise ForeignFileError(path, "it is an SQLite file of something else", "choose another path")
        return 0
    if version > migrations.version():
        reason = f"its schema is version {version}, this package knows {migrations.version()}"
        raise NewerSchemaError(path, reason, "upgrade, or choose another path")
    if version < 1:
        raise DamagedError(path, f"its schema is version {version}", "move it away or restore a copy of it")
    _check_owner(connection, path, application)
    _check_shape(connection, path, version)
    return int(version)


def _check_owner(connection: sqlite3.Connection, path: Path, application: str) -> None:
    row = connection.execute("SELECT value FROM meta WHERE name = 'application'").fetchone()
    owner = row[0] if row else ""
    if application and owner and owner != application:
        raise ForeignFileError(
            path, f"it belongs to {owner!r}, not to {application!r}", "choose another path"
        )


def _check_shape(connection: sqlite3.Connection, path: Path, version: int) -> None:
    """Refuse a file in which a table of ours is missing or another, or where a trigger would act on one.

    Whoever made the file may have put a view where a table should be, or a trigger that runs with our writes.
    Tables, views and plain indices that a person adds do no harm and are let be.
    """
    ours = _expected(migrations.STEPS[:version])
    tables = {_MIGRATIONS, *(name for name, (kind, _, _) in ours.items() if kind == "table")}
    query = "SELECT name, type, tbl_name, sql FROM sqlite_schema WHERE sql IS NOT NULL"
    found = {name: tuple(rest) for name, *rest in connection.execute(query)}
    wrong = [name for name in ours if not _alike(name, found.get(name), ours[name])]
    for name, (kind, table, sql) in found.items():
        acts = kind == "trigger" or (kind == "index" and not _PLAIN_INDEX.fullmatch(sql))
        if name not in ours and acts and table.lower() in tables:
            wrong.append(name)
    if wrong:
        raise DamagedError(
            path, f"{', '.join(wrong)[:200]} is not as this package makes it", "restore a copy of the file"
        )


def _alike(name: str, found: tuple[str, ...] | None, ours: tuple[str, ...]) -> bool:
    if found is None or name != "problems":
        return found == ours
    start, _, end = ours[2].rpartition("\n)")
    added = found[2].removeprefix(start).removesuffix(end).strip().removesuffix(")")
    whole = found[:2] == ours[:2] and found[2].startswith(start) and found[2].endswith(end)
    return whole and _ADDED_COLUMNS.fullmatch(added.strip()) is not None


@lru_cache
def _expected(steps: tuple[object, ...]) -> dict[str, tuple[str, str, str]]:
    """Return name to type, table and SQL, of what the first steps of the migrations, these, make."""
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as connection:
        migrations.apply(Database(connection, execute_plugins=False), upto=len(steps))
        rows = connection.execute(
            "SELECT name, type, tbl_name, sql FROM sqlite_schema WHERE sql IS NOT NULL AND tbl_name <> ?",
            (_MIGRATIONS,),
        ).fetchall()
    return {name: (kind, table, sql) for name, kind, table, sql in rows}


def check_readable(connection: sqlite3.Connection, path: Path, application: str) -> None:
    """Refuse a file that cannot be read as it is.

    Raises:
        DamagedError: it is empty.
        TuningDBError: it is of an older version, or `version_of` refuses it.
    """
    version = version_of(connection, path, application)
    if not version:
        raise DamagedError(path, "it is empty", "record something into it or remove it")
    if version < migrations.version():
        reason = f"its schema is version {version}, older than {migrations.version()}"
        raise TuningDBError(path, reason, "open it for writing once")


def prepare(
    connection: sqlite3.Connection,
    path: Path,
    columns: Mapping[str, type],
    application: str,
    derive: Callable[[sqlite3.Connection], object],
) -> None:
    """Create or complete the tables and the declared columns; upgrade an older file, after a backup of it.

    All of it is one transaction that holds the write lock from its start, which lets many processes open one
    new file at once: sqlite-utils by itself begins deferred ones, and a race of those ends in "database is
    locked". `derive` fills the derived tables after an upgrade. A sound file that lacks nothing but columns
    and cannot be written stays without them.

    Raises:
        sqlite3.Error: the file does not take the tables.
        TuningDBError: `version_of` refuses the file.
    """
    newest = migrations.version()
    if version_of(connection, path, application) == newest and not lacks(connection, columns):
        return
    try:
        with transaction(connection):
            version = version_of(connection, path, application)
            if 0 < version < newest:
                _back_up(path, version)
            migrations.apply(Database(connection, execute_plugins=False))
            for name in lacks(connection, columns):
                kind = COLUMN_TYPES[columns[name]]
                connection.execute(f'ALTER TABLE problems ADD COLUMN "{name}" {kind}')
            connection.execute(
                "INSERT INTO meta VALUES ('application', ?) ON CONFLICT DO NOTHING", (application,)
            )
            if 0 < version < newest:
                derive(connection)
    except OSError as error:
        reason = f"its backup cannot be written ({error})"
        raise UnwritableError(path, reason, "check permissions and free space") from None
    except sqlite3.OperationalError as error:
        unwritable = isinstance(translated(path, error), UnwritableError)
        if not (unwritable and version_of(connection, path, application) == newest):
            raise


def backup_path(path: Path, version: int) -> Path:
    """Return where a file of an older version is kept when it is upgraded."""
    return path.with_name(f"{path.name}.v{version}.backup")


def _backup_names(path: Path, version: int) -> Iterator[tuple[Path, Path]]:
    """Yield names for a backup, and for it until it is finished."""
    target = backup_path(path, version)
    for number in itertools.count(2):
        yield target, suffixed(target, ".part")
        target = suffixed(backup_path(path, version), f"-{number}")


def _back_up(path: Path, version: int) -> None:
    """Copy the file as it was last committed; the caller holds the write lock, so it stays as it is."""
    path = real_path(path)
    target, unfinished = next(
        pair for pair in _backup_names(path, version) if not any(in_the_way(one, path) for one in pair)
    )
    unfinished.unlink(missing_ok=True)
    unfinished.touch(mode=0o600, exist_ok=False)
    shutil.copymode(path, unfinished)
    with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)) as source:
        source.execute("VACUUM INTO ?", (str(unfinished),))
    with unfinished.open("rb") as copy:  # SQLite leaves it to the system when the copy reaches the disk
        os.fsync(copy.fileno())
    unfinished.replace(target)
