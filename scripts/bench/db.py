"""How the tuning database grows: the time and space of what is done with it, as one JSON object a size.

    python scripts/bench/db.py [TRIALS ...]

Each size (by default 10,000 and 100,000 trials; `make bench-db` adds a million) has a tenth as many problems,
one run of ten trials each, in three environments. Times are of one core, lookups in microseconds; a merge and
an import end with the winners derived. The files, 3 GB for a million, lie in the system's temporary folder.
"""

from __future__ import annotations

import itertools
import json
import os
import platform
import random
import sqlite3
import statistics
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from autoconv import lookup
from autoconv.config import Config
from autoconv.cost.version import predictor_of
from autoconv.device import find
from autoconv.environment import Environment
from autoconv.kernels.source import source_of
from autoconv.problem import Problem
from tuning_db import Layers, Trial, TuningDB, check, export_lines, import_lines, merge
from tuning_db.jsonl import head_text, sealed, trial_text
from tuning_db.records import RunRecord
from tuning_db.rows import trial_values

SIZES = (10_000, 100_000)
TRIALS_A_PROBLEM = 10
LOOKUPS = 2000
INSERTS = 200

T = TypeVar("T")
ENVIRONMENTS = [Environment.current(find(name), cuda_driver="570.86") for name in ("rtx4090", "l4", "l40s")]
CONFIGS = [
    Config("dense", {"BLOCK_CO": rows, "BLOCK_L": columns, "BLOCK_R": 32}, num_warps=warps, num_stages=3)
    for rows, columns, warps in itertools.product((32, 64, 128), (64, 128), (4, 8))
]


def problem(number: int) -> Problem:
    """Return the problem of that number: channels and lengths as audio models have them."""
    channels = (32, 64, 128, 256, 512)[number % 5]
    return Problem(
        1 + number // 5 % 16, channels, 2 * channels, 3, 1024 + number // 80, dilation=1 + number % 3
    )


def trials(rng: random.Random) -> list[Trial]:
    """Return what a sweep of that problem records: ten trials of which one failed, and a few samples each."""
    found = []
    for place, config in enumerate(rng.sample(CONFIGS, TRIALS_A_PROBLEM)):
        time_us = rng.uniform(50, 500)
        samples = tuple(round(rng.gauss(time_us, time_us / 100), 3) for _ in range(5))
        detail = {"registers": 128, "spills": 0, "shared": 24576, "bound": "dram", "default": place == 1}
        trial = Trial(config.document(), "ok", time_us, samples, max_err=1e-6, detail=detail)
        failed = Trial(config.document(), "resources", error="shared memory: too much")
        found.append(replace(trial if place else failed, source=source_of("dense") or ""))
    return found


def lines(count: int, first: int = 0) -> Iterator[str]:
    """Yield exported text of so many trials."""
    rng = random.Random(first)
    for number in range(first, first + count // TRIALS_A_PROBLEM):
        one, environment = lookup.records(problem(number), ENVIRONMENTS[number % 3])
        run = RunRecord(str(uuid.UUID(int=rng.getrandbits(128))), environment, "sweep", finished=True)
        head = head_text(environment.document, one, run)
        for trial in trials(rng):
            yield sealed(head, trial_text(trial_values(trial))) + "\n"


def seconds(work: Callable[[], object]) -> float:
    """Return how long `work` takes."""
    begun = time.perf_counter()
    work()
    return time.perf_counter() - begun


def microseconds(work: Callable[[T], object], subjects: Iterable[T]) -> dict[str, float]:
    """Return the median and the 99th percentile of the time that `work` takes for a subject."""
    times = sorted(1e6 * seconds(partial(work, one)) for one in subjects)
    return {"median": round(statistics.median(times), 1), "p99": round(times[int(0.99 * len(times))], 1)}


def _rate(count: int, taken: float) -> int:
    return round(count / taken)


def opened(path: Path) -> TuningDB:
    """Open a database with autoconv's columns."""
    return TuningDB.open(path, columns=lookup.COLUMNS, application=lookup.APPLICATION)


def imported(path: Path, text: Path, accept: Any = None) -> float:
    """Import `text` into a new file and return the seconds it took."""
    with opened(path) as db, text.open(encoding="utf-8") as source:
        return seconds(lambda: import_lines(db, source, accept))


def measure(count: int, folder: Path) -> dict[str, Any]:
    """Do all there is to do with a database of `count` trials."""
    text, path, other = folder / "trials.jsonl", folder / "tuning.db", folder / "other.db"
    with text.open("w", encoding="utf-8") as file:
        file.writelines(lines(count))
    found: dict[str, Any] = {"trials": count, "problems": count // TRIALS_A_PROBLEM}
    found["text_bytes"] = text.stat().st_size
    found["import_per_s"] = _rate(count, imported(path, text))
    found["file_bytes"] = path.stat().st_size
    rng = random.Random(1)
    numbers = [rng.randrange(found["problems"]) for _ in range(LOOKUPS)]
    with opened(path) as db:
        keys = [problem(number).key() for number in numbers]
        db.winners(keys[0])
        found["lookup_us"] = microseconds(db.winners, keys)
        layers = Layers([("user", db)], print)
        found_in = partial(lookup.find, layers, predictor_of=predictor_of)
        asked = [(problem(number), ENVIRONMENTS[number % 3]) for number in numbers]
        assert all(found_in(*one) is not None for one in asked[:10])
        found["find_us"] = microseconds(lambda one: found_in(*one), asked)
        new = [replace(problem(number), K=5) for number in range(INSERTS)]
        unknown, (here, *_) = zip(*(lookup.records(one, ENVIRONMENTS[0]) for one in new), strict=True)
        found["nearest_us"] = microseconds(db.nearest, unknown)
        sweeps = [(one, trials(rng)) for one in unknown]
        found["insert_sweep_us"] = microseconds(lambda one: db.record(here, *one, origin="bench"), sweeps)
        run = db.start(here, origin="bench")
        found["insert_trial_us"] = microseconds(lambda one: db.add(run, one[0], one[1][1]), sweeps)
        found["export_per_s"] = _rate(count, seconds(lambda: sum(1 for _ in export_lines(db))))
        begun = time.perf_counter()
        assert check(db).ok
        found["check_s"] = round(time.perf_counter() - begun, 2)
    with opened(other) as db:
        found["merge_per_s"] = _rate(count, seconds(lambda: merge(db, path)))
        if count <= SIZES[-1]:  # what follows grows no faster, and a million would take minutes
            found["merge_again_per_s"] = _rate(count, seconds(lambda: merge(db, path)))
    if count <= SIZES[-1]:
        found["import_legal_per_s"] = _rate(count, imported(folder / "legal.db", text, lookup.refusal))
    return found


def environment() -> dict[str, Any]:
    """Return what the figures hold for."""
    model = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    return {
        "python": platform.python_version(),
        "sqlite": sqlite3.sqlite_version,
        "platform": platform.platform(),
        "cpu": model[0].partition(": ")[2] if model else platform.processor(),
        "cores": os.cpu_count(),
    }


def main() -> None:
    """Measure each size that the command line names."""
    print(json.dumps({"environment": environment()}), flush=True)
    for count in [int(size) for size in sys.argv[1:]] or SIZES:
        with tempfile.TemporaryDirectory() as folder:
            print(json.dumps(measure(count, Path(folder))), flush=True)


if __name__ == "__main__":
    main()
