"""Checks of emitted files' results and gradients, to be run by pytest in a process that interprets kernels.

`test_interpreted.py` starts that process; where Triton compiles, these cannot run.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from autoconv.config import Config
from autoconv.kernels.aten import activations, convolution
from autoconv.kernels.interpreter import interpreting
from autoconv.kernels.registry import kernels
from autoconv.problem import Problem
from tests.emit.loading import DEVICE, emitted, load, operands, tensors, window, wrapper

CASES = [
    Problem(2, 5, 7, 3, 40, stride=2, padding=(1, 2), bias=True, activation="gelu"),
    Problem(2, 20, 7, 3, 40, padding=1, bias=True),
    Problem(2, 20, 9, 1, 40, bias=True, activation="relu"),
    Problem(2, 8, 7, 3, 40, padding=1, bias=True, layout="nlc"),
    Problem(2, 6, 9, 3, 40, padding=1, groups=3, bias=True),
    Problem(2, 3, 6, 17, 40, padding=1, groups=3, bias=True),
    Problem(2, 6, 10, 4, 17, op="conv_transpose", stride=2, padding=1, output_padding=1, bias=True),
    Problem(2, 6, 10, 3, 40, op="conv_weight", padding=1),
    Problem(2, 16, 6, 3, 40, padding=1, groups=2, bias=True, layout="nlc"),
    Problem(2, 6, 6, 4, 17, op="conv_transpose", stride=2, padding=1, groups=6, bias=True),
]
BY_KERNEL = [
    pytest.param(name, problem, id=f"{name}-{problem}")
    for name, kernel in kernels().items()
    for problem in [one for one in CASES if kernel.unsupported(one) is None][:1]
]


def config_of(name: str, problem: Problem) -> Config:
    """A config of few blocks, and yet of several: a block takes the interpreter some 10 ms."""
    kernel = kernels()[name]
    blocks = {config: kernel.work(problem, config).blocks for config in kernel.space(problem, DEVICE)}
    several = [config for config in blocks if blocks[config] > 2]
    return min(several or blocks, key=lambda config: (blocks[config], str(config)))


def expected(problem: Problem, given: dict[str, Any]) -> torch.Tensor:
    x, w, b = (None if one is None else one.double() for one in given.values())
    return activations()[problem.activation](convolution(problem, x, w, b))


def test_these_kernels_are_interpreted() -> None:
    assert interpreting()
    assert {param.values[0] for param in BY_KERNEL} == set(kernels())


@pytest.mark.parametrize(("name", "problem"), BY_KERNEL)
def test_an_emitted_file_computes_what_torch_does_at_two_sizes(
    name: str, problem: Problem, tmp_path: Path
) -> None:
    text = emitted(kernels()[name], problem, [config_of(name, problem)])
    conv = wrapper(load(text, tmp_path / f"{name}.py"), problem)
    for size in (problem, replace(problem, N=1, L=problem.L + 13)):
        given = tensors(size)
        y = conv(*operands(size, given), **window(size))
        torch.testing.assert_close(y.double(), expected(size, given), rtol=1e-4, atol=1e-4)


class OnGPU(torch.Tensor):
    """A tensor on the CPU that says it is on a GPU, so that ModelNew gives it to the kernel."""

    is_cuda = property(lambda _: True)  # type: ignore[assignment]
    __torch_function__ = torch._C._disabled_torch_function_impl


@pytest.mark.parametrize(
    ("name", "problem", "arguments"),
    [
        ("dense", CASES[0], {"padding": (1, 2), "activation": "gelu"}),
        ("transposed_rows", CASES[6], {"padding": 1, "output_padding": 1}),
        ("weight_gradient", CASES[7], {"padding": 1}),
        ("weight_gradient", replace(CASES[7], padding=(1, 2)), {"padding": (1, 2)}),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_model_has_the_results_and_the_gradients_of_torchs(
    name: str, problem: Problem, arguments: dict[str, Any], tmp_path: Path
) -> None:
    module = load(emitted(kernels()[name], problem, [config_of(name, problem)]), tmp_path / f"{name}.py")
    model = module.ModelNew(
        problem.Cin, problem.Cout, problem.K, stride=problem.stride, bias=True, **arguments
    )
    x = torch.randn(problem.x_shape)

    def results(on_gpu: bool) -> list[torch.Tensor]:
        model.zero_grad()
        given = x.detach().clone()
        leaf = given.requires_grad_()
        y = model(leaf.as_subclass(OnGPU) if on_gpu else leaf)
        (y.as_subclass(torch.Tensor) ** 2).sum().backward()
        grads = [one.grad for one in model.parameters()]
        return [y.detach().as_subclass(torch.Tensor), leaf.grad, *grads]

    for by_kernel, by_torch in zip(results(True), results(False), strict=True):
        torch.testing.assert_close(by_kernel.as_subclass(torch.Tensor), by_torch, rtol=1e-3, atol=1e-3)


def test_a_model_casts_as_autocast_does(tmp_path: Path) -> None:
    """Its weights are float32, and a layer before it handed it half."""
    problem = CASES[1]
    text = emitted(kernels()["tap_major"], problem, [config_of("tap_major", problem)])
    model = load(text, tmp_path / "t.py").ModelNew(problem.Cin, problem.Cout, problem.K, padding=1, bias=True)
    x = torch.randn(problem.x_shape).half()
    before = torch.is_autocast_enabled("cuda")
    torch.set_autocast_enabled("cuda", True)
    try:
        with torch.no_grad():
            y = model(x.as_subclass(OnGPU)).as_subclass(torch.Tensor)
    finally:
        torch.set_autocast_enabled("cuda", before)
    assert y.dtype == torch.float16
    torch.testing.assert_close(y.float(), model.conv1d.half()(x).float(), rtol=2e-3, atol=2e-3)


@pytest.mark.parametrize(("name", "problem"), BY_KERNEL)
def test_what_is_no_window_is_refused_as_torch_does(name: str, problem: Problem, tmp_path: Path) -> None:
    module = load(emitted(kernels()[name], problem, [config_of(name, problem)]), tmp_path / f"{name}.py")
    given, numbers = tensors(problem), window(problem)
    wrong = [
        *[(field, 0) for field in ("stride", "dilation", "groups", "kernel_size")],
        *[("padding", -1), ("output_padding", -1), ("output_padding", 9)],
    ]
    for field, value in wrong:
        if field not in numbers or (field == "padding" and isinstance(numbers[field], tuple)):
            continue
        by_torch, ours = (
            outcome(wrapper(module, problem, by), operands(problem, given), {**numbers, field: value})
            for by in ("torch", "triton")
        )
        assert ours == by_torch, f"{field}={value}"


def outcome(conv: Any, given: list[Any], call: dict[str, Any]) -> object:
    """What torch says, or the result."""
    try:
        return conv(*given, **call).tolist()
    except (RuntimeError, ValueError) as error:
        return str(error)


@pytest.mark.parametrize(("name", "problem"), BY_KERNEL)
def test_other_dtypes_are_torch_s_and_so_is_to_refuse_a_mixture(
    name: str, problem: Problem, tmp_path: Path
) -> None:
    module = load(emitted(kernels()[name], problem, [config_of(name, problem)]), tmp_path / f"{name}.py")
    conv, given = wrapper(module, problem), tensors(problem, dtype="float64")
    y = conv(*operands(problem, given), **window(problem))
    torch.testing.assert_close(y, expected(problem, given), rtol=1e-12, atol=1e-12)
    for place, one in enumerate(operands(problem, tensors(problem))):
        if one is not None:
            mixed = operands(problem, tensors(problem))
            mixed[place] = one.half()
            with pytest.raises(RuntimeError):
                conv(*mixed, **window(problem))


def test_what_the_kernel_does_not_run_torch_does(tmp_path: Path) -> None:
    problem = CASES[1]
    module = load(
        emitted(kernels()["tap_major"], problem, [config_of("tap_major", problem)]), tmp_path / "t.py"
    )
    module.tap_major_kernel = None  # it is not to be launched
    strided = replace(problem, stride=3)
    given = tensors(strided)
    y = wrapper(module, problem)(*operands(strided, given), **window(strided))
    torch.testing.assert_close(y.double(), expected(strided, given), rtol=1e-4, atol=1e-4)
    with pytest.raises(RuntimeError, match="expected input"):
        wrapper(module, problem)(given["x"][:, :3], given["w"], given["b"], stride=1, padding=1, dilation=1)
