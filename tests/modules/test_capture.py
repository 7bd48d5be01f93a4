"""`autoconv.capture`: the problems that a program poses, by the modules that ask."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn import functional

import autoconv
from autoconv.dispatch.signature import precision_setting
from autoconv.problem import Problem
from autoconv.tuning.asked import Asked

TF32 = precision_setting() in ("tf32", True)
FLOAT32: dict[str, Any] = {"precision": "tf32" if TF32 else "ieee"}
NCL = torch.zeros(2, 4, 40)


class Block(nn.Module):
    """A model of one convolution of each kind, called in a loop and by way of a function."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv1d(4, 8, 3, padding=1)
        self.up = nn.ConvTranspose1d(8, 8, 4, stride=2, padding=1)
        self.inner = nn.Sequential(nn.Conv1d(8, 8, 3, dilation=2, padding=2), nn.ReLU())
        self.weight = nn.Parameter(torch.zeros(8, 1, 4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.up(self.stem(x))
        x = self.inner(self.inner(x))
        return functional.conv1d(x, self.weight, groups=8)


def seen_of(capture: autoconv.Capture) -> dict[str, tuple[int, tuple[str, ...]]]:
    return {str(one.problem): (one.calls, one.names) for one in capture.problems}


STEM = Problem(2, 4, 8, 3, 40, padding=1, bias=True, **FLOAT32)
FORWARD = {
    str(STEM): (1, ("stem",)),
    str(Problem(2, 8, 8, 4, 40, stride=2, padding=1, bias=True, op="conv_transpose", **FLOAT32)): (
        1,
        ("up",),
    ),
    str(Problem(2, 8, 8, 3, 80, dilation=2, padding=2, bias=True, **FLOAT32)): (2, ("inner.0",)),
    str(Problem(2, 8, 8, 4, 80, groups=8, **FLOAT32)): (1, ("Block",)),
}


def test_modules_and_functions_are_seen_with_counts_and_names() -> None:
    model = Block()
    with autoconv.capture(model) as seen, torch.no_grad():
        y = model(NCL)
    assert y.shape == (2, 8, 77) and seen_of(seen) == FORWARD and seen.left == ()
    assert str(seen).splitlines()[2].startswith("2 x N=2,Cin=8,Cout=8,K=3,L=80")


@pytest.mark.parametrize("mode", [torch.inference_mode, torch.no_grad])
@pytest.mark.parametrize("fake", [False, True])
def test_the_same_where_no_gradient_is_wanted(mode: Any, fake: bool) -> None:
    """In inference mode torch hands operators over before it takes them apart."""
    with FakeTensorMode() if fake else nullcontext(), mode():
        model, x = Block(), torch.zeros(2, 4, 40)
        with autoconv.capture(model) as seen:
            model(x)
    assert seen_of(seen) == FORWARD


def test_without_a_model_names_begin_with_the_class_of_what_is_called() -> None:
    model = Block()
    with autoconv.capture() as seen, torch.no_grad():
        model(NCL)
        functional.conv1d(NCL, torch.zeros(8, 4, 1))
    names = [one.names for one in seen.problems]
    assert names == [("Block.stem",), ("Block.up",), ("Block.inner.0",), ("Block",), ()]


def test_nothing_is_seen_after_the_block_nor_do_hooks_stay() -> None:
    model = Block()
    with pytest.raises(ZeroDivisionError), autoconv.capture() as seen:
        1 / 0  # noqa: B018
    model(NCL)
    assert seen.problems == () and nn.modules.module._global_forward_pre_hooks == {}


@pytest.mark.parametrize("accelerated", [False, True])
def test_the_same_of_an_accelerated_model(accelerated: bool) -> None:
    """Its backward pass is our operator's; torch's is told as that."""
    model = Block()
    if accelerated:
        autoconv.accelerate(model)
    with autoconv.capture(model) as seen:
        model(NCL).sum().backward()
    assert seen_of(seen).items() >= FORWARD.items()
    gradients = {
        str(one.problem): (one.calls, one.names) for one in seen.problems if str(one.problem) not in FORWARD
    }
    assert gradients == {
        str(Problem(2, 8, 8, 4, 77, op="conv_transpose", groups=8, **FLOAT32)): (1, ("Block",)),
        str(Problem(2, 8, 8, 4, 80, op="conv_weight", groups=8, **FLOAT32)): (1, ("Block",)),
        str(Problem(2, 8, 8, 3, 80, dilation=2, padding=2, op="conv_transpose", **FLOAT32)): (
            2,
            ("inner.0",),
        ),
        str(Problem(2, 8, 8, 3, 80, dilation=2, padding=2, op="conv_weight", **FLOAT32)): (2, ("inner.0",)),
        str(Problem(2, 8, 8, 4, 80, stride=2, padding=1, **FLOAT32)): (1, ("up",)),
        str(Problem(2, 8, 8, 4, 80, stride=2, padding=1, op="conv_weight", **FLOAT32)): (1, ("up",)),
        # x wants no gradient
        str(Problem(2, 4, 8, 3, 40, padding=1, op="conv_weight", **FLOAT32)): (1, ("stem",)),
    }


def test_what_is_captured_is_what_an_accelerated_model_asks_for(tmp_path: Any) -> None:
    """Of the recording driver's own account: the problems that its plans were made for."""
    model, x = Block().eval(), torch.randn(2, 4, 40)
    with autoconv.capture(model) as seen, torch.no_grad():
        model(x)
    autoconv.accelerate(model, on_miss="strict")
    missed = []
    with autoconv.recorded("rtx4090"), torch.no_grad():
        for module, given in (
            (model.stem, x),
            (model.up, torch.randn(2, 8, 40)),
            (model.inner, torch.randn(2, 8, 80)),
        ):
            with pytest.raises(autoconv.MissError) as caught:
                module(given)
            missed.append(caught.value.problem)
    assert set(missed) < {str(one.problem) for one in seen.problems}


def test_fake_and_meta_tensors_pose_the_problems_of_those_they_stand_for() -> None:
    with FakeTensorMode():
        model, x = Block(), torch.zeros(2, 4, 40)
        with autoconv.capture(model) as fake:
            model(x).sum().backward()
    meta = Block().to("meta")
    with autoconv.capture(meta) as on_meta:
        meta(NCL.to("meta")).sum().backward()
    real = Block()
    with autoconv.capture(real) as seen:
        real(NCL).sum().backward()
    assert seen_of(fake) == seen_of(on_meta) == seen_of(seen)


def test_a_model_that_no_machine_could_hold() -> None:
    with FakeTensorMode(), autoconv.capture() as seen:
        nn.Conv1d(2**15, 2**15, 63)(torch.empty(64, 2**15, 2**20))
    (one,) = seen.problems
    assert (one.problem.Cout, one.problem.L) == (2**15, 2**20)


def test_the_dtype_is_what_autocast_computes_in() -> None:
    layer = nn.Conv1d(4, 8, 3)
    with autoconv.capture() as seen, torch.autocast("cpu", torch.bfloat16):
        layer(NCL)
    assert [one.problem.dtype for one in seen.problems] == ["bfloat16"]


def test_channels_last_is_seen() -> None:
    with autoconv.capture() as seen:
        functional.conv1d(torch.zeros(2, 40, 4).transpose(1, 2), torch.zeros(8, 4, 3))
    assert [one.problem.layout for one in seen.problems] == ["nlc"]


@pytest.mark.parametrize("convolve", [functional.conv1d, autoconv.conv1d])
@pytest.mark.parametrize("wanted", [False, True])
def test_same_padding_whose_sides_differ_is_one_problem_as_autoconv_has_it(
    convolve: Any, wanted: bool
) -> None:
    weight = torch.randn(8, 4, 4, requires_grad=wanted)
    x = torch.randn(2, 4, 40, requires_grad=wanted)
    with autoconv.capture() as seen:
        y = convolve(x, weight, padding="same")
        if wanted:
            y.sum().backward()
    expected = [Problem(2, 4, 8, 4, 40, padding=(1, 2), **FLOAT32)]
    if wanted:
        expected += [
            Problem(2, 8, 4, 4, 40, padding=(1, 2), op="conv_transpose", **FLOAT32),
            Problem(2, 4, 8, 4, 40, padding=(1, 2), op="conv_weight", **FLOAT32),
        ]
    assert [one.problem for one in seen.problems] == expected
    padded = functional.conv1d(functional.pad(x, (1, 2)), weight)
    assert torch.allclose(y, padded, atol=1e-5)


@pytest.mark.parametrize(("wanted", "activation"), [(False, "relu"), (True, "none")])
def test_an_activation_is_of_the_problem_where_a_kernel_would_fuse_it(wanted: bool, activation: str) -> None:
    weight = torch.zeros(8, 4, 3, requires_grad=wanted)
    with autoconv.capture() as seen:
        autoconv.conv1d(NCL, weight, activation="relu")
        autoconv.conv1d(NCL, weight)
    assert seen.problems[0].problem.activation == activation
    assert seen.problems[-1].problem.activation == "none"


def test_two_dimensions_are_none_of_ours_and_what_no_kernel_computes_is_left_to_torch() -> None:
    layer = nn.Conv1d(4, 8, 3).double()
    with autoconv.capture(layer) as seen:
        functional.conv2d(torch.zeros(1, 1, 8, 8), torch.zeros(1, 1, 3, 3))
        layer(NCL.double())
        layer(NCL.double())
    (left,) = seen.left
    assert seen.problems == () and (left.calls, left.names) == (2, ("Conv1d",))
    assert str(left).endswith("no kernel computes in torch.float64")


@pytest.mark.filterwarnings("ignore:Using `torch.compile:UserWarning")  # of hooks on all modules
@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")  # what replaces it traces nothing
def test_scripts_and_compiled_models_are_seen() -> None:
    model = Block().eval()
    scripted = torch.jit.trace(model, NCL)
    compiled = torch.compile(model, backend="eager")
    with torch.no_grad():
        compiled(NCL)
        for one in (scripted, compiled):
            with autoconv.capture() as seen:
                one(NCL)
            assert set(seen_of(seen)) == set(FORWARD)


def test_an_entry_goes_to_a_file_and_back() -> None:
    with autoconv.capture() as seen:
        nn.Conv1d(4, 8, 3)(NCL)
    (one,) = seen.problems
    assert one.to_json() == {"problem": str(one.problem), "calls": 1, "modules": ["Conv1d"]}
    assert one == Asked(one.problem, 1, ("Conv1d",))
