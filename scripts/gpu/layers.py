"""Sweep representative layers on the GPU here and hold them against torch; a JSON line a layer.

    python -m scripts.gpu.layers DIR

Each is swept as `autoconv tune` would, with a shorter list of candidates, into the database that AUTOCONV_DB
names; then torch's convolution is timed with and without cuDNN's benchmark mode, and a few configs besides
are timed that the model does not expect to win: it is judged by those too. Layers for which the time did not
suffice are missing.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from autoconv import Problem
from autoconv.cli.common import Target, target
from autoconv.config import Config
from autoconv.cost.predict import estimate_seconds, predict
from autoconv.cost.prediction import floor_seconds
from autoconv.kernels.aten import ATEN
from autoconv.sweep.candidates import candidates, shortlist
from autoconv.sweep.outcomes import Outcome
from autoconv.sweep.pool import WorkerPool
from autoconv.sweep.sweep import Job
from autoconv.sweep.tasks import Compile, Time, device_name
from autoconv.sweep.timing import time_torch
from autoconv.sweep.trials import compiled_trial, timed_trial
from scripts.gpu.rehearsal import RehearsedPool
from scripts.gpu.rehearsal import torch_us as rehearsed_torch_us
from tuning_db import Trial

P = Problem
LAYERS = {
    "KernelBench 76, L 224280": P(64, 64, 128, 3, 224280, stride=3, dilation=4),
    "KernelBench 67": P(32, 64, 128, 3, 131072),
    "KernelBench 74": P(32, 32, 64, 5, 131072, dilation=3, op="conv_transpose"),
    "KernelBench 79": P(16, 32, 64, 3, 131072, stride=2, padding=1, dilation=2, op="conv_transpose"),
    "KernelBench 64": P(64, 128, 128, 3, 65536, op="conv_transpose"),
    "square fp32": P(32, 512, 512, 3, 1024, padding=1),
    "square fp16": P(32, 512, 512, 3, 1024, padding=1, dtype="float16"),
    "Whisper conv1 fp16": P(8, 80, 512, 3, 3000, padding=1, bias=True, activation="gelu", dtype="float16"),
    "Whisper conv2 fp16": P(
        8, 512, 512, 3, 3000, stride=2, padding=1, bias=True, activation="gelu", dtype="float16"
    ),
    "wav2vec2 first": P(4, 1, 512, 10, 80000, stride=5),
    "wav2vec2 second fp16": P(4, 512, 512, 3, 16000, stride=2, dtype="float16"),
    "wav2vec2 position fp16": P(4, 768, 768, 128, 499, padding=64, groups=16, dtype="float16"),
    "HiFi-GAN residual": P(16, 128, 128, 11, 8192, dilation=5, padding=25, bias=True),
    "HiFi-GAN upsampling": P(16, 512, 256, 16, 64, stride=8, padding=4, op="conv_transpose", bias=True),
    "HiFi-GAN last": P(16, 32, 1, 7, 8192, padding=3, bias=True),
    "EnCodec first": P(16, 1, 32, 7, 24000, padding=3, bias=True),
    "Conformer depthwise fp16": P(16, 512, 512, 31, 800, padding=15, groups=512, dtype="float16"),
    "Conv-TasNet depthwise": P(8, 512, 512, 3, 3200, dilation=8, padding=8, groups=512, bias=True),
    "Conv-TasNet pointwise": P(8, 256, 512, 1, 3200, bias=True),
    "pointwise fp16": P(8, 256, 512, 1, 3200, dtype="float16"),
    "short": P(1, 512, 512, 3, 200, padding=1),
    "channels last fp16": P(8, 256, 256, 3, 4096, padding=1, layout="nlc", dtype="float16"),
    "weight gradient fp16": P(16, 256, 256, 3, 2048, op="conv_weight", padding=1, dtype="float16"),
    "seed fp16": P(64, 64, 128, 3, 224280, stride=3, dilation=4, dtype="float16"),
    "BigVGAN upsampling": P(8, 256, 256, 12, 8192, stride=2, padding=5, groups=256, op="conv_transpose"),
    "DAC, short": P(72, 512, 256, 16, 33, stride=8, padding=4, op="conv_transpose"),
    "many short fp32": P(72, 768, 768, 3, 33, padding=1),
    "many short fp16": P(64, 512, 512, 3, 50, padding=1, dtype="float16"),
    "pointwise, odd pitch": P(16, 512, 1024, 1, 835),
    "grouped channels last fp16": P(
        16, 512, 512, 3, 1500, padding=1, groups=16, layout="nlc", dtype="float16"
    ),
    "depthwise channels last": P(16, 512, 512, 31, 800, padding=15, groups=512, layout="nlc"),
    "transposed channels last": P(
        16, 256, 128, 8, 512, stride=4, padding=2, op="conv_transpose", layout="nlc"
    ),
    "odd pitch fp16": P(16, 256, 256, 3, 2001, padding=1, dtype="float16"),
    "ieee": P(4, 64, 128, 3, 4096, padding=1, precision="ieee"),
    "KernelBench 76": P(64, 64, 128, 3, 524280, stride=3, dilation=4),
}
REHEARSED = 1  # layers
SHORTLIST = 12
SWEEP_SECONDS = 20.0
SAMPLED = 8  # further configs of a layer, drawn at random
WITHIN = 4.0  # times the best estimate, of which they are drawn
SAMPLE_SECONDS = 0.1
TORCH_SECONDS = 0.2
SECONDS = 290.0  # after which no layer is begun


def main() -> None:
    """Sweep the layers until the time is up."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("out", type=Path)
    parser.add_argument("--rehearse", metavar="DEVICE")
    given = parser.parse_args()
    begun = time.monotonic()
    layers = dict(list(LAYERS.items())[:REHEARSED]) if given.rehearse else LAYERS
    with opened(given.rehearse) as bench, (given.out / "layers.jsonl").open("w") as rows:
        bench.compile(layers.values())
        for name, problem in layers.items():
            if time.monotonic() - begun > SECONDS:
                print(f"time is up before {name}")
                break
            row = {"layer": name, "problem": str(problem), **bench.measured(problem)}
            rows.write(json.dumps(row) + "\n")
            rows.flush()
            print(described(row), flush=True)


