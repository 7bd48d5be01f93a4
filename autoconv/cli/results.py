"""What `autoconv tune` prints for people: what it found, what it tried, and of several problems a summary."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from autoconv.cli.listing import print_rows, print_tried
from autoconv.cli.tables import ms, numbers, percent, print_facts, spaced, times
from tuning_db import Trial

SHOWN = 10  # of what was tried; `autoconv db show` has all of it


def print_tuned(fields: Mapping[str, Any], trials: Sequence[Trial]) -> None:
    """Print what serves a problem from now on, and what was tried, the best first.

    Args:
        fields: As `autoconv tune --json` prints them.
        trials: Of the sweep; none where there was none.
    """
    from autoconv.lookup.listing import placed

    how = f"a sweep of {fields['candidates']} candidates, {fields['compiled']} compiled"
    facts = {
        "kernel": fields["kernel"] or "none passed its check; torch serves this problem",
        "config": " ".join(f"{name}={value}" for name, value in (fields["config"] or {}).items()),
        "grid": " x ".join(str(axis) for axis in fields["grid"] or ()),
        **times(fields),
        "from": f"{how}, {fields['seconds']:.1f} s" if fields["swept"] else "the database, no sweep",
    }
    print_facts(f"{fields['problem']} on {fields['device']}", facts)
    if trials:
        print_tried("", placed(trials), SHOWN)


def print_summary(rows: Sequence[Mapping[str, Any]]) -> None:
    """Print one table of several problems that were tuned, in their order; nothing where there is none."""
    if rows:
        print_rows(f"{len(rows)} problems", [_cells(row) for row in rows])


def _cells(fields: Mapping[str, Any]) -> dict[str, str]:
    time = fields["measured_ms"] or fields["contended_ms"] or fields["predicted_ms"]
    return {
        "problem": spaced(fields["problem"]),
        "device": fields["device"],
        "kernel": fields["kernel"] or "torch",
        "config": numbers(fields["config"]) if fields["kernel"] not in (None, "aten") else "torch's own",
        "predicted": ms(fields["predicted_ms"]),
        "measured": ms(fields["measured_ms"]),
        "contended": ms(fields["contended_ms"]),
        "of floor": percent(100 * fields["floor_ms"] / time if time else None),
        "from": f"{fields['seconds']:.1f} s" if fields["swept"] else "the database",
    }
