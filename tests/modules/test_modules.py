from __future__ import annotations

import copy
import inspect
import io
import pickle

import pytest
import torch
from torch import nn

import autoconv
from autoconv import ModelNew


class Reference(nn.Module):
    """A module whose place ModelNew takes: an nn.Conv1d under the same name."""

    def __init__(self, *sizes: int, **rest: object) -> None:
        super().__init__()
        self.conv1d = nn.Conv1d(*sizes, **rest)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.conv1d(x)


def test_the_constructor_is_the_published_one():
    parameters = inspect.signature(ModelNew).parameters
    assert list(parameters) == ["in_channels", "out_channels", "kernel_size", "stride", "dilation", "bias"]
    assert [parameters[name].default for name in ("stride", "dilation", "bias")] == [1, 1, False]
    held = ModelNew(4, 6, 3, 2, 5, True).conv1d
    assert type(held) is nn.Conv1d
    assert (held.in_channels, held.out_channels, held.kernel_size) == (4, 6, (3,))
    assert (held.stride, held.dilation, held.padding, held.bias is not None) == ((2,), (5,), (0,), True)


def test_the_weights_of_one_seed_are_those_of_nn_conv1d():
    torch.manual_seed(7)
    ours = ModelNew(4, 6, 3, bias=True)
    torch.manual_seed(7)
    theirs = Reference(4, 6, 3)
    assert all(
        torch.equal(one, other) for one, other in zip(ours.parameters(), theirs.parameters(), strict=True)
    )


@pytest.mark.parametrize("bias", [False, True])
def test_a_state_dict_goes_either_way(bias):
    ours, theirs = ModelNew(4, 6, 3, bias=bias), Reference(4, 6, 3, bias=bias)
    assert list(ours.state_dict()) == list(theirs.state_dict())
    x = torch.randn(2, 4, 20)
    theirs.load_state_dict(ours.state_dict())
    assert torch.equal(theirs(x), ours(x))
    another = ModelNew(4, 6, 3, bias=bias)
    another.load_state_dict(theirs.state_dict())
    assert torch.equal(another(x), ours(x))


class Twice(nn.Conv1d):
    def _conv_forward(self, *given):
        return 2 * super()._conv_forward(*given)


def with_a_forward_of_its_own(held: nn.Module) -> None:
    held.forward = lambda x: 3 * nn.Conv1d.forward(held, x)


def with_a_class_of_its_own(held: nn.Module) -> None:
    held.__class__ = Twice


@pytest.mark.parametrize("change", [with_a_forward_of_its_own, with_a_class_of_its_own])
def test_the_held_convolution_is_called_as_what_it_is(change):
    model = ModelNew(4, 6, 3)
    change(model.conv1d)
    x = torch.randn(2, 4, 20)
    assert torch.equal(model(x), model.conv1d(x))


@pytest.mark.parametrize(
    "hook",
    [
        lambda held, seen: held.register_full_backward_hook(lambda *_: seen.append(1)),
        lambda held, seen: held.register_full_backward_pre_hook(lambda *_: seen.append(1)),
        lambda _, seen: nn.modules.module.register_module_forward_hook(
            lambda module, *_: seen.append(1) if type(module) is nn.Conv1d else None
        ),
    ],
    ids=["backward", "before backward", "global"],
)
def test_hooks_on_the_held_convolution_are_called(hook):
    model, seen = ModelNew(4, 6, 3), []
    handle = hook(model.conv1d, seen)
    try:
        model(torch.randn(2, 4, 20, requires_grad=True)).sum().backward()
    finally:
        handle.remove()
    assert seen == [1]


@pytest.mark.parametrize("rest", [{}, {"stride": 3, "dilation": 4}, {"bias": True}], ids=str)
@pytest.mark.parametrize("shape", [(2, 4, 30), (4, 30)], ids=str)
def test_on_the_cpu_results_and_gradients_are_nn_conv1ds_to_the_bit(rest, shape):
    ours = ModelNew(4, 6, 3, **rest)
    x = torch.randn(shape)
    results = [(model(x).square().sum().backward(), model(x))[1] for model in (ours, ours.conv1d)]
    assert torch.equal(*results)
    gradient = ours.conv1d.weight.grad.clone()
    ours.zero_grad()
    ours.conv1d(x).square().sum().backward()
    assert torch.equal(2 * ours.conv1d.weight.grad, gradient)  # two were summed


def by_pickle(model):
    return pickle.loads(pickle.dumps(model))


def by_torch(model):
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


@pytest.mark.parametrize("copied", [copy.deepcopy, by_pickle, by_torch])
def test_copies_are_whole_and_apart(copied):
    model = ModelNew(4, 6, 3, stride=2, bias=True)
    other = copied(model)
    x = torch.randn(2, 4, 20)
    expected = model(x)
    assert torch.equal(other(x), expected)
    with torch.no_grad():
        other.conv1d.weight.zero_()
    assert torch.equal(model(x), expected)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64], ids=str)
def test_casts(dtype):
    model = ModelNew(4, 6, 3, bias=True).to(dtype)
    x = torch.randn(2, 4, 20, dtype=dtype)
    y = model(x)
    assert y.dtype == dtype
    assert torch.equal(y, model.conv1d(x))


def test_half_and_meta():
    assert ModelNew(4, 6, 3).half().conv1d.weight.dtype == torch.float16
    y = ModelNew(4, 6, 3).to("meta")(torch.empty(2, 4, 20, device="meta"))
    assert (y.shape, y.device.type) == ((2, 6, 18), "meta")


def test_the_launch_gets_the_modules_own_parameters(monkeypatch):
    monkeypatch.setenv("AUTOCONV_ON_MISS", "predict")
    model = ModelNew(4, 6, 3, stride=2, dilation=3, bias=True)
    x = torch.randn(2, 4, 40)
    with torch.no_grad(), autoconv.recorded("l4") as launches:
        y = model(x)
    (launch,) = launches
    assert [id(argument) for argument in launch.arguments[:3]] == [
        id(x), id(model.conv1d.weight), id(model.conv1d.bias),
    ]  # fmt: skip
    assert y.shape == model.conv1d(x).shape


def test_training_goes_through_the_kernel_and_reaches_the_parameters(monkeypatch):
    monkeypatch.setenv("AUTOCONV_ON_MISS", "predict")
    model = ModelNew(4, 6, 3, bias=True)
    with autoconv.recorded("l4") as launches:
        model(torch.randn(2, 4, 40)).sum().backward()
    # x wants no gradient; that of the weight is a launch of its own family, and one that sums its parts.
    assert [launch.kernel for launch in launches][1:] == ["weight_gradient_kernel", "sum_partials_kernel"]
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_a_parametrized_weight_is_the_one_used():
    model = ModelNew(4, 6, 3)
    nn.utils.parametrizations.weight_norm(model.conv1d)
    x = torch.randn(2, 4, 20)
    assert torch.equal(model(x), model.conv1d(x))


def test_it_prints_as_what_it_holds():
    text = repr(ModelNew(4, 6, 3, stride=2))
    assert "(conv1d): Conv1d(4, 6, kernel_size=(3,), stride=(2,), bias=False)" in text
