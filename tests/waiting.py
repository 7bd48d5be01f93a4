"""Whether a process lives, and waiting for what another one does, for tests."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any


def stat(pid: int) -> list[str]:
    """The state of a process, its parent and its group; nothing where there is no such process."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return []
    return text.rpartition(")")[2].split()[:3]


def is_alive(pid: int) -> bool:
    return stat(pid)[:1] not in ([], ["Z"], ["X"])


def wait_for(condition: Callable[[], Any]) -> Any:
    """Wait until something is so; pytest's own limit ends a wait in vain."""
    while not (found := condition()):
        time.sleep(0.01)
    return found
