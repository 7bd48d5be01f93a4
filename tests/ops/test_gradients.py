"""Gradients in eager mode go round the operators, and are the operators'; what traces or counts sees them."""

from __future__ import annotations

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import autoconv


@pytest.fixture
def launches(monkeypatch):
    monkeypatch.setenv("AUTOCONV_ON_MISS", "predict")
    with autoconv.recorded("rtx4090") as recorded:
        yield recorded


def tensors():
    return torch.zeros(2, 16, 40, requires_grad=True), torch.zeros(24, 16, 3, requires_grad=True)


def test_a_step_of_training_asks_torch_library_for_nothing(launches):
    x, weight = tensors()
    with torch.profiler.profile() as profile:
        autoconv.conv1d(x, weight).sum().backward()
    assert not [event.name for event in profile.events() if event.name.startswith("autoconv::")]
    assert (x.grad.shape, weight.grad.shape) == (x.shape, weight.shape)
    assert len({launch.kernel for launch in launches}) >= 2
    assert len(launches) >= 3


def test_second_derivatives_are_launches_too(launches):
    x, weight = tensors()
    y = autoconv.conv1d(x, weight)
    (first,) = torch.autograd.grad(y.sum(), x, create_graph=True)
    before = len(launches)
    torch.autograd.grad(first.sum(), weight)
    assert len(launches) > before


def test_a_derivative_of_no_samples_has_the_shape_of_what_it_is_of():
    x, gradient = torch.zeros(0, 4, 30), torch.zeros(0, 6, 28, requires_grad=True)
    torch.ops.autoconv.convolution_weight(x, gradient, 3, 1, [0, 0], 1, 1).sum().backward()
    assert gradient.grad.shape == gradient.shape


def test_what_is_saved_for_the_backward_pass_is_the_arguments(launches):
    x, weight = tensors()
    saved = []
    with torch.autograd.graph.saved_tensors_hooks(lambda one: saved.append(one) or one, lambda one: one):
        autoconv.conv1d(x, weight)
    assert [one.data_ptr() for one in saved] == [x.data_ptr(), weight.data_ptr()]


class Names(TorchDispatchMode):
    def __init__(self):
        super().__init__()
        self.names = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.names.append(str(function))
        return function(*args, **(kwargs or {}))


def test_a_dispatch_mode_sees_the_operators(launches):
    x, weight = tensors()
    with Names() as mode:
        autoconv.conv1d(x, weight).sum().backward()
    assert mode.names.count("autoconv.convolution.default") == 2
    assert mode.names.count("autoconv.convolution_weight.default") == 1


@pytest.mark.parametrize("name", ["conv1d", "conv_transpose1d"])
def test_true_is_no_number_of_groups_where_the_operator_serves(name, launches):
    x, weight = torch.zeros(2, 16, 40), torch.zeros(16, 16, 3)
    with Names(), pytest.raises(TypeError, match="groups"):
        getattr(autoconv, name)(x, weight, groups=True)
    assert launches == []
