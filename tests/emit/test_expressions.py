"""Numbers that remember how they were made: text that computes the same, in as few brackets as it takes."""

from __future__ import annotations

import math
from typing import Any

import pytest
import triton
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from autoconv.emit.expressions import OPERATORS, Number, Trace, call, denied, text_of, value_of
from autoconv.kernels.sizes import alignment, cdiv, next_power_of_two


def symbol(name: str, value: Any, trace: Trace | None = None) -> Number:
    return Number(trace or Trace(), name, (), value)


def expressions() -> st.SearchStrategy[Any]:
    """Any expression of two names and small numbers that divides by none that may be 0."""
    leaves = st.sampled_from(["a", "b"]).map(lambda name: symbol(name, {"a": 12, "b": 5}[name]))
    numbers = leaves | st.integers(1, 9)

    def combined(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
        plain = st.tuples(st.sampled_from("+-*"), inner, inner)
        divided = st.tuples(st.sampled_from(["//", "%"]), inner, st.integers(1, 9))
        rounded = st.tuples(st.just("cdiv"), inner, st.integers(1, 9))
        return (plain | divided | rounded).map(_made)

    return st.recursive(numbers, combined, max_leaves=8)


def _made(parts: tuple[str, Any, Any]) -> Any:
    of, left, right = parts
    return cdiv(left, right) if of == "cdiv" else OPERATORS[of](left, right)


@settings(suppress_health_check=[HealthCheck.too_slow])
@given(expressions())
def test_the_text_computes_the_value(one: Any) -> None:
    assert eval(text_of(one), {"a": 12, "b": 5, "triton": triton}) == value_of(one)


@pytest.mark.parametrize(
    ("made", "text"),
    [
        (lambda a, b: cdiv(a, b), "triton.cdiv(a, b)"),
        (lambda a, _: next_power_of_two(a), "triton.next_power_of_2(a)"),
        (lambda a, b: a + (b + a), "a + b + a"),
        (lambda a, b: a - (b + 1), "a - b - 1"),
        (lambda a, b: (a - b) * 1 + 0, "a - b"),
        (lambda a, _: a + a, "2 * a"),
        (lambda a, b: (a + b) * b, "(a + b) * b"),
        (lambda a, b: a * b + b, "a * b + b"),
        (lambda a, b: a // (b * 2), "a // (b * 2)"),
        (lambda a, _: a > 2**31 - 1, "a > 2**31 - 1"),
        (lambda a, b: math.prod((a, b, 3)), "a * b * 3"),
    ],
)
def test_it_reads_as_a_person_would_write_it(made: Any, text: str) -> None:
    trace = Trace()
    assert text_of(made(symbol("a", 12, trace), symbol("b", 5, trace))) == text


def test_what_was_decided_is_a_condition() -> None:
    trace = Trace()
    a = symbol("a", 12, trace)
    assert not a < 3 and a != 4 and a in (7, 12)
    assert [16, 32][a // 12] == 32
    texts = [" ".join(denied(condition)) for condition in trace.conditions.values()]
    assert texts == ["a < 3", "a == 4", "a == 7", "a != 12", "a // 12 != 1"]


def test_functions_of_plain_numbers_stay_plain() -> None:
    assert call(Trace(), "max", 3, 4) == 4
    assert alignment(224280, 64) == 8 and alignment(0) == 16
