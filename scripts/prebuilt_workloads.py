"""Predicted rows of the packaged database for the layers of public models, for the installed Triton.

    python scripts/prebuilt_workloads.py [--device rtx4090] [--limit N] [--lanes N]

tuning_db/prebuilt/models.json lists the layers by model, with where each was seen and how often one pass
calls it. Of the sizes of a module shape a few are swept whose buckets hold all of them, each with the
shortest of shortlists. What is found is kept in build/prebuilt-DEVICE-tritonX.Y.db: a build that was
interrupted, or that --limit cut short, goes on from there. Of each swept problem the winner's trial alone is
written to tuning_db/prebuilt/DEVICE-tritonX.Y-workloads.jsonl at the end. What that text has at the start is
not swept again, so a build goes on in a new clone, too. Whenever a kernel's source or the cost model
changes, what is outdated is swept anew.
"""

from __future__ import annotations

import argparse
import json
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from queue import SimpleQueue
from typing import Any

from autoconv import device as devices
from autoconv import lookup, settings
from autoconv.cost.version import predictor_of
from autoconv.device import Device
from autoconv.environment import Environment
from autoconv.kernels.registry import supporting
from autoconv.kernels.source import source_of
from autoconv.lookup.buckets import module_shape, serves
from autoconv.lookup.published import MODELS
from autoconv.problem import Problem
from autoconv.settings import Settings
from autoconv.sweep.executor import Local, Request
from autoconv.sweep.pool import WorkerPool
from autoconv.sweep.sweep import Job, Swept
from autoconv.tuning.cover import cover
from autoconv.tuning.tuner import no_progress
from tuning_db import DamagedError, Layers, TuningDB, export_lines, import_lines
from tuning_db.ranking import best

ROOT = Path(__file__).resolve().parents[1]
TEXTS = ROOT / "tuning_db" / "prebuilt"
SHORTLIST = 4  # and the best of each kernel


