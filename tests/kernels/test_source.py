"""The hash over the kernels' source, and the registry that finds kernels by their files."""

from __future__ import annotations

import importlib.util
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from autoconv.kernels import source
from autoconv.kernels.registry import kernels

ROOT = Path(__file__).parents[2]

KERNEL = """
import triton

LIMIT = 3


@triton.jit
def twice(x_ptr, n):
    # loads, doubles, stores
    i = tl.program_id(0)
    if i < n:
        x = tl.load(x_ptr + i)
        tl.store(x_ptr + i, 2 * x)


def helper(n):
    return n + 1
"""

SAME = {
    "another comment": ("# loads, doubles, stores", "# quite another comment"),
    "no comment": ("    # loads, doubles, stores\n", ""),
    "a blank line": ("    if i < n:", "\n    if i < n:"),
    "a comment at a line's end": ("if i < n:", "if i < n:  # inside"),
    "wider indentation": ("\n        ", "\n            "),
    "code outside": ("return n + 1", "return n + 2"),
    "a constant outside": ("LIMIT = 3", "LIMIT = 4"),
}
OTHER = {
    "a constant": ("2 * x", "3 * x"),
    "a name": ("(x_ptr, n)", "(x_ptr, m)"),
    "an operator": ("i < n", "i <= n"),
    "what a block holds": ("        tl.store", "    tl.store"),
    "a further function": ("def helper", "@triton.jit\ndef helper"),
    "one function less": ("@triton.jit\n", ""),
}


def changed(change: tuple[str, str]) -> str:
    before, after = change
    assert before in KERNEL
    return KERNEL.replace(before, after)


@pytest.mark.parametrize("change", SAME)
def test_what_compiles_alike_hashes_alike(change: str) -> None:
    assert source.jit_functions(changed(SAME[change])) == source.jit_functions(KERNEL)


@pytest.mark.parametrize("change", OTHER)
def test_a_change_of_code_changes_the_hash(change: str) -> None:
    assert source.jit_functions(changed(OTHER[change])) != source.jit_functions(KERNEL)


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """A copy of the package, for kernels of our own."""
    shutil.copytree(ROOT / "autoconv", tmp_path / "autoconv", ignore=shutil.ignore_patterns("__pycache__"))
    return tmp_path / "autoconv" / "kernels"


def hash_of(package: Path) -> str:
    spec = importlib.util.spec_from_file_location("copied_source", package / "source.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return str(module.source_hash())


def test_the_package_s_hash_follows_its_jit_functions_alone(package: Path) -> None:
    before = hash_of(package)
    assert before == source.source_hash()

    dense = package / "dense.py"
    text = dense.read_text(encoding="utf-8")
    dense.write_text(f"# a comment\n\n{text}\n\nUNUSED = 1\n", encoding="utf-8")
    dense.rename(package / "renamed.py")
    assert hash_of(package) == before

    (package / "added.py").write_text(KERNEL, encoding="utf-8")
    assert hash_of(package) != before


ADDED = '''
"""Dense under another name, with one config."""
from autoconv.config import Config
from autoconv.kernels.dense import Dense

class Added(Dense):
    name = "added"

    def space(self, problem, device):
        yield Config("added", dict.fromkeys(self.tiles, 32), num_warps=4, num_stages=2)

KERNEL = Added()
'''

ASK = """
import json
from autoconv.device import find
from autoconv.kernels.registry import kernels
from autoconv.problem import Problem
from autoconv.sweep.candidates import candidates
problem = Problem(2, 8, 8, 3, 100)
offered = [str(config) for config in candidates(problem, find("rtx4090")) if config.kernel == "added"]
print(json.dumps([list(kernels()), offered]))
"""


def test_a_kernel_is_one_file(package: Path) -> None:
    (package / "added.py").write_text(ADDED, encoding="utf-8")
    (package / "notes.py").write_text('"""No kernel."""\n', encoding="utf-8")
    shutil.copytree(ROOT / "tuning_db", package.parents[1] / "tuning_db")
    out = subprocess.run(
        [sys.executable, "-c", ASK], cwd=package.parents[1], capture_output=True, text=True, check=True
    )
    names, offered = json.loads(out.stdout)
    assert names == sorted([*kernels(), "added"])
    assert offered == ["added[BLOCK_CO=32 BLOCK_L=32 BLOCK_R=32 num_warps=4 num_stages=2]"]
