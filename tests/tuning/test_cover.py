"""Sizes that cover others, of problems that are asked for."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autoconv.lookup.buckets import module_shape, near, serves
from autoconv.problem import Problem
from autoconv.tuning.cover import cover

LAYER = Problem(1, 16, 16, 3, 1000, padding=1)


def of_lengths(*lengths: int, batch: int = 1) -> list[Problem]:
    return [replace(LAYER, N=batch, L=length) for length in lengths]


def test_one_size_covers_what_lies_within_a_factor_of_two() -> None:
    assert cover(of_lengths(500, 1000, 2000)) == of_lengths(1000)


def test_the_fewest_are_chosen_and_each_module_shape_for_itself() -> None:
    other = replace(LAYER, Cin=8)
    assert set(cover([*of_lengths(100, 200, 400, 800, 1600), other])) == {*of_lengths(200, 800), other}


def test_the_batch_counts_too() -> None:
    assert len(cover([*of_lengths(1000), *of_lengths(1000, batch=2), *of_lengths(1000, batch=16)])) == 2


def test_of_thousands_of_lengths_no_pair_is_compared_in_python(monkeypatch: pytest.MonkeyPatch) -> None:
    """Four thousand took a minute so, and a capture of a day's calls has as many."""
    calls: list[None] = []
    monkeypatch.setattr("autoconv.tuning.cover.near", lambda *pair: calls.append(None) or near(*pair))
    asked = of_lengths(*range(1000, 9000, 2))
    assert len(cover(asked)) == 2
    assert len(calls) < 8 * len(asked)


@given(st.lists(st.tuples(st.integers(1, 64), st.integers(1, 5000)), min_size=1, max_size=12))
def test_every_problem_lies_in_a_bucket_of_those_chosen(sizes: list[tuple[int, int]]) -> None:
    asked = [replace(LAYER, N=batch, L=length) for batch, length in sizes]
    chosen = cover(asked)
    assert set(chosen) <= set(asked) and len(chosen) == len(set(chosen))
    for one in asked:
        assert any(module_shape(tuned) == module_shape(one) and serves(tuned, one) for tuned in chosen)
