"""What `autoconv tune` prints for people: what it found, what it tried, and of several problems a summary."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from autoconv.cli.listing import print_tried
from autoconv.cli.tables import ms, numbers, percent, print_facts, print_table, spaced, times
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
    """Print one table of several problems that were tuned, in their order."""
    columns = ("problem", "device", "kernel", "config", "predicted", "measured", "of floor", "from")
    print_table(f"{len(rows)} problems", columns, map(_cells, rows))


def _cells(fields: Mapping[str, Any]) -> tuple[str, ...]:
    time = fields["measured_ms"] or fields["predicted_ms"]
    return (
        spaced(fields["problem"]),
        fields["device"],
        fields["kernel"] or "torch",
        numbers(fields["config"]) if fields["kernel"] not in (None, "aten") else "torch's own",
        ms(fields["predicted_ms"]),
        ms(fields["measured_ms"]),
        percent(100 * fields["floor_ms"] / time if time else None),
        f"{fields['seconds']:.1f} s" if fields["swept"] else "the database",
    )
