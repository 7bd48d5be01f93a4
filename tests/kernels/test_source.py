"""The hash of each kernel's source, and the registry that finds kernels by their files."""

from __future__ import annotations

import json
import re
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

from autoconv.kernels.common import WIDTH, doubled
from autoconv.kernels.host import Base, rounded

LIMIT = 3
UNROLLED = 31
MOST_TILES = 8
SIGN = 1


@triton.jit
def twice_kernel(x_ptr, n, UNROLL):
    # loads, doubles, stores
    i = tl.program_id(0)
    if i < n:
        x = tl.load(x_ptr + i)
        tl.store(x_ptr + i, doubled(x) * SIGN)


class Twice(Base):
    jit = twice_kernel

    def space(self, problem):
        return range(MOST_TILES)

    def arguments(self, problem):
        return {"n": rounded(problem.L), "UNROLL": problem.K <= UNROLLED}


def helper(n):
    return n + 1 + LIMIT


KERNEL = Twice()
"""

OTHER_KERNEL = """
import triton
from autoconv.kernels import common, host

FACTOR = 2

@triton.jit
def thrice_kernel(x_ptr):
    tl.store(x_ptr, common.doubled(tl.load(x_ptr)))

class Thrice(host.Base):
    jit = thrice_kernel
    factor = FACTOR
    most_rows = 16

    def arguments(self, problem):
        return {"FACTOR": self.factor}

    def space(self, problem):
        return range(self.most_rows)

KERNEL = Thrice()
"""

COMMON = '''
import triton

WIDTH = 4

@triton.jit
def doubled(x):
    """Return 2 x."""
    return sign(x) * x * 2

@triton.jit
def sign(x):
    return 1

@triton.jit
def unused(x):
    return x
'''

HOST = """
OPTIONS = {"enable_fp_fusion": True}
GRAIN = 16
BLOCKS = 2

class Base:
    def launch(self, problem):
        self.jit[self.grid(problem)](**self.arguments(problem), **OPTIONS)

    def grid(self, problem):
        return problem.N // BLOCKS

def rounded(n):
    return n // GRAIN * GRAIN
