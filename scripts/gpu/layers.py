"""Sweep representative layers on the GPU here and hold them against torch; a JSON line a layer.

    python scripts/gpu/layers.py DIR [--seconds 190]

Each is swept as `autoconv tune` would, with a shorter list of candidates, into the database that AUTOCONV_DB
names; then torch's convolution is timed with and without cuDNN's benchmark mode.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import time
from collections import Counter
from collections.abc import Iterator
from functools import cache
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
from autoconv.sweep.tasks import Compile, Time
from autoconv.sweep.timing import time_torch

P = Problem
LAYERS = {
    "KernelBench 76, L 224280": P(64, 64, 128, 3, 224280, stride=3, dilation=4),
    "KernelBench 67": P(32, 64, 128, 3, 131072),
    "KernelBench 74": P(32, 32, 64, 5, 131072, dilation=3, op="conv_transpose"),
    "KernelBench 79": P(16, 32, 64, 3, 131072, stride=2, padding=1, dilation=2, op="conv_transpose"),
    "KernelBench 64": P(64, 128, 128, 3, 65536, op="conv_transpose"),
    "KernelBench 76": P(64, 64, 128, 3, 524280, stride=3, dilation=4),
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
    "ieee": P(4, 64, 128, 3, 4096, padding=1, precision="ieee"),
}
SHORTLIST = 12
SWEEP_SECONDS = 30.0
SAMPLED = 8  # further configs of a layer that are timed, not checked: the model is judged by bad ones too
WITHIN = 4.0  # times the best estimate
SAMPLE_SECONDS = 0.1


def main() -> None:
    """Sweep the layers until the time is up."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("out", type=Path)
    parser.add_argument("--seconds", type=float, default=205.0)
    given = parser.parse_args()
    begun = time.monotonic()
    here = target("auto")
    if not here.on_gpu:
        parser.error("no GPU here")
    with WorkerPool() as pool, (given.out / "layers.jsonl").open("w") as rows:
        compile_all(here, pool)
        for name, problem in LAYERS.items():
            if time.monotonic() - begun > given.seconds:
                print(f"time is up before {name}")
                break
            row = {"layer": name, **measured(problem, here, pool)}
            rows.write(json.dumps(row) + "\n")
            rows.flush()
            print(line(row), flush=True)


def compile_all(here: Target, pool: WorkerPool) -> None:
    """Compile every layer's candidates at once, so that no sweep below waits for a compiler."""
    begun = time.monotonic()
    tasks = [
        Compile(problem, config, here.device, here.settings.cache)
        for problem in LAYERS.values()
        for config in (
            *shortlist(problem, candidates(problem, here.device), here.device, SHORTLIST),
            *sampled(problem, here),
        )
    ]
    print(f"{len(tasks)} candidates listed after {time.monotonic() - begun:.1f} s", flush=True)
    failed = Counter(type(answer).__name__ for answer in pool.compilers.perform(tasks))
    print(f"compiled after {time.monotonic() - begun:.1f} s: {dict(failed)}", flush=True)


@cache
def sampled(problem: Problem, here: Target) -> list[Config]:
    """Return configs drawn from all whose estimate is within WITHIN of the best, the same ones each time."""
    configs = candidates(problem, here.device)
    seconds = estimate_seconds(problem, configs, here.device)
    near = [config for config, one in zip(configs, seconds, strict=True) if one <= WITHIN * seconds.min()]
    return random.Random(str(problem)).sample(near, min(SAMPLED, len(near)))


