"""Which calls share a plan: equal in all that a launch depends on, and in nothing less."""

from __future__ import annotations

from collections.abc import Iterator
from enum import IntEnum
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional

import autoconv
from autoconv.dispatch.launchers import ByTorch
from autoconv.dispatch.plans import Plan

X, WEIGHT, BIAS = torch.zeros(2, 16, 96), torch.zeros(16, 16, 3), torch.zeros(16)
CALL: dict[str, Any] = {
    "x": X, "weight": WEIGHT, "bias": BIAS, "stride": 1, "padding": 0, "dilation": 1, "groups": 1,
}  # fmt: skip


def by_torch(plan: Plan) -> bool:
    return isinstance(plan.launch, ByTorch)


def moved(tensor: torch.Tensor, by: int) -> torch.Tensor:
    """A copy of `tensor` whose address is `by` bytes past a multiple of 16."""
    room = torch.zeros(tensor.numel() + by // tensor.element_size(), dtype=tensor.dtype)
    assert room.data_ptr() % 16 == 0
    return room[by // tensor.element_size() :].view(tensor.shape)


@pytest.fixture
def plan(dispatcher):
    return lambda **changes: dispatcher.plan(**{**CALL, **changes})


@pytest.fixture
def torch_settings() -> Iterator[None]:
    conv = torch.backends.cudnn.conv
    before = conv.fp32_precision
    yield
    conv.fp32_precision = before


def test_calls_alike_share_one_plan(plan):
    assert plan() is plan(x=torch.ones_like(X), weight=torch.ones_like(WEIGHT), bias=torch.ones_like(BIAS))


@pytest.mark.parametrize(
    "changes",
    [
        {"x": torch.zeros(3, 16, 96)},
        {"x": torch.zeros(2, 16, 97)},
        {"x": torch.zeros(2, 96, 16).transpose(1, 2)},
        {"x": torch.zeros(2, 16, 192)[:, :, ::2]},
        {"x": torch.zeros(1, 16, 96).expand(2, 16, 96)},
        {"x": moved(X, 4)},
        {"weight": torch.zeros(32, 16, 3), "bias": None},
        {"weight": torch.zeros(16, 16, 5)},
        {"weight": torch.zeros(16, 3, 16).transpose(1, 2)},
        {"weight": moved(WEIGHT, 8)},
        {"bias": None},
        {"bias": torch.zeros(32)[::2]},
        {"bias": moved(BIAS, 4)},
        {"stride": 2},
        {"padding": 1},
        {"padding": "same"},
        {"dilation": 2},
        {"x": X.half(), "weight": WEIGHT.half(), "bias": BIAS.half()},
        {"x": X.bfloat16(), "weight": WEIGHT.bfloat16(), "bias": BIAS.bfloat16()},
        {"x": torch.zeros(16, 96)},
    ],
    ids=lambda changes: ",".join(changes),
)
def test_whatever_a_launch_depends_on_makes_another_plan(plan, changes):
    changed = plan(**changes)
    assert changed is not plan()
    assert not by_torch(changed)
    assert changed is plan(**changes)


@pytest.mark.parametrize(
    "changes",
    [
        {"weight": WEIGHT.half()},
        {"bias": BIAS.half()},
        {"bias": torch.zeros(15)},
        {"weight": torch.zeros(16, 8, 3)},
        {"weight": torch.zeros(16, 16)},
        {"x": torch.zeros(2, 2, 16, 96)},
        {"x": torch.zeros(0, 16, 96)},
        {"x": torch.zeros(2, 16, 2)},
        {"padding": -1},
        {"padding": "sam"},
        {"stride": 0},
        {"stride": (1, 1)},
        {"dilation": None},
        {"groups": 0},
        {"groups": "1"},
        {"padding": "same", "stride": 2},
        {name: tensor.double() for name, tensor in (("x", X), ("weight", WEIGHT), ("bias", BIAS))},
    ],
    ids=str,
)
def test_a_plan_made_for_a_sound_call_never_serves_one_that_torch_must_answer(plan, changes):
    assert not by_torch(plan())
    assert by_torch(plan(**changes))
    assert not by_torch(plan())


def test_torchs_precision_is_asked_in_every_call(plan, torch_settings):
    torch.backends.cudnn.conv.fp32_precision = "tf32"
    fast = plan()
    torch.backends.cudnn.conv.fp32_precision = "ieee"
    assert plan() is not fast
    torch.backends.cudnn.conv.fp32_precision = "tf32"
    assert plan() is fast


@pytest.mark.parametrize(("setting", "precision"), [("tf32", "tf32"), ("ieee", "ieee")])
def test_the_kernel_multiplies_as_torch_is_set(launches, torch_settings, setting, precision):
    torch.backends.cudnn.conv.fp32_precision = setting
    autoconv.conv1d(X, WEIGHT)
    assert precision in launches[0].arguments


def test_half_precision_asks_for_no_setting(plan, torch_settings):
    halves = {name: CALL[name].half() for name in ("x", "weight", "bias")}
    torch.backends.cudnn.conv.fp32_precision = "tf32"
    before = plan(**halves)
    torch.backends.cudnn.conv.fp32_precision = "ieee"
    assert plan(**halves) is before


def test_numbers_are_understood_in_every_form(plan, launches):
    forms = [1, (1,), [1], torch.Size([1])]
    for form in forms:
        plan(stride=form, padding=form, dilation=form).launch(X, WEIGHT, BIAS)
    assert len({(launch.grid, launch.arguments[4:]) for launch in launches}) == 1
    assert len(launches) == len(forms)


def test_an_input_whose_sign_lies_elsewhere_is_torchs(launches):
    weight = torch.randn(16, 16, 3)
    spectrum = torch.randn(2, 16, 96, dtype=torch.cfloat)
    autoconv.conv1d(spectrum.imag, weight)  # makes a plan for these strides
    y = autoconv.conv1d(spectrum.conj().imag, weight)
    assert torch.equal(y, functional.conv1d(-spectrum.imag.contiguous(), weight))
    assert len(launches) == 1


@pytest.mark.parametrize("place", range(3))
def test_a_packed_tensor_whose_sign_lies_elsewhere_is_torchs(place, launches):
    """Its memory holds the numbers with the other sign, and it looks like any other."""
    call = [torch.randn(2, 16, 96), torch.randn(16, 16, 3), torch.randn(16)]
    autoconv.conv1d(*call)  # makes a plan for these shapes
    call[place] = torch._neg_view(call[place])
    assert call[place].is_contiguous()
    torch.testing.assert_close(autoconv.conv1d(*call), functional.conv1d(*call))
    assert len(launches) == 1


def test_batched_tensors_have_no_address_and_are_torchs(launches):
    x, weight = torch.randn(5, 2, 16, 30), torch.randn(8, 16, 3)
    y = torch.vmap(lambda sample: autoconv.conv1d(sample, weight))(x)
    expected = torch.stack([functional.conv1d(sample, weight) for sample in x])
    torch.testing.assert_close(y, expected)
    assert launches == []


# --- 1 == 1.0 == True -----------------------------------------------------------------------------

TRANSPOSED = torch.zeros(16, 16, 3)


def convolve(name: str, value: Any) -> torch.Tensor:
    """A call with one argument given as `value`; output_padding makes it a transposed one of stride 2."""
    if name == "output_padding":
        return autoconv.conv_transpose1d(X, TRANSPOSED, BIAS, 2, 0, value)
    return autoconv.conv1d(X, WEIGHT, BIAS, **{name: value})


def refused(name: str, value: Any) -> bool:
    try:
        convolve(name, value)
    except TypeError:
        return True
    return False


EQUALS = [
    (name, right, wrong)
    for name in ("stride", "padding", "dilation", "output_padding", "groups")
    for right, wrong in [(1, 1.0), (1, True), ((1,), (1.0,)), ((1,), (True,))]
    if name != "groups" or right == 1
]


@pytest.mark.parametrize(("name", "right", "wrong"), EQUALS)
def test_a_wrong_number_neither_spoils_nor_takes_the_plan_of_its_equal(name, right, wrong, dispatcher):
    assert refused(name, wrong)
    assert dispatcher.launchers == ()
    assert not refused(name, right)
    kept = dispatcher.launchers
    assert refused(name, wrong)
    assert not refused(name, right)
    assert dispatcher.launchers == kept


class Step(IntEnum):
    ONE = 1


@pytest.mark.parametrize("value", [np.int64(1), Step.ONE, [1], [np.int64(1)], (Step.ONE,), torch.Size([1])])
@pytest.mark.parametrize("name", ["stride", "padding", "dilation", "output_padding"])
def test_whole_numbers_of_other_types_are_served_first_or_second(name, value, launches):
    convolve(name, value)
    convolve(name, 1)
    convolve(name, (1,))
    assert len({launch.arguments[4:] for launch in launches}) == 1
    assert len(launches) == 3


WRONG = [{"stride": 0}, {"weight": torch.zeros(16, 15, 3)}, {"padding": "sam"}, {"bias": torch.zeros(5)}]


@pytest.mark.parametrize("wrong", [*WRONG, {"groups": 3}, {"stride": (1, 2)}, {"padding": (1, 1)}], ids=list)
def test_a_call_that_torch_refuses_leaves_no_plan_behind(wrong, dispatcher):
    with pytest.raises(RuntimeError):
        autoconv.conv1d(**{"input": X, "weight": WEIGHT, "bias": BIAS, **wrong})
    assert dispatcher.launchers == ()


def test_what_is_torchs_keeps_a_plan_once_torch_has_served_it(dispatcher):
    double = X.double(), WEIGHT.double(), BIAS.double()
    for _ in range(2):
        assert torch.equal(autoconv.conv1d(*double), functional.conv1d(*double))
    (launch,) = dispatcher.launchers
    assert isinstance(launch, ByTorch)
    assert dispatcher.plan(*double, 1, 0, 1, 1).launch is launch


# --- tensors without memory -----------------------------------------------------------------------


def zero(tensor: torch.Tensor) -> torch.Tensor:
    return torch._efficientzerotensor(tensor.shape)


def part_of_zeros(tensor: torch.Tensor) -> torch.Tensor:
    """A view whose address is an offset from 0: 16 bytes."""
    flat = torch._efficientzerotensor((tensor.numel() + 4,))
    return flat[4:].view(tensor.shape)


def given_back(tensor: torch.Tensor) -> torch.Tensor:
    """Without its memory, as FSDP leaves parameters between uses."""
    one = tensor.clone()
    one.untyped_storage().resize_(0)
    return one


@pytest.mark.parametrize("made", [zero, part_of_zeros, given_back, lambda one: one.to("meta")])
@pytest.mark.parametrize("name", ["x", "weight", "bias"])
@pytest.mark.parametrize("warm", [False, True])
def test_no_kernel_gets_a_tensor_without_memory(made, name, warm, plan):
    if warm:
        assert not by_torch(plan())
    assert by_torch(plan(**{name: made(CALL[name])}))
    assert not by_torch(plan())
