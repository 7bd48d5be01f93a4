"""Tune whole models on the GPU here, and hold their forwards against torch's; a JSON line a model.

    python -m scripts.gpu.models DIR

First, in a process with a database of its own, forwards by the default policy at one new size after the
other: what a first call waits beyond torch's. Then each model is tuned, and its forward timed at the sizes
that were asked for and at others between them, by torch and by autoconv: eager, one after the other, and as
captured graphs, which leave the host out, in turns.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

import autoconv
from scripts.models import HifiGan, WhisperEncoder

CHANNELS = 80
ROUNDS = 15  # of each forward
FIRST: dict[str, tuple[Callable[[], nn.Module], list[tuple[int, int]]]] = {
    "HiFi-GAN V1 fp16": (
        HifiGan,
        [(1, length) for length in (200, 211, 223, 240, 263, 307, 353, 397, 640, 900)],
    ),
    "Whisper tiny encoder fp16": (
        WhisperEncoder,
        [(batch, 3000) for batch in (1, 2, 3, 4, 5, 6, 7, 8, 12, 16)],
    ),
}
MEANWHILE_SECONDS = 20.0  # of forwards at one size, while the background tunes
PAUSE_SECONDS = 0.01  # between two


@dataclass(frozen=True)
class Tried:
    """A model, the sizes (batch, length) it is tuned for, others it is timed at, and the tuning's seconds."""

    make: Callable[[], nn.Module]
    dtype: torch.dtype
    batches: Sequence[int]
    lengths: Sequence[int]
    between: Sequence[tuple[int, int]]
    seconds: float


MODELS = {
    "HiFi-GAN V1 fp16": Tried(HifiGan, torch.float16, (1,), (200, 800), ((1, 263), (1, 1100)), 100),
    "HiFi-GAN V1 fp32": Tried(HifiGan, torch.float32, (1,), (200, 800), ((1, 263), (1, 1100)), 100),
    "Whisper tiny encoder fp16": Tried(
        WhisperEncoder, torch.float16, (1, 4, 16), (3000,), ((3, 3000), (12, 3000)), 40
    ),
}


