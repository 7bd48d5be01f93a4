"""Who may import whom, and which package may import what: read from the syntax tree of every module."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from graphlib import TopologicalSorter
from itertools import pairwise
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
MODULES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for package in ("autoconv", "tuning_db")
    for path in sorted((ROOT / package).rglob("*.py"))
}

VALUES = ("problem", "config", "device", "environment", "errors", "settings")
# The arrows of docs/architecture.md. A package may import itself and whatever it reaches along them.
KNOWS: dict[str, set[str]] = {
    "front": {"cli", "simulation", "watching"},
    "cli": {"swap", "diagnosis", "emit", "report", "nsight", "model"},
    "report": {"tuning", "nsight"},
    "nsight": {"cost"},
    "model": {"capturing", "targets"},
    "capturing": {"ops"},
    "targets": {"tuning", "gpu"},
    "diagnosis": {"compiler", "gpu", "lookup"},
    "simulation": {"serving"},
    "swap": {"modules"},
    "watching": {"modules"},
    "modules": {"ops"},
    "ops": {"library"},
    "library": {"serving"},
    "serving": {"dispatch"},
    "emit": {"cost"},
    "dispatch": {"tuning", "gpu"},
    "tuning": {"sweep", "lookup"},
    "sweep": {"cost", "gpu", "lookup"},
    "cost": {"compiler"},
    "compiler": {"kernels"},
    "lookup": {"cost", "tuning_db"},
    "kernels": {"values"},
    "gpu": {"values"},
    "tuning_db": set(),
    "values": set(),
}
GPU_USERS = {"gpu", "sweep", "dispatch", "diagnosis", "targets", "cli"}  # all others reach it through these
IMPORTERS = ("import_module", "__import__")
ALLOWED = {
    "click": {"cli"}, "rich": {"cli"}, "matplotlib": {"report"}, "jinja2": {"report"},
    "sqlite_utils": {"tuning_db"}, "filelock": {"tuning_db"}, "ray": {"sweep"},
    "triton": {"kernels", "compiler", "gpu", "dispatch"},
    "torch": KNOWS.keys() - {"values", "tuning_db"},
}  # fmt: skip


def package_of(module: str) -> str:
    """The package of a module of ours: "front" is autoconv/__init__.py and autoconv/__main__.py."""
    package, *rest = module.split(".")
    if package == "tuning_db":
        return "tuning_db"
    if not rest or rest[0] == "__main__":
        return "front"
    return "values" if rest[0] in VALUES else rest[0]


def reach(package: str) -> set[str]:
    return {package}.union(*map(reach, KNOWS[package]))


def imported(tree: ast.AST, module: str, is_package: bool) -> Iterator[str]:
    """Every module that the code imports, inside functions and for type checking too, as a dotted name."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = module.split(".")[: -(node.level - is_package) or None] if node.level else []
            source = ".".join([*base, *filter(None, [node.module])])
            # `from autoconv import problem` names a module, `from autoconv.problem import Problem` does not.
            yield from (source if "." in source else f"{source}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Call) and ast.unparse(node.func).split(".")[-1] in IMPORTERS:
            yield from (str(arg.value) for arg in node.args if isinstance(arg, ast.Constant))


def violations(module: str, source: str, is_package: bool = False) -> list[str]:
    """What one module does that its package may not."""
    tree, own, found = ast.parse(source), package_of(module), []
    for name in imported(tree, module, is_package):
        package = name.split(".")[0]
        if package in ("autoconv", "tuning_db"):
            other = package_of(name)
            if other not in reach(own) or (other == "gpu" and own not in GPU_USERS):
                found.append(f"{module}: {own} may not import {other} ({name})")
        elif own not in ALLOWED.get(package, KNOWS.keys()):
            found.append(f"{module}: {own} may not import {package}")
        elif package in ("scripts", "tests"):
            found.append(f"{module}: the product may not import {package}")
    if module != "autoconv.settings" and {"environ", "environb", "getenv"} & set(names_in(tree)):
        found.append(f"{module}: only autoconv.settings reads os.environ")
    return found


def names_in(tree: ast.AST) -> Iterator[str]:
    """Every attribute and every name imported from a module."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            yield node.attr
        elif isinstance(node, ast.ImportFrom):
            yield from (alias.name for alias in node.names)


def test_no_modules_import_each_other_not_even_inside_functions() -> None:
    trees = {module: ast.parse(path.read_text(encoding="utf-8")) for module, path in MODULES.items()}
    imports = {
        module: {
            name
            for name in imported(tree, module, MODULES[module].name == "__init__.py")
            if name in MODULES.keys() - {module}
        }
        for module, tree in trees.items()
    }
    TopologicalSorter(imports).prepare()  # a CycleError names the circle


def test_the_values_are_modules() -> None:
    assert {f"autoconv.{name}" for name in VALUES} <= MODULES.keys()


def test_the_docs_picture_shows_these_arrows() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    picture = re.sub(r"\[.*?\]", "", text.split("```mermaid\n")[1].split("```")[0])
    drawn: dict[str, set[str]] = {room: set() for room in KNOWS}
    for line in picture.splitlines()[1:]:
        ends = [{room.strip() for room in end.split("&")} for end in line.split("-->")]
        for sources, targets in pairwise(ends):
            for source in sources:
                drawn[source] |= targets
    assert drawn == KNOWS


@pytest.mark.parametrize("module", MODULES)
def test_arrows_and_doors(module: str) -> None:
    path = MODULES[module]
    assert package_of(module) in KNOWS, f"{module} has no room: give it one here and in docs/architecture.md"
    assert violations(module, path.read_text(encoding="utf-8"), path.name == "__init__.py") == []


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("autoconv.problem", "from autoconv.kernels import registry"),
        ("autoconv.device", "import torch"),
        ("autoconv.errors", "from autoconv import kernels"),
        ("autoconv.kernels.dense", "from autoconv.compiler.cross import compile"),
        ("autoconv.kernels.dense", "import tuning_db"),
        ("autoconv.cost.predict", "from tuning_db import Trial"),
        ("autoconv.ops", "from autoconv import gpu"),
        ("autoconv.compiler", "from .. import cost"),
        ("autoconv.cost.predict", "from ..sweep import run"),
        ("autoconv.cost.predict", "import triton.language as tl"),
        ("autoconv.lookup", "from autoconv.sweep import run"),
        ("autoconv.lookup", "from autoconv.ops import conv1d"),
        ("autoconv.lookup", "from autoconv.gpu import timed"),
        ("autoconv.sweep.run", "from autoconv import conv1d"),
        ("autoconv.sweep.run", "from autoconv.tuning.tuner import Tuner"),
        ("autoconv.tuning.tuner", "from autoconv.dispatch.plans import Plans"),
        ("autoconv.tuning.tuner", "from autoconv import gpu"),
        ("autoconv.sweep.run", "def later():\n    from rich.progress import Progress"),
        ("autoconv.dispatch", "import importlib\nimportlib.import_module('autoconv.ops')"),
        ("autoconv.ops", "from filelock import FileLock"),
        ("autoconv.cli.db", "import sqlite_utils"),
        ("autoconv.cli.db", "import os\nhome = os.environ['HOME']"),
        ("autoconv.sweep.run", "from os import getenv"),
        ("autoconv.modules", "from scripts.demo import main"),
        ("tuning_db.store", "from autoconv.problem import Problem"),
        ("tuning_db.store", "import torch"),
    ],
)
def test_the_checker_sees_a_breach(module: str, source: str) -> None:
    assert len(violations(module, source, is_package=module.count(".") == 1)) == 1


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("autoconv.settings", "import os\nhome = os.environ['HOME']"),
        (
            "autoconv.kernels.dense",
            "import triton\nfrom autoconv.kernels.base import cdiv\nfrom . import base",
        ),
        ("autoconv.sweep.run", "from autoconv import gpu, problem\nfrom tuning_db import TuningDB"),
        ("autoconv.cli.tune", "import click\nfrom autoconv.sweep.run import sweep"),
        (
            "tuning_db.store",
            "import sqlite_utils\nfrom tuning_db import records\nfrom .locks import lock",
        ),
    ],
)
def test_the_checker_lets_the_lawful_pass(module: str, source: str) -> None:
    assert violations(module, source) == []


def loaded_by(imports: str) -> set[str]:
    """The top-level packages that a fresh process has loaded after `imports`."""
    code = f"{imports}\nimport sys\nprint(*sorted(sys.modules))"
    out = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    return {name.split(".")[0] for name in out.stdout.split()}


def test_importing_autoconv_is_light() -> None:
    assert not loaded_by("import autoconv") & {"click", "rich", "sqlite_utils", "triton"}


def test_values_need_neither_torch_nor_triton() -> None:
    names = [name for name in MODULES if package_of(name) == "values"]
    assert not loaded_by("import " + ", ".join(names)) & {"torch", "triton"}


@pytest.mark.parametrize("path", [p for name, p in MODULES.items() if name == "autoconv.gpu"], ids=str)
def test_what_needs_a_gpu_stays_small(path: Path) -> None:
    assert len(path.read_text(encoding="utf-8").splitlines()) < 150
