"""What serves, counted: for the process, and for each convolution of a model while it runs."""

from __future__ import annotations

import threading
from contextlib import ExitStack

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


def test_a_block_inside_that_has_a_dispatcher_of_its_own_counts_apart(monkeypatch):
    monkeypatch.setenv("AUTOCONV_ON_MISS", "predict")
    x, weight = torch.randn(2, 4, 40), torch.randn(6, 4, 3)
    with autoconv.recorded("l4"), autoconv.stats() as seen:
        for _ in range(3):
            autoconv.conv1d(x, weight)
        with autoconv.recorded("l4"), autoconv.stats() as inner:
            for _ in range(5):
                autoconv.conv1d(x, weight)
            assert sum(seen.calls.values()) == 3
    assert (sum(seen.calls.values()), sum(inner.calls.values())) == (3, 5)


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
        with autoconv.stats(model) as seen, pytest.raises(RuntimeError, match="to have 4 channels"):
            model.called(input=X[:, :3])
        assert serving.current is dispatcher
        model(X)
    assert seen.modules["called"] == ModuleCalls(torch=1)  # which refused it
    assert not any(one._forward_hooks or one._forward_pre_hooks for one in model.modules())


def test_a_convolution_alone_is_watched_by_its_class(model):
    with autoconv.recorded("l4"), autoconv.stats(model.called) as seen, torch.no_grad():
        model.called(input=X)
    assert seen.modules == {"Conv1d": ModuleCalls(kernel=1)}


def test_a_compiled_model_is_one_graph_still_and_not_seen():
    conv = autoconv.Conv1d(4, 6, 3)
    with autoconv.stats(conv) as seen:
        y = torch.compile(conv, backend="eager", fullgraph=True)(X)
    assert torch.equal(y, conv(X))
    assert seen.modules == {"Conv1d": ModuleCalls()}


# --- threads, and blocks that overlap -------------------------------------------------------------


def test_calls_that_overlap_in_two_threads_are_each_module_s_own(model):
    a_begun, b_begun, a_ended = threading.Event(), threading.Event(), threading.Event()

    def first(*_):
        a_begun.set()
        assert b_begun.wait(60)

    def second(*_):
        b_begun.set()
        assert a_ended.wait(60)

    other = threading.Thread(target=model.called.requires_grad_(False), args=(X,))
    with autoconv.recorded("l4"):
        dispatcher = serving.current
        with autoconv.stats(model) as seen:
            model.called.register_forward_pre_hook(first)
            model.called.register_forward_hook(lambda *_: a_ended.set())
            model.own.register_forward_pre_hook(second)
            other.start()
            assert a_begun.wait(60)
            model.own(torch.randn(2, 6, 40))
            other.join()
        assert serving.current is dispatcher
    assert seen.modules["called"] == seen.modules["own"] == ModuleCalls(kernel=1)


def test_one_module_is_counted_in_two_threads_at_once(model):
    both = threading.Barrier(2, timeout=60)

    def meet(*_):
        both.wait()

    conv = model.called.requires_grad_(False)
    threads = [threading.Thread(target=conv, args=(X,)) for _ in range(2)]
    with autoconv.recorded("l4"), autoconv.stats(model) as seen:
        conv.register_forward_pre_hook(meet)
        for one in threads:
            one.start()
        for one in threads:
            one.join()
    assert seen.modules["called"] == ModuleCalls(kernel=2)


def test_a_call_may_go_on_when_it_is_no_longer_watched(model):
    within, ended = threading.Event(), threading.Event()

    def wait(*_):
        within.set()
        assert ended.wait(60)

    thread = threading.Thread(target=model.called.requires_grad_(False), args=(X,))
    with autoconv.recorded("l4") as launches:
        dispatcher = serving.current
        with autoconv.stats(model):
            model.called.register_forward_pre_hook(wait)
            thread.start()
            assert within.wait(60)
        ended.set()
        thread.join()
        assert serving.current is dispatcher
    assert len(launches) == 1


def test_a_watched_call_may_wait_for_the_background(model):
    waited = []
    with autoconv.recorded("l4"), autoconv.stats(model):
        model.called.register_forward_pre_hook(lambda *_: waited.append(autoconv.wait()))
        model.called(X)
    assert waited == [True]


def test_whichever_dispatcher_serves_is_watched_until_the_block_ends(model):
    outer, inner, serves = ExitStack(), ExitStack(), ExitStack()
    with torch.no_grad(), autoconv.recorded("l4"):
        dispatcher = serving.current
        of_one = outer.enter_context(autoconv.stats(model.own))
        of_all = inner.enter_context(autoconv.stats(model))
        serves.enter_context(autoconv.recorded("rtx4090"))
        model(X)
        inner.close()
        model(X)
        serves.close()
        model(X)
        outer.close()
        assert serving.current is dispatcher
    assert of_all.modules["own"] == ModuleCalls(kernel=1)
    assert of_one.modules == {"ModelNew": ModuleCalls(kernel=3)}
