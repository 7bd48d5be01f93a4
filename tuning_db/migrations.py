"""The tables, as append-only steps: one that has been released is never edited, only followed.

A file's `PRAGMA user_version` counts the steps that made it. What a step drops must be derivable: after the
last one the winners and the sizes are derived anew, in the same transaction.

No CHECK calls json_valid(): with trusted_schema off, SQLite 3.40 refuses it inside a schema as "unsafe".
"""

from __future__ import annotations

from collections.abc import Callable
from inspect import cleandoc

from sqlite_utils import Database, Migrations

from .records import OUTCOMES, PROVENANCES

APPLICATION_ID = 0x74754442  # "tuDB"; `file` and SQLite's tools can tell the file by it


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
        measured_us REAL,  -- the median of the samples
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
        predictor TEXT NOT NULL,  -- empty where measured
        config_hash TEXT NOT NULL,
        config TEXT NOT NULL,
        provenance TEXT NOT NULL CHECK (provenance IN ({_quoted(PROVENANCES)})),
        measured_us REAL,
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
    """CREATE TABLE quarantine (  -- lines that an import refused
        line_hash TEXT PRIMARY KEY,
        reason TEXT NOT NULL,
        line TEXT NOT NULL
    ) STRICT""",
    f"PRAGMA application_id = {APPLICATION_ID}",
)


def _tables(db: Database) -> None:
    for statement in _TABLES:
        db.execute(cleandoc(statement))


STEPS: tuple[tuple[str, Callable[[Database], None]], ...] = (("0001_tables", _tables),)
"""Name and function of what leads to version 1, 2, ..."""


def version() -> int:
    """Return the version of the schema that this package writes."""
    return len(STEPS)


def apply(db: Database, upto: int | None = None) -> None:
    """Bring a file to this package's version, or to `upto`; steps that it has had are not taken again."""
    migrations = Migrations("tuning_db")
    for number, (name, step) in enumerate(STEPS[:upto], start=1):
        migrations(name=name)(_numbered(step, number))
    migrations.apply(db)


def _numbered(step: Callable[[Database], None], number: int) -> Callable[[Database], None]:
    def numbered(db: Database) -> None:
        step(db)
        db.execute(f"PRAGMA user_version = {number}")

    return numbered
