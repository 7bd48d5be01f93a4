"""Tune two whole models, with or without a GPU, and see that a forward at each size misses nothing.

    python scripts/bench/whole_models.py [whisper] [hifigan] [--devices a,b] [--effort quick] [--budget 8h]

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
from typing import Any

import torch
from torch import nn
from torch.nn import functional

import autoconv

BATCHES = (1, 4, 16)
LENGTHS = (200, 400, 1600)  # frames of 11.6 ms: two seconds, five, and nineteen


class WhisperEncoder(nn.Module):
    """Two convolutions over 80 mels and the transformer behind them; the sizes of openai/whisper's tiny."""

    def __init__(self, width: int = 384, layers: int = 4) -> None:
        super().__init__()
        self.conv1 = nn.Conv1d(80, width, 3, padding=1)
        self.conv2 = nn.Conv1d(width, width, 3, stride=2, padding=1)
        block = nn.TransformerEncoderLayer(width, 6, 4 * width, batch_first=True)
        self.blocks = nn.TransformerEncoder(block, layers, enable_nested_tensor=False)

    def forward(self, mels: torch.Tensor) -> torch.Tensor:
        """Return (N, 1500, width) of mels, (N, 80, 3000)."""
        x = functional.gelu(self.conv2(functional.gelu(self.conv1(mels))))
        y: torch.Tensor = self.blocks(x.transpose(1, 2))
        return y


class ResidualBlock(nn.Module):
    """Three dilated convolutions, each followed by one that is not, as in HiFi-GAN's first kind of block."""

    def __init__(self, channels: int, taps: int) -> None:
        super().__init__()
        half = (taps - 1) // 2
        self.convs1 = nn.ModuleList(
            nn.Conv1d(channels, channels, taps, dilation=d, padding=d * half) for d in (1, 3, 5)
        )
        self.convs2 = nn.ModuleList(nn.Conv1d(channels, channels, taps, padding=half) for _ in range(3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return (N, channels, L)."""
        for first, second in zip(self.convs1, self.convs2, strict=True):
            x = x + second(functional.leaky_relu(first(functional.leaky_relu(x, 0.1)), 0.1))
        return x


class HifiGan(nn.Module):
    """The generator of HiFi-GAN (Kong et al. 2020, arXiv:2010.05646, appendix A.1), configuration V1."""

    def __init__(self, channels: int = 512) -> None:
        super().__init__()
        self.pre = nn.Conv1d(80, channels, 7, padding=3)
        self.ups, self.blocks = nn.ModuleList(), nn.ModuleList()
        for stride, taps in ((8, 16), (8, 16), (2, 4), (2, 4)):
            self.ups.append(nn.ConvTranspose1d(channels, channels // 2, taps, stride, (taps - stride) // 2))
            channels //= 2
            self.blocks.append(nn.ModuleList(ResidualBlock(channels, taps) for taps in (3, 7, 11)))
        self.post = nn.Conv1d(channels, 1, 7, padding=3)

    def forward(self, mels: torch.Tensor) -> torch.Tensor:
        """Return the wave, (N, 1, 256 L), of mels, (N, 80, L)."""
        x = self.pre(mels)
        stages: Any = zip(self.ups, self.blocks, strict=True)
        for up, blocks in stages:
            x = up(functional.leaky_relu(x, 0.1))
            x = torch.stack([block(x) for block in blocks]).mean(0)
        return torch.tanh(self.post(functional.leaky_relu(x)))


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