def sample(problem: Problem, here: Target, pool: WorkerPool) -> Iterator[dict[str, Any]]:
    """Time the sampled configs that compile to what the device can run."""
    configs = sampled(problem, here)
    tasks = [Compile(problem, config, here.device, here.settings.cache) for config in configs]
    for config, resources in zip(configs, list(pool.compilers.perform(tasks)), strict=True):
        row: dict[str, Any] = {"config": config.document()}
        if isinstance(resources, Outcome):
            yield {**row, "outcome": "compile", "error": resources.reason}
            continue
        row |= {"registers": resources.registers, "shared": resources.shared, "spills": resources.spills}
        reason = resources.unrunnable(config, here.device)
        if reason is not None:
            yield {**row, "outcome": "resources", "error": reason}
            continue
        predicted = predict(problem, config, here.device, resources)
        row |= {"predicted_us": predicted.seconds * 1e6, "bound": predicted.bound}
        (answer,) = pool.gpu.perform([Time(problem, config, "cuda:0", SAMPLE_SECONDS)])
        if isinstance(answer, Outcome):
            yield {**row, "outcome": "launch", "error": answer.reason}
        else:
            yield {**row, "outcome": "ok", "us": statistics.median(answer.us), "spread": spread(answer.us)}


def measured(problem: Problem, here: Target, pool: WorkerPool) -> dict[str, Any]:
    """Sweep one problem and return what was found."""
    job = Job(here.device, here.environment, here.settings.cache, True, SWEEP_SECONDS, SHORTLIST)
    try:
        swept = here.tuner.tune(problem, job, again=True, pool=pool).swept
    except Exception as error:
        return {"problem": str(problem), "error": f"{type(error).__name__}: {error}"}
    assert swept is not None
    torchs = {}
    try:
        for mode, benchmark in (("torch_us", False), ("torch_benchmark_us", True)):
            torchs[mode] = statistics.median(
                time_torch(problem, where="cuda:0", seconds=0.2, benchmark=benchmark)
            )
        torch.cuda.empty_cache()
    except Exception as error:
        torchs["torch_error"] = f"{type(error).__name__}: {error}"
    trials = [
        {
            "config": trial.config,
            "outcome": trial.outcome,
            "error": trial.error,
            "predicted_us": trial.predicted_us,
            "us": statistics.median(trial.samples_us) if trial.samples_us else None,
            "spread": spread(trial.samples_us),
            "max_err": trial.max_err,
            "default": trial.detail.get("default", False),
            "detail": {k: v for k, v in trial.detail.items() if k != "check"},
        }
        for trial in swept.trials
    ]
    ours = [t for t in trials if t["us"] is not None and t["config"]["kernel"] != ATEN.kernel]
    best = min(ours, key=lambda t: t["us"], default=None)
    return {
        "problem": str(problem),
        "best_us": best and best["us"],
        "best": best and best["config"],
        "best_predicted_us": best and best["predicted_us"],
        "first_us": next((t["us"] for t in ours if t["default"]), None),
        "floor_us": floor_seconds(problem, here.device) * 1e6,
        **torchs,
        "seconds": round(swept.seconds, 1),
        "stopped": swept.stopped,
        "outcomes": Counter(t["outcome"] for t in trials),
        "trials": trials,
        "sampled": list(sample(problem, here, pool)),
    }


def spread(samples: tuple[float, ...]) -> float | None:
    """Return the width between the quartiles over the median."""
    if len(samples) < 4:
        return None
    low, middle, high = statistics.quantiles(samples, n=4)
    return round((high - low) / middle, 4)


def line(row: dict[str, Any]) -> str:
    if "error" in row:
        return f"{row['layer']}: {row['error']}"[:240]

    def us(name: str) -> str:
        return f"{row[name]:.1f}" if row.get(name) is not None else "-"

    return (
        f"{row['layer']}: best {us('best_us')} (predicted {us('best_predicted_us')}), first {us('first_us')}, "
        f"torch {us('torch_us')}, benchmark {us('torch_benchmark_us')}, floor {us('floor_us')} us | "
        f"{dict(row['outcomes'])} {row['seconds']} s {row['best'] and row['best']['kernel']} {row['stopped'] or ''}"
    )


if __name__ == "__main__":
    main()
