from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional

from autoconv import Problem
from autoconv.dispatch.signature import Call, precision_of, problem_of, window


def call(**changes) -> Call:
    sound = Call(torch.zeros(2, 16, 96), torch.zeros(8, 16, 3), torch.zeros(8), 3, 1, 2, 1)
    return sound._replace(**changes)


def test_the_problem_of_a_call():
    assert problem_of(call(), "tf32") == Problem(2, 16, 8, 3, 96, stride=3, padding=1, dilation=2, bias=True)
    assert problem_of(call(bias=None), "ieee") == Problem(
        2, 16, 8, 3, 96, stride=3, padding=1, dilation=2, precision="ieee"
    )


def test_the_precision_of_float32_does_not_concern_half():
    halves = {"x": torch.zeros(2, 16, 96).half(), "weight": torch.zeros(8, 16, 3).half(), "bias": None}
    assert problem_of(call(**halves), "tf32") == problem_of(call(**halves), "ieee")


@pytest.mark.parametrize(("setting", "precision"), [
    ("tf32", "tf32"), (True, "tf32"), ("ieee", "ieee"), ("none", "ieee"), (False, "ieee"), ("bf16", "ieee"),
])  # fmt: skip
def test_every_answer_of_torch_is_a_precision(setting, precision):
    assert precision_of(setting) == precision


@pytest.mark.parametrize("name", ["weight", "bias"])
def test_tensors_of_two_devices_are_no_problem(name):
    assert problem_of(call(**{name: getattr(call(), name).to("meta")}), "tf32") is None


@pytest.mark.parametrize(
    ("x", "layout"),
    [
        (torch.zeros(2, 16, 96), "ncl"),
        (torch.zeros(2, 96, 16).transpose(1, 2), "nlc"),
        (torch.zeros(2, 16, 192)[:, :, ::2], "ncl"),
        (torch.zeros(2, 1, 96).expand(2, 16, 96), "ncl"),
        (torch.zeros(96, 16).t(), "nlc"),
        (torch.zeros(16, 96), "ncl"),
    ],
)
def test_the_layout_is_read_from_the_strides(x, layout):
    problem = problem_of(call(x=x), "tf32")
    assert problem is not None
    assert (problem.layout, problem.N) == (layout, 2 if x.dim() == 3 else 1)


@pytest.mark.filterwarnings("ignore:Using padding='same'")
@given(
    taps=st.integers(1, 9),
    dilation=st.integers(1, 4),
    length=st.integers(1, 40),
    padding=st.one_of(st.integers(0, 5), st.sampled_from(["same", "valid"])),
    stride=st.integers(1, 3),
)
def test_a_window_pads_as_torch_does(taps, dilation, length, padding, stride):
    x, weight = torch.arange(1.0, length + 1).view(1, 1, -1), torch.arange(1.0, taps + 1).view(1, 1, -1)
    around = window((stride,), padding, dilation, taps)
    if around is None:
        with pytest.raises(RuntimeError, match="not supported for strided"):
            functional.conv1d(x, weight, None, stride, padding, dilation)
        return
    step, zeros, spread = around
    padded = functional.pad(x, zeros if isinstance(zeros, tuple) else (zeros, zeros))
    if padded.shape[2] > dilation * (taps - 1):
        expected = functional.conv1d(x, weight, None, stride, padding, dilation)
        assert torch.equal(functional.conv1d(padded, weight, None, step, 0, spread), expected)


@pytest.mark.parametrize("number", [True, 1.0, "1", None, (1, 2), (), (True,), (1.0,), [1, 1]])
def test_what_is_not_a_whole_number_is_left_to_torch(number):
    assert window(number, 0, 1, 3) is None
    assert window(1, number, 1, 3) is None
    assert window(1, 0, number, 3) is None
