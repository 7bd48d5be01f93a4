"""The folders that compiling writes to: Triton's cache, which lies in ours, and that of temporary files."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from autoconv import settings

_PROBE_BYTES = 1 << 20  # no cubin is larger


def triton_cache() -> Path:
    """Return the folder where Triton keeps what it compiles for us: its own may lie where none can write."""
    return settings.load().cache / "triton"


@contextmanager
def compiling() -> Iterator[None]:
    """Have Triton use that folder during the block, as worker processes do all along.

    An environment variable is the one way that every version of Triton reads anew for each kernel.
    """
    with settings.environment(TRITON_CACHE_DIR=str(triton_cache())):
        yield


def trouble() -> str | None:
    """Return what keeps every kernel from being compiled on this machine, and the remedy, or None."""
    cache = triton_cache()
    why = unwritable(cache)
    if why:
        return f"{cache} cannot be written ({why}); set AUTOCONV_CACHE to a folder that can"
    why = unwritable(None)
    return why and f"temporary files cannot be written ({why}); set TMPDIR to a folder that takes them"


def unwritable(folder: Path | None) -> str | None:
    """Return why `folder`, made where it is missing, takes no file, or None; the temporary one if None."""
    try:
        if folder:
            folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as probe:
            probe.write(bytes(_PROBE_BYTES))
    except OSError as error:
        return error.strerror
    return None
