"""Lines of Python as a formatter would leave them: whole where they fit, else broken at the outermost."""

from __future__ import annotations

from collections.abc import Sequence

WIDTH = 110  # of a line, as the jit functions have it
INDENT = "    "


def enclosed(head: str, items: Sequence[str], tail: str) -> list[str]:
    """Return `head`, the items between its bracket and `tail`: on one line, on three, or one each."""
    whole, inner = f"{head}{', '.join(items)}{tail}", indent_of(head) + INDENT
    if len(whole) <= WIDTH:
        return [whole]
    if len(f"{inner}{', '.join(items)}") <= WIDTH:
        return [head, f"{inner}{', '.join(items)}", f"{indent_of(head)}{tail}"]
    return spread(head, items, tail)


def spread(head: str, items: Sequence[str], tail: str) -> list[str]:
    """Return the same with each item on a line of its own, whether they fit or not."""
    inner = indent_of(head) + INDENT
    return [head, *(f"{inner}{item}," for item in items), f"{indent_of(head)}{tail}"]


def declared_with(head: str, items: Sequence[str], tail: str) -> list[str]:
    """Return the head of a function: on one line, or a parameter a line."""
    whole = f"{head}{', '.join(items)}{tail}"
    return [whole] if len(whole) <= WIDTH else spread(head, items, tail)


def either(head: str, tests: Sequence[Sequence[str]], tail: str) -> list[str]:
    """Return a statement with tests of which one must hold, such as `if a or b:`; a test is lines to join."""
    whole = f"{head} {' or '.join(' '.join(one) for one in tests)}{tail}"
    if len(whole) <= WIDTH:
        return [whole]
    inner, lines = indent_of(head) + INDENT, []
    for number, test in enumerate(tests):
        lines += fitted(["or " * (number > 0) + test[0], *test[1:]], inner)
    return [f"{head} (", *lines, f"{indent_of(head)}){tail}"]


def assigned(name: str, parts: Sequence[str]) -> list[str]:
    """Return an assignment of an expression that may be broken between its parts."""
    whole = f"{name} = {' '.join(parts)}"
    if len(whole) <= WIDTH:
        return [whole]
    indent = indent_of(name)
    return [f"{name} = (", *fitted(parts, indent + INDENT), f"{indent})"]


def fitted(parts: Sequence[str], indent: str, more: int = 0) -> list[str]:
    """Return the parts of an expression on one line, if `more` characters fit there too, or else on many."""
    whole = f"{indent}{' '.join(parts)}"
    return [whole] if len(whole) + more <= WIDTH else [f"{indent}{one}" for one in parts]


def indent_of(line: str) -> str:
    """Return the spaces in front."""
    return line[: len(line) - len(line.lstrip())]


def indented(lines: Sequence[str], levels: int = 1) -> list[str]:
    """Return lines `levels` further in; empty ones stay empty."""
    return [f"{INDENT * levels}{line}" if line else "" for line in lines]
