"""How much a sweep tries, and how long all of them may take."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass

from autoconv.errors import FieldError, suggestion
from autoconv.sweep.sweep import SHORTLIST


@dataclass(frozen=True)
class Effort:
    """How many candidates of a problem are compiled: those of the least estimate, and each kernel's best."""

    shortlist: int


EFFORTS: Mapping[str, Effort] = {
    "quick": Effort(shortlist=4),
    "normal": Effort(SHORTLIST),
    "exhaustive": Effort(shortlist=2**31),  # of every tile the two of the best warps and stages
}
"""By name, the least first."""

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_BUDGET = re.compile(r"(\d{1,9}(?:\.\d{1,9})?)\s*([smhd]?)")


def effort_called(name: str) -> Effort:
    """Return the effort of that name.

    Raises:
        FieldError: there is none.
    """
    if name not in EFFORTS:
        remedy = f"give {', '.join(EFFORTS)}"
        raise FieldError("tune", "effort", name, f"is not an effort{suggestion(name, EFFORTS)}", remedy)
    return EFFORTS[name]


def seconds_of(budget: float | str | None) -> float:
    """Return a budget in seconds: a number of them, or text such as "90s", "30m", "8h" or "1.5d".

    None has no end.

    Raises:
        FieldError: it is none of these, or not above 0.

    >>> seconds_of("30m")
    1800.0
    """
    if budget is None:
        return math.inf
    found = _BUDGET.fullmatch(budget.strip()) if isinstance(budget, str) else None
    seconds = float(found[1]) * _UNITS[found[2] or "s"] if found else budget
    if isinstance(seconds, bool) or not isinstance(seconds, (int, float)) or not seconds > 0:
        reason = "is not a time above 0"
        raise FieldError("tune", "budget", budget, reason, 'give seconds, or such as "30m" or "8h"')
    return float(seconds)
