"""Code as text, for hashes of it: no comment, docstring, layout or version of Python enters it."""

from __future__ import annotations

import ast
from collections.abc import Callable
from contextlib import suppress
from typing import TypeAlias

_PACKAGE = "autoconv.kernels"
_UNSPOKEN = ("ctx", "kind", "type_comment")  # fields of the syntax tree that say nothing about the code

PARSED_AT_MOST = 10  # times; a second is seldom needed

Symbol: TypeAlias = tuple[str, str]  # module and name


def parsed(text: str) -> ast.Module:
    """Return a file's syntax tree, whatever other threads parse meanwhile.

    Python 3.11 counts the depth of the trees that it builds for all threads together, and where one is
    interrupted by another it takes the tree for broken: it is built again. A lock would not keep those from
    parsing who know nothing of it, Triton and torch among them.

    Raises:
        SystemError: it failed PARSED_AT_MOST times.
    """
    for _ in range(PARSED_AT_MOST - 1):
        with suppress(SystemError):
            return ast.parse(text)
    return ast.parse(text)


def spelled(node: object, left_out: Callable[[ast.AST], bool] = lambda node: False) -> str:  # noqa: ARG005
    """Return a syntax tree as text, without its docstrings and the statements that `left_out` picks.

    `ast.dump` and `ast.unparse` would do, but either differs from one Python to the next.
    """
    if isinstance(node, list):
        return f"[{' '.join(spelled(one, left_out) for one in node)}]"
    if not isinstance(node, ast.AST):
        return repr(node)
    fields = {name: value for name, value in ast.iter_fields(node) if name not in _UNSPOKEN}
    for name, value in fields.items():
        if isinstance(value, list):
            fields[name] = [one for one in value if not (_is_docstring(one) or left_out(one))]
    parts = [
        f"{name}={spelled(value, left_out)}" for name, value in fields.items() if value not in (None, [])
    ]
    return f"{type(node).__name__}({' '.join(parts)})"


def imported(tree: ast.Module) -> dict[str, Symbol]:
    """Return what a file has from the kernels' package, by its name there; a module itself has none."""
    found = {}
    for node in tree.body:
        if isinstance(node, ast.ImportFrom):
            module = f"{_PACKAGE}.{node.module or ''}".strip(".") if node.level else node.module or ""
            for alias in node.names:
                if module == _PACKAGE:
                    found[alias.asname or alias.name] = (alias.name, "")
                elif module.startswith(f"{_PACKAGE}."):
                    found[alias.asname or alias.name] = (module[len(_PACKAGE) + 1 :], alias.name)
    return found


def is_jit(node: ast.AST) -> bool:
    """Return whether a statement defines a jit function."""
    return isinstance(node, ast.FunctionDef) and any(map(_compiles, node.decorator_list))


def _compiles(decorator: ast.expr) -> bool:
    target = decorator.func if isinstance(decorator, ast.Call) else decorator
    return ast.unparse(target) in ("triton.jit", "jit")


def _is_docstring(node: ast.AST) -> bool:
    """Return whether a statement is a text alone: a docstring, or one of a constant."""
    return (
        isinstance(node, ast.Expr)
        and isinstance(node.value, ast.Constant)
        and isinstance(node.value.value, str)
    )