def main() -> None:
    """Sweep what is left of the list, and write the text of all that is swept."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", default="rtx4090")
    parser.add_argument("--limit", type=int, default=None, help="problems to sweep at most")
    parser.add_argument("--lanes", type=int, default=2, help="problems to sweep at once, a core each")
    given = parser.parse_args()
    device = devices.find(given.device)
    environment = Environment.current(device)
    name = f"{device.name}-triton{environment.triton}"
    files = replace(
        settings.load(), database=ROOT / "build" / f"prebuilt-{name}.db", site_databases=(), override=None
    )
    text = TEXTS / f"{name}-workloads.jsonl"
    if text.exists():
        take_up(text, files)
    problems = [problem for problem in listed(MODELS) if supporting(problem)]  # the others are torch's
    begun = time.monotonic()
    done = sum(1 for _ in build(problems, device, environment, files, given.lanes, given.limit))
    left = len(unserved(problems, environment, files))
    seconds = time.monotonic() - begun
    print(f"{done} sweeps in {seconds:.0f} s; {left} problems of {len(problems)} left")
    text.write_text("".join(winning_lines(files, environment)), encoding="utf-8")
    print(f"{text.name}: {text.stat().st_size / 1e6:.2f} MB")


# --- what there is to sweep -----------------------------------------------------------------------


def listed(path: Path) -> list[Problem]:
    """Return every problem of a list, once, in the order of its text."""
    models = json.loads(path.read_text(encoding="utf-8"))
    return [
        Problem.parse(text) for text in sorted({text for one in models.values() for text in one["calls"]})
    ]


def take_up(text: Path, files: Settings) -> None:
    """Take over the winners that an earlier build wrote, maybe elsewhere.

    Raises:
        DamagedError: a line of the text is not as it was written.
    """
    with lookup.open_user(files) as database, text.open(encoding="utf-8") as lines:
        summary = import_lines(database, lines)
    if summary.quarantined:
        raise DamagedError(text, summary.reasons[0], "restore it, or remove it to sweep all anew")


def unserved(problems: Sequence[Problem], environment: Environment, files: Settings) -> list[Problem]:
    """Return the problems that lie in the bucket of none which was swept by this model, of these kernels."""
    swept: dict[tuple[object, ...], list[Problem]] = {}
    with lookup.open_user(files) as database:
        for problem in problems:
            if todays(database, problem, environment):
                swept.setdefault(module_shape(problem), []).append(problem)
    return [
        one for one in problems if not any(serves(tuned, one) for tuned in swept.get(module_shape(one), ()))
    ]


def todays(database: TuningDB, problem: Problem, environment: Environment) -> bool:
    """Return whether a sweep of `problem` tried the kernels of today, and the model of today ranked them."""
    hard = lookup.records(problem, environment)[1].hash
    noted = lookup.tried(problem, predictor_of, on_gpu=False)
    runs = database.runs(problem.key())
    return any(
        run.finished and run.environment.hash == hard and noted.items() <= run.info.items() for run in runs
    )


# --- sweeping -------------------------------------------------------------------------------------


def build(
    problems: Sequence[Problem],
    device: Device,
    environment: Environment,
    files: Settings,
    lanes: int = 1,
    limit: int | None = None,
    pool: Callable[[int], WorkerPool] = WorkerPool,
) -> Iterator[Swept]:
    """Sweep what covers the problems that are not served yet, at most `limit`, and yield each as it ends."""
    job = Job(device, environment, files.cache, on_gpu=False, shortlist=SHORTLIST, why="packaged")
    wanted = cover(unserved(problems, environment, files))[:limit]
    with lookup.open_user(files) as database, ThreadPoolExecutor(lanes) as threads, ExitStack() as stack:
        stack.callback(threads.shutdown, wait=False, cancel_futures=True)
        pools = SimpleQueue[WorkerPool]()
        for _ in range(lanes):
            pools.put(stack.enter_context(pool(1)))

        def swept(problem: Problem) -> Swept:
            workers = pools.get()
            try:
                return Local(workers).sweep(Request(problem, job), database, no_progress)
            finally:
                pools.put(workers)

        yield from threads.map(swept, wanted)


def winning_lines(files: Settings, environment: Environment) -> Iterator[str]:
    """Yield, as exported, the winner's trial of each problem that was swept, of today's kernels and model.

    One of a problem: more than one sweep may have tried it.
    """
    with lookup.open_user(files) as database:
        winners: dict[str, tuple[Any, str]] = {}
        for text in export_lines(database):
            line = json.loads(text)
            key, trial = line["problem"]["key"], line["trial"]
            if key not in winners:
                winners[key] = _winner(database, key, environment)
            if winners[key] == (trial["config"], trial["source"]) and trial["outcome"] == "ok":
                winners[key] = None, ""
                yield text


def _winner(database: TuningDB, key: str, environment: Environment) -> tuple[Any, str]:
    here = lookup.records(Problem.from_key(key), environment)[1].hash
    found = best(
        one
        for one in database.winners(key)
        if one.environment.hash == here
        and one.source == source_of(str(one.config["kernel"]))
        and one.predictor == predictor_of(str(one.config["kernel"]))
    )
    return (None, "") if found is None else (dict(found.config), found.source)


# --- what the packaged database serves ------------------------------------------------------------


def coverage(device: str = "rtx4090", path: Path = MODELS) -> str:
    """Return a table in Markdown: how many of each model's problems the packaged database serves, and how."""
    environment = Environment.current(devices.find(device))
    rows = [
        "| model | problems | exact | bucket | torch's | missing |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    total: Counter[str] = Counter()
    with lookup.open_file(lookup.PREBUILT, immutable=True) as database:
        shelf = lookup.Shelf(Layers([("prebuilt", database)], lookup.warn_once), predictor_of)
        for model, told in sorted(json.loads(path.read_text(encoding="utf-8")).items()):
            counts = Counter(_grade(shelf, Problem.parse(text), environment) for text in told["calls"])
            total += counts
            rows.append(_row(model, counts))
    return "\n".join([*rows, _row("all", total)])


def _grade(shelf: lookup.Shelf, problem: Problem, environment: Environment) -> str:
    found = shelf.known(problem, environment, lookup.HITS, ("measured", "predicted"))
    if found is not None:
        return "bucket" if found.grade == "bucket" else "exact"
    return "missing" if supporting(problem) else "torch's"


def _row(name: str, counts: Counter[str]) -> str:
    kinds = ("exact", "bucket", "torch's", "missing")
    return f"| {name} | {sum(counts.values())} | {' | '.join(str(counts[kind]) for kind in kinds)} |"


if __name__ == "__main__":
    main()