@dataclass(frozen=True)
class LayerBench:
    """What measures a layer: a target, the workers, and torch's clock."""

    here: Target
    pool: WorkerPool
    torch_us: Callable[..., float]
    shortlist: int = SHORTLIST
    sampled: int = SAMPLED

    def compile(self, problems: Iterable[Problem]) -> None:
        """Compile all layers' candidates at once, so that no sweep waits for a compiler."""
        begun = time.monotonic()
        tasks = [
            Compile(problem, config, self.here.device, self.here.settings.cache)
            for problem in problems
            for config in (*self._shortlist(problem), *self._sampled(problem))
        ]
        outcomes = Counter(type(answer).__name__ for answer in self.pool.compilers.perform(tasks))
        print(f"{len(tasks)} compiled in {time.monotonic() - begun:.0f} s: {dict(outcomes)}", flush=True)

    def measured(self, problem: Problem) -> dict[str, Any]:
        """Sweep one problem and return what was found, times in microseconds."""
        here = self.here
        job = Job(here.device, here.environment, here.settings.cache, True, SWEEP_SECONDS, self.shortlist)
        swept = here.tuner.tune(problem, job, again=True, pool=self.pool).swept
        assert swept is not None
        rows = [trial_row(trial) for trial in swept.trials]
        ours = [row for row in rows if row["us"] is not None and row["config"]["kernel"] != ATEN.kernel]
        best = min(ours, key=lambda row: float(row["us"]), default=None)
        return {
            "best": best,
            "first_us": next((row["us"] for row in ours if row["default"]), None),
            "torch_us": self.torch_us(problem, benchmark=False),
            "torch_benchmark_us": self.torch_us(problem, benchmark=True),
            "floor_us": floor_seconds(problem, here.device) * 1e6,
            "seconds": round(swept.seconds, 1),
            "stopped": swept.stopped,
            "outcomes": Counter(row["outcome"] for row in rows),
            "trials": rows,
            "sampled": list(self._sample(problem)),
        }

    def _shortlist(self, problem: Problem) -> list[Config]:
        return shortlist(problem, candidates(problem, self.here.device), self.here.device, self.shortlist)

    def _sampled(self, problem: Problem) -> list[Config]:
        """Return configs drawn from those whose estimate is within WITHIN of the best, always the same."""
        configs = candidates(problem, self.here.device)
        seconds = estimate_seconds(problem, configs, self.here.device)
        near = [config for config, one in zip(configs, seconds, strict=True) if one <= WITHIN * seconds.min()]
        return random.Random(str(problem)).sample(near, min(self.sampled, len(near)))

    def _sample(self, problem: Problem) -> Iterator[dict[str, Any]]:
        """Time the sampled configs that compile to what the device can run; they are not checked."""
        configs, device = self._sampled(problem), self.here.device
        tasks = [Compile(problem, config, device, self.here.settings.cache) for config in configs]
        for config, resources in zip(configs, list(self.pool.compilers.perform(tasks)), strict=True):
            if isinstance(resources, Outcome) or resources.unrunnable(config, device):
                continue
            prediction = predict(problem, config, device, resources)
            timed = Time(problem, (config,), device_name(0), SAMPLE_SECONDS)
            (answer,) = self.pool.gpu.perform([timed])
            if not isinstance(answer, Outcome):
                yield trial_row(timed_trial(compiled_trial(config, prediction), answer))


