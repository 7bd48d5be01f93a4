"""What predicted a time follows the model's code and constants, and the host code of its own kernel."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest

from autoconv.cost.version import predictor_in, predictor_of, sources
from autoconv.kernels.registry import kernels

NEW_KERNEL = """
from autoconv.kernels.base import Kernel
from autoconv.kernels.wide_tiles import widest


@triton.jit
def wide_kernel(x_ptr, BLOCK_L: tl.constexpr):
    tl.store(x_ptr, 1)


class Wide(Kernel):
    def space(self, problem, device):
        yield 128

    def constants(self, problem):
        return {"L": problem.L}

    def work(self, problem, config):
        return Work(steps=4)


KERNEL = Wide()
"""
WITH_NEW = {
    **sources(),
    "kernels/wide.py": NEW_KERNEL,
    "kernels/wide_tiles.py": "def widest(view):\n    return 256\n",
}


def changed(modules: dict[str, str], module: str, before: str, after: str) -> set[str]:
    """The kernels whose predictor is another where `before` reads `after` in one module."""
    assert before in modules[module]
    then = {**modules, module: modules[module].replace(before, after, 1)}
    return {name for name in [*kernels(), "wide"] if predictor_in(modules, name) != predictor_in(then, name)}


def test_of_the_model_and_of_the_kernel_sixteen_hex_digits() -> None:
    models, own = zip(*(predictor_of(name).split("-") for name in kernels()), strict=True)
    assert len(set(models)) == 1 and len(set(own)) == len(kernels())
    assert all(re.fullmatch("[0-9a-f]{16}", one) for one in (*models, *own))
    assert predictor_of("dense") == predictor_in(sources(), "dense")
    assert predictor_of("no_kernel") == models[0]


@pytest.mark.parametrize(
    ("module", "before", "after"),
    [
        ("cost/constants.py", "prologue: float = 600.0", "prologue: float = 601.0"),
        ("cost/memory.py", "FITS, SPILLS = 0.7", "FITS, SPILLS = 0.8"),
        ("cost/timeline.py", "1 + k.throttle", "1 - k.throttle"),
        ("kernels/work.py", "return self.tile[0] * self.tile[1]", "return self.tile[0] + self.tile[1]"),
    ],
)
def test_a_change_of_the_model_is_another_predictor_of_all(module: str, before: str, after: str) -> None:
    assert changed(WITH_NEW, module, before, after) == {*kernels(), "wide"}


def test_a_new_module_of_the_model_is_another_predictor() -> None:
    more = {**sources(), "cost/power.py": "WATTS = 450"}
    assert all(predictor_in(more, name) != predictor_of(name) for name in kernels())


def test_a_new_kernel_and_a_module_of_its_own_leave_all_others_as_they_are() -> None:
    assert all(predictor_in(WITH_NEW, name) == predictor_of(name) for name in kernels())
    assert predictor_in(WITH_NEW, "wide").split("-")[0] == predictor_of("dense").split("-")[0]


@pytest.mark.parametrize(
    ("module", "before", "after", "reached"),
    [
        ("kernels/dense.py", "KERNEL = ", "SPARE = 1\nKERNEL = ", {"dense"}),
        ("kernels/transposed_phases.py", "phases=problem.stride", "phases=1", {"transposed_phases"}),
        ("kernels/transposed.py", "{problem.op}", "{problem!r}", set()),  # what it refuses
        ("kernels/partials.py", "import math", "import math, math", {"split_k", "weight_gradient"}),
        ("kernels/wide.py", "steps=4", "steps=8", {"wide"}),
        ("kernels/wide_tiles.py", "256", "512", {"wide"}),
        ("kernels/wide.py", "tl.store(x_ptr, 1)", "tl.store(x_ptr, 2)", set()),  # it has a hash of its own
        ("kernels/wide.py", "yield 128", "yield 256", set()),
        ("kernels/wide.py", "problem.L}", "problem.L, 'N': problem.N}", set()),
        ("kernels/interpreter.py", "import numpy", "import numpy.linalg\nimport numpy", set()),
    ],
)
def test_host_code_is_part_of_the_predictors_of_its_kernels_alone(
    module: str, before: str, after: str, reached: set[str]
) -> None:
    assert changed(WITH_NEW, module, before, after) == reached


@pytest.mark.parametrize(
    ("module", "before", "after"),
    [
        ("cost/constants.py", "_KIB = 1024", "_KIB = 1024  # bytes"),
        ("cost/constants.py", "_KIB = 1024", "_KIB = (\n    1024\n)"),
        ("cost/memory.py", '"""Bytes at each level', '"""What goes by at each level'),
        ("cost/constants.py", '"""The constants by', '"""All constants by'),
        ("kernels/implicit_gemm.py", '"""Products that make', '"""All products that make'),
    ],
)
def test_words_and_layout_are_not(module: str, before: str, after: str) -> None:
    assert changed(sources(), module, before, after) == set()


def test_it_imports_neither_triton_nor_torch() -> None:
    code = "import sys; from autoconv.cost.version import predictor_of; print(predictor_of('dense')); "
    code += "print(*{'torch', 'triton', 'numpy'} & set(sys.modules))"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.split() == [predictor_of("dense")]
