"""The files that lie beside a database: which are ours to touch, backups, and locks to take turns with."""

from __future__ import annotations

import itertools
import os
import shutil
import sqlite3
import stat
import warnings
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from .records import digest


def real_path(path: Path | str) -> Path:
    """Return where the file is that `path` leads to: one answer, however many links and spellings it has."""
    return Path(os.path.realpath(path))


def is_ours(found: Path, database: Path) -> bool:
    """Return whether `found`, no link, is a regular file of the database's owner, or of this process's."""
    try:
        status = found.lstat()
        owners = {os.geteuid(), database.stat().st_uid}
    except OSError:
        return False
    return stat.S_ISREG(status.st_mode) and status.st_uid in owners


def in_the_way(name: Path, database: Path) -> bool:
    """Return whether something lies under `name` that is not ours."""
    return os.path.lexists(name) and not is_ours(name, database)


def aside_names(database: Path) -> Iterator[Path]:
    """Yield the names under which damaged files are kept, without end."""
    return (database.with_name(f"{database.name}.damaged-{number}") for number in itertools.count(1))


def suffixed(path: Path, suffix: str) -> Path:
    """Return the name of the file that SQLite keeps beside `path`."""
    return path.with_name(path.name + suffix)


def backup_path(path: Path, version: int) -> Path:
    """Return where a file of an older version is kept when it is upgraded."""
    return path.with_name(f"{path.name}.v{version}.backup")


def _backup_names(path: Path, version: int) -> Iterator[tuple[Path, Path]]:
    """Yield names for a backup, and for it until it is finished."""
    target = backup_path(path, version)
    for number in itertools.count(2):
        yield target, suffixed(target, ".part")
        target = suffixed(backup_path(path, version), f"-{number}")


def back_up(path: Path, version: int) -> None:
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


def _warn(message: str) -> None:
    warnings.warn(message, RuntimeWarning, stacklevel=2)


@contextmanager
def single_flight(
    database: Path | str, key: str, timeout: float, warn: Callable[[str], None] = _warn
) -> Iterator[bool]:
    """Hold the flight for `key` beside `database` during the block, if it is free within `timeout` seconds.

    The lock lies beside the file that `database` leads to, so all its names, links too, mean one flight.
    Yields True to the one that holds it, which should look again before it works: the previous holder may
    have done the work. Yields False where somebody else still holds it after `timeout`. The lock is the
    kernel's (flock), so it ends with its process, however that dies; it does not exclude other hosts of a
    network filesystem. Where no lock can be had at all (a read-only folder, no lock support) the block runs
    unguarded, as True, after a warning: work done twice is better than work not done.
    """
    folder = Path(f"{real_path(database)}.locks")
    # Not above: it brings asyncio along, and who only reads does without.
    from filelock import FileLock, Timeout

    lock: FileLock | None = None
    held = True
    try:
        folder.mkdir(parents=True, exist_ok=True)
        # A soft lock would outlive a killed holder, so it must never stand in for flock.
        lock = FileLock(folder / f"{digest(key)[:32]}.lock", fallback_to_soft=False)
        lock.acquire(timeout=timeout)
    except Timeout:
        lock, held = None, False
    except OSError as error:
        lock = None
        warn(f"no lock in {folder} ({error}); another process may do the same work")
    try:
        yield held
    finally:
        if lock is not None:
            lock.release()