def main() -> None:
    """Measure first calls in a process of its own, then each model."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("out", type=Path)
    parser.add_argument("--first", action="store_true", help="only the first calls")
    given = parser.parse_args()
    if given.first:
        return first_calls(given.out)
    fresh = {**os.environ, "AUTOCONV_DB": str(given.out / "first.db")}
    command = [sys.executable, "-m", "scripts.gpu.models", str(given.out), "--first"]
    subprocess.run(command, env=fresh, timeout=120)
    with (given.out / "models.jsonl").open("w") as rows, torch.inference_mode():
        for name, tried in MODELS.items():
            row = {"model": name, **measured(tried)}
            rows.write(json.dumps(row) + "\n")
            rows.flush()
    return None


def first_calls(out: Path) -> None:
    """Write DIR/first.json: forwards by the default policy, in milliseconds, beside torch's.

    By size, the first two and what the first waited beyond torch's, a convolution; then those at one size
    while the background tunes, as quantiles.
    """
    found: dict[str, Any] = {}
    with torch.inference_mode():
        for name, (make, sizes) in FIRST.items():
            model = make().half().cuda().eval()
            convolutions = sum(isinstance(one, (nn.Conv1d, nn.ConvTranspose1d)) for one in model.modules())
            given = {size: inputs(size, torch.float16) for size in sizes}
            torchs = {size: [walled(model, x) for _ in range(5)] for size, x in given.items()}
            autoconv.accelerate(model)
            ours = {size: [walled(model, x) for _ in range(2)] for size, x in given.items()}
            beyond = [(ours[size][0] - min(torchs[size])) / convolutions for size in sizes]
            meanwhile, until = [], time.monotonic() + MEANWHILE_SECONDS
            while time.monotonic() < until:
                meanwhile.append(walled(model, given[sizes[0]]))
                time.sleep(PAUSE_SECONDS)
            found[name] = {
                "convolutions": convolutions,
                "forwards": [{"size": size, "torch": torchs[size], "autoconv": ours[size]} for size in sizes],
                "first_beyond_torch_by_convolution": [round(one, 3) for one in beyond],
                "while_tuning_deciles": [round(one, 2) for one in statistics.quantiles(meanwhile, n=10)],
                "while_tuning_most": max(meanwhile),
            }
            autoconv.restore(model)
    text = json.dumps(found)
    print(text)
    (out / "first.json").write_text(text + "\n")


def inputs(size: tuple[int, int], dtype: torch.dtype) -> torch.Tensor:
    """Return mels of a batch size and a length."""
    return torch.randn(size[0], CHANNELS, size[1], device="cuda", dtype=dtype)


def walled(model: nn.Module, x: torch.Tensor) -> float:
    """Return the milliseconds of a forward, from call to result."""
    torch.cuda.synchronize()
    begun = time.perf_counter()
    model(x)
    torch.cuda.synchronize()
    return round(1e3 * (time.perf_counter() - begun), 3)


def measured(tried: Tried) -> dict[str, Any]:
    """Tune a model and time its forwards."""
    model = tried.make().to(tried.dtype).cuda().eval()
    begun = time.monotonic()
    report = autoconv.tune(
        model,
        inputs((1, tried.lengths[0]), tried.dtype),
        batches=tried.batches,
        lengths=tried.lengths,
        effort="quick",
        budget=tried.seconds,
    )
    print(report, flush=True)
    asked = [(batch, length) for batch in tried.batches for length in tried.lengths]
    return {
        "swept": report.swept,
        "unfinished": report.unfinished,
        "seconds": round(time.monotonic() - begun, 1),
        "forwards": [
            {"size": size, "tuned": size in asked, **compared(model, inputs(size, tried.dtype))}
            for size in (*asked, *tried.between)
        ],
    }


def compared(model: nn.Module, x: torch.Tensor) -> dict[str, Any]:
    """Time torch's forward, cuDNN's benchmark mode on and off, and ours, of one input; in microseconds."""
    wanted = model(x).double()
    graphs, eager = {}, {}
    by = {"torch": False, "torch with benchmark": False, "autoconv": True}
    for name, ours in by.items():
        benchmark = name.endswith("benchmark")
        with torch.backends.cudnn.flags(enabled=True, benchmark=benchmark, allow_tf32=True):
            if ours:
                autoconv.accelerate(model, on_miss="predict")
            with autoconv.stats() if ours else nullcontext() as seen:
                y = model(x).double()
            if ours and seen is not None:
                calls = {" of ".join(served): count for served, count in seen.calls.items()}
                told = {"calls": calls, "by_torch": dict(seen.by_torch), "misses": seen.misses}
            graphs[name] = captured(model, x)
            eager[name] = [1e3 * walled(model, x) for _ in range(ROUNDS)]
            if ours:
                autoconv.restore(model)
    graphed: dict[str, list[float]] = {name: [] for name in graphs}
    for _ in range(ROUNDS):
        for name, graph in graphs.items():
            graphed[name].append(replayed(graph))
    result = {
        "relative_error": float((y - wanted).norm() / wanted.norm()),
        "graph_us": {name: round(statistics.median(times), 1) for name, times in graphed.items()},
        "eager_us": {name: round(statistics.median(times), 1) for name, times in eager.items()},
        **told,
    }
    print(json.dumps({"x": list(x.shape), **result}), flush=True)
    return result


def captured(model: nn.Module, x: torch.Tensor) -> torch.cuda.CUDAGraph:
    """Return a forward of `x` as a graph."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(2):
            model(x)
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        model(x)
    return graph


def replayed(graph: torch.cuda.CUDAGraph) -> float:
    """Return the device's microseconds of one replay."""
    begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    begin.record()
    graph.replay()
    end.record()
    end.synchronize()
    return 1e3 * float(begin.elapsed_time(end))


if __name__ == "__main__":
    main()
