"""Two published models at full size, with random weights."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn import functional


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
