"""`autoconv tune`."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import click
from rich.console import Console
from rich.table import Table

from autoconv import settings
from autoconv.cli.common import (
    PROBLEM_HELP,
    Target,
    device_option,
    json_option,
    milliseconds,
    note,
    print_json,
    progress_bar,
    target,
)
from autoconv.cli.missed import missed_of
from autoconv.cost.prediction import floor_seconds
from autoconv.errors import DeviceError, FieldError, ProblemError
from autoconv.kernels.aten import ATEN
from autoconv.kernels.registry import kernel as kernel_called
from autoconv.lookup import HITS, OWN, open_user
from autoconv.problem import Problem
from autoconv.sweep.pool import WorkerPool
from autoconv.tuning.accuracy import model_error_pct
from tuning_db import TuningDBError

if TYPE_CHECKING:
    from autoconv.tuning.backlog import MissedProblem
    from autoconv.tuning.tuner import Tuned


@dataclass(frozen=True)
class Wanted:
    """A problem to tune, and where; with what was missed of it, to be forgotten then."""

    problem: Problem
    at: Target
    missed: MissedProblem | None = None


@click.command(epilog=PROBLEM_HELP)
@click.argument("problems", nargs=-1, metavar="PROBLEM...")
@device_option
@click.option("--missed", is_flag=True, help="Tune what `autoconv db missed` lists, in its order.")
@click.option("--again", is_flag=True, help="Sweep even what the database has, all of it anew.")
@click.option(
    "--revalidate", is_flag=True, help="After an upgrade: try the old best few, sweep where they do not hold."
)
@click.option(
    "--seconds", type=click.FloatRange(min=1), default=None, help="Bound on each problem's sweep, in seconds."
)
@json_option
def tune(
    problems: tuple[str, ...],
    device: str,
    missed: bool,
    again: bool,
    revalidate: bool,
    seconds: float | None,
    as_json: bool,
) -> None:
    """Find the best config of each PROBLEM and record it.

    Where the device is present its kernels are checked and timed. Where it is not, candidates are ranked by
    prediction, compiled for it, and checked in Triton's interpreter, and the winner is recorded as predicted.
    What any layer of the database has, of grade "exact" or "soft" and of a sweep that ended, is not swept
    again; where the device is present that must have been measured.
    Exit status 1: no candidate of some problem passed its check.

    With --missed the problems are those that calls asked for and did not find; each is forgotten when it is
    tuned. They are those of the GPU here, or, with no GPU, of every device that asked, each for its own.
    """
    if missed == bool(problems):
        raise click.UsageError("name each PROBLEM to tune, or give --missed; one of the two")
    if again and revalidate:
        raise click.UsageError(
            "--again tries all anew, --revalidate as little as it can; give one of the two"
        )
    if seconds is not None and math.isnan(seconds):
        raise FieldError("tune", "seconds", seconds, "is not a number of seconds", "give such as 60")
    wanted = _missed(device) if missed else _named(problems, device)
    failed = False
    with WorkerPool() as pool:  # its workers, slow to start, serve every problem
        for one in wanted:
            tuned = _tuned(one, seconds or float("inf"), pool, again=again, revalidate=revalidate)
            if tuned is None:
                continue
            failed = failed or tuned.found is None
            fields = _fields(one.problem, one.at, tuned)
            if as_json:
                print_json(fields)
            else:
                _print(fields)
    if failed:
        raise SystemExit(1)


def _named(problems: tuple[str, ...], device: str) -> list[Wanted]:
    parsed = [Problem.parse(text) for text in problems]
    at = target(device)
    with open_user(at.settings) as database:
        database.check_writable()  # an error here, before any work
    return [Wanted(problem, at) for problem in parsed]


def _missed(device: str) -> list[Wanted]:
    """Return what the user's database notes as missed by the devices that can be tuned for here."""
    from autoconv import gpu

    here = target(device) if device != "auto" or gpu.present() else None
    with open_user(settings.load(), note) as database:
        database.check_writable()
        found = missed_of(database, here.device.name if here else None)
    targets = {one.device: _target(one.device) for one in found} if here is None else {here.device.name: here}
    wanted = [(one, targets[one.device]) for one in found]
    tunable = [
        Wanted(one.problem, at, one) for one, at in wanted if at is not None and one.is_of(at.environment)
    ]
    if len(tunable) < len(found):
        note(f"{len(found) - len(tunable)} problems were missed by devices that are tuned for elsewhere")
    if not tunable:
        note("nothing was missed that can be tuned here")
    return tunable


def _target(name: str) -> Target | None:
    try:
        return target(name)
    except DeviceError as error:
        note(str(error))
        return None


def _tuned(one: Wanted, seconds: float, pool: WorkerPool, *, again: bool, revalidate: bool) -> Tuned | None:
    """Tune one problem; return None where no kernel runs one that was missed."""
    try:
        with progress_bar(str(one.problem)) as progress:
            tuned = one.at.tuner.tune(
                one.problem,
                one.at.job(seconds),
                again=again,
                revalidate=revalidate,
                content=HITS if one.missed else OWN,
                pool=pool,
                progress=progress,
            )
    except ProblemError as error:
        if one.missed is None:
            raise
        note(f"torch serves {one.problem}: {error}")
        _forget(one)
        return None
    if tuned.found is not None and tuned.found.grade in HITS:
        _forget(one)
    return tuned


def _forget(one: Wanted) -> None:
    if one.missed is None:
        return
    try:
        with open_user(one.at.settings, note) as database:
            database.forget_misses(one.missed.keys)
    except TuningDBError as error:
        note(f"it stays among the missed: {error}")


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
        "model_error_pct": model_error_pct(config) if config else None,
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
