"""What a model's first forward costs beyond torch's, and one at a further size, as one JSON object.

    python -m scripts.bench.sizes [sizes]

A HiFi-GAN generator of 78 convolutions at so many lengths and a Whisper encoder at so many batch sizes, both
narrow, under the default policy with an empty database, on a driver that stands in for a GPU. Sweeps are
scripted: each finds the least estimate at once, so what is timed is what a call does, and compiling is real.
Each time is of a whole forward, divided by the convolutions. "Beyond torch" is that of the convolutions
alone, without what torch's own took in those very calls: on a busy machine no other time of it would do.
"""

from __future__ import annotations

import json
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from importlib.metadata import version
from typing import Any

import torch
from torch import nn

import autoconv
from autoconv import lookup, settings
from autoconv.cost.version import predictor_of
from autoconv.dispatch.launchers import ByTorch
from autoconv.kernels.source import source_of
from autoconv.problem import Problem
from autoconv.sweep.candidates import best_guess
from autoconv.sweep.sweep import Job
from autoconv.tuning.tuner import Tuned, Tuner
from autoconv.watching import Stats
from tests.networks import Encoder, Generator
from tuning_db import Trial

DEVICE = "rtx4090"
SIZES = 10


def main() -> None:
    """Measure both models and print the object."""
    sizes = int(sys.argv[1]) if len(sys.argv) > 1 else SIZES
    torch.set_num_threads(1)  # two that wait for each other on a busy machine would be all that is timed
    setattr(Tuner, "tune", scripted)  # noqa: B010 - shadows a method
    found = {
        "generator at lengths": measured(Generator(), [(1, 80, 20 + 2 * n) for n in range(sizes)]),
        "encoder at batch sizes": measured(Encoder(), [(n, 80, 300) for n in range(1, 1 + sizes)]),
    }
    print(json.dumps({"benchmark": "sizes", "environment": environment(), **found}))


def scripted(tuner: Tuner, problem: Problem, job: Job, **_: Any) -> Tuned:
    """Record the least estimate as the winner."""
    config, seconds = best_guess(problem, job.device)
    source, predictor = source_of(config.kernel) or "", predictor_of(config.kernel)
    trial = Trial(config.document(), "ok", seconds * 1e6, max_err=0.0, source=source, predictor=predictor)
    of_problem, of_environment = lookup.records(problem, job.environment)
    with lookup.open_user(settings.load()) as database:
        database.record(of_environment, of_problem, [trial], origin="bench")
    return Tuned(tuner.find(problem, job.environment), None)


class Clock:
    """Counts the time that a model's convolutions take, without what torch's own takes in them.

    Attributes:
        seconds: so far.
    """

    def __init__(self, model: nn.Module) -> None:
        """Watch `model`, and whatever torch serves."""
        self.seconds = 0.0
        for module in model.modules():
            if isinstance(module, (nn.Conv1d, nn.ConvTranspose1d)):
                module.register_forward_pre_hook(lambda *_: self.add(-time.perf_counter()))
                module.register_forward_hook(lambda *_: self.add(time.perf_counter()))
        by_torch = ByTorch.__call__

        def timed(self_: ByTorch, *tensors: Any) -> torch.Tensor:
            self.add(time.perf_counter())
            try:
                return by_torch(self_, *tensors)
            finally:
                self.add(-time.perf_counter())

        setattr(ByTorch, "__call__", timed)  # noqa: B010 - shadows a method

    def add(self, seconds: float) -> None:
        """Count `seconds`: a point of time where something ends, less that where it began."""
        self.seconds += seconds

    def beyond(self, forward: Callable[[], object], count: int) -> tuple[float, float]:
        """Return what a forward takes, and its convolutions beyond torch's own, milliseconds for each."""
        self.seconds = 0.0
        return milliseconds(forward, count), self.seconds * 1e3 / count


def measured(model: nn.Module, shapes: list[tuple[int, ...]]) -> dict[str, Any]:
    """Return what forwards at these shapes cost, in milliseconds a convolution, and who computed them."""
    inputs = [torch.randn(shape) for shape in shapes]
    with tempfile.TemporaryDirectory() as folder, torch.no_grad():
        os.environ |= {"AUTOCONV_DB": f"{folder}/tuning.db", "AUTOCONV_CACHE": f"{folder}/cache"}
        count = sum(isinstance(one, (nn.Conv1d, nn.ConvTranspose1d)) for one in model.modules())
        by_torch = [alone(partial(model, x), count) for x in inputs]
        autoconv.accelerate(model)
        clock = Clock(model)
        with autoconv.recorded(DEVICE):
            autoconv.conv1d(torch.zeros(1, 16, 16), torch.zeros(16, 16, 1))  # imports kernels, and Triton
            autoconv.wait()
            with autoconv.stats() as first_seen:
                _, first = clock.beyond(partial(model, inputs[0]), count)
            begun = time.monotonic()
            autoconv.wait()
            seconds = time.monotonic() - begun
            swapped = milliseconds(partial(model, inputs[0]), count)
            with autoconv.stats() as further_seen:
                took = [clock.beyond(partial(model, x), count) for x in inputs[1:]]
            further, beyond = zip(*took, strict=True)
            autoconv.wait()
            for x in inputs:
                model(x)
            with autoconv.stats() as last_seen:
                again = [milliseconds(partial(model, x), count) for x in inputs]
            autoconv.wait()  # what was missed is written before the folder goes
    return {
        "convolutions": count,
        "sizes": len(shapes),
        "ms_a_convolution": {
            "torch": round(by_torch[0], 3),
            "first forward beyond torch": round(first, 3),
            "first after the queue": round(swapped, 3),
            "further size, median": round(statistics.median(further), 3),
            "further size, worst": round(max(further), 3),
            "further size beyond torch, median": round(statistics.median(beyond), 3),
            "further size beyond torch, worst": round(max(beyond), 3),
            "repeated size, median": round(statistics.median(again), 4),
        },
        "queue_seconds": round(seconds, 1),
        "calls": {
            "first": told(first_seen), "further": told(further_seen), "repeated": told(last_seen)
        },
    }  # fmt: skip


def alone(call: Callable[[], object], count: int) -> float:
    """Return what torch alone takes, in milliseconds a convolution."""
    return statistics.median(milliseconds(call, count) for _ in range(3))


def told(seen: Stats) -> dict[str, Any]:
    """Return what served."""
    grades: dict[str, int] = {}
    for (grade, _), count in seen.calls.items():
        grades[grade] = grades.get(grade, 0) + count
    return {"kernels": grades, "torch": seen.by_torch, "sweeps": seen.sweeps}


def milliseconds(call: Callable[[], object], count: int) -> float:
    """Return how long a call takes, in milliseconds a convolution."""
    begun = time.perf_counter()
    call()
    return (time.perf_counter() - begun) * 1e3 / count


def environment() -> dict[str, object]:
    """Return what the figures depend on beside the code."""
    return {
        "python": platform.python_version(),
        "torch": version("torch"),
        "triton": version("triton"),
        "machine": platform.machine(),
        "cores": os.cpu_count(),
        "load_average": round(os.getloadavg()[0], 2),
        "stands_in_for": DEVICE,
    }


if __name__ == "__main__":
    main()
