"""Two published networks, narrow, of which speech asks for many sizes: for tests and scripts/bench."""

from __future__ import annotations

import torch
from torch import nn

WIDTH = 32  # channels after the generator's first convolution; the published one has 512


class Generator(nn.Module):
    """HiFi-GAN's generator (Kong et al. 2020, V1), narrow: transposed by 8, 8, 2 and 2, 72 dilated ones."""

    def __init__(self, width: int = WIDTH) -> None:
        super().__init__()
        self.before = nn.Conv1d(80, width, 7, padding=3)
        self.ups, self.blocks = nn.ModuleList(), nn.ModuleList()
        for taps, stride in ((16, 8), (16, 8), (4, 2), (4, 2)):
            self.ups.append(nn.ConvTranspose1d(width, width // 2, taps, stride, (taps - stride) // 2))
            width //= 2
            for of_block in (3, 7, 11):
                for dilation in (1, 1, 3, 1, 5, 1):
                    zeros = (of_block - 1) * dilation // 2
                    self.blocks.append(nn.Conv1d(width, width, of_block, 1, zeros, dilation))
        self.after = nn.Conv1d(width, 1, 7, padding=3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return a waveform, (N, 1, 256 L), of mel frames, (N, 80, L)."""
        x = self.before(x)
        for number, up in enumerate(self.ups):
            x = up(x)
            for conv in self.blocks[18 * number : 18 * number + 18]:
                x = x + conv(torch.relu(x))
        y: torch.Tensor = self.after(x)
        return y


class Encoder(nn.Module):
    """The two convolutions in front of Whisper's encoder, narrow."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Conv1d(80, 64, 3, padding=1), nn.Conv1d(64, 64, 3, 2, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return features, (N, 64, L / 2), of mel frames, (N, 80, L)."""
        y: torch.Tensor = torch.relu(self.two(torch.relu(self.one(x))))
        return y
