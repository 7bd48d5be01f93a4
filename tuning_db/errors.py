"""The errors a tuning database raises: each names the file, what is wrong with it and what to do."""

from __future__ import annotations

import os
import sqlite3
from functools import lru_cache
from pathlib import Path


class TuningDBError(Exception):
    """A tuning database cannot do what was asked.

    Attributes:
        path: the database (or the text) concerned.
        reason: what is wrong.
        remedy: what the reader can do about it.
    """

    def __init__(self, path: Path | str, reason: str, remedy: str) -> None:
        """Keep the three parts and join them into a message of one line."""
        super().__init__(path, reason, remedy)
        self.path = path
        self.reason = " ".join(reason.split())
        self.remedy = remedy

    def __str__(self) -> str:
        return f"tuning database {self.path}: {self.reason}; {self.remedy}"


class DamagedError(TuningDBError):
    """The content is corrupt: no SQLite file, a torn page, a missing table, a text line changed."""


class NewerSchemaError(TuningDBError):
    """A later version of this package wrote the file; it is left untouched."""


class UnwritableError(TuningDBError):
    """The file, its folder or its disk does not take writes."""


class BusyError(TuningDBError):
    """Another process holds the file's lock, or the filesystem gives none."""


class ForeignFileError(TuningDBError):
    """The file is a sound SQLite database, but not a tuning database of this application."""


class ContradictionError(TuningDBError):
    """The same configuration of the same run is finished already, with another result."""


# SQLite's own words, found in `sqlite3ErrStr`; Python 3.10 exposes no error codes to tell them apart by.
_UNWRITABLE = (
    "readonly database",
    "unable to open",
    "disk is full",
    "disk I/O error",
    "access permission denied",
)
_DAMAGED = (
    "constraint failed",  # no statement of this package breaks one in a sound file
    "unsupported file format",
    "no such table",
    "already exists",
    "no such column",
    "malformed",
    "not a database",
    "Could not decode",
)


def translated(path: Path, error: sqlite3.Error | UnicodeDecodeError) -> TuningDBError:
    """Return the error of this package that says what SQLite's `error` means for `path`.

    A damaged schema reaches Python as a UnicodeDecodeError where SQLite quotes it in its message.
    """
    text = str(error)
    damaged = isinstance(error, UnicodeDecodeError) or any(words in text for words in _DAMAGED)
    if damaged or ("readonly database" in text and _is_sealed(path)):
        return DamagedError(path, f"the file is damaged ({text})", "move it away or restore a copy of it")
    if any(words in text for words in _UNWRITABLE):
        return UnwritableError(path, text, "check permissions and free space, or choose another path")
    if "locked" in text or "locking protocol" in text:
        return BusyError(path, f"another process keeps it busy ({text})", "try again when that one is done")
    return TuningDBError(
        path, f"{type(error).__name__}: {text}", "check the file with `PRAGMA integrity_check`"
    )


_WRITE_VERSION = 18  # place in a file's header: 1 (rollback journal) or 2 (WAL); SQLite writes no other


def _is_sealed(path: Path) -> bool:
    """Whether a damaged header, and not a permission, makes SQLite refuse to write."""
    try:
        status = path.stat()
        header = os.pread(_kept_open(path, status.st_dev, status.st_ino), _WRITE_VERSION + 1, 0)
    except OSError:
        return False
    return header[_WRITE_VERSION:] > b"\2"


@lru_cache
def _kept_open(path: Path, _device: int, _inode: int) -> int:
    """Open a file to look at it, and leave it open: closing it would drop all locks that SQLite has on it."""
    return os.open(path, os.O_RDONLY | os.O_NONBLOCK)  # what has come to lie there may be a pipe
