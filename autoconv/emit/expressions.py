"""Numbers that remember how they were made, so that code which computes with them can be written down.

A `Number` has a value, that of one problem, and the expression it came from. Python's own operators make new
ones. Where the code asks whether one is true, or uses it where only a plain int will do, the answer holds for
this problem alone; the trace keeps what it rests on as a condition.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

Key: TypeAlias = tuple[Any, ...]

OPERATORS: dict[str, Callable[[Any, Any], Any]] = {
    "+": operator.add, "-": operator.sub, "*": operator.mul, "//": operator.floordiv, "%": operator.mod,
    "/": operator.truediv, "&": operator.and_, "<": operator.lt, "<=": operator.le, ">": operator.gt,
    ">=": operator.ge, "==": operator.eq, "!=": operator.ne,
}  # fmt: skip
RANKS = {"&": 2, "+": 3, "-": 3, "*": 4, "//": 4, "/": 4, "%": 4}
"""How tightly operators bind: comparisons 1, names 9; "Operator precedence" in Python's manual."""
NEGATED = {"<": ">=", ">=": "<", ">": "<=", "<=": ">", "==": "!=", "!=": "=="}
FUNCTIONS: dict[str, Callable[..., Any]] = {
    "abs": abs,
    "max": max,
    "min": min,
    "pow": pow,
    "math.gcd": math.gcd,
    "triton.cdiv": lambda a, b: -(-a // b),
    "triton.next_power_of_2": lambda n: 1 << (n - 1).bit_length(),
    "bit_length": int.bit_length,  # of an operand alone; no text has it
}
TILE = "META"  # of a number that is a tile of the config; its operand is the tile's name
_LEAST_POWER = 2**16  # from which 2**n - 1 is written so


@dataclass(frozen=True)
class Condition:
    """What an answer rests on: that `number` is true, or that it is not."""

    number: Number
    holds: bool

    @property
    def key(self) -> Key:
        """What makes it equal to another."""
        return (*self.number.key, self.holds)


@dataclass
class Trace:
    """The conditions met so far, in their order; `flipped` answers the first of that key the other way."""

    conditions: dict[Key, Condition] = field(default_factory=dict)
    flipped: Key | None = None

    def decide(self, number: Number) -> bool:
        """Return whether `number` is true, and keep it as a condition."""
        holds = bool(number.value)
        if (*number.key, holds) == self.flipped:
            holds = not holds
        condition = Condition(number, holds)
        self.conditions.setdefault(condition.key, condition)
        return holds


class Number:
    """An int, a bool or a word of one problem, and the expression that gives it for every problem."""

    __slots__ = ("of", "operands", "trace", "value")

    def __init__(self, trace: Trace, of: str, operands: tuple[Any, ...], value: Any) -> None:
        """Make the result of `of`, an operator, a function or a name, from its operands."""
        self.trace, self.of, self.operands, self.value = trace, of, operands, value

    @property
    def key(self) -> Key:
        """What makes it equal to another."""
        return (self.of, *(key_of(one) for one in self.operands))

    # --- arithmetic ---------------------------------------------------------------------------------

    def _with(self, of: str, left: Any, right: Any) -> Any:
        simple = _simplified(of, left, right)
        if simple is not None:
            return simple
        value = OPERATORS[of](value_of(left), value_of(right))
        return Number(self.trace, of, (left, right), value)

    def __add__(self, other: Any) -> Any:
        if isinstance(other, Number) and other.of == "+":
            return self + other.operands[0] + other.operands[1]
        return self._with("+", self, other)

    def __radd__(self, other: Any) -> Any:
        return self._with("+", other, self)

    def __sub__(self, other: Any) -> Any:
        if isinstance(other, Number) and other.of == "+":
            return self - other.operands[0] - other.operands[1]
        return self._with("-", self, other)

    def __rsub__(self, other: Any) -> Any:
        return self._with("-", other, self)

    def __mul__(self, other: Any) -> Any:
        return self._with("*", self, other)

    def __rmul__(self, other: Any) -> Any:
        return self._with("*", other, self)

    def __floordiv__(self, other: Any) -> Any:
        return self._with("//", self, other)

    def __rfloordiv__(self, other: Any) -> Any:
        return self._with("//", other, self)

    def __truediv__(self, other: Any) -> Any:
        return self._with("/", self, other)

    def __rtruediv__(self, other: Any) -> Any:
        return self._with("/", other, self)

    def __mod__(self, other: Any) -> Any:
        return self._with("%", self, other)

    def __rmod__(self, other: Any) -> Any:
        return self._with("%", other, self)

    def __and__(self, other: Any) -> Any:
        return self._with("&", self, other)

    def __neg__(self) -> Any:
        if self.of == "//" and _is_negative(self.operands[0]):  # -(-a // b)
            return call(self.trace, "triton.cdiv", -self.operands[0], self.operands[1])
        if self.of == "-" and key_of(self.operands[0]) == (0,):
            return self.operands[1]
        return self._with("-", 0, self)

    def __abs__(self) -> Any:
        return call(self.trace, "abs", self)

    def __pow__(self, exponent: Any, modulus: Any = None) -> Any:
        return call(self.trace, "pow", self, exponent, *([] if modulus is None else [modulus]))

    def __rlshift__(self, other: int) -> Any:
        inner = self.operands[0] if self.of == "bit_length" else None
        if other == 1 and isinstance(inner, Number) and inner.of == "-" and key_of(inner.operands[1]) == (1,):
            return call(self.trace, "triton.next_power_of_2", inner.operands[0])  # 1 << (n - 1).bit_length()
        return other << int(self)

    def bit_length(self) -> Any:
        """Return the bits that the number takes."""
        return call(self.trace, "bit_length", self)

    # --- comparison ---------------------------------------------------------------------------------

    def __lt__(self, other: Any) -> Any:
        return self._with("<", self, other)

    def __le__(self, other: Any) -> Any:
        return self._with("<=", self, other)

    def __gt__(self, other: Any) -> Any:
        return self._with(">", self, other)

    def __ge__(self, other: Any) -> Any:
        return self._with(">=", self, other)

    def __eq__(self, other: object) -> Any:
        return self._with("==", self, other)

    def __ne__(self, other: object) -> Any:
        return self._with("!=", self, other)

    # --- what holds for this problem alone ----------------------------------------------------------

    def __bool__(self) -> bool:
        return self.trace.decide(self)

    def __index__(self) -> int:
        self.trace.decide(self == self.value)
        return int(self.value)

    __int__ = __index__

    def __hash__(self) -> int:
        return hash(int(self))

    def __repr__(self) -> str:
        return text_of(self)


def _simplified(of: str, left: Any, right: Any) -> Any:
    """Return what a person would write in place of an operation, or None where that is the operation."""
    if of in ("+", "-") and key_of(right) == (0,):
        return left
    if of == "+" and key_of(left) == (0,):
        return right
    if of == "+" and key_of(left) == key_of(right):
        return 2 * left
    if of in ("*", "//") and key_of(right) == (1,):
        return left
    return right if of == "*" and key_of(left) == (1,) else None


def _is_negative(one: Any) -> bool:
    if isinstance(one, Number):
        return one.of == "-" and key_of(one.operands[0]) == (0,)
    return bool(one < 0)


def call(trace: Trace, name: str, *arguments: Any) -> Any:
    """Return the result of one of FUNCTIONS, which is a Number where an argument is one."""
    if not any(isinstance(one, Number) for one in arguments):
        return FUNCTIONS[name](*arguments)
    return Number(trace, name, arguments, FUNCTIONS[name](*map(value_of, arguments)))


def key_of(one: Any) -> Key:
    """Return what makes a number, traced or plain, equal to another."""
    return one.key if isinstance(one, Number) else (one,)


def value_of(one: Any) -> Any:
    """Return a number as it is for this problem."""
    return one.value if isinstance(one, Number) else one


def parts_of(one: Any) -> Iterator[Number]:
    """Yield every traced number in an expression, itself first."""
    if isinstance(one, Number):
        yield one
        for operand in one.operands:
            yield from parts_of(operand)


# --- as text --------------------------------------------------------------------------------------


def text_of(one: Any, names: Mapping[Key, str] = {}, rank: int = 0) -> str:
    """Return an expression as Python.

    Args:
        one: The expression.
        names: What stands for a part of it, by the part's key.
        rank: How tightly what is around it binds.
    """
    name = names.get(key_of(one))
    if name is not None:
        return name
    if not isinstance(one, Number):
        return _plain(one, rank)
    if one.of == TILE:
        return f'{TILE}["{one.operands[0]}"]'
    if one.of in OPERATORS:
        own = RANKS.get(one.of, 1)
        left, right = one.operands
        text = f"{text_of(left, names, own)} {one.of} {text_of(right, names, own + 1)}"
        return f"({text})" if own < rank else text
    if not one.operands:
        return one.of
    return f"{one.of}({', '.join(text_of(operand, names) for operand in one.operands)})"


def parts_between(one: Any, names: Mapping[Key, str] = {}) -> list[str]:
    """Return the text of an expression in the pieces between which a line may be broken."""
    if not isinstance(one, Number) or one.of not in OPERATORS or one.key in names:
        return [text_of(one, names)]
    own = RANKS.get(one.of, 1)
    left, right = one.operands
    chained = isinstance(left, Number) and RANKS.get(left.of) == own
    first = parts_between(left, names) if chained else [text_of(left, names, own)]
    return [*first, f"{one.of} {text_of(right, names, own + 1)}"]


def _plain(one: Any, rank: int) -> str:
    """Return an int, a bool or a word; 2147483647 as 2**31 - 1."""
    if isinstance(one, str):
        return f'"{one}"'
    if type(one) is int and one >= _LEAST_POWER and one & (one + 1) == 0 and rank <= RANKS["-"]:
        return f"2**{one.bit_length()} - 1"
    return repr(one)


def denied(condition: Condition) -> list[str]:
    """Return in pieces, as `parts_between`, that a condition does not hold."""
    number = condition.number
    if not condition.holds:
        return parts_between(number)
    if number.of in NEGATED:
        left, right = number.operands
        return [text_of(left, rank=2), f"{NEGATED[number.of]} {text_of(right, rank=2)}"]
    return [f"not {text_of(number, rank=9)}"]
