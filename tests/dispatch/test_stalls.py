"""What calls cost before they are tuned, and what of the tuner's work could hold them up, by counts."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any

import pytest
import torch
from torch.nn import functional

import autoconv
from autoconv import serving
from autoconv.cost import predict
from autoconv.dispatch.dispatcher import Dispatcher
from autoconv.dispatch.launchers import ByTorch
from autoconv.kernels.registry import kernels
from autoconv.lookup.families import load
from autoconv.sweep import candidates
from autoconv.tuning import background, hashes
from autoconv.tuning.tuner import Tuned, Tuner
from autoconv.tuning.waiting import Wanted

DEVICE = "rtx4090"
X, WEIGHT = torch.randn(1, 16, 16), torch.randn(16, 16, 1)


@pytest.fixture
def in_vain(monkeypatch: pytest.MonkeyPatch, compiled_here: object) -> None:
    """Sweeps that find nothing."""
    monkeypatch.setattr(Tuner, "tune", lambda *_, **__: Tuned(None, None))


def functions_in(call: Callable[[], object]) -> list[str]:
    """The Python functions that a call enters."""
    entered: list[str] = []

    def look(frame: FrameType, event: str, _argument: object) -> None:
        if event == "call":
            entered.append(frame.f_code.co_name)

    sys.setprofile(look)
    try:
        call()
    finally:
        sys.setprofile(None)
    return entered[1:]


def missed(lengths: range) -> None:
    for length in lengths:
        autoconv.conv1d(torch.zeros(1, 16, length), WEIGHT)


# --- a call that torch serves ---------------------------------------------------------------------


def test_what_torch_serves_goes_straight_to_its_function(in_vain):
    with autoconv.recorded(DEVICE):
        for _ in range(3):
            autoconv.conv1d(X, WEIGHT)
        entered = functions_in(lambda: autoconv.conv1d(X, WEIGHT))
        autoconv.wait(60)
    assert entered == ["conv1d", "_convolved", "is_dynamo_compiling", "__call__"]


@pytest.mark.parametrize("numbers", [(1, 0, 1, 1), ((2,), "valid", (1,), 1), (1, "same", 2, 2)], ids=str)
def test_the_straight_way_gives_what_torch_does(numbers):
    weight = torch.randn(16, 16 // numbers[3], 3)
    by_torch = ByTorch(*numbers)
    assert by_torch.plain
    assert torch.equal(by_torch(X, weight, None), functional.conv1d(X, weight, None, *numbers))


def test_the_straight_way_is_there_for_transposed_ones_too():
    weight = torch.randn(16, 8, 4)
    by_torch = ByTorch(2, 1, 1, 1, "conv_transpose", 1)
    assert by_torch.plain
    assert torch.equal(by_torch(X, weight, None), functional.conv_transpose1d(X, weight, None, 2, 1, 1))


# --- a miss at a further size ---------------------------------------------------------------------


def test_misses_of_a_module_shape_read_once_and_make_one_space(in_vain, monkeypatch):
    spaces: list[str] = []
    for kernel in kernels().values():
        space = type(kernel).space

        def counted(self: Any, *given: Any, space: Any = space) -> Any:
            spaces.append(self.name)
            return space(self, *given)

        monkeypatch.setattr(type(kernel), "space", counted)
    monkeypatch.setattr("autoconv.lookup.shelf.MISSED_SECONDS", 60.0)
    reads: list[object] = []
    monkeypatch.setattr("autoconv.lookup.shelf.load", lambda *given: reads.append(given) or load(*given))
    monkeypatch.setattr(background, "QUIET_SECONDS", 60.0)
    with autoconv.recorded(DEVICE):
        missed(range(16, 26))
        assert autoconv.stats().misses == 10
        assert len(reads) == 1
        assert len(spaces) <= len(kernels()) and len(spaces) == len(set(spaces))
        autoconv.wait(0)


def test_a_miss_wakes_the_tuner_only_where_it_has_to_do_something_sooner(in_vain, monkeypatch):
    woken: list[object] = []
    wait = threading.Condition.wait

    def counted(self: threading.Condition, timeout: float | None = None) -> bool:
        done = wait(self, timeout)
        if threading.current_thread().name == "autoconv tuner":
            woken.append(done)
        return done

    monkeypatch.setattr(hashes, "hash_compiler", lambda: None)
    monkeypatch.setattr(background, "QUIET_SECONDS", 60.0)
    monkeypatch.setattr(background, "LONGEST_QUIET_SECONDS", 60.0)
    with autoconv.recorded(DEVICE):
        missed(range(16, 17))
        while threading.active_count() < 2:
            pass
        monkeypatch.setattr(threading.Condition, "wait", counted)
        missed(range(17, 67))
        assert len(woken) <= 1, "of fifty requests the first alone could be sooner than the end of its sleep"
        assert autoconv.wait(60)


# --- the tuner's thread ---------------------------------------------------------------------------


def test_no_estimate_of_many_configs_is_made_in_this_process(monkeypatch):
    """Half a second of Python each: a call beside it would wait for the interpreter again and again."""
    estimated: list[str] = []

    def here(*given: Any) -> Any:
        estimated.append(threading.current_thread().name)
        return predict.estimate_seconds(*given)

    monkeypatch.setattr(candidates, "estimate_seconds", here)
    monkeypatch.setattr(background, "QUIET_SECONDS", 0.0)
    with autoconv.recorded(DEVICE):
        autoconv.conv1d(X, WEIGHT)
        assert autoconv.wait(300)
        autoconv.conv1d(torch.zeros(1, 16, 24), WEIGHT)  # in the bucket, so it is looked at
        assert autoconv.wait(300)
        assert autoconv.stats().sweeps >= 1
    assert estimated == []


def test_what_is_worth_most_is_weighed_without_the_lock(in_vain, monkeypatch):
    with autoconv.recorded(DEVICE):
        tuner = dispatcher()._planner.background
        owned: list[bool] = []
        worth = Wanted.worth.fget
        assert worth is not None
        weighed = property(lambda one: owned.append(tuner._changed._is_owned()) or worth(one))  # type: ignore[attr-defined]
        monkeypatch.setattr(Wanted, "worth", weighed)
        missed(range(16, 20))
        assert autoconv.wait(60)
    assert owned and not any(owned)


def test_calls_are_counted_up_a_plan_at_a_time(in_vain, monkeypatch):
    with autoconv.recorded(DEVICE):
        missed(range(16, 26))
        autoconv.wait(60)
        plans = dispatcher()._planner.plans
        alone, taken = plans.alone, []
        monkeypatch.setattr(plans, "alone", lambda: taken.append(None) or alone())
        missed(range(16, 26))
        counted = plans.counts()
    assert sum(counted.values()) == 20
    assert len(taken) == 11


def dispatcher() -> Dispatcher:
    assert serving.current is not None
    return serving.current
