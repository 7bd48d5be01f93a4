"""A vocoder: give all its convolutions the tuned kernels, and see which of them serve.

A HiFi-GAN generator in small: transposed convolutions that upsample a mel spectrogram, with residual blocks
of dilated convolutions behind each. On a GPU the kernels serve what is tuned; on the CPU torch computes all.
"""

import torch
from torch import nn
from torch.nn import functional

import autoconv


class ResidualBlock(nn.Module):
    """Dilated convolutions, each added to what it is given."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.convolutions = nn.ModuleList(
            nn.Conv1d(channels, channels, 3, padding=dilation, dilation=dilation) for dilation in (1, 3, 5)
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for convolution in self.convolutions:
            x = x + convolution(functional.leaky_relu(x, 0.1))
        return x


class Generator(nn.Module):
    """From 80 mel bands (N, 80, frames) to a waveform (N, 1, 64 * frames)."""

    def __init__(self, channels: int = 128) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.Conv1d(80, channels, 7, padding=3)]
        for _ in range(3):
            layers += [nn.LeakyReLU(0.1), nn.ConvTranspose1d(channels, channels // 2, 8, stride=4, padding=2)]
            channels //= 2
            layers.append(ResidualBlock(channels))
        self.layers = nn.Sequential(*layers, nn.Conv1d(channels, 1, 7, padding=3))

    def forward(self, mel: torch.Tensor) -> torch.Tensor:
        return torch.tanh(self.layers(mel))


def main() -> None:
    """Synthesise noise, before and after."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.manual_seed(0)
    model = Generator().to(device).eval()
    mel = torch.randn(1, 80, 40, device=device)
    with torch.no_grad():
        before = model(mel)
        print(autoconv.accelerate(model))
        with autoconv.stats(model) as seen:
            after = model(mel)
    print(seen)
    print(f"{tuple(after.shape)}, largest difference {(after - before).abs().max():.1e}")


if __name__ == "__main__":
    main()
