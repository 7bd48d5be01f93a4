"""`autoconv tune`."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import click
from rich.console import Console
from rich.table import Table

from autoconv.cli.common import (
    PROBLEM_HELP,
    Target,
    device_option,
    json_option,
    milliseconds,
    print_json,
    progress_bar,
    target,
)
from autoconv.cost.prediction import floor_seconds
from autoconv.errors import FieldError
from autoconv.kernels.aten import ATEN
from autoconv.kernels.registry import kernel as kernel_called
from autoconv.lookup import open_user
from autoconv.problem import Problem
from autoconv.sweep.pool import WorkerPool

if TYPE_CHECKING:
    from autoconv.tuning.tuner import Tuned


@click.command(epilog=PROBLEM_HELP)
@click.argument("problems", nargs=-1, required=True, metavar="PROBLEM...")
@device_option
@click.option("--again", is_flag=True, help="Sweep even what the database has, all of it anew.")
@click.option(
    "--seconds", type=click.FloatRange(min=1), default=None, help="Bound on each problem's sweep, in seconds."
)
@json_option
def tune(problems: tuple[str, ...], device: str, again: bool, seconds: float | None, as_json: bool) -> None:
    """Find the best config of each PROBLEM and record it.

    Where the device is present its kernels are checked and timed. Where it is not, candidates are ranked by
    prediction, compiled for it, and checked in Triton's interpreter, and the winner is recorded as predicted.
    What any layer of the database has, of grade "exact" or "soft" and of a sweep that ended, is not swept
    again; where the device is present that must have been measured.
    Exit status 1: no candidate of some problem passed its check.
    """
    if seconds is not None and math.isnan(seconds):
        raise FieldError("tune", "seconds", seconds, "is no number of seconds", "give such as 60")
    parsed = [Problem.parse(text) for text in problems]
    at = target(device)
    open_user(at.settings).close()  # a database that cannot be written is an error here, before any work
    job = at.job(seconds or float("inf"))
    failed = False
    with WorkerPool() as pool:  # its workers, slow to start, serve every problem
        for problem in parsed:
            with progress_bar(str(problem)) as progress:
                tuned = at.tuner.tune(problem, job, again=again, pool=pool, progress=progress)
            fields = _fields(problem, at, tuned)
            failed = failed or tuned.found is None
            if as_json:
                print_json(fields)
            else:
                _print(fields)
    if failed:
        raise SystemExit(1)


def _fields(problem: Problem, at: Target, tuned: Tuned) -> dict[str, Any]:
    found, swept = tuned.found, tuned.swept
    config = found.config if found else None
    grid = kernel_called(config.kernel).grid(problem)(config.meta) if config and config != ATEN else None
    return {
        "problem": str(problem),
        "device": at.device.name,
        "provenance": found.provenance if found else None,
        "kernel": config.kernel if config else None,
        "config": config.to_json() if config else None,
        "grid": list(grid) if grid else None,
        "predicted_ms": milliseconds(found.predicted_us) if found else None,
        "measured_ms": milliseconds(found.measured_us) if found else None,
        "floor_ms": floor_seconds(problem, at.device) * 1e3,
        "swept": swept is not None,
        "candidates": swept.candidates if swept else 0,
        "compiled": swept.compiled if swept else 0,
        "seconds": swept.seconds if swept else 0.0,
    }


def _print(fields: dict[str, Any]) -> None:
    table = Table(title=f"{fields['problem']} on {fields['device']}", show_header=False, title_justify="left")
    how = f"a sweep of {fields['candidates']} candidates, {fields['compiled']} compiled"
    rows = {
        "kernel": fields["kernel"] or "none passed its check; torch serves this problem",
        "config": " ".join(f"{name}={value}" for name, value in (fields["config"] or {}).items()),
        "grid": " x ".join(str(axis) for axis in fields["grid"] or ()),
        "predicted": _ms(fields["predicted_ms"]),
        "measured": _ms(fields["measured_ms"]),
        "floor": _ms(fields["floor_ms"]),
        "from": f"{how}, {fields['seconds']:.1f} s" if fields["swept"] else "the database, no sweep",
    }
    for name, value in rows.items():
        table.add_row(name, value)
    Console().print(table)


def _ms(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g} ms"
