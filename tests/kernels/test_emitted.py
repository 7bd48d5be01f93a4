"""Every kernel of the registry can be emitted, and its file launches what the kernel does, at any size."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from autoconv.compiler import sass
from autoconv.compiler.recording import recording
from autoconv.config import Config
from autoconv.errors import ProblemError
from autoconv.kernels.base import Kernel
from autoconv.kernels.registry import kernels
from autoconv.problem import Problem
from tests.emit.loading import DEVICE, Spy, emitted, load, operands, tensors, window, wrapper

ProblemsOf = Callable[[Kernel, bool], "st.SearchStrategy[Problem]"]
Launches = list[tuple[str, tuple[int, ...], list[Any], dict[str, Any]]]

EXAMPLES = -(-int(os.environ.get("FUZZ_EXAMPLES", "40")) // len(kernels()))  # of each kernel
SIZES = ("N", "Cin", "Cout", "K", "L", "stride", "dilation", "output_padding")
SMALL = [
    Problem(2, 6, 10, 3, 70, stride=2, padding=1, bias=True, dtype="float16"),
    Problem(2, 6, 10, 3, 70, padding=1, bias=True),
    Problem(2, 40, 10, 1, 72, bias=True, activation="relu"),
    Problem(2, 8, 10, 3, 70, padding=1, layout="nlc"),
    Problem(2, 6, 10, 3, 70, padding=1, groups=2, bias=True),
    Problem(2, 16, 10, 3, 70, padding=1, groups=2, layout="nlc"),
    Problem(2, 6, 6, 17, 70, padding=1, groups=6),
    Problem(2, 6, 6, 4, 35, op="conv_transpose", stride=2, padding=1, groups=6, bias=True),
    Problem(2, 6, 10, 4, 35, op="conv_transpose", stride=2, padding=1, bias=True),
    Problem(2, 6, 10, 3, 70, op="conv_weight", padding=1),
    Problem(2, 12, 10, 3, 70, padding=1, bias=True),
]


def stated(kernel: Kernel, problem: Problem, config: Config) -> Launches:
    """What the product launches for a packed x."""
    shapes = {"x": problem.x_shape, "w": problem.w_shape, "b": (problem.Cout,), "y": problem.y_shape}
    shapes["b"] = shapes["b"] if problem.bias else None
    scratch = (kernel.workspace(problem, config),)
    return [
        (
            one.jit.fn.__name__,
            one.grid,
            [shapes.get(name, scratch) for name in one.tensors],
            _typed(one.keywords),
        )
        for one in kernel.launches(problem, config)
    ]


def seen(launches: Launches) -> Launches:
    """The same of recorded ones."""
    return [
        (name, grid, [None if one is None else tuple(one.shape) for one in given], _typed(keywords))
        for name, grid, given, keywords in launches
    ]


def _typed(keywords: Mapping[str, Any]) -> dict[str, Any]:
    """Keywords with their types: True and 1 are not the same to a compiler."""
    return {name: (type(value), value) for name, value in keywords.items()}


def spied(text: str, path: Path, problem: Problem) -> tuple[Any, Launches, list[str]]:
    """The file's module, the launches it makes from now on, and what it leaves to torch."""
    module = load(text, path)
    launches: Launches = []
    for name in re.findall(r"^def (\w+_kernel)\(", text, re.MULTILINE):
        setattr(module, name, Spy(name, launches))
    left: list[str] = []
    by_torch = wrapper(module, problem, "torch")
    setattr(module, by_torch.__name__, lambda *_: left.append("left to torch"))
    return module, launches, left


@st.composite
def kindred(draw: st.DrawFn, problem: Problem, another: Problem) -> Problem:
    """Another problem of the same kind: some or all sizes are those of `another`."""
    taken = draw(st.sets(st.sampled_from(SIZES)))
    changed = {name: getattr(another, name) for name in taken}
    if isinstance(problem.padding, tuple) == isinstance(another.padding, tuple) and problem.padding != 0:
        changed["padding"] = another.padding
    try:
        return replace(problem, bias=problem.bias and draw(st.booleans()), **changed)
    except ProblemError:
        assume(False)
        raise


