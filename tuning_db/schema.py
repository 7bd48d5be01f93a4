"""The tables, as append-only steps; and is a file ours, whole and of this version? If not quite: make it so.

A step that has been released is never edited, only followed. A file's `PRAGMA user_version` counts the steps
that made it. What a step drops must be derivable: after the last one the winners and the sizes are derived
anew, in the same transaction.

No CHECK calls json_valid(): with trusted_schema off, SQLite 3.40 refuses it inside a schema as "unsafe".
"""

from __future__ import annotations

import json
import re
import sqlite3
from collections.abc import Callable, Mapping
from contextlib import closing
from functools import lru_cache
from inspect import cleandoc
from pathlib import Path
from typing import TYPE_CHECKING

from .connection import transaction
from .errors import (
    DamagedError,
    ForeignFileError,
    NewerSchemaError,
    TuningDBError,
    UnwritableError,
    translated,
)
from .files import back_up
from .records import OUTCOMES, PROVENANCES, Application, Pin, canonical
from .views import VIEWS

if TYPE_CHECKING:
    from sqlite_utils import Database

APPLICATION_ID = 0x74754442  # "tuDB"; `file` and SQLite's tools can tell the file by it
COLUMN_TYPES = {int: "INTEGER", str: "TEXT"}
_RESERVED = {"id", "key"}
_NAME = r"[A-Za-z_][A-Za-z0-9_]{0,62}"
_COLUMN_NAME = re.compile(_NAME)
_QUOTED = rf'["\[]?{_NAME}["\]]?'
_PLAIN_INDEX = re.compile(
    rf"CREATE (UNIQUE )?INDEX {_QUOTED}\s+ON {_QUOTED} \(\s*{_QUOTED}(,\s*{_QUOTED})*\s*\)"
)
_ADDED_COLUMNS = re.compile(rf"(, {_QUOTED} (INTEGER|TEXT))*")
_PIN = "pin"  # the name in `meta` of the mark
_FIELDS = "fields"  # the name in `meta` of how an application's problems read
_MIGRATIONS = "_sqlite_migrations"  # sqlite-utils makes that table, each version in its own way


def _quoted(names: tuple[str, ...]) -> str:
    return ", ".join(f"'{name}'" for name in names)


