"""How many sweeps the lengths of a layer lead to, and what those not swept lose, as one JSON object.

    python scripts/bench/buckets.py [PROBLEM] [--workloads FILE] [--shapes 30] [--lengths 1000] [--losses 100]

Lengths are drawn at random from 200 to 4,000 and asked for one after the other. One that nothing serves is
"tuned": of what a sweep would compile the least estimate wins. Every other one is served from
a bucket, by the config that `autoconv.lookup` gives. What that loses is its estimate over the least of the
whole space at that length, less 1; to know the least takes half a second of one core, so it is done for
--losses of them. With --workloads, a JSON list of layers, the same is done for so many module shapes of it,
drawn at random from those that differ. No GPU is needed: all of it is by the model.
"""

from __future__ import annotations

import argparse
import json
import platform
import random
import statistics
import time
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

from autoconv import device as devices
from autoconv.cost.predict import estimate_seconds
from autoconv.cost.version import predictor_of
from autoconv.device import Device
from autoconv.environment import Environment
from autoconv.errors import ProblemError
from autoconv.kernels.source import source_of
from autoconv.lookup import Shelf
from autoconv.lookup.buckets import module_shape
from autoconv.problem import Problem
from autoconv.sweep.candidates import candidates, to_compile
from autoconv.sweep.sweep import SHORTLIST
from tuning_db import Layers, Trial

LAYER = "N=1,Cin=80,Cout=384,K=3,L=1000,padding=1,bias=1"
SHORTEST, LONGEST = 200, 4000


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("problem", nargs="?", default=LAYER)
    parser.add_argument("--workloads", type=Path, default=None)
    parser.add_argument("--shapes", type=int, default=30, help="module shapes of the workloads")
    parser.add_argument("--lengths", type=int, default=1000, help="asked for, of each module shape")
    parser.add_argument("--losses", type=int, default=100, help="of them, so many compared with the best")
    parser.add_argument("--device", default="rtx4090")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    device, rng = devices.find(given.device), random.Random(given.seed)
    layers = [Problem.parse(given.problem)]
    if given.workloads is not None:
        layers = _shapes(json.loads(given.workloads.read_text()), given.shapes, rng)
    found = [run(layer, device, rng, given.lengths, given.losses) for layer in layers]
    print(json.dumps({"environment": _environment(given), "all": _all(found), "layers": found}, indent=1))


def run(layer: Problem, device: Device, rng: random.Random, lengths: int, losses: int) -> dict[str, Any]:
    """Return the figures of one module shape: sweeps, losses, the time of a lookup from memory."""
    shelf, here = Shelf(Layers([], print), predictor_of), Environment.current(device)
    compared = set(rng.sample(range(lengths), min(losses, lengths)))
    sweeps, lost, seconds = [], [], []
    for number in range(lengths):
        problem = replace(layer, L=rng.randint(SHORTEST, LONGEST))
        begun = time.process_time()
        found = shelf.find(problem, here)
        seconds.append(time.process_time() - begun)
        if found is None:
            shelf.remember(problem, here, tuned(problem, device))
            sweeps.append(problem.L)
        elif number in compared:
            space = candidates(problem, device)
            times = estimate_seconds(problem, [found.config, *space], device)
            lost.append(float(times[0] / times.min()) - 1)
    return {
        "problem": str(layer),
        "sweeps": sweeps,
        "lookup_ms": round(statistics.median(seconds) * 1e3, 3),
        **summary(lost),
        "losses": sorted(round(loss, 4) for loss in lost),
    }


def tuned(problem: Problem, device: Device) -> list[Trial]:
    """Return the trials of a sweep in which all that is compiled passes, each at its estimate."""
    configs = to_compile(problem, candidates(problem, device), device, SHORTLIST)
    times = estimate_seconds(problem, configs, device) * 1e6
    return [
        Trial(
            config.document(),
            "ok",
            float(time_us),
            source=source_of(config.kernel) or "",
            predictor=predictor_of(config.kernel),
        )
        for config, time_us in zip(configs, times, strict=True)
    ]


def summary(lost: list[float]) -> dict[str, Any]:
    """Return the mean, the 95th percentile and the largest of some losses, in percent."""
    if not lost:
        return {"compared": 0}
    ranked = sorted(lost)
    return {
        "compared": len(lost),
        "mean_loss_pct": round(100 * statistics.fmean(lost), 2),
        "p95_loss_pct": round(100 * ranked[min(len(ranked) - 1, int(0.95 * len(ranked)))], 2),
        "most_loss_pct": round(100 * ranked[-1], 2),
    }


def _all(found: list[dict[str, Any]]) -> dict[str, Any]:
    lost = [loss for one in found for loss in one["losses"]]
    return {
        "layers": len(found),
        "most_sweeps": max(len(one["sweeps"]) for one in found),
        "mean_sweeps": round(statistics.fmean(len(one["sweeps"]) for one in found), 2),
        "lookup_ms": round(statistics.median(one["lookup_ms"] for one in found), 3),
        **summary(lost),
    }


def _shapes(layers: list[dict[str, Any]], count: int, rng: random.Random) -> list[Problem]:
    """Return problems of different module shapes of a workload file that every length is possible for."""
    shapes: dict[object, Problem] = {}
    for layer in layers:
        try:
            problem = _problem_of(layer)
            shapes.setdefault(module_shape(problem), replace(problem, L=SHORTEST))
        except ProblemError:  # its window is longer than the shortest length
            continue
    return rng.sample(list(shapes.values()), min(count, len(shapes)))


def _problem_of(layer: dict[str, Any]) -> Problem:
    names = ("N", "Cin", "Cout", "K", "L", "stride", "dilation", "groups", "bias", "output_padding", "dtype")
    return Problem(
        **{name: layer[name] for name in names},
        padding=layer["padding"] if isinstance(layer["padding"], int) else tuple(layer["padding"]),
        op="conv_transpose" if layer["transposed"] else "conv",
        layout="ncl" if layer["input_contiguous"] else "nlc",
    )


def _environment(given: argparse.Namespace) -> dict[str, Any]:
    return {
        "device": given.device,
        "lengths": f"{given.lengths} from {SHORTEST} to {LONGEST}",
        "seed": given.seed,
        "python": platform.python_version(),
        "machine": platform.machine(),
        **{name: version(name) for name in ("torch", "triton", "numpy")},
    }


if __name__ == "__main__":
    main()