@pytest.mark.parametrize("name", kernels())
@settings(max_examples=EXAMPLES, suppress_health_check=list(HealthCheck))
@given(data=st.data(), large=st.booleans())
def test_a_drawn_problem_is_emitted(
    name: str, data: st.DataObject, large: bool, problems_of: ProblemsOf, tmp_path: Path
) -> None:
    """Of a drawn problem, and of others of its kind, the file launches what the product does, or nothing."""
    kernel = kernels()[name]
    problem = data.draw(problems_of(kernel, large))
    assume(problem.N * max(problem.Cin * problem.L, problem.Cout * problem.L_out) < 2**60)
    config = next(iter(kernel.space(problem, DEVICE)), None)
    assume(config is not None)
    module, launches, left = spied(emitted(kernel, problem, [config]), tmp_path / f"{name}.py", problem)
    conv = wrapper(module, problem)
    conv(*operands(problem, tensors(problem, "meta")), **window(problem))
    assert (seen(launches), left) == (stated(kernel, problem, config), []), problem

    longer = replace(problem, N=problem.N + 3, L=problem.L + 16)
    another = data.draw(kindred(problem, data.draw(problems_of(kernel, large))))
    for other in (longer, another):
        launches.clear(), left.clear()
        conv(*operands(problem, tensors(other, "meta")), **window(other, problem))
        supported = kernel.unsupported(other) is None
        assert len(launches) > 0 or left, other
        if launches:
            assert supported and seen(launches) == stated(kernel, other, config), other
        elif other == longer:
            assert not supported, other


@pytest.mark.parametrize("name", kernels())
def test_an_emitted_file_launches_the_machine_code_that_the_product_launches(
    name: str, tmp_path: Path
) -> None:
    kernel = kernels()[name]
    problem = next(one for one in SMALL if kernel.unsupported(one) is None)
    config = next(iter(kernel.space(problem, DEVICE)))
    text = emitted(kernel, problem, [config])
    module = load(text, tmp_path / f"{name}.py")
    launches: Launches = []
    cubins: list[bytes] = []
    for function in re.findall(r"^def (\w+_kernel)\(", text, re.MULTILINE):
        setattr(module, function, Spy(function, launches, getattr(module, function), cubins))
    given = tensors(problem)
    with recording(DEVICE) as recorder:
        wrapper(module, problem)(*operands(problem, given), **window(problem))
        of_file = list(recorder.launches)
        kernel.launch(problem, config, **_named(given, problem))
        of_product = recorder.launches[len(of_file) :]
        product = _compiled(kernel, problem, config, given)
    assert [_told(one) for one in of_file] == [_told(one) for one in of_product]
    assert list(map(_machine_code, cubins)) == list(map(_machine_code, product))


def _named(given: dict[str, Any], problem: Problem) -> dict[str, Any]:
    y = torch.empty(problem.y_shape, dtype=given["x"].dtype)
    return {"x": given["x"], "w": given["w"], "bias": given["b"], "y": y}


def _told(launch: Any) -> tuple[Any, ...]:
    """A recorded launch, its tensors by their shapes."""
    arguments = [tuple(one.shape) if isinstance(one, torch.Tensor) else one for one in launch.arguments]
    return launch.kernel, launch.grid, launch.num_warps, launch.num_stages, launch.shared, arguments


def _compiled(kernel: Kernel, problem: Problem, config: Config, given: dict[str, Any]) -> list[bytes]:
    scratch = torch.empty(max(1, kernel.workspace(problem, config)))
    y = torch.empty(problem.y_shape, dtype=given["x"].dtype)
    tensors_of = {**given, "y": y}
    cubins = []
    for one in kernel.launches(problem, config, given["x"].stride()):
        taken = [tensors_of.get(name, scratch) for name in one.tensors]
        cubins.append(one.jit.warmup(*taken, grid=one.grid, **one.keywords).asm["cubin"])
    return cubins


def _machine_code(cubin: bytes) -> list[str]:
    """The instructions, one a line, and the control words behind them."""
    path = Path(os.environ["AUTOCONV_CACHE"]).parent / "one.cubin"
    path.write_bytes(cubin)
    printed = subprocess.run(
        [sass.CUOBJDUMP, "-sass", path], capture_output=True, text=True, check=True
    ).stdout
    lines = re.findall(r"^\s+/\*.*\*/$", printed, re.MULTILINE)
    assert lines
    return lines
