"""Text to a packaged database: compact, with a SHA-256 beside it, the same bytes each time."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from pathlib import Path

from ..errors import DamagedError
from ..packing import packing
from ..transfer import import_lines


def build(
    text_files: Iterable[Path | str], path: Path | str, columns: Mapping[str, type], *, application: str = ""
) -> int:
    """Build the database at `path` from exported text, replacing it, and return its number of trials.

    Beside it goes `<path>.sha256`, in the form `sha256sum --check` reads. The same text gives the same bytes.

    Raises:
        OSError: a file cannot be read or written.
        TuningDBError: a line of the text is damaged or contradicts another.
    """
    path = Path(path)
    trials = 0
    with packing(path, columns, application) as db:
        for text_file in sorted(Path(name) for name in text_files):
            with text_file.open(encoding="utf-8") as lines:
                summary = import_lines(db, lines)
            if summary.quarantined:
                raise DamagedError(text_file, summary.reasons[0], "export it again")
            trials += summary.inserted
    _sidecar(path).write_text(f"{_sha256(path)}  {path.name}\n", encoding="ascii")
    return trials


def is_intact(path: Path | str) -> bool:
    """Return whether a packaged database still has the SHA-256 noted beside it.

    Only for files nobody writes: reading an SQLite file that the process has open drops its locks.

    Raises:
        OSError: one of the two cannot be read.
    """
    path = Path(path)
    return _sidecar(path).read_text(encoding="ascii").split()[0] == _sha256(path)


def _sidecar(path: Path) -> Path:
    return path.with_name(path.name + ".sha256")


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
