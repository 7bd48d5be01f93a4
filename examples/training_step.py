"""A training step: modules of autoconv's in place of torch.nn's, gradients included.

The gradient of a convolution's input is a transposed convolution, that of its weight a product of its own;
each is a problem with a tuned kernel. State dicts go either way.
"""

import torch
from torch import nn

import autoconv


def network(conv: type[nn.Module]) -> nn.Sequential:
    """A classifier of one-channel signals."""
    return nn.Sequential(
        conv(1, 16, 9, stride=2, padding=4),
        nn.ReLU(),
        conv(16, 32, 9, stride=2, padding=4),
        nn.ReLU(),
        nn.AdaptiveAvgPool1d(1),
        nn.Flatten(),
        nn.Linear(32, 2),
    )


def main() -> None:
    """Learn to tell slow sines from fast ones."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.manual_seed(0)
    model = network(autoconv.Conv1d).to(device)
    time = torch.linspace(0, 1, 256, device=device)
    labels = torch.arange(32, device=device) % 2
    signals = torch.sin(2 * torch.pi * (4 + 12 * labels[:, None, None]) * time)
    signals = signals + 0.1 * torch.randn_like(signals)

    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    for step in range(20):
        loss = nn.functional.cross_entropy(model(signals), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step in (0, 19):
            print(f"step {step}: loss {loss.item():.3f}")

    plain = network(nn.Conv1d).to(device)
    plain.load_state_dict(model.state_dict())
    with torch.no_grad():
        print(
            f"torch.nn with the same weights differs by {(plain(signals) - model(signals)).abs().max():.1e}"
        )


if __name__ == "__main__":
    main()