@contextmanager
def opened(rehearse: str | None) -> Iterator[LayerBench]:
    """Yield a bench on the GPU here, or one that rehearses for the device of that name."""
    here = target(rehearse or "auto")
    if rehearse:
        with RehearsedPool(here.device) as pool:
            yield LayerBench(replace(here, on_gpu=True), pool, rehearsed_torch_us, shortlist=1, sampled=1)
        return
    with WorkerPool() as pool:
        yield LayerBench(here, pool, torch_us)


def torch_us(problem: Problem, *, benchmark: bool) -> float:
    """Return the median time of torch's own convolution here."""
    samples = time_torch(problem, where=device_name(0), seconds=TORCH_SECONDS, benchmark=benchmark)
    torch.cuda.empty_cache()
    return statistics.median(samples)


def trial_row(trial: Trial) -> dict[str, Any]:
    """Return what of a trial the model can be held against."""
    return {
        "config": trial.config,
        "outcome": trial.outcome,
        "error": trial.error,
        "predicted_us": trial.predicted_us,
        "us": statistics.median(trial.samples_us) if trial.samples_us else None,
        "spread": spread(trial.samples_us),
        "max_err": trial.max_err,
        "default": trial.detail.get("default", False),
        **{name: trial.detail.get(name) for name in ("registers", "shared", "spills", "bound")},
    }


def spread(samples: Sequence[float]) -> float | None:
    """Return the width between the quartiles over the median."""
    if len(samples) < 4:
        return None
    low, middle, high = statistics.quantiles(samples, n=4)
    return round((high - low) / middle, 4)


def described(row: dict[str, Any]) -> str:
    """Return a row as a line."""
    best = row["best"] or {"us": None, "predicted_us": None, "config": {"kernel": "-"}}
    times = {
        "best": best["us"],
        "predicted": best["predicted_us"],
        "first guess": row["first_us"],
        "torch": row["torch_us"],
        "with benchmark": row["torch_benchmark_us"],
        "floor": row["floor_us"],
    }
    told = ", ".join(f"{name} {'-' if us is None else f'{us:.1f}'}" for name, us in times.items())
    outcomes = ", ".join(f"{count} {outcome}" for outcome, count in row["outcomes"].items())
    return f"{row['layer']}: {best['config']['kernel']}: {told} us; {outcomes}; {row['seconds']} s"


if __name__ == "__main__":
    main()
