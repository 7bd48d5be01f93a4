"""The hash of each kernel's source: what changes it, and whose."""

from __future__ import annotations

import ast
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from autoconv.kernels import source
from autoconv.kernels.code import PARSED_AT_MOST, parsed
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

    def constants(self, problem):
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

    def constants(self, problem):
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
from autoconv.kernels.bindings import bindings

OPTIONS = {"enable_fp_fusion": True}
GRAIN = 16
BLOCKS = 2

class Base:
    def launch(self, problem):
        self.jit[self.grid(problem)](**self.arguments(problem), **OPTIONS)

    def arguments(self, problem):
        return {**bindings(problem), **self.constants(problem)}

    def grid(self, problem):
        return problem.N // BLOCKS

def rounded(n):
    return n // GRAIN * GRAIN
"""

BINDINGS = """
LARGEST = 2147483647
SHORTEST = 16

def bindings(problem):
    return {"L": problem.L, "INDEX_64": problem.L > LARGEST}

def worthwhile(problem):
    return problem.L > SHORTEST
"""

FILES = {"twice": KERNEL, "thrice": OTHER_KERNEL, "common": COMMON, "host": HOST, "bindings": BINDINGS}

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
    "a constant beside the bindings": ("bindings", "SHORTEST = 16", "SHORTEST = 32"),
    "a jit function that nobody calls": ("common", "return x\n", "return -x\n"),
}
OTHER = {
    "a number": ("twice", "(0)", "(1)", {"twice"}),
    "a name": ("twice", "(x_ptr, n, UNROLL)", "(x_ptr, m, UNROLL)", {"twice"}),
    "an operator": ("twice", "i < n", "i <= n", {"twice"}),
    "what a block holds": ("twice", "        tl.store", "    tl.store", {"twice"}),
    "an option of the compiler": ("twice", "@triton.jit", "@triton.jit(noinline=True)", {"twice"}),
    "a constant of a kernel's own arguments": ("twice", "UNROLLED = 31", "UNROLLED = 30", {"twice"}),
    "a constant that the jit function names": ("twice", "SIGN = 1", "SIGN = -1", {"twice"}),
    "a constant of the class": ("thrice", "FACTOR = 2", "FACTOR = 3", {"thrice"}),
    "a constant of a helper of the host": ("host", "GRAIN = 16", "GRAIN = 8", {"twice"}),
    "a constant of the shared arguments": (
        "bindings",
        "LARGEST = 2147483647",
        "LARGEST = 9",
        {"twice", "thrice"},
    ),
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
    """A copy of the kernels, to be edited."""
    ignore = shutil.ignore_patterns("__pycache__")
    return Path(shutil.copytree(ROOT / "autoconv" / "kernels", tmp_path / "kernels", ignore=ignore))


def test_every_kernel_has_a_source_of_its_own() -> None:
    sources = source.sources()
    assert sources.keys() == kernels().keys()
    assert len(set(sources.values())) == len(sources)
    assert all(re.fullmatch("[0-9a-f]{16}", one) for one in sources.values())
    assert {name: source.source_of(name) for name in sources} == sources


EVERY = frozenset(kernels())
EDITS = {
    # Of the package's own files: what reads otherwise, and whose source that changes.
    "one jit function": ("dense", "range(0, REDUCTION", "range(0, 0 + REDUCTION", {"dense"}),
    "an argument of two": (
        "depthwise", "UNROLLED = 31", "UNROLLED = 29", {"depthwise", "transposed_depthwise"},
    ),
    "the second launch": ("partials", "BLOCK = 1024", "BLOCK = 512", {"split_k", "weight_gradient"}),
    "arguments that all share": ("sizes", "MAX_INT32 = 2**31 - 1", "MAX_INT32 = 2**30 - 1", EVERY),
    "the names of arguments": ("bindings", 'UNITS = "_units"', 'UNITS = "_unit"', EVERY),
    "the compiler's options": ("base", '{"enable_fp_fusion": True}', '{"enable_fp_fusion": False}', EVERY),
    "the epilogue": ("tiles", "value * 0.01", "value * 0.02", EVERY),
    "decoding that some share": (
        "tiles", "tile_co = tile % tiles_co", "tile_co = (tile) % tiles_co + 0",
        {
            "channels_last", "grouped", "narrow", "split_k",
            "transposed_joined", "transposed_phases",
        },
    ),
    "columns across samples": (
        "across", "start = tile_l * BLOCK_L", "start = BLOCK_L * tile_l",
        {"dense", "grouped_channels_last", "pointwise", "tap_major", "transposed_rows"},
    ),
    "a bound of one space": ("transposed_rows", "MOST_ROWS = 256", "MOST_ROWS = 128", set()),
    "a bound of every space": ("implicit_gemm", "[int] = 256", "[int] = 128", set()),
    "what is sound": ("work", "MOST_STAGES = 8", "MOST_STAGES = 6", set()),
    "what the cost model takes": (
        "grouped", "address_instructions = 4.0", "address_instructions = 5.0", set(),
    ),
}  # fmt: skip


@pytest.mark.parametrize("change", EDITS)
def test_a_change_in_the_package_costs_the_kernels_it_reaches_alone(copied: Path, change: str) -> None:
    name, old, new, reached = EDITS[change]
    edit(copied, name, old, new)
    assert changed(copied, source.sources()) == reached


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


@pytest.mark.parametrize("failures", [1, PARSED_AT_MOST - 1])
def test_a_file_is_parsed_again_where_another_thread_was_in_the_way(
    failures: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As Python 3.11 fails then."""
    parse, left = ast.parse, iter(range(failures))

    def interrupted(text: str) -> ast.Module:
        if next(left, None) is not None:
            raise SystemError("AST constructor recursion depth mismatch (before=78, after=73)")
        return parse(text)

    monkeypatch.setattr("ast.parse", interrupted)
    assert ast.dump(parsed("x = 1")) == ast.dump(parse("x = 1"))


def test_a_file_that_cannot_be_parsed_is_not_tried_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[str] = []

    def broken(text: str) -> ast.Module:
        tried.append(text)
        raise SystemError("always")

    monkeypatch.setattr("ast.parse", broken)
    with pytest.raises(SystemError, match="always"):
        parsed("x = 1")
    assert len(tried) == PARSED_AT_MOST
