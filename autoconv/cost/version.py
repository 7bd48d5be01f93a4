"""The version of the cost model: what its code and its constants hash to, never a number kept by hand.

Two predictions compare only where they come of one version, so every predicted trial carries it.
"""

from __future__ import annotations

import ast
import hashlib
from collections.abc import Iterator, Mapping
from functools import lru_cache
from pathlib import Path

_PACKAGE = Path(__file__).parents[1]
_NO_PART = {"space", "unsupported", "arguments"}
"""Methods of a kernel that say which configs it has and how one is launched: no part of an estimate."""


@lru_cache(maxsize=1)
def model_version() -> str:
    """Return sixteen hex digits over all code and constants that a prediction comes of; imports none of it.

    That is the package `autoconv.cost`, and of `autoconv.kernels` all but the jit functions, which have a
    hash of their own, the config spaces and the launch arguments. Comments, docstrings and layout do not
    count.
    """
    return version_of(sources())


def sources() -> dict[str, str]:
    """Return the text of the modules that `model_version` covers, by their path below the package."""
    return {
        file.relative_to(_PACKAGE).as_posix(): file.read_text(encoding="utf-8")
        for folder in ("cost", "kernels")
        for file in sorted((_PACKAGE / folder).glob("*.py"))
    }


def version_of(modules: Mapping[str, str]) -> str:
    """Return the version that the model has where its modules read so."""
    digest = hashlib.sha256()
    for name in sorted(modules):
        digest.update(f"{name}\n{_canonical(ast.parse(modules[name]))}\n".encode())
    return digest.hexdigest()[:16]


def _canonical(part: object) -> str:
    """Return a text of a syntax tree that no Python's own notation enters, so that all of them agree on it.

    Fields that are empty are left out: which of them there are differs between versions of Python.
    """
    if isinstance(part, list):
        return f"[{' '.join(_canonical(one) for one in part if not _left_out(one))}]"
    if not isinstance(part, ast.AST):
        return repr(part)
    return f"({type(part).__name__} {' '.join(_fields(part))})"


def _fields(node: ast.AST) -> Iterator[str]:
    for name, value in ast.iter_fields(node):
        if value is not None and value != []:
            yield f"{name}={_canonical(value)}"


def _left_out(node: object) -> bool:
    if isinstance(node, ast.Expr):  # a docstring, or one of a constant
        return isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
    if isinstance(node, ast.FunctionDef):
        return node.name in _NO_PART or any("jit" in ast.unparse(one) for one in node.decorator_list)
    return False