_TABLES = (
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
        info TEXT NOT NULL,
        finished INTEGER NOT NULL CHECK (finished IN (0, 1))  -- 0: under way, or interrupted
    ) STRICT""",
    # Unique by problem first: readers ask by problem, and rows come in by problem.
    f"""CREATE TABLE trials (
        id INTEGER PRIMARY KEY,
        run_id TEXT NOT NULL REFERENCES runs (id),
        problem_id INTEGER NOT NULL REFERENCES problems (id),
        config_hash TEXT NOT NULL,
        config TEXT NOT NULL,
        source TEXT NOT NULL,  -- names the code that was tried
        predictor TEXT NOT NULL,  -- names what predicted; empty where nothing did
        outcome TEXT NOT NULL CHECK (outcome IN ({_quoted(OUTCOMES)})),
        predicted_us REAL,
        measured_us REAL,  -- the median of the samples; beside other work where the detail says contended
        samples_us TEXT NOT NULL,
        max_err REAL,
        error TEXT,
        detail TEXT NOT NULL,
        checksum TEXT NOT NULL,
        UNIQUE (problem_id, run_id, config_hash, source)
    ) STRICT""",
    """CREATE TRIGGER finished_trials_are_immutable BEFORE UPDATE ON trials
    WHEN old.outcome <> 'started'
    BEGIN SELECT RAISE(ABORT, 'a finished trial is never changed'); END""",
    f"""CREATE TABLE winners (  -- the best of each source
        id INTEGER PRIMARY KEY,
        environment_id INTEGER NOT NULL REFERENCES environments (id),
        problem_id INTEGER NOT NULL REFERENCES problems (id),
        source TEXT NOT NULL,
        predictor TEXT NOT NULL,  -- empty where timed
        config_hash TEXT NOT NULL,
        config TEXT NOT NULL,
        provenance TEXT NOT NULL CHECK (provenance IN ({_quoted(PROVENANCES)})),
        measured_us REAL,  -- beside other work where the provenance is contended
        predicted_us REAL,
        max_err REAL,
        margin REAL,  -- runner-up / winner - 1
        ties INTEGER NOT NULL,
        noise REAL,  -- median deviation of the samples, over their median
        default_us REAL,  -- of the default configuration
        finished INTEGER NOT NULL CHECK (finished IN (0, 1)),  -- 0: of interrupted runs alone
        detail TEXT NOT NULL,
        checksum TEXT NOT NULL,
        UNIQUE (problem_id, environment_id, source, predictor)
    ) STRICT""",
    """CREATE TABLE problem_sizes (  -- to find near problems by
        problem_id INTEGER PRIMARY KEY REFERENCES problems (id),
        kind INTEGER NOT NULL,  -- hash of the text columns
        log_size REAL NOT NULL  -- sum of the integer columns' logarithms
    ) STRICT""",
    "CREATE INDEX problem_sizes_by_kind ON problem_sizes (kind, log_size)",
    """CREATE TABLE misses (  -- what was asked for and had no entry
        id INTEGER PRIMARY KEY,
        problem_id INTEGER NOT NULL REFERENCES problems (id),
        environment_id INTEGER NOT NULL REFERENCES environments (id),
        calls INTEGER NOT NULL,
        served TEXT NOT NULL,  -- meanwhile
        first_seen TEXT NOT NULL,  -- UTC, ISO 8601
        last_seen TEXT NOT NULL,
        checksum TEXT NOT NULL,
        UNIQUE (problem_id, environment_id)
    ) STRICT""",
    """CREATE TABLE quarantine (  -- lines that an import refused
        line_hash TEXT PRIMARY KEY,
        reason TEXT NOT NULL,
        line TEXT NOT NULL
    ) STRICT""",
    f"PRAGMA application_id = {APPLICATION_ID}",
)


def _tables(connection: sqlite3.Connection) -> None:
    for statement in (*_TABLES, *VIEWS):
        connection.execute(cleandoc(statement))


STEPS: tuple[tuple[str, Callable[[sqlite3.Connection], None]], ...] = (("0001_tables", _tables),)
"""Name and function of what leads to version 1, 2, ..."""


def newest() -> int:
    """Return the version of the schema that this package writes."""
    return len(STEPS)


def apply(connection: sqlite3.Connection, upto: int | None = None) -> None:
    """Bring a file to this package's version, or to `upto`; steps that it has had are not taken again."""
    # Not above: it takes a third of a second, and a file that needs no step does without.
    from sqlite_utils import Database, Migrations

    migrations = Migrations("tuning_db")
    for number, (name, step) in enumerate(STEPS[:upto], start=1):
        migrations(name=name)(_numbered(step, number))
    migrations.apply(Database(connection, execute_plugins=False))


def _numbered(step: Callable[[sqlite3.Connection], None], number: int) -> Callable[[Database], None]:
    def numbered(db: Database) -> None:
        step(db.conn)
        db.execute(f"PRAGMA user_version = {number}")

    return numbered


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


def problem_columns(connection: sqlite3.Connection) -> list[str]:
    """Return the columns that callers declared for problems so far, in their order."""
    rows = connection.execute("SELECT name FROM pragma_table_info('problems')")
    return [name for (name,) in rows if name not in _RESERVED]


def lacks(connection: sqlite3.Connection, columns: Mapping[str, type]) -> list[str]:
    """Return which of the declared problem columns the file does not have, in their order."""
    present = {name.lower() for name in problem_columns(connection)}
    return [name for name in columns if name.lower() not in present]


