"""The jit functions of a launch as text: those it calls first, itself last."""

from __future__ import annotations

import ast
import inspect
import textwrap
from typing import Any

PROVIDED = ("triton", "tl")  # by the imports of every emitted file


def in_order(launched: list[Any]) -> list[Any]:
    """Return these jit functions and those that they call, each once, behind those that it calls."""
    found: dict[str, Any] = {}
    for one in launched:
        _collect(one, found)
    return list(found.values())


def _collect(jit: Any, found: dict[str, Any]) -> None:
    if jit.fn.__name__ not in found:
        for called in _globals(jit).values():
            if not _is_constant(called):
                _collect(called, found)
        found[jit.fn.__name__] = jit


def constants(jit_functions: list[Any]) -> list[str]:
    """Return the assignments of the modules' constants that these functions name."""
    named = {name: one for jit in jit_functions for name, one in _globals(jit).items() if _is_constant(one)}
    return [f"{name} = tl.constexpr({one.value!r})" for name, one in named.items()]


def _globals(jit: Any) -> dict[str, Any]:
    """Return what a jit function has of its module by name, in the order of the first mention.

    Raises:
        ValueError: it is neither a jit function nor a constant, so a file with those alone would lack it.
    """
    module, own = jit.fn.__globals__, {*PROVIDED, *jit.fn.__code__.co_varnames}
    mentioned = [node.id for node in ast.walk(ast.parse(source_text(jit))) if isinstance(node, ast.Name)]
    found = {name: module[name] for name in mentioned if name in module and name not in own}
    for name, one in found.items():
        if not hasattr(one, "fn") and not _is_constant(one):
            raise ValueError(f"{jit.fn.__name__} uses {name} of its module, and no file could have that")
    return found


def _is_constant(one: Any) -> bool:
    return type(one).__name__ == "constexpr"  # of Triton, which no other package than the kernels' imports


def source_text(jit: Any) -> str:
    """Return the source of a jit function, its decorator included."""
    return textwrap.dedent(inspect.getsource(jit.fn)).rstrip() + "\n"
