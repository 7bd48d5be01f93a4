"""Which calls share a plan: equal in all that a launch depends on, and in nothing less."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch.nn import functional

import autoconv
from autoconv.dispatch.launchers import ByTorch

X, WEIGHT, BIAS = torch.zeros(2, 16, 96), torch.zeros(16, 16, 3), torch.zeros(16)
CALL: dict[str, Any] = {
    "x": X, "weight": WEIGHT, "bias": BIAS, "stride": 1, "padding": 0, "dilation": 1, "groups": 1,
}  # fmt: skip


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
    assert not isinstance(changed, ByTorch)
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
    assert not isinstance(plan(), ByTorch)
    assert isinstance(plan(**changes), ByTorch)
    assert not isinstance(plan(), ByTorch)


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
        plan(stride=form, padding=form, dilation=form)(X, WEIGHT, BIAS)
    assert len({(launch.grid, launch.arguments[4:]) for launch in launches}) == 1
    assert len(launches) == len(forms)


def test_an_input_whose_sign_lies_elsewhere_is_torchs(launches):
    weight = torch.randn(16, 16, 3)
    spectrum = torch.randn(2, 16, 96, dtype=torch.cfloat)
    autoconv.conv1d(spectrum.imag, weight)  # makes a plan for these strides
    y = autoconv.conv1d(spectrum.conj().imag, weight)
    assert torch.equal(y, functional.conv1d(-spectrum.imag.contiguous(), weight))
    assert len(launches) == 1


def test_batched_tensors_have_no_address_and_are_torchs(launches):
    x, weight = torch.randn(5, 2, 16, 30), torch.randn(8, 16, 3)
    y = torch.vmap(lambda sample: autoconv.conv1d(sample, weight))(x)
    expected = torch.stack([functional.conv1d(sample, weight) for sample in x])
    torch.testing.assert_close(y, expected)
    assert launches == []
