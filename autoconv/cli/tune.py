"""`autoconv tune`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import AbstractContextManager, closing, nullcontext
from typing import TYPE_CHECKING, Any

import click

from autoconv.cli.common import (
    PROBLEM_HELP,
    devices_option,
    json_option,
    milliseconds,
    note,
    print_json,
)
from autoconv.cli.results import print_summary, print_tuned
from autoconv.cli.wanted import Wanted, is_file, missed_ones, named
from autoconv.cost.prediction import floor_seconds
from autoconv.errors import FieldError, ProblemError
from autoconv.kernels.aten import ATEN
from autoconv.kernels.registry import kernel as kernel_called
from autoconv.lookup import HITS, open_user
from autoconv.sweep.outcomes import GivenUp, Unavailable
from autoconv.sweep.pool import WorkerPool
from autoconv.tuning.accuracy import model_error_pct
from tuning_db import TuningDBError

if TYPE_CHECKING:
    from autoconv.sweep.cluster import Cluster
    from autoconv.sweep.sweep import Progress
    from autoconv.tuning.scheduler import Ended, Order
    from autoconv.tuning.tuner import Tuned


IN_FULL = 5  # problems whose trials are printed; more have the summary alone


@click.command(epilog=PROBLEM_HELP)
@click.argument("problems", nargs=-1, metavar="[PROBLEM|FILE]...")
@devices_option
@click.option("--missed", is_flag=True, help="Tune what `autoconv db missed` lists, in its order.")
@click.option("--buckets", is_flag=True, help="Tune a size for each bucket, not each size.")
@click.option("--again", is_flag=True, help="Sweep even what the database has, all of it anew.")
@click.option(
    "--revalidate", is_flag=True, help="After an upgrade: try the old best few, sweep where they do not hold."
)
@click.option(
    "--effort",
    default="normal",
    show_default=True,
    metavar="NAME",
    help="How many candidates to compile: quick (4), normal (16) or exhaustive (two of every tile).",
)
@click.option(
    "--seconds", type=click.FloatRange(min=1), default=None, help="Bound on each problem's sweep, in seconds."
)
@click.option("--budget", metavar="TIME", help="Bound on all of it, such as 90s, 30m or 8h.")
@click.option(
    "--executor",
    type=click.Choice(["local", "ray"]),
    default="local",
    show_default=True,
    help="Where to sweep: on this machine, or on a Ray cluster.",
)
@click.option(
    "--address",
    metavar="HOST:PORT",
    help="The Ray cluster's; by default that of RAY_ADDRESS, or else one is started on this machine.",
)
@json_option
def tune(
    problems: tuple[str, ...],
    devices: tuple[str, ...],
    missed: bool,
    buckets: bool,
    again: bool,
    revalidate: bool,
    effort: str,
    seconds: float | None,
    budget: str | None,
    executor: str,
    address: str | None,
    as_json: bool,
) -> None:
    """Find the best config of each problem and record it.

    Where the device is present its kernels are checked and timed. Where it is not, candidates are ranked by
    prediction, compiled for it, and checked in Triton's interpreter, and the winner is recorded as predicted.
    What any layer of the database has, of grade "exact" or "soft" and of a sweep that ended, is not swept
    again; where the device is present that must have been measured.

    FILE has a problem a line, in the text form or as JSON, or is a JSON array of them; - is standard input.
    `autoconv capture` writes such a file. In the text form N and L may be ranges, as in L=200..4000: a few
    sizes are tuned, whose buckets hold all of it.

    The problem with the most time in it comes first, and without a GPU as many are tuned at once as there are
    cores. Ctrl-C and the end of the budget lose nothing that is finished: the same call goes on from there.
    Exit status 1: no candidate of some problem passed its check, a result could not be recorded, or some
    are left over, by the budget or because another process was sweeping them.

    On a Ray cluster as many are tuned at once as it has GPUs, or else cores, and this process alone writes
    what its nodes find. A problem in whose sweeps three nodes were lost is given up, with exit status 1.

    With --missed the problems are those that calls asked for and did not find; each is forgotten when it is
    tuned. They are those of the GPU here, or, with no GPU, of every device that asked, each for its own.
    """
    from autoconv.tuning.effort import effort_called, seconds_of

    if missed == bool(problems):
        raise click.UsageError("name each PROBLEM or FILE to tune, or give --missed; one of the two")
    if seconds is not None and math.isnan(seconds):
        raise FieldError("tune", "seconds", seconds, "is not a number of seconds", "give such as 60")
    if again and revalidate:
        raise click.UsageError(
            "--again tries all anew, --revalidate as little as it can; give one of the two"
        )
    if address is not None and executor != "ray":
        raise click.UsageError("--address is a Ray cluster's; give --executor ray with it")
    allowed, tried = seconds_of(budget), effort_called(effort)
    wanted = missed_ones(devices) if missed else named(problems, devices, buckets)
    told = _Told(wanted, as_json, strict=not missed and not any(map(is_file, problems)))
    orders = [one.order(seconds or math.inf, tried) for one in wanted]
    how = {"again": again, "revalidate": revalidate}
    try:
        with _cluster(address) if executor == "ray" and wanted else nullcontext() as cluster:
            _tune(wanted, orders, how, allowed, told, cluster)
    except (KeyboardInterrupt, Unavailable):
        note(f"{told.so_far()}; the same command goes on from there")
        raise
    left = len(wanted) - told.ended - told.pending
    if len(wanted) > 1 and not as_json:
        print_summary(told.rows)
    if told.unrecorded and len(wanted) > 1:
        note(told.so_far())
    if told.pending:
        others = f"{told.pending} of {len(wanted)} are being swept by another process"
        note(f"{others}; the same command tells what it found, or goes on in its place")
    if left:
        note(f"the budget left {left} of {len(wanted)} over; the same command goes on from there")
    if told.failed or told.unrecorded or told.pending or left:
        raise SystemExit(1)


def _cluster(address: str | None) -> AbstractContextManager[Cluster]:
    try:
        from autoconv.sweep.cluster import Cluster

        return Cluster(address)
    except ModuleNotFoundError as error:
        if error.name != "ray":
            raise
        reason, remedy = "needs Ray, which is not installed", "pip install 'autoconv[ray]'"
        raise FieldError("tune", "--executor", "ray", reason, remedy) from None
    except ConnectionError as error:
        remedy = "give that of a cluster that runs, as `ray status` tells it"
        raise FieldError("tune", "--address", address, f"no Ray cluster there ({error})", remedy) from None


def _tune(
    wanted: Sequence[Wanted],
    orders: Sequence[Order],
    how: dict[str, Any],
    seconds: float,
    told: _Told,
    cluster: Cluster | None,
) -> None:
    from autoconv.cli.bars import tuning_bar
    from autoconv.tuning.scheduler import tune_all

    tuners = {one.at.device.name: one.at.tuner for one in wanted}

    def tune_one(order: Order, pool: WorkerPool, progress: Progress) -> Tuned:
        tuner = tuners[order.job.device.name]
        where: dict[str, Any] = {"pool": pool, "executor": cluster, "progress": progress}
        return tuner.tune(order.problem, order.job, content=order.content, **how, **where)

    elsewhere: dict[str, Any] = {"lanes": cluster.lanes, "stop": cluster.close} if cluster else {}
    with (
        tuning_bar("tune") as show,
        closing(tune_all(orders, tune_one, seconds=seconds, show=show, **elsewhere)) as results,
    ):
        for ended in results:
            told.take(ended)


class _Told:
    """Tells of each problem as it ends."""

    def __init__(self, wanted: Sequence[Wanted], as_json: bool, *, strict: bool) -> None:
        """Raise, where `strict`, the error of a problem that no kernel runs."""
        self._wanted = {one.key: one for one in wanted}
        self._as_json = as_json
        self._strict = strict
        self.rows: list[dict[str, Any]] = []
        self.ended = 0
        self.pending = 0  # that another process sweeps
        self.unrecorded = 0  # of those that ended
        self.failed = False

    def so_far(self) -> str:
        """Say how many ended, and whether all of them are recorded."""
        ended = f"{self.ended} of {len(self._wanted)} ended"
        if self.unrecorded:
            return f"{ended}, {self.unrecorded} of them not recorded"
        return f"{ended} and are recorded"

    def take(self, ended: Ended) -> None:
        """Tell of one, and forget that it was missed where its result is recorded."""
        order, found = ended.order, ended.tuned.found if ended.tuned else None
        one = self._wanted[order.problem, order.job.device.name]
        if ended.tuned is not None and ended.tuned.pending:
            self.pending += 1
            return
        if isinstance(ended.error, GivenUp):
            note(f"{one.problem} is given up: {ended.error}")
            self.ended += 1
            self.unrecorded += 1
            return
        if ended.error is not None and (self._strict or not isinstance(ended.error, ProblemError)):
            raise ended.error
        self.ended += 1
        if ended.error is not None:
            note(f"torch serves {one.problem}: {ended.error}")
        recorded = ended.tuned is None or _recorded(ended.tuned)
        self.unrecorded += not recorded
        if ended.error is not None or (recorded and found is not None and found.grade in HITS):
            _forget(one)
        if ended.tuned is None:
            return
        self.failed = self.failed or found is None
        fields = _fields(one, ended.tuned)
        self.rows.append(fields)
        if self._as_json:
            print_json(fields)
        elif len(self._wanted) <= IN_FULL:
            print_tuned(fields, ended.tuned.swept.trials if ended.tuned.swept else ())


def _recorded(tuned: Tuned) -> bool:
    """Whether a file has the result, not this process alone."""
    found, swept = tuned.found, tuned.swept
    return (found is None or found.layer != "memory") and (swept is None or swept.recorded)


def _forget(one: Wanted) -> None:
    if one.missed is None:
        return
    try:
        with open_user(one.at.settings, note) as database:
            database.forget_misses(one.missed.keys)
    except TuningDBError as error:
        note(f"it stays among the missed: {error}")


def _fields(one: Wanted, tuned: Tuned) -> dict[str, Any]:
    found, swept = tuned.found, tuned.swept
    config = found.config if found else None
    grid = kernel_called(config.kernel).grid(one.problem)(config.meta) if config and config != ATEN else None
    return {
        "problem": str(one.problem),
        "device": one.at.device.name,
        "provenance": found.provenance if found else None,
        "kernel": config.kernel if config else None,
        "config": config.to_json() if config else None,
        "grid": list(grid) if grid else None,
        "predicted_ms": milliseconds(found.predicted_us) if found else None,
        "measured_ms": milliseconds(found.measured_us) if found else None,
        "contended_ms": milliseconds(found.contended_us) if found else None,
        "floor_ms": floor_seconds(one.problem, one.at.device) * 1e3,
        "model_error_pct": model_error_pct(config) if config else None,
        "swept": swept is not None,
        "candidates": swept.candidates if swept else 0,
        "compiled": swept.compiled if swept else 0,
        "seconds": swept.seconds if swept else 0.0,
    }
