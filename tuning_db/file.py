"""A database's file: opened, looked at, read and written through connections lent to threads."""

from __future__ import annotations

import functools
import sqlite3
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Concatenate, ParamSpec, TypeVar

from . import schema
from .connection import Connections
from .errors import DamagedError, TuningDBError, UnwritableError, translated
from .names import real_path
from .records import RunRecord
from .settling import derive
from .writing import Intake

CACHE_KIB = 2000  # SQLite's default
BULK_CACHE_KIB = 256 * 1024

Self = TypeVar("Self", bound="DatabaseFile")
_P = ParamSpec("_P")
_T = TypeVar("_T")


def mended(method: Callable[Concatenate[Any, _P], _T]) -> Callable[Concatenate[Any, _P], _T]:
    """Let a method begin again, once, after the damage it met was mended."""

    @functools.wraps(method)
    def call(self: Any, /, *args: _P.args, **kwargs: _P.kwargs) -> _T:
        try:
            return method(self, *args, **kwargs)
        except DamagedError:
            if self.mend is None:
                raise
            self.mend()
            return method(self, *args, **kwargs)

    return call


class DatabaseFile:
    """The file and how to get at it; what is in it is the business of `TuningDB`, which see.

    Attributes:
        path: the file.
        application: the name that files of this application carry; empty fits any.
        columns: the declared problem columns that the file has.
        bad_rows: how many rows were skipped so far because their checksum did not fit.
        started: the runs begun here, by id.
        mend: called where a method meets damage, which then begins again, once. None: the error goes to the
            caller at once.
    """

    def __init__(
        self,
        path: Path | str,
        columns: Mapping[str, type],
        application: str,
        *,
        readonly: bool,
        immutable: bool = False,
    ) -> None:
        """Use `open` or `open_readonly`."""
        schema.check_columns(columns)
        self.path = Path(path)
        self.columns: Mapping[str, type] = {}
        self.bad_rows = 0
        self.started: dict[str, RunRecord] = {}
        self.mend: Callable[[], None] | None = None
        self._declared = columns
        self.application = application
        self.readonly = readonly
        self._connections = Connections(
            self.path, "ro" if readonly else "rwc", self._prepare, immutable=immutable
        )

    @classmethod
    def open(
        cls: type[Self], path: Path | str, *, columns: Mapping[str, type], application: str = ""
    ) -> Self:
        """Open the database at `path`, creating folders, file and tables as needed.

        `columns` (name to int or str) are the caller's columns for problems; ones the file lacks are added.
        An older file is upgraded, after a backup of it. A sound file that cannot be written opens all the
        same: reads work, writes raise UnwritableError.

        Raises:
            ValueError: a column's name or type is unfit.
            TuningDBError: DamagedError, ForeignFileError, NewerSchemaError or UnwritableError, as it is.
        """
        database = cls(path, columns, application, readonly=False)
        try:
            real_path(path).parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            reason = f"its folder cannot be made ({error})"
            raise UnwritableError(path, reason, "choose another path") from None
        return database._opened()

    @classmethod
    def open_readonly(
        cls: type[Self],
        path: Path | str,
        *,
        columns: Mapping[str, type],
        application: str = "",
        immutable: bool = False,
    ) -> Self:
        """Open the database at `path` without ever writing a byte.

        `immutable` says that nobody else writes it either: no locks are taken, so a read-only medium serves.

        Raises:
            ValueError: a column's name or type is unfit.
            TuningDBError: the file is missing, or one of the reasons `open` has.
        """
        database = cls(path, columns, application, readonly=True, immutable=immutable)
        if not database.path.is_file():
            raise TuningDBError(path, "there is no such file", "check the path")
        return database._opened()

    def _opened(self: Self) -> Self:
        with ExitStack() as on_failure:
            on_failure.callback(self.close)
            with self.reading():
                on_failure.pop_all()
        return self

    def _prepare(self, connection: sqlite3.Connection) -> None:
        """Look at the file through a new connection, and make it what it should be."""
        if self.readonly:
            schema.check_readable(connection, self.path, self.application)
        else:
            schema.prepare(connection, self.path, self._declared, self.application, derive)
        lacking = schema.lacks(connection, self._declared)
        self.columns = {name: kind for name, kind in self._declared.items() if name not in lacking}

    @contextmanager
    def reading(self) -> Iterator[sqlite3.Connection]:
        """Give this thread's connection for queries; SQLite's errors become this package's."""
        try:
            with self._connections as connection:
                yield connection
        except (sqlite3.Error, UnicodeDecodeError) as error:
            raise translated(self.path, error) from error

    @contextmanager
    def writing(self) -> Iterator[sqlite3.Connection]:
        """Give this thread's connection inside a transaction: all of the block or nothing."""
        if self.readonly:
            raise UnwritableError(self.path, "it was opened for reading only", "open it with TuningDB.open()")
        try:
            with self._connections.transaction() as connection:
                yield connection
        except (sqlite3.Error, UnicodeDecodeError) as error:
            raise translated(self.path, error) from error

    @contextmanager
    def intake(self, *, bulk: bool = False) -> Iterator[Intake]:
        """Give what takes rows in, in a transaction that ends with the winners settled.

        `bulk` keeps up to BULK_CACHE_KIB of changed pages in memory: as long as they fit, readers are locked
        out only while the transaction commits.
        """
        with self.writing() as connection:
            if bulk:
                connection.execute(f"PRAGMA cache_size = -{BULK_CACHE_KIB}")
            intake = Intake(connection, self.path, self.columns)
            try:
                yield intake
                self.bad_rows += intake.settle()
            finally:
                if bulk:
                    connection.execute(f"PRAGMA cache_size = -{CACHE_KIB}")

    def close(self) -> None:
        """Close the connections of every thread; the database cannot be used afterwards."""
        self._connections.close()

    def __enter__(self: Self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()
