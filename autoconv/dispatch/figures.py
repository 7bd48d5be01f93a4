"""What a dispatcher counts; plain values, for who reads them loads no kernel for it."""

from __future__ import annotations

from collections import Counter
from typing import NamedTuple


class Served(NamedTuple):
    """What serves a plan's calls: an entry's kernel, or torch, and why."""

    grade: str = "none"  # of the entry, as lookup has them
    layer: str = "none"
    why: str = ""  # torch serves; "" where a kernel does

    @property
    def by(self) -> str:
        """Return what serves, in a word: torch, or the grade of an entry."""
        return "torch" if self.why else self.grade


class Figures(NamedTuple):
    """What a dispatcher has done so far."""

    calls: Counter[Served]
    misses: int = 0  # plans that found no entry when they were made
    sweeps: int = 0
    plans: int = 0  # kept now
    evicted: int = 0  # of the plans made
