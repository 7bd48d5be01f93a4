"""A file that a command writes: all of it, or as it was before."""

from __future__ import annotations

import os
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TextIO

import click


@contextmanager
def written(path: Path) -> Iterator[TextIO]:
    """Give a file to write; what it holds when the block ends is then, at once, at `path`.

    A link is followed, and a file that was there keeps its mode and, if it may be, its owner. What is there
    and is not a regular file, such as a pipe or a terminal, is written to as it is.

    Raises:
        click.BadParameter: it cannot be opened.
        click.ClickException: writing failed; what was there is there still.
    """
    path = path.absolute()  # the block may go elsewhere
    try:
        file, part = _begun(path)
    except OSError as error:
        raise click.BadParameter(f"it cannot be written ({error.strerror})", param_hint="--output") from None
    try:
        with file:
            yield file
            if part is not None:
                file.flush()
                os.fsync(file.fileno())
        if part is not None:
            part.replace(os.path.realpath(path))
            part = None
    except BrokenPipeError:
        raise  # who reads has had enough; click ends the program quietly
    except OSError as error:
        raise click.ClickException(f"{path}: it could not be written ({error.strerror})") from None
    finally:
        if part is not None:
            part.unlink(missing_ok=True)


def _begun(path: Path) -> tuple[TextIO, Path | None]:
    """Open what to write to; return it, and its path where it must be moved to its place in the end."""
    before: os.stat_result | None = None
    with suppress(FileNotFoundError):
        before = path.stat()
    if before is not None and not stat.S_ISREG(before.st_mode):
        return path.open("w", encoding="utf-8", newline="\n"), None
    if before is not None and not os.access(path, os.W_OK):
        raise PermissionError(None, "Permission denied")
    target = Path(os.path.realpath(path))
    descriptor, part = tempfile.mkstemp(prefix=f".{target.name[:100]}.", suffix=".part", dir=target.parent)
    try:
        _take_after(descriptor, before)
    except OSError:
        os.close(descriptor)
        Path(part).unlink()
        raise
    return os.fdopen(descriptor, "w", encoding="utf-8", newline="\n"), Path(part)


def _take_after(descriptor: int, before: os.stat_result | None) -> None:
    """Give a new file the owner and the mode of the one before, or else those of any new file."""
    if before is None:
        mask = os.umask(0)
        os.umask(mask)
        os.fchmod(descriptor, 0o666 & ~mask)
        return
    for owner in (before.st_uid, -1):
        with suppress(PermissionError):  # who is not root may give it to a group of their own at most
            os.fchown(descriptor, owner, before.st_gid)
            break
    os.fchmod(descriptor, stat.S_IMODE(before.st_mode))
