"""Whether the machine ran out of memory, where a process cannot say so itself."""

from __future__ import annotations

from pathlib import Path

COUNTERS = Path("/proc/vmstat")


def oom_kills() -> int:
    """Return how many processes the kernel has killed for memory since it was started; 0 if it cannot say."""
    try:
        counters = dict(line.split() for line in COUNTERS.read_text().splitlines())
    except OSError:
        return 0
    return int(counters.get("oom_kill", 0))  # since Linux 4.13
