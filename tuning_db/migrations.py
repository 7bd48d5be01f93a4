"""The tables, as append-only migrations: one that has been released is never edited, only followed.

`VERSION` (the file's `PRAGMA user_version`) counts them. What a migration drops must be derivable: after the
last one the winners and the sizes are derived anew, in the same transaction.

No CHECK calls json_valid(): with trusted_schema off, SQLite 3.40 refuses it inside a schema as "unsafe".
"""

from __future__ import annotations

from inspect import cleandoc

from sqlite_utils import Database, Migrations

from .records import OUTCOMES, PROVENANCES
from .rows import checksum, checksum_1

APPLICATION_ID = 0x74754442  # "tuDB"; `file` and SQLite's tools can tell the file by it
VERSION = 2
NAMES = ("0001_tables", "0002_noise_nearest_quarantine")  # the migration that leads to version 1, 2, ...

migrations = Migrations("tuning_db")


def _quoted(names: tuple[str, ...]) -> str:
    return ", ".join(f"'{name}'" for name in names)


def _run(db: Database, *statements: str) -> None:
    for statement in statements:
        db.execute(cleandoc(statement))


_IMMUTABLE_TRIALS = """CREATE TRIGGER finished_trials_are_immutable BEFORE UPDATE ON trials
    WHEN old.outcome <> 'started'
    BEGIN SELECT RAISE(ABORT, 'a finished trial is never changed'); END"""


@migrations(name=NAMES[0])
def _tables(db: Database) -> None:
    _run(
        db,
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
        _IMMUTABLE_TRIALS,
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
    )


@migrations(name=NAMES[1])
def _noise_nearest_quarantine(db: Database) -> None:
    _seal_anew(db)
    _run(
        db,
        # Unique by problem first: readers ask by problem, and rows come in by problem.
        f"""CREATE TABLE trials_2 (
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
            UNIQUE (problem_id, run_id, config_hash)
        ) STRICT""",
        "INSERT INTO trials_2 SELECT * FROM trials",
        "DROP TABLE trials",
        "ALTER TABLE trials_2 RENAME TO trials",
        _IMMUTABLE_TRIALS,
        "DROP TABLE winners",
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
            noise REAL,  -- median deviation of the samples, over their median
            default_us REAL,  -- of the default configuration
            detail TEXT NOT NULL,
            checksum TEXT NOT NULL,
            UNIQUE (problem_id, environment_id)
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
        "PRAGMA user_version = 2",
    )


def _seal_anew(db: Database) -> None:
    """Replace version 1's checksums, over JSON; a row that did not fit its own stays as it is, and bad."""
    rows = db.execute(
        """SELECT t.id, t.checksum, e.hash, p.key, t.run_id, t.config_hash, t.config, t.outcome,
            t.predicted_us, t.measured_us, t.samples_us, t.max_err, t.error, t.detail
        FROM trials t JOIN problems p ON p.id = t.problem_id
        JOIN runs r ON r.id = t.run_id JOIN environments e ON e.id = r.environment_id"""
    )
    sound = ((checksum(row[2:5], row[5:]), row[0]) for row in rows if row[1] == checksum_1(row[2:5], row[5:]))
    db.execute("DROP TRIGGER finished_trials_are_immutable")
    db.conn.executemany("UPDATE trials SET checksum = ? WHERE id = ?", list(sound))
