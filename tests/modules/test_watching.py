"""What serves, counted: for the process, and for each convolution of a model while it runs."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import autoconv
from autoconv import serving
from autoconv.watching import ModuleCalls

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
    with autoconv.recorded("l4") as launches, autoconv.stats(model) as seen:
        model(X).sum().backward()
        counted = sum(seen.calls.values())
    assert seen.modules == {
        "called": ModuleCalls(kernel=1), "handed_on": ModuleCalls(),
        "unused": ModuleCalls(), "own": ModuleCalls(kernel=1),
    }  # fmt: skip
    assert counted == sum(seen.calls.values()) == 5  # two forward, one gradient of x, two of weights
    assert len(launches) == 7  # those of weights in two each
    assert seen.misses == seen.plans == counted
    assert (seen.by_torch, seen.sweeps, seen.evicted) == ({}, 0, 0)
    assert str(seen).splitlines() == [
        f"{counted} calls by kernels: {counted} default of none", "0 calls by torch: none",
        f"{counted} misses, 0 sweeps, {counted} plans, 0 evicted",
        "called: 1 by kernels, 0 by torch", "handed_on: 0 by kernels, 0 by torch",
        "unused: 0 by kernels, 0 by torch", "own: 1 by kernels, 0 by torch",
    ]  # fmt: skip


def test_a_block_counts_its_own_calls_and_the_process_all(model):
    with autoconv.recorded("l4"), torch.no_grad():
        model(X)
        with autoconv.stats() as inside:
            model(X)
        after = autoconv.stats()
        model(X)
        assert sum(autoconv.stats().calls.values()) == 6
    assert (sum(inside.calls.values()), inside.misses, inside.modules) == (2, 0, {})
    assert sum(after.calls.values()) == 4  # as it was when it was asked for


def test_what_torch_computes_is_told(model):
    with autoconv.stats(model) as seen:
        model(X)  # on the CPU
    assert seen.modules["called"] == seen.modules["own"] == ModuleCalls(torch=1)
    with autoconv.recorded("l4"), autoconv.stats(model.double()) as seen, torch.no_grad():
        model(X.double())
    assert seen.modules["called"] == seen.modules["own"] == ModuleCalls(torch=1)
    assert (seen.calls, seen.by_torch) == ({}, {"no kernel runs it": 2})


def test_a_model_is_as_it_was_once_it_is_no_longer_watched(model):
    with autoconv.recorded("l4"):
        dispatcher = serving.current
        with autoconv.stats(model) as seen:
            with pytest.raises(RuntimeError, match="to have 4 channels"):
                model.called(input=X[:, :3])
            assert serving.current is dispatcher
        model(X)
    assert seen.modules["called"] == ModuleCalls(torch=1)  # which refused it
    assert not any(one._forward_hooks or one._forward_pre_hooks for one in model.modules())


def test_a_convolution_alone_is_watched_by_its_class(model):
    with autoconv.recorded("l4"), autoconv.stats(model.called) as seen, torch.no_grad():
        model.called(input=X)
    assert seen.modules == {"Conv1d": ModuleCalls(kernel=1)}
