"""Which sizes to tune so that every size asked for lies in the bucket of one of them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import TYPE_CHECKING

from autoconv.lookup.buckets import ALIGNED, module_shape, near, serves
from autoconv.problem import Problem

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

Sizes = tuple[int, int]  # the least and the most


def cover(problems: Iterable[Problem]) -> list[Problem]:
    """Return some of `problems` whose buckets hold all of them: the fewest that a greedy choice finds.

    Of a module shape it takes the one whose bucket holds the most that no bucket holds yet, and of equals
    the nearest to their middle.
    """
    shapes: dict[tuple[object, ...], list[Problem]] = {}
    for problem in dict.fromkeys(problems):
        shapes.setdefault(module_shape(problem), []).append(problem)
    return [chosen for sizes in shapes.values() for chosen in _covering(sizes)]


def _covering(sizes: Sequence[Problem]) -> Iterator[Problem]:
    """Yield the chosen of problems of one module shape; of a thousand sizes in a tenth of a second."""
    import numpy as np  # not above: the command line's --help does not wait for it

    lengths = np.array([one.L_out for one in sizes])
    columns = np.array([one.N * one.L_out for one in sizes])
    doublings = np.log2(columns)
    left = np.ones(len(sizes), bool)

    def held(tuned: int) -> NDArray[np.bool_]:
        found: NDArray[np.bool_] = near(lengths[tuned], lengths) & near(columns[tuned], columns) & left
        return found

    def off_centre(tuned: int) -> float:
        """Return how far it is from those in its bucket, in doublings of N x L_out, all together."""
        return float(np.abs(doublings[held(tuned)] - doublings[tuned]).sum())

    while left.any():
        counts = [np.count_nonzero(held(tuned)) for tuned in range(len(sizes))]
        most = max(counts)
        equals = [tuned for tuned, count in enumerate(counts) if count == most]
        best = max(equals, key=lambda tuned: (-off_centre(tuned), sizes[tuned].key()))
        yield sizes[best]
        left &= ~held(best)


def spanned(first: Problem, last: Problem) -> list[Problem]:
    """Return sizes whose buckets hold every N and L from those of `first` to those of `last`.

    N is divided into rows, evenly in the logarithm, and in each row the lengths are covered from the least
    on, each bucket as far up as it may lie; of all numbers of rows, that with the fewest sizes is taken.

    Args:
        first: Of the least N and L.
        last: The same problem of the most.
    """
    most_rows = 1 + math.ceil(math.log2(last.N / first.N))  # an octave each at most, which always does
    best = _grid(first, last, most_rows, math.inf)
    for rows in range(1, most_rows):
        best = _grid(first, last, rows, len(best)) or best
    return best


def _grid(first: Problem, last: Problem, rows: int, limit: float) -> list[Problem]:
    """Return fewer than `limit` sizes in so many rows; none where there are none that would do."""
    found: list[Problem] = []
    for batches in _parts(first.N, last.N, rows):
        row = _row(first, batches, last.L, limit - len(found))
        if not row:
            return []
        found += row
    return found


def _parts(least: int, most: int, number: int) -> list[Sizes]:
    """Divide a range evenly in the logarithm; parts that hold no whole number are left out.

    >>> _parts(1, 8, 3)
    [(1, 1), (2, 3), (4, 8)]
    """
    edges = [math.ceil(round(least * (most / least) ** (i / number), 6)) for i in range(number)] + [most + 1]
    return [(start, end - 1) for start, end in pairwise(edges) if start < end]


def _row(first: Problem, batches: Sizes, longest: int, limit: float) -> list[Problem]:
    """Return fewer than `limit` sizes for a row of N and the lengths up to the longest, or none."""
    middle = replace(first, N=round(math.sqrt(batches[0] * batches[1])))

    def held(tuned: int, length: int) -> bool:
        one = replace(middle, L=tuned)
        return all(serves(one, replace(one, N=batch, L=length)) for batch in batches)

    found: list[Problem] = []
    start = first.L
    while start <= longest:
        if len(found) + 1 >= limit or not held(start, start):
            return []
        tuned = _last(start, longest, lambda length: held(length, start))  # noqa: B023 - called at once
        if tuned >= ALIGNED**2:  # then what rounding gives away of the bucket is little
            tuned = max(start, tuned - tuned % ALIGNED)
        found.append(replace(middle, L=tuned))
        start = 1 + _last(tuned, longest, lambda length: held(tuned, length))  # noqa: B023
    return found


def _last(low: int, high: int, holds: Callable[[int], bool]) -> int:
    """Return the last number for which `holds` is true, which it is from `low` on up to there."""
    while low < high:
        between = (low + high + 1) // 2
        low, high = (between, high) if holds(between) else (low, between - 1)
    return low
