"""Successive halving: candidates timed in turn, lap by lap, and the slower half dropped after each round.

A GPU drifts: its clocks follow its temperature and its power. Candidates timed one after the other are timed
on different GPUs, as it were; those timed in turn find the same one in each lap, and what all of a lap have
in common can be taken out. How a lap comes about is the caller's: nothing here knows of GPUs.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

FINALISTS = 3  # are left in the last round
_POLISHES = 100  # at most; some 20 settle what candidates that left early hide of the drift
_SETTLED = 1e-7  # change of the drift, as a part of a time
_ERROR_OF_MEDIAN = 1.858  # x median deviation / sqrt(n): a median's standard error, of normal deviates

Entrant = TypeVar("Entrant", bound=Hashable)
Lap = Mapping[Entrant, float]  # a time of each that ran in it, in microseconds
InTurn = Callable[[Sequence[Entrant]], Sequence[Lap[Entrant]]]


@dataclass(frozen=True)
class Timing:
    """What a race tells of one candidate."""

    samples_us: tuple[float, ...]  # microseconds, each brought to the level of the middle lap
    error: float  # standard error of their median against another's of this race, over the median

    def detail(self) -> dict[str, Any]:
        """Return what a trial keeps of it beside the samples: quantiles, their count and the error."""
        us = sorted(self.samples_us)
        quantiles = {f"p{q}_us": round(us[round(q / 100 * (len(us) - 1))], 3) for q in (20, 50, 80)}
        return {"samples": len(us), **quantiles, "time_error": round(self.error, 6)}


def race(entrants: Sequence[Entrant], in_turn: InTurn[Entrant]) -> dict[Entrant, Timing]:
    """Return the timing of each entrant, those that were dropped too.

    Args:
        entrants: The candidates, each once.
        in_turn: Runs one round: times the candidates it is given in turn, for about as long whatever their
            number, and returns the laps. One that is in none of them, because it failed, say, is out of the
            race. No laps end it.
    """
    laps: list[Lap[Entrant]] = []
    running = list(entrants)
    while running:
        round_ = in_turn(running)
        laps += round_
        running = [one for one in running if any(one in lap for lap in round_)]
        if len(running) <= FINALISTS:
            break
        levels, _ = polished(laps)
        half = max(FINALISTS, (len(running) + 1) // 2)
        fastest = sorted(running, key=levels.__getitem__)[:half]
        running = [one for one in running if one in fastest]
    return timings(laps)


def timings(laps: Sequence[Lap[Entrant]]) -> dict[Entrant, Timing]:
    """Return what the laps tell of each candidate in them, without what those of a lap have in common."""
    levels, drifts = polished(laps)
    found = {}
    for one, level in levels.items():
        us = [lap[one] / math.exp(drift) for lap, drift in zip(laps, drifts, strict=True) if one in lap]
        deviation = statistics.median([abs(math.log(sample) - level) for sample in us])
        found[one] = Timing(tuple(us), _ERROR_OF_MEDIAN * deviation / math.sqrt(len(us)))
    return found


def polished(laps: Sequence[Lap[Entrant]]) -> tuple[dict[Entrant, float], list[float]]:
    """Return the logarithm of each candidate's time, and how far above the middle one each lap was.

    Tukey's median polish: the time of a candidate in a lap is the candidate's times the lap's times noise,
    and medians over either are taken out in turn. A sample that another process disturbed moves neither.
    """
    logs = [{one: math.log(us) for one, us in lap.items()} for lap in laps]
    of: dict[Entrant, list[tuple[int, float]]] = {}
    for number, lap in enumerate(logs):
        for one, log in lap.items():
            of.setdefault(one, []).append((number, log))
    drifts = [0.0] * len(laps)
    levels: dict[Entrant, float] = {}
    for _ in range(_POLISHES):
        levels = {
            one: statistics.median([log - drifts[number] for number, log in its]) for one, its in of.items()
        }
        taken = [
            statistics.median([log - levels[one] for one, log in lap.items()]) if len(lap) > 1 else 0.0
            for lap in logs  # a lap of one alone says nothing of drift
        ]
        middle = statistics.median(taken) if taken else 0.0
        before, drifts = drifts, [drift - middle for drift in taken]
        if all(abs(one - other) < _SETTLED for one, other in zip(before, drifts, strict=True)):
            break
    return levels, drifts
