"""The files that lie beside a database under names of ours, and which of them are ours to touch."""

from __future__ import annotations

import itertools
import os
import stat
from collections.abc import Iterator
from pathlib import Path


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
