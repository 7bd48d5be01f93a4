"""Single flight: of all that miss on one key, one works and the others wait a bounded time."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from .names import real_path
from .records import digest


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
