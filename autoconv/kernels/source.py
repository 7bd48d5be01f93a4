"""What a stored result depends on in the code: one hash a kernel, read from the files without Triton.

It covers the jit functions of the kernel, those they call, and the host's constants that can reach the
compiled code: those that a jit function names, and those that the kernel's own code names, be it through
functions and base classes of this package, anywhere but in the methods that only plan a launch.
"""

from __future__ import annotations

import ast
import hashlib
from collections.abc import Iterator
from functools import cached_property, lru_cache
from pathlib import Path
from typing import TypeAlias

PLANNING = frozenset({"unsupported", "space", "grid", "work", "workspace", "check"})
"""Methods of a kernel from which nothing reaches the compiler: what to try, where to run it, how long it may
take. A change there leaves results valid. All others count, so one with a name not known here does too."""

_PACKAGE = "autoconv.kernels"
_UNSPOKEN = ("ctx", "kind", "type_comment")  # fields of the syntax tree that say nothing about the code

Symbol: TypeAlias = tuple[str, str]  # module and name


@lru_cache(maxsize=1)
def sources() -> dict[str, str]:
    """Return the source of every kernel of this package by the kernel's name."""
    return sources_in(Path(__file__).parent)


def sources_in(folder: Path) -> dict[str, str]:
    """Return the source, 16 hex digits, of each kernel in a copy of this package, by the kernel's name.

    A kernel is a file that defines `KERNEL`, and bears the file's name.
    """
    modules = {path.stem: _Module(path.read_text(encoding="utf-8")) for path in sorted(folder.glob("*.py"))}
    return {name: _hash(name, modules) for name, module in modules.items() if "KERNEL" in module.symbols}


@lru_cache(maxsize=64)
def source_of(kernel: str) -> str | None:
    """Return the source of the kernel called that today, or None where there is none.

    torch's own convolution, `aten`, is named by the versions of torch and cuDNN.
    """
    if kernel != "aten":
        return sources().get(kernel)
    import torch  # not above: the kernels' own hashes do without

    return f"torch {torch.__version__}, cuDNN {torch.backends.cudnn.version()}"


def _hash(name: str, modules: dict[str, _Module]) -> str:
    parts = set()
    reached: set[Symbol] = set()
    ahead = [(name, "KERNEL")]
    while ahead:
        symbol = ahead.pop()
        if symbol in reached:
            continue
        reached.add(symbol)
        module, node = modules[symbol[0]], modules[symbol[0]].symbols[symbol[1]]
        parts.update(_parts(symbol[1], node))
        ahead += [there for used in _names(node) for there in _resolved(used, symbol[0], module, modules)]
    return hashlib.sha256("\x00".join(sorted(parts)).encode()).hexdigest()[:16]


class _Module:
    """One file of the package: its top-level functions, classes and constants, and what it imports."""

    def __init__(self, text: str) -> None:
        """Parse the text."""
        self._tree = ast.parse(text)

    @cached_property
    def symbols(self) -> dict[str, ast.stmt]:
        """What the file defines, by name."""
        found: dict[str, ast.stmt] = {}
        for node in self._tree.body:
            if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
                found[node.name] = node
            found.update(dict.fromkeys(_assigned(node), node))
        return found

    @cached_property
    def imports(self) -> dict[str, Symbol]:
        """What the file has from its siblings, by the name used here; a module itself has an empty name."""
        found = {}
        for node in self._tree.body:
            if isinstance(node, ast.ImportFrom):
                source = f"{_PACKAGE}.{node.module or ''}".strip(".") if node.level else node.module or ""
                for alias in node.names:
                    if source == _PACKAGE:
                        found[alias.asname or alias.name] = (alias.name, "")
                    elif source.startswith(f"{_PACKAGE}."):
                        found[alias.asname or alias.name] = (source[len(_PACKAGE) + 1 :], alias.name)
        return found


def _resolved(used: str, here: str, module: _Module, modules: dict[str, _Module]) -> Iterator[Symbol]:
    """Yield the symbol that a name, plain or dotted, means in a module, if it is one of this package."""
    first, _, rest = used.partition(".")
    there, name = module.imports.get(first, (here, first))
    symbol = there, name or rest
    if there in modules and symbol[1] in modules[there].symbols:
        yield symbol


def _parts(name: str, node: ast.stmt) -> Iterator[str]:
    """Yield what the hash takes of a symbol: a jit function whole, of all else the constants."""
    if isinstance(node, ast.FunctionDef):
        if any(_is_jit(decorator) for decorator in node.decorator_list):
            yield _spelled(node)
    elif isinstance(node, ast.ClassDef):
        for statement in node.body:
            for attribute in _assigned(statement):
                yield f"{attribute}={_spelled(_value(statement))}"
    else:
        yield f"{name}={_spelled(_value(node))}"


def _assigned(node: ast.stmt) -> list[str]:
    """Return the names that a statement gives a value to."""
    if isinstance(node, ast.AnnAssign) and node.value is None:
        return []
    targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
    return [one.id for target in targets if target for one in ast.walk(target) if isinstance(one, ast.Name)]


def _value(node: ast.stmt) -> ast.expr | None:
    value = getattr(node, "value", None)
    return value if isinstance(value, ast.expr) else None


def _names(node: ast.AST) -> Iterator[str]:
    """Yield the names that a symbol uses, those of `module.name` dotted; not in planning, nor in hints."""
    if isinstance(node, ast.FunctionDef) and node.name in PLANNING:
        return
    if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
        yield f"{node.value.id}.{node.attr}"
    elif isinstance(node, ast.Name):
        yield node.id
    for field, child in ast.iter_fields(node):
        if field not in ("annotation", "returns"):
            for one in child if isinstance(child, list) else [child]:
                if isinstance(one, ast.AST):
                    yield from _names(one)


def _is_jit(decorator: ast.expr) -> bool:
    target = decorator.func if isinstance(decorator, ast.Call) else decorator
    return ast.unparse(target) in ("triton.jit", "jit")


def _spelled(node: object) -> str:
    """Return code as text that comments, spaces, docstrings and the version of Python have no part in.

    `ast.dump` and `ast.unparse` would do but for the last: either differs from one Python to the next.
    """
    if isinstance(node, list):
        return f"[{' '.join(map(_spelled, node))}]"
    if not isinstance(node, ast.AST):
        return repr(node)
    fields = [
        f"{field}={_spelled(value)}"
        for field, value in ast.iter_fields(node)
        if field not in _UNSPOKEN and value not in (None, [])
    ]
    if isinstance(node, ast.FunctionDef) and ast.get_docstring(node, clean=False) is not None:
        fields = [
            f"body={_spelled(node.body[1:])}" if field.startswith("body=") else field for field in fields
        ]
    return f"{type(node).__name__}({' '.join(fields)})"
