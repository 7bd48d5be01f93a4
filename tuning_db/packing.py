"""Files that are built once and then only read: the packaged database, and pins."""

from __future__ import annotations

import os
import sqlite3
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path

from .errors import ForeignFileError, TuningDBError, UnwritableError, translated
from .files import real_path
from .records import Pin
from .schema import mark_pinned
from .store import TuningDB
from .transfer import import_lines

READ_ONLY = 0o444


@contextmanager
def packing(
    path: Path, columns: Mapping[str, type], application: str, pin: Pin | None = None
) -> Iterator[TuningDB]:
    """Give a new database to fill, which lies at `path` once the block ends: compact, and marked as a `pin`.

    The same rows, put in in the same order, give the same bytes. Where the block fails, or the disk does,
    what was at `path` is there still.

    Raises:
        OSError, sqlite3.Error: the file cannot be written.
    """
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        working, packed = Path(folder) / "working.sqlite", Path(folder) / "packed.sqlite"
        with TuningDB.open(working, columns=columns, application=application) as db:
            yield db
        with closing(sqlite3.connect(working, isolation_level=None)) as connection:
            # sqlite-utils notes when a migration was applied; a build must not depend on the clock.
            connection.execute("UPDATE _sqlite_migrations SET applied_at = 'at build'")
            if pin is not None:
                mark_pinned(connection, pin)
            connection.execute("VACUUM INTO ?", (str(packed),))
        if pin is not None:
            packed.chmod(READ_ONLY)
        with packed.open("rb") as built:  # SQLite leaves it to the system when the copy reaches the disk
            os.fsync(built.fileno())
        packed.replace(path)


def write_pin(
    path: Path | str,
    lines: Iterable[str],
    pin: Pin,
    columns: Mapping[str, type],
    *,
    application: str = "",
    again: bool = False,
) -> int:
    """Build a pin at `path` out of lines as `export_lines` yields them, and return its number of trials.

    `again` replaces a pin that is there. Whoever has that one open goes on with the new one.

    Raises:
        TuningDBError: something is there that is not to be replaced, or the file cannot be written.
    """
    target = real_path(path)
    if os.path.lexists(target):
        _check_replaced(target, application, again)
    try:
        with packing(target, columns, application, pin) as db:
            return import_lines(db, lines).inserted
    except sqlite3.Error as error:
        raise translated(target, error) from error
    except OSError as error:
        reason = f"it cannot be written ({error.strerror})"
        raise UnwritableError(
            path, reason, "check permissions and free space, or choose another path"
        ) from None


def _check_replaced(path: Path, application: str, again: bool) -> None:
    if not again:
        raise TuningDBError(path, "a file lies there", "name another, or replace a pin `again`")
    with TuningDB.open_readonly(path, columns={}, application=application) as there:
        if not there.pinned:
            raise ForeignFileError(path, "it is no pin", "name another file")
