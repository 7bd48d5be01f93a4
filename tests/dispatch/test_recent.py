"""A call is recognised by its place and then by its tensors: what `torture` may take long to come to."""

from __future__ import annotations

import gc
import weakref

import pytest
import torch

import autoconv
from autoconv import serving
from autoconv.dispatch import plans, recent
from autoconv.dispatch.recent import comparison

X, WEIGHT = torch.zeros(2, 4, 30), torch.zeros(8, 4, 3)


def call(x=X, weight=WEIGHT, bias=None, **numbers):
    return autoconv.conv1d(x, weight, bias, **numbers)


def kept():
    return serving.current.recent


def test_calls_are_recognised_from_the_third_on(launches):
    for expected in (0, 1, 1, 1):
        call()
        assert len(kept()) == expected
    ((last,),) = [list(kept().values())]
    assert last.plan.total == 4


def test_sizes_and_weights_in_turn_have_places_of_their_own(launches):
    calls = [(X, WEIGHT), (X[:1], WEIGHT), (X, torch.zeros(8, 4, 5)), (X[:, :, :20].contiguous(), WEIGHT)]
    for _ in range(3):
        for x, weight in calls:
            call(x, weight)
    assert len(kept()) == len(calls)


@pytest.mark.parametrize(
    "numbers", [{"stride": [1]}, {"padding": 1.0}, {"stride": True}, {"groups": (1,)}], ids=str
)
def test_numbers_that_may_change_or_that_torch_refuses_are_never_recognised(numbers, launches):
    for _ in range(3):
        call()
    for _ in range(3):
        try:
            call(**numbers)
        except TypeError:
            continue
    (last,) = kept().values()
    assert last.plan.total >= 3
    assert (last.stride, last.padding, last.groups) == (1, 0, 1)


def test_no_tensor_is_kept_alive_nor_weakly_referred_to(launches):
    weight = torch.zeros(8, 4, 3)
    for _ in range(3):
        call(weight=weight)
    assert weakref.getweakrefcount(weight) == 0
    died = weakref.ref(weight)
    del weight
    launches.clear()
    gc.collect()
    assert died() is None


def test_places_are_bounded(launches, monkeypatch):
    monkeypatch.setattr("autoconv.dispatch.dispatcher.MOST", 3)
    for length in range(20, 30):
        for _ in range(2):
            call(torch.zeros(2, 4, length))
    assert len(kept()) <= 3


def test_a_plan_that_has_gone_is_not_found_any_more(launches, monkeypatch):
    monkeypatch.setattr(plans, "MOST_PLANS", 1)
    for _ in range(3):
        call()
    assert len(kept()) == 1
    call(X[:1])
    assert len(kept()) == 0


def test_where_torch_has_no_such_comparison_the_plan_is_looked_up(launches, monkeypatch):
    monkeypatch.setattr(recent, "comparison", lambda: None)
    for _ in range(3):
        call()
    assert len(kept()) == 0
    assert len(launches) == 3


def test_a_comparison_that_tells_too_little_apart_is_not_used(monkeypatch):
    class Lax:
        def __init__(self, *_tensors, **_rest):
            pass

        def check(self, *_tensors):
            return True

    assert comparison() is not None
    monkeypatch.setattr("torch._C._dynamo.guards.TensorGuards", Lax)
    assert comparison.__wrapped__() is None


def test_it_is_tried_in_whatever_is_in_force():
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        assert comparison.__wrapped__() is not None


def test_what_another_thread_changes_between_plan_and_comparison_is_not_mistaken(launches, monkeypatch):
    weight = torch.zeros(8, 4, 3)
    call(weight=weight)

    def changing(tensors, *rest):
        weight.data = torch.zeros(8, 4, 5)
        return recent.recent(tensors, *rest)

    monkeypatch.setattr("autoconv.dispatch.dispatcher.recent", changing)
    call(weight=weight)
    assert len(kept()) == 0
    assert call(weight=weight).shape == (2, 8, 26)


def test_a_change_of_precision_is_not_overlooked(launches):
    before = torch.backends.cudnn.allow_tf32
    try:
        for allowed in (True, False, True):
            torch.backends.cudnn.allow_tf32 = allowed
            for _ in range(3):
                call()
    finally:
        torch.backends.cudnn.allow_tf32 = before
    of_tf32 = ["tf32" in launch.arguments for launch in launches]
    assert of_tf32 == [True] * 3 + [False] * 3 + [True] * 3


def test_under_autocast_weights_that_are_cast_leave_no_trace(launches):
    with torch.autocast("cpu", torch.bfloat16):
        for _ in range(4):
            assert call().dtype == torch.bfloat16
    assert len(kept()) == 0
