"""Tune two whole models, with or without a GPU, and see that a forward at each size misses nothing.

    python -m scripts.bench.whole_models [whisper] [hifigan] [--devices a,b] [--effort quick] [--budget 8h]

The encoder of Whisper tiny at three batch sizes, and a HiFi-GAN generator at three lengths, with random
weights. Prints the report of `autoconv.tune` for each, that of the same call once more, and, a JSON line a
device, the launches and the misses of forwards at all sizes there, whose launches are only recorded.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import product

import torch
from torch import nn

import autoconv
from scripts.models import HifiGan, WhisperEncoder

BATCHES = (1, 4, 16)
LENGTHS = (200, 400, 1600)  # frames of 11.6 ms: two seconds, five, and nineteen


Made = tuple[nn.Module, torch.Tensor, Sequence[int], Sequence[int]]  # model, input, batches, lengths
MODELS: dict[str, Callable[[], Made]] = {
    "whisper": lambda: (WhisperEncoder(), torch.zeros(1, 80, 3000), BATCHES, (3000,)),
    "hifigan": lambda: (HifiGan(), torch.zeros(1, 80, 200), (1,), LENGTHS),
}


def main() -> None:
    """Tune each model and look for misses."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("models", nargs="*", default=list(MODELS))
    parser.add_argument("--devices", default="rtx4090,l4")
    parser.add_argument("--effort", default="quick")
    parser.add_argument("--budget", default=None)
    given = parser.parse_args()
    devices = given.devices.split(",")
    for name in given.models:
        model, x, batches, lengths = MODELS[name]()
        model.eval()
        options = {"devices": devices, "effort": given.effort, "budget": given.budget}
        for _ in range(2):  # the second finds all
            print(
                f"\n{name}\n{autoconv.tune(model, x, batches=batches, lengths=lengths, **options)}",
                flush=True,
            )
        autoconv.accelerate(model, on_miss="predict")
        for line in forwards(model, x, list(product(batches, lengths)), devices):
            print(json.dumps({"model": name, **line}), flush=True)


def forwards(
    model: nn.Module, x: torch.Tensor, sizes: Sequence[tuple[int, int]], devices: Sequence[str]
) -> Iterator[dict[str, object]]:
    """Yield, for each device, what came of forwards at each batch size and length."""
    for device in devices:
        begun = time.monotonic()
        with torch.no_grad(), autoconv.recorded(device) as launches, autoconv.stats() as seen:
            for batch, length in sizes:
                model(x.new_zeros((batch, x.shape[1], length)))
        calls = {" of ".join(served): count for served, count in seen.calls.items()}
        yield {
            "device": device,
            "sizes": sizes,
            "launches": len(launches),
            "calls": calls,
            "by_torch": seen.by_torch,
            "misses": seen.misses,
            "seconds": round(time.monotonic() - begun, 1),
        }


if __name__ == "__main__":
    main()
