"""One tuning database: a SQLite file with environments, problems, runs, trials and winners."""

from __future__ import annotations

import sqlite3
import uuid
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any

from . import schema
from .connection import Connections, transaction
from .errors import TuningDBError, UnwritableError, translated
from .reading import collect_trials, problem_from, select_problem_columns, select_trials, winners_of
from .records import EnvironmentRecord, ProblemRecord, Trial, Winner
from .rows import BadRowError
from .writing import find_run, put_run, put_trials, settle

_COUNTED = ("runs", "trials", "winners", "problems", "environments")


class TuningDB:
    """A tuning database, open for reading and, unless opened read-only, for writing.

    It may be shared by threads, and used on in a forked child: every thread of every process gets a
    connection of its own. Every method raises TuningDBError, or a subclass that says more, where the file
    does not serve.

    Attributes:
        path: the file.
        columns: the declared problem columns that the file has.
        bad_rows: how many rows were skipped so far because their checksum did not fit.
    """

    def __init__(self, connections: Connections) -> None:
        """Use `open` or `open_readonly`."""
        self.path = connections.path
        self.columns: Mapping[str, type] = {}
        self.bad_rows = 0
        self._connections = connections

    @classmethod
    def open(cls, path: Path | str, *, columns: Mapping[str, type], application: str = "") -> TuningDB:
        """Open the database at `path`, creating folders, file and tables as needed.

        `columns` (name to int or str) are the caller's columns for problems; ones the file lacks are added. A
        sound file that cannot be written opens all the same: reads work, writes raise UnwritableError.

        Raises:
            ValueError: a column's name or type is unfit.
            TuningDBError: DamagedError, ForeignFileError, NewerSchemaError or UnwritableError, as it is.
        """
        schema.check_columns(columns)
        path = Path(path)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UnwritableError(
                path, f"its folder cannot be made ({error})", "choose another path"
            ) from None
        database = cls(Connections(path, "rwc"))
        with database._opening(columns) as connection:
            if not schema.is_ready(connection, path, application) or schema.lacks(connection, columns):
                schema.prepare(connection, path, columns, application)
        return database

    @classmethod
    def open_readonly(
        cls, path: Path | str, *, columns: Mapping[str, type], application: str = "", immutable: bool = False
    ) -> TuningDB:
        """Open the database at `path` without ever writing a byte.

        `immutable` says that nobody else writes it either: no locks are taken, so a read-only medium serves.

        Raises:
            ValueError: a column's name or type is unfit.
            TuningDBError: the file is missing, or one of the reasons `open` has.
        """
        schema.check_columns(columns)
        path = Path(path)
        if not path.is_file():
            raise TuningDBError(path, "there is no such file", "check the path")
        database = cls(Connections(path, "ro", immutable=immutable))
        with database._opening(columns) as connection:
            schema.check_readable(connection, path, application)
        return database

    @contextmanager
    def _opening(self, columns: Mapping[str, type]) -> Iterator[sqlite3.Connection]:
        """Give a connection for the first look at the file; close it again where that fails."""
        with ExitStack() as on_failure:
            on_failure.callback(self.close)
            with self.reading() as connection:
                yield connection
                lacking = schema.lacks(connection, columns)
            self.columns = {name: kind for name, kind in columns.items() if name not in lacking}
            on_failure.pop_all()

    @contextmanager
    def reading(self) -> Iterator[sqlite3.Connection]:
        """Give this thread's connection for queries; SQLite's errors become this package's."""
        try:
            yield self._connections.get()
        except (sqlite3.Error, UnicodeDecodeError) as error:
            raise translated(self.path, error) from error

    @contextmanager
    def writing(self) -> Iterator[sqlite3.Connection]:
        """Give this thread's connection inside a transaction: all of the block or nothing."""
        if self._connections.readonly:
            raise UnwritableError(self.path, "it was opened for reading only", "open it with TuningDB.open()")
        with self.reading() as connection, transaction(connection):
            yield connection

    def start(
        self, environment: EnvironmentRecord, *, origin: str, info: Mapping[str, Any] | None = None
    ) -> str:
        """Begin a run and return its id; its trials follow one by one with `add`."""
        run_id = str(uuid.uuid4())
        with self.writing() as connection:
            put_run(connection, self.path, run_id, environment, origin, info or {})
        return run_id

    def add(self, run_id: str, problem: ProblemRecord, trial: Trial) -> None:
        """Commit one trial of a run that was started, and derive the winner anew.

        When this returns the trial is on the disk. Adding the same trial again changes nothing; a "started"
        one is replaced by the finished one of the same configuration.

        Raises:
            ValueError: the problem has a column that was not declared.
            TuningDBError: there is no such run, or the trial is finished already with another result.
        """
        with self.writing() as connection:
            run = find_run(connection, self.path, run_id)
            self.bad_rows += put_trials(connection, self.path, run, problem, self.columns, [trial])

    def record(
        self,
        environment: EnvironmentRecord,
        problem: ProblemRecord,
        trials: Iterable[Trial],
        *,
        origin: str,
        info: Mapping[str, Any] | None = None,
        run_id: str | None = None,
    ) -> str:
        """Commit a run with its trials in one transaction, derive the winner anew and return the run's id.

        Raises:
            ValueError: the problem has a column that was not declared.
            TuningDBError: `run_id` is taken by a run of another environment or holds other results.
        """
        run_id = run_id or str(uuid.uuid4())
        with self.writing() as connection:
            run = put_run(connection, self.path, run_id, environment, origin, info or {})
            self.bad_rows += put_trials(connection, self.path, run, problem, self.columns, trials)
        return run_id

    def winners(self, problem_key: str) -> list[Winner]:
        """Return the winner of every environment for one problem, in the order of the environments' hashes.

        A row whose checksum does not fit is skipped and counted in `bad_rows`.
        """
        winners: list[Winner] = []
        with self.reading() as connection:
            self.bad_rows += winners_of(connection, problem_key, list(self.columns), winners)
        return winners

    def trials(self, problem_key: str, environment_hash: str | None = None) -> list[Trial]:
        """Return the trials of one problem, in one environment or in all, in the order they were recorded.

        A row whose checksum does not fit is skipped and counted in `bad_rows`.
        """
        trials: list[Trial] = []
        where = "WHERE p.key = ? AND (? IS NULL OR e.hash = ?) ORDER BY t.id"
        with self.reading() as connection:
            rows = connection.execute(
                f"{select_trials()} {where}", (problem_key, environment_hash, environment_hash)
            )
            self.bad_rows += collect_trials(rows, trials)
        return trials

    def problems(self) -> Iterator[ProblemRecord]:
        """Yield every problem, in the order of their keys; bad rows are skipped and counted in `bad_rows`."""
        query = f"SELECT p.key {select_problem_columns(list(self.columns))} FROM problems p ORDER BY p.key"
        with self.reading() as connection:
            rows = connection.execute(query).fetchall()
        for key, *values in rows:
            try:
                yield problem_from(key, list(self.columns), values)
            except BadRowError:
                self.bad_rows += 1

    def info(self) -> dict[str, Any]:
        """Return the counts of runs, trials, winners, problems and environments; path, schema and size."""
        with self.reading() as connection:
            counts = {
                name: connection.execute(f"SELECT count(*) FROM {name}").fetchone()[0] for name in _COUNTED
            }
            (version,) = connection.execute("PRAGMA user_version").fetchone()
            (size,) = connection.execute(
                "SELECT page_count * page_size FROM pragma_page_count, pragma_page_size"
            ).fetchone()
        return {**counts, "path": str(self.path), "schema_version": version, "size_bytes": size}

    def rebuild(self) -> int:
        """Derive every winner anew from the trials and return how many winners there are."""
        with self.writing() as connection:
            connection.execute("DELETE FROM winners")
            pairs = connection.execute(
                "SELECT DISTINCT r.environment_id, t.problem_id FROM trials t JOIN runs r ON r.id = t.run_id"
            ).fetchall()
            self.bad_rows += sum(settle(connection, *pair) for pair in pairs)
            (count,) = connection.execute("SELECT count(*) FROM winners").fetchone()
        return int(count)

    def close(self) -> None:
        """Close the connections of every thread; the database cannot be used afterwards."""
        self._connections.close()

    def __enter__(self) -> TuningDB:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()
