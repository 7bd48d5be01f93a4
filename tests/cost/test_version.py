"""The model's version follows its code and constants, and nothing else."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest

from autoconv.cost.version import model_version, sources, version_of


def changed(module: str, before: str, after: str) -> str:
    """The version where `before` reads `after` in one module."""
    modules = sources()
    assert before in modules[module]
    return version_of({**modules, module: modules[module].replace(before, after, 1)})


def test_sixteen_hex_digits() -> None:
    assert re.fullmatch("[0-9a-f]{16}", model_version())
    assert model_version() == version_of(sources())


@pytest.mark.parametrize(
    ("module", "before", "after"),
    [
        ("cost/constants.py", "prologue: float = 600.0", "prologue: float = 601.0"),
        ("cost/memory.py", "FITS, SPILLS = 0.7", "FITS, SPILLS = 0.8"),
        ("cost/timeline.py", "1 + k.throttle", "1 - k.throttle"),
    ],
)
def test_a_changed_constant_or_rule_is_another_version(module: str, before: str, after: str) -> None:
    assert changed(module, before, after) != model_version()


@pytest.mark.parametrize(
    ("module", "before", "after"),
    [
        ("cost/constants.py", "_KIB = 1024", "_KIB = 1024  # bytes"),
        ("cost/constants.py", "_KIB = 1024", "_KIB = (\n    1024\n)"),
        ("cost/memory.py", '"""Bytes at each level', '"""What goes by at each level'),
        ("cost/constants.py", '"""The constants by', '"""All constants by'),
    ],
)
def test_words_and_layout_are_not(module: str, before: str, after: str) -> None:
    assert changed(module, before, after) == model_version()


def test_a_new_module_is_another_version() -> None:
    assert version_of({**sources(), "cost/power.py": "WATTS = 450"}) != model_version()


KERNEL = """
@triton.jit
def wide_kernel(x_ptr, BLOCK_L: tl.constexpr):
    tl.store(x_ptr, 1)


class Wide(Kernel):
    def space(self, problem, device):
        yield 128

    def arguments(self, problem, x_strides):
        return {"L": problem.L}

    def work(self, problem, config):
        return Work(steps=4)
"""


@pytest.mark.parametrize(
    ("before", "after", "same"),
    [
        ("steps=4", "steps=8", False),
        ("tl.store(x_ptr, 1)", "tl.store(x_ptr, 2)", True),  # the jit function has a hash of its own
        ("yield 128", "yield 256", True),
        ("problem.L}", "problem.L, 'N': problem.N}", True),
    ],
)
def test_of_a_kernel_its_work_counts(before: str, after: str, same: bool) -> None:
    now, then = (version_of({"kernels/wide.py": text}) for text in (KERNEL, KERNEL.replace(before, after)))
    assert (now == then) is same


def test_the_kernels_work_is_covered() -> None:
    assert {"cost/constants.py", "cost/instructions.py", "kernels/work.py", "kernels/dense.py"} <= set(
        sources()
    )


def test_it_imports_neither_triton_nor_torch() -> None:
    code = "import sys; from autoconv.cost.version import model_version; print(model_version()); "
    code += "print(*{'torch', 'triton', 'numpy'} & set(sys.modules))"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.split() == [model_version()]