"""

FILES = {"twice": KERNEL, "thrice": OTHER_KERNEL, "common": COMMON, "host": HOST}

SAME = {
    "another comment": ("twice", "# loads, doubles, stores", "# quite another comment"),
    "no comment": ("twice", "    # loads, doubles, stores\n", ""),
    "a blank line": ("twice", "    if i < n:", "\n    if i < n:"),
    "a comment at a line's end": ("twice", "if i < n:", "if i < n:  # inside"),
    "wider indentation": ("twice", "\n        ", "\n            "),
    "needless parentheses": ("twice", "i < n", "(i < n)"),
    "a docstring": ("common", "Return 2 x.", "Return twice x."),
    "no docstring": ("common", '    """Return 2 x."""\n', ""),
    "code outside": ("twice", "return n + 1", "return n + 2"),
    "a constant that nothing of the kernel uses": ("twice", "LIMIT = 3", "LIMIT = 4"),
    "a constant of the config space": ("twice", "MOST_TILES = 8", "MOST_TILES = 9"),
    "a bound of the config space": ("thrice", "most_rows = 16", "most_rows = 32"),
    "a constant of the grid": ("host", "BLOCKS = 2", "BLOCKS = 3"),
    "an imported constant that is not used": ("common", "WIDTH = 4", "WIDTH = 5"),
    "a jit function that nobody calls": ("common", "return x\n", "return -x\n"),
}
OTHER = {
    "a number": ("twice", "(0)", "(1)", {"twice"}),
    "a name": ("twice", "(x_ptr, n, UNROLL)", "(x_ptr, m, UNROLL)", {"twice"}),
    "an operator": ("twice", "i < n", "i <= n", {"twice"}),
    "what a block holds": ("twice", "        tl.store", "    tl.store", {"twice"}),
    "an option of the compiler": ("twice", "@triton.jit", "@triton.jit(noinline=True)", {"twice"}),
    "a constant of the argument binding": ("twice", "UNROLLED = 31", "UNROLLED = 30", {"twice"}),
    "a constant that the jit function names": ("twice", "SIGN = 1", "SIGN = -1", {"twice"}),
    "a constant of the class": ("thrice", "FACTOR = 2", "FACTOR = 3", {"thrice"}),
    "a constant of a helper of the host": ("host", "GRAIN = 16", "GRAIN = 8", {"twice"}),
    "the compiler's options": ("host", "True", "False", {"twice", "thrice"}),
    "a helper": ("common", "x * 2", "x * 3", {"twice", "thrice"}),
    "a helper's helper": ("common", "return 1", "return -1", {"twice", "thrice"}),
}


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """Two small kernels, and what they share."""
    for name, text in FILES.items():
        (tmp_path / f"{name}.py").write_text(text, encoding="utf-8")
    return tmp_path


def edit(folder: Path, name: str, before: str, after: str) -> None:
    path = folder / f"{name}.py"
    text = path.read_text(encoding="utf-8")
    assert before in text
    path.write_text(text.replace(before, after), encoding="utf-8")


def changed(folder: Path, before: dict[str, str]) -> set[str]:
    now = source.sources_in(folder)
    assert now.keys() == before.keys()
    return {name for name in now if now[name] != before[name]}


@pytest.mark.parametrize("change", SAME)
def test_what_compiles_alike_hashes_alike(package: Path, change: str) -> None:
    before = source.sources_in(package)
    edit(package, *SAME[change])
    assert changed(package, before) == set()


@pytest.mark.parametrize("change", OTHER)
def test_a_change_of_code_changes_the_hash_of_the_kernels_it_reaches_alone(
    package: Path, change: str
) -> None:
    name, old, new, reached = OTHER[change]
    before = source.sources_in(package)
    edit(package, name, old, new)
    assert changed(package, before) == reached


@pytest.fixture
def copied(tmp_path: Path) -> Path:
    """A copy of the package, for kernels of our own."""
    shutil.copytree(ROOT / "autoconv", tmp_path / "autoconv", ignore=shutil.ignore_patterns("__pycache__"))
    return tmp_path / "autoconv" / "kernels"


def test_every_kernel_has_a_source_of_its_own() -> None:
    sources = source.sources()
    assert sources.keys() == kernels().keys()
    assert len(set(sources.values())) == len(sources)
    assert all(re.fullmatch("[0-9a-f]{16}", one) for one in sources.values())
    assert {name: source.source_of(name) for name in sources} == sources


def test_adding_a_kernel_changes_no_other_s_source(copied: Path) -> None:
    (copied / "added.py").write_text(ADDED, encoding="utf-8")
    found = source.sources_in(copied)
    added = found.pop("added")
    assert found == source.sources()
    assert added not in found.values()


def test_the_constant_that_unrolls_the_taps_is_depthwise_s(copied: Path) -> None:
    edit(copied, "depthwise", "UNROLLED = 31", "UNROLLED = 29")
    assert changed(copied, source.sources()) == {"depthwise"}


def test_the_second_launch_counts_for_the_kernels_that_make_it(copied: Path) -> None:
    edit(copied, "partials", "BLOCK = 1024", "BLOCK = 512")
    assert changed(copied, source.sources()) == {"split_k", "weight_gradient"}


def test_sources_are_read_without_triton_and_torch() -> None:
    code = "import sys; from autoconv.kernels.source import sources; sources(); print(*sys.modules)"
    out = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert not {"triton", "torch"} & set(out.stdout.split())


def test_torch_s_convolution_is_torch_s_and_cudnn_s(monkeypatch: pytest.MonkeyPatch) -> None:
    found = []
    for version, cudnn in (("2.9.0", 91002), ("2.9.1", 91002), ("2.9.1", 91300)):
        monkeypatch.setattr("torch.__version__", version)
        monkeypatch.setattr("torch.backends.cudnn.version", lambda cudnn=cudnn: cudnn)
        source.source_of.cache_clear()
        found.append(source.source_of("aten"))
    source.source_of.cache_clear()
    assert found == ["torch 2.9.0, cuDNN 91002", "torch 2.9.1, cuDNN 91002", "torch 2.9.1, cuDNN 91300"]
    assert source.source_of("retired") is None


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


def test_a_kernel_is_one_file(copied: Path) -> None:
    (copied / "added.py").write_text(ADDED, encoding="utf-8")
    (copied / "notes.py").write_text('"""No kernel."""\n', encoding="utf-8")
    shutil.copytree(ROOT / "tuning_db", copied.parents[1] / "tuning_db")
    out = subprocess.run(
        [sys.executable, "-c", ASK], cwd=copied.parents[1], capture_output=True, text=True, check=True
    )
    names, offered = json.loads(out.stdout)
    assert names == sorted([*kernels(), "added"])
    assert offered == ["added[BLOCK_CO=32 BLOCK_L=32 BLOCK_R=32 num_warps=4 num_stages=2]"]
