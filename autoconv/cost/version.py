"""What predicted a time: a hash of the code and constants that it comes of, never a number kept by hand.

Two predictions compare only where one model made them, so every predicted trial carries its predictor. That
is MODEL-KERNEL: the hash of what all predictions come of, and that of the host code of the trial's kernel.
"""

from __future__ import annotations

import ast
import hashlib
from collections.abc import Iterable, Mapping
from functools import lru_cache
from pathlib import Path

from autoconv.kernels.code import imported, is_jit, parsed, spelled

_PACKAGE = Path(__file__).parents[1]
_NO_PART = {
    "space", "tilings", "choices", "worthwhile", "pipelines", "fits", "unsupported", "refusal", "constants",
    "arguments",
}  # fmt: skip
"""Functions that say which configs a kernel has and how one is launched: no part of an estimate."""


@lru_cache(maxsize=64)
def predictor_of(kernel: str) -> str:
    """Return what predicts times of a kernel today, 16 hex digits, a hyphen and 16 more; imports none of it.

    The first are of the package `autoconv.cost` and the modules of `autoconv.kernels` that it imports, the
    last of the kernel's own module and those that it imports: of all of them but the jit functions, which
    have a hash of their own, the config spaces and the launch arguments. Comments, docstrings and layout do
    not count. What is no kernel of the package has the first alone.
    """
    return predictor_in(sources(), kernel)


@lru_cache(maxsize=1)
def sources() -> dict[str, str]:
    """Return the text of every module that a predictor may cover, by its path below the package."""
    return {
        file.relative_to(_PACKAGE).as_posix(): file.read_text(encoding="utf-8")
        for folder in ("cost", "kernels")
        for file in sorted((_PACKAGE / folder).glob("*.py"))
    }


def predictor_in(modules: Mapping[str, str], kernel: str) -> str:
    """Return the predictor that a kernel has where the modules read so."""
    model = _hash(modules, (name for name in modules if name.startswith("cost/")))
    own = f"kernels/{kernel}.py"
    return f"{model}-{_hash(modules, [own])}" if own in modules else model


def _hash(modules: Mapping[str, str], names: Iterable[str]) -> str:
    """Return the hash of the modules so named and of all the kernels' modules that they import."""
    reached: set[str] = set()
    ahead = list(names)
    while ahead:
        name = ahead.pop()
        if name in modules and name not in reached:
            reached.add(name)
            ahead += _read(modules[name])[1]
    texts = (f"{name}\n{_read(modules[name])[0]}\n" for name in sorted(reached))
    return hashlib.sha256("".join(texts).encode()).hexdigest()[:16]


@lru_cache(maxsize=256)
def _read(text: str) -> tuple[str, tuple[str, ...]]:
    """Return what counts of a module, and the kernels' modules that it imports."""
    tree = parsed(text)
    siblings = {f"kernels/{module}.py" for module, _ in imported(tree).values()}
    return spelled(tree, _left_out), tuple(sorted(siblings))


def _left_out(node: ast.AST) -> bool:
    return is_jit(node) or (isinstance(node, ast.FunctionDef) and node.name in _NO_PART)