def _lacks_fields(connection: sqlite3.Connection, application: str) -> bool:
    """Return whether the file does not tell how the application's problems read, or not as it does today."""
    row = connection.execute("SELECT value FROM meta WHERE name = ?", (_FIELDS,)).fetchone()
    return _fields_of(application) not in ("", row and row[0])


def _fields_of(application: str) -> str:
    """Return how the problems read as JSON, in the order of the fields; empty where nothing is said."""
    fields = application.fields if isinstance(application, Application) else {}
    return json.dumps(fields) if fields else ""


def mark_pinned(connection: sqlite3.Connection, pin: Pin) -> None:
    """Note in the file that it is never written again."""
    document = canonical({"title": pin.title, "made": pin.made})
    connection.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (_PIN, document))


def pin_of(connection: sqlite3.Connection, path: Path) -> Pin | None:
    """Return the mark of a file that is never written again, None where it has none.

    Raises:
        DamagedError: it has one that cannot be read.
    """
    row = connection.execute("SELECT value FROM meta WHERE name = ?", (_PIN,)).fetchone()
    try:
        return None if row is None else Pin(**json.loads(row[0]))
    except (ValueError, TypeError) as error:
        reason = f"its mark as a pin is not as this package makes it ({error})"
        raise DamagedError(path, reason, "restore a copy of the file, or pin anew") from None


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
    if identity != APPLICATION_ID:
        if tables or identity or version:
            raise ForeignFileError(path, "it is an SQLite file of something else", "choose another path")
        return 0
    if version > newest():
        reason = f"its schema is version {version}, this package knows {newest()}"
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
    ours = _expected(STEPS[:version])
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
def _expected(
    steps: tuple[tuple[str, Callable[[sqlite3.Connection], None]], ...],
) -> dict[str, tuple[str, str, str]]:
    """Return name to type, table and SQL, of what these steps make, taken one after the other."""
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as connection:
        for _, step in steps:
            step(connection)
        rows = connection.execute(
            "SELECT name, type, tbl_name, sql FROM sqlite_schema WHERE sql IS NOT NULL"
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
    if version < newest():
        reason = f"its schema is version {version}, older than {newest()}"
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
    locked". `derive` fills the derived tables after an upgrade. A sound file that lacks nothing but columns,
    or how the application's problems read, and cannot be written, or is a pin, stays without them.

    Raises:
        sqlite3.Error: the file does not take the tables.
        TuningDBError: `version_of` refuses the file.
    """
    if version_of(connection, path, application) == newest() and (
        not (lacks(connection, columns) or _lacks_fields(connection, application))
        or pin_of(connection, path) is not None
    ):
        return
    try:
        with transaction(connection):
            version = version_of(connection, path, application)
            outdated = 0 < version < newest()
            if outdated:
                back_up(path, version)
            if version < newest():
                apply(connection)
            for name in lacks(connection, columns):
                kind = COLUMN_TYPES[columns[name]]
                connection.execute(f'ALTER TABLE problems ADD COLUMN "{name}" {kind}')
            if columns:  # a search for siblings fixes the first ones
                named = ", ".join(f'"{name}"' for name in columns)
                connection.execute(f"CREATE INDEX IF NOT EXISTS problems_by_columns ON problems ({named})")
            connection.execute(
                "INSERT INTO meta VALUES ('application', ?) ON CONFLICT DO NOTHING", (str(application),)
            )
            if _lacks_fields(connection, application):
                noted = (_FIELDS, _fields_of(application))
                connection.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", noted)
            if outdated:
                derive(connection)
    except OSError as error:
        reason = f"its backup cannot be written ({error})"
        raise UnwritableError(path, reason, "check permissions and free space") from None
    except sqlite3.OperationalError as error:
        unwritable = isinstance(translated(path, error), UnwritableError)
        if not (unwritable and version_of(connection, path, application) == newest()):
            raise
