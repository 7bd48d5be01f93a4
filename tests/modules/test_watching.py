"""Which convolutions of a model are served: seen while it runs."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import autoconv
from autoconv import serving

X = torch.randn(2, 4, 40)


class Mixed(nn.Module):
    """Convolutions that are called, one whose weight is handed on as Mamba does, and one never used."""

    def __init__(self) -> None:
        super().__init__()
        self.called = nn.Conv1d(4, 6, 3)
        self.handed_on = nn.Conv1d(6, 6, 3)
        self.unused = nn.ConvTranspose1d(6, 6, 3)
        self.own = autoconv.ModelNew(6, 4, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.called(x)
        x = nn.functional.conv1d(x, self.handed_on.weight, self.handed_on.bias)
        return self.own(x)


@pytest.fixture
def model(monkeypatch: pytest.MonkeyPatch) -> Mixed:
    monkeypatch.setenv("AUTOCONV_ON_MISS", "predict")
    made = Mixed()
    assert autoconv.accelerate(made).swapped == ("called", "handed_on", "unused")
    return made


def test_what_is_called_is_told_from_what_is_not(model):
    with autoconv.recorded("l4") as launches, autoconv.watched(model) as seen:
        model(X).sum().backward()
    assert seen.by_kernel == ("called", "own")
    assert seen.by_torch == ()
    assert seen.uncalled == ("handed_on", "unused")
    assert str(seen).splitlines() == [
        "2 served by a kernel: called, own", "0 left to torch: none",
        "2 not called: handed_on, unused",
    ]  # fmt: skip
    assert launches


def test_what_torch_computes_is_told(model):
    with autoconv.watched(model) as seen:
        model(X)  # on the CPU
    assert (seen.by_kernel, seen.by_torch) == ((), ("called", "own"))
    with autoconv.recorded("l4"), autoconv.watched(model.double()) as seen:
        model(X.double())
    assert (seen.by_kernel, seen.by_torch) == ((), ("called", "own"))


def test_a_model_is_as_it_was_once_it_is_no_longer_watched(model):
    with autoconv.recorded("l4"):
        dispatcher = serving.current
        with autoconv.watched(model) as seen:
            with pytest.raises(RuntimeError, match="to have 4 channels"):
                model.called(input=X[:, :3])
            assert serving.current is dispatcher
        model(X)
    assert seen.by_torch == ("called",)  # which refused it
    assert not any(one._forward_hooks or one._forward_pre_hooks for one in model.modules())


def test_a_convolution_alone_is_watched_by_its_class(model):
    with autoconv.recorded("l4"), autoconv.watched(model.called) as seen, torch.no_grad():
        model.called(input=X)
    assert seen.by_kernel == ("Conv1d",)
