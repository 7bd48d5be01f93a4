"""The tables, as append-only migrations, and the checks that a file is ours and readable.

A migration that has been released is never edited: a change of the schema is a further function at the end,
and `VERSION` (the file's `PRAGMA user_version`) counts them.

No CHECK calls json_valid(): with trusted_schema off, SQLite 3.40 refuses it inside a schema as "unsafe".
"""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Mapping
from inspect import cleandoc
from pathlib import Path

from sqlite_utils import Database, Migrations

from .connection import transaction
from .errors import (
    DamagedError,
    ForeignFileError,
    NewerSchemaError,
    TuningDBError,
    UnwritableError,
    translated,
)
from .records import OUTCOMES, PROVENANCES

APPLICATION_ID = 0x74754442  # "tuDB"; `file` and SQLite's tools can tell the file by it
VERSION = 1
COLUMN_TYPES = {int: "INTEGER", str: "TEXT"}
_RESERVED = {"id", "key"}
_COLUMN_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,62}")

migrations = Migrations("tuning_db")


def _quoted(names: tuple[str, ...]) -> str:
    return ", ".join(f"'{name}'" for name in names)


@migrations(name="0001_tables")
def _tables(db: Database) -> None:
    for statement in (
        """CREATE TABLE meta (
            name TEXT PRIMARY KEY,
            value TEXT NOT NULL
        ) STRICT""",
        """CREATE TABLE environments (
            id INTEGER PRIMARY KEY,
            hash TEXT NOT NULL UNIQUE,  -- of the hard and soft fields
            hard_hash TEXT NOT NULL,
            arch TEXT,  -- the field of that name, where there is one
            device TEXT,  -- likewise
            doc TEXT NOT NULL  -- {"hard": {...}, "soft": {...}}
        ) STRICT""",
        """CREATE TABLE problems (
            id INTEGER PRIMARY KEY,
            key TEXT NOT NULL UNIQUE
        ) STRICT""",
        """CREATE TABLE runs (
            id TEXT PRIMARY KEY,  -- a UUID
            environment_id INTEGER NOT NULL REFERENCES environments (id),
            origin TEXT NOT NULL,
            info TEXT NOT NULL
        ) STRICT""",
        f"""CREATE TABLE trials (
            id INTEGER PRIMARY KEY,
            run_id TEXT NOT NULL REFERENCES runs (id),
            problem_id INTEGER NOT NULL REFERENCES problems (id),
            config_hash TEXT NOT NULL,
            config TEXT NOT NULL,
            outcome TEXT NOT NULL CHECK (outcome IN ({_quoted(OUTCOMES)})),
            predicted_us REAL,
            measured_us REAL,  -- the median of the samples
            samples_us TEXT NOT NULL,
            max_err REAL,
            error TEXT,
            detail TEXT NOT NULL,
            checksum TEXT NOT NULL,
            UNIQUE (run_id, problem_id, config_hash)
        ) STRICT""",
        "CREATE INDEX trials_by_problem ON trials (problem_id, outcome)",
        """CREATE TRIGGER finished_trials_are_immutable BEFORE UPDATE ON trials
            WHEN old.outcome <> 'started'
            BEGIN SELECT RAISE(ABORT, 'a finished trial is never changed'); END""",
        f"""CREATE TABLE winners (
            id INTEGER PRIMARY KEY,
            environment_id INTEGER NOT NULL REFERENCES environments (id),
            problem_id INTEGER NOT NULL REFERENCES problems (id),
            config_hash TEXT NOT NULL,
            config TEXT NOT NULL,
            provenance TEXT NOT NULL CHECK (provenance IN ({_quoted(PROVENANCES)})),
            measured_us REAL,
            predicted_us REAL,
            max_err REAL,
            margin REAL,  -- runner-up / winner - 1
            ties INTEGER NOT NULL,
            detail TEXT NOT NULL,
            checksum TEXT NOT NULL,
            UNIQUE (problem_id, environment_id)
        ) STRICT""",
        f"PRAGMA application_id = {APPLICATION_ID}",
        "PRAGMA user_version = 1",
    ):
        db.execute(cleandoc(statement))


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


def lacks(connection: sqlite3.Connection, columns: Mapping[str, type]) -> set[str]:
    """Return which of the declared problem columns the file does not have."""
    present = {
        name.lower() for (name,) in connection.execute("SELECT name FROM pragma_table_info('problems')")
    }
    return {name for name in columns if name.lower() not in present}


def is_ready(connection: sqlite3.Connection, path: Path, application: str) -> bool:
    """Return whether the file holds this schema; False where it is empty or of an older version.

    Raises:
        NewerSchemaError: a later version wrote it.
        ForeignFileError: it belongs to something else.
    """
    # One statement, so one state of the file: another process may be creating the tables just now.
    identity, version, tables = connection.execute(
        """SELECT application_id, user_version, (SELECT count(*) FROM sqlite_schema)
        FROM pragma_application_id, pragma_user_version"""
    ).fetchone()
    if identity != APPLICATION_ID:
        if tables or identity or version:
            raise ForeignFileError(path, "it is an SQLite file of something else", "choose another path")
        return False
    if version > VERSION:
        raise NewerSchemaError(
            path,
            f"its schema is version {version}, this package knows {VERSION}",
            "upgrade, or choose another path",
        )
    if version == VERSION:
        _check_owner(connection, path, application)
    return bool(version == VERSION)


def _check_owner(connection: sqlite3.Connection, path: Path, application: str) -> None:
    row = connection.execute("SELECT value FROM meta WHERE name = 'application'").fetchone()
    owner = row[0] if row else ""
    if application and owner and owner != application:
        raise ForeignFileError(
            path, f"it belongs to {owner!r}, not to {application!r}", "choose another path"
        )


def check_readable(connection: sqlite3.Connection, path: Path, application: str) -> None:
    """Refuse a file that cannot be read as it is.

    Raises:
        DamagedError: it is empty.
        TuningDBError: it is of an older version, or `is_ready` refuses it.
    """
    if is_ready(connection, path, application):
        return
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    if not version:
        raise DamagedError(path, "it is empty", "record something into it or remove it")
    raise TuningDBError(
        path, f"its schema is version {version}, older than {VERSION}", "open it for writing once"
    )


def prepare(
    connection: sqlite3.Connection, path: Path, columns: Mapping[str, type], application: str
) -> None:
    """Create or complete the tables and the declared columns.

    All of it is one transaction that holds the write lock from its start, which lets many processes open one
    new file at once: sqlite-utils by itself begins deferred ones, and a race of those ends in "database is
    locked". A sound file that lacks nothing but columns and cannot be written stays without them.

    Raises:
        sqlite3.Error: the file does not take the tables.
        TuningDBError: `is_ready` refuses the file.
    """
    try:
        with transaction(connection):
            is_ready(connection, path, application)
            db = Database(connection, execute_plugins=False)
            migrations.apply(db)
            for name in sorted(lacks(connection, columns), key=list(columns).index):
                db.table("problems").add_column(name, columns[name])
            connection.execute(
                "INSERT INTO meta VALUES ('application', ?) ON CONFLICT DO NOTHING", (application,)
            )
    except sqlite3.OperationalError as error:
        unwritable = isinstance(translated(path, error), UnwritableError)
        if not (unwritable and is_ready(connection, path, application)):
            raise
