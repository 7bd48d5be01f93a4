"""The hash of the kernels' source: a hard field of the environment, read without importing Triton."""

from __future__ import annotations

import ast
import hashlib
import io
import tokenize
from functools import lru_cache
from pathlib import Path

_IGNORED = {tokenize.COMMENT, tokenize.NL, tokenize.ENDMARKER}


@lru_cache(maxsize=1)
def source_hash() -> str:
    """Return 16 hex digits over every @triton.jit function of this package.

    Comments, blank lines and all code outside the jit functions do not count: a change of a config space
    or of a docstring elsewhere leaves tuned results valid.
    """
    functions = [
        f for path in sorted(Path(__file__).parent.glob("*.py")) for f in jit_functions(path.read_text())
    ]
    return hashlib.sha256("\x00".join(sorted(functions)).encode()).hexdigest()[:16]


def jit_functions(source: str) -> list[str]:
    """Return the tokens of each jit-decorated function in `source`, joined by spaces."""
    functions = [
        node
        for node in ast.parse(source).body
        if isinstance(node, ast.FunctionDef) and any(_is_jit(decorator) for decorator in node.decorator_list)
    ]
    return [_tokens(ast.get_source_segment(source, node) or "") for node in functions]


def _is_jit(decorator: ast.expr) -> bool:
    target = decorator.func if isinstance(decorator, ast.Call) else decorator
    return ast.unparse(target) in ("triton.jit", "jit")


def _tokens(function: str) -> str:
    tokens = tokenize.generate_tokens(io.StringIO(function).readline)
    # INDENT tokens carry the indentation's text; their nesting is what matters, not their width.
    return " ".join(
        tokenize.tok_name[token.type] if token.type in (tokenize.INDENT, tokenize.DEDENT) else token.string
        for token in tokens
        if token.type not in _IGNORED
    )
