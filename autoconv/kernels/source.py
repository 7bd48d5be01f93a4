"""What a stored result depends on in the code: one hash a kernel, read from the files without Triton.

It covers the jit functions that a launch of the kernel runs, those they call, and the host's constants that
can reach the compiled code: those that a jit function names, and those that the host's own code names on the
way from `Kernel.launch` to the arguments. The config space, the grid and the estimate are not on that way.
"""

from __future__ import annotations

import ast
import hashlib
from collections.abc import Iterator
from functools import cached_property, lru_cache
from pathlib import Path

from autoconv.kernels.code import Symbol, imported, is_jit, parsed, spelled

ENTRIES = frozenset({"launch", "__init__"})
"""Members of a kernel's class from which everything that reaches the compiler is reached."""

PLANNING = frozenset({"grid", "workspace", "check"})
"""Members that a launch asks too, but not for anything that the compiler sees."""


@lru_cache(maxsize=1)
def sources() -> dict[str, str]:
    """Return the source of every kernel of this package by the kernel's name."""
    return _hashes(_modules())


def sources_in(folder: Path) -> dict[str, str]:
    """Return the source, 16 hex digits, of each kernel in a copy of this package, by the kernel's name.

    A kernel is a file that defines `KERNEL`, and bears the file's name.
    """
    return _hashes(_modules_in(folder))


_TORCH = "torch "


@lru_cache(maxsize=64)
def source_of(kernel: str) -> str | None:
    """Return the source of the kernel called that today, or None where there is none.

    torch's own convolution, `aten`, is named by the versions of torch and cuDNN.
    """
    if kernel != "aten":
        modules = _modules()  # of which only those are parsed that a launch of this kernel reaches
        return _hash(kernel, modules) if kernel in modules and modules[kernel].is_kernel else None
    import torch  # not above: the kernels' own hashes do without

    return f"{_TORCH}{torch.__version__}, cuDNN {torch.backends.cudnn.version()}"


def is_torchs(source: str) -> bool:
    """Return whether a source is that of torch's own convolution, of whatever versions."""
    return source.startswith(_TORCH)


@lru_cache(maxsize=1)
def _modules() -> dict[str, _Module]:
    return _modules_in(Path(__file__).parent)


def _modules_in(folder: Path) -> dict[str, _Module]:
    return {path.stem: _Module(path.read_text(encoding="utf-8")) for path in sorted(folder.glob("*.py"))}


def _hashes(modules: dict[str, _Module]) -> dict[str, str]:
    return {name: _hash(name, modules) for name, module in modules.items() if module.is_kernel}


def _hash(name: str, modules: dict[str, _Module]) -> str:
    parts = {modules[module].spelled(symbol) for module, symbol in _reached(name, modules)}
    return hashlib.sha256("\x00".join(sorted(parts)).encode()).hexdigest()[:16]


def _reached(name: str, modules: dict[str, _Module]) -> set[Symbol]:
    """Return the symbols that a launch of the kernel in module `name` uses, members of classes among them.

    Whose member an attribute is cannot be read from the text, so it may be that of any class reached.
    """
    reached: set[Symbol] = set()
    attributes = set(ENTRIES)
    ahead = [(name, "KERNEL")]
    while ahead:
        here, symbol = ahead.pop()
        if (here, symbol) not in reached:
            reached.add((here, symbol))
            for used in modules[here].names(symbol):
                attributes.update(used.split(".")[1:])
                ahead += _resolved(used, here, modules)
        if not ahead:
            members = {(module, f"{one}.{attribute}") for module, one in reached for attribute in attributes}
            ahead = [one for one in members - reached if one[1] in modules[one[0]].symbols]
    return reached


def _resolved(used: str, here: str, modules: dict[str, _Module]) -> list[Symbol]:
    """Return the symbol of this package that a name, plain or dotted, means in a module, if it is one."""
    first, *rest = used.split(".")
    module, name = modules[here].imports.get(first, (here, first))
    symbol = module, name or ".".join(rest[:1])
    return [symbol] if module in modules and symbol[1] in modules[module].symbols else []


class _Module:
    """One file of the package: its functions, classes, their members, and constants; what it imports."""

    def __init__(self, text: str) -> None:
        """Take the text, which is parsed once something is asked of it."""
        self._text = text

    @cached_property
    def _tree(self) -> ast.Module:
        return parsed(self._text)

    @property
    def is_kernel(self) -> bool:
        """Whether the file defines `KERNEL`."""
        return "KERNEL" in self.symbols

    @cached_property
    def symbols(self) -> dict[str, ast.stmt]:
        """What the file defines, by name; the members of classes but for PLANNING as `Class.member`."""
        found = dict(_defined(self._tree.body))
        for name, node in list(found.items()):
            if isinstance(node, ast.ClassDef):
                members = _defined(node.body)
                found.update((f"{name}.{one}", member) for one, member in members if one not in PLANNING)
        return found

    @cached_property
    def imports(self) -> dict[str, Symbol]:
        """What the file has from its siblings, by the name used here; a module itself has an empty name."""
        return imported(self._tree)

    def names(self, symbol: str) -> Iterator[str]:
        """Yield the names that a symbol uses, dotted ones whole; those of a class are its bases'."""
        node = self.symbols[symbol]
        for part in [*node.bases, *node.keywords] if isinstance(node, ast.ClassDef) else [node]:
            yield from _names(part)

    def spelled(self, symbol: str) -> str:
        """Return what the hash takes of a symbol: a jit function, or a constant; all else is empty."""
        node = self.symbols[symbol]
        if isinstance(node, ast.FunctionDef):
            return spelled(node) if is_jit(node) else ""
        value = getattr(node, "value", None)
        return "" if value is None else f"{symbol.rpartition('.')[2]}={spelled(value)}"


def _defined(body: list[ast.stmt]) -> Iterator[tuple[str, ast.stmt]]:
    for node in body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            yield node.name, node
        elif isinstance(node, (ast.Assign, ast.AnnAssign)):
            for target in node.targets if isinstance(node, ast.Assign) else [node.target]:
                yield from ((one.id, node) for one in ast.walk(target) if isinstance(one, ast.Name))


def _names(node: ast.AST) -> Iterator[str]:
    """Yield the names in code, `super().arguments` as `.arguments`; those of type hints are left out."""
    dotted = ""
    while isinstance(node, ast.Attribute):
        dotted = f".{node.attr}{dotted}"
        node = node.value
    if isinstance(node, ast.Name):
        yield f"{node.id}{dotted}"
        return
    if dotted:
        yield dotted
    for field, child in ast.iter_fields(node):
        if field not in ("annotation", "returns"):
            for one in child if isinstance(child, list) else [child]:
                if isinstance(one, ast.AST):
                    yield from _names(one)
