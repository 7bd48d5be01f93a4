"""Candidates timed in turn: what drifts is taken out, the slower half is dropped, and winners flip less."""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Sequence

import pytest

from autoconv.sweep.racing import FINALISTS, race, timings
from scripts.bench.noise import NOISES, Candidate, NoisyGpu, by_median, by_race, swept

TRUE = {name: 100.0 * (1 + 0.04 * number) for number, name in enumerate("abcdefghij")}
# What shortlists look like: nearly as good as each other, in no order of their registers.
ENTRANTS = [
    [
        Candidate(f"{layer}{number}", 100.0 * (1 + percent / 100), 64 + 37 * number % 128, 0)
        for number, percent in enumerate(percents)
    ]
    for layer, percents in (
        ("one", (0, 0, 0.4, 0.4, 0.6, 0.8, 0.9, 1.0, 1.1, 1.3, 1.4, 1.4)),
        ("two", (0, 1.2, 1.8, 2.0, 2.6, 2.8, 2.9, 3.2, 3.4, 7.0)),
        ("three", (0, 0.7, 1.7, 3.4, 4.1, 7.2, 9.1, 12, 13, 20, 28, 210)),
    )
]


class Laps:
    """Times as the truth has them, but for a drift that all of a lap share."""

    def __init__(self, laps: int = 4, missing: str = "") -> None:
        self.rounds: list[list[str]] = []
        self._laps = laps
        self._missing = missing
        self._number = itertools.count()

    def __call__(self, running: Sequence[str]) -> list[dict[str, float]]:
        self.rounds.append(list(running))
        return [self._lap(next(self._number), running) for _ in range(self._laps)]

    def _lap(self, number: int, running: Sequence[str]) -> dict[str, float]:
        return {one: TRUE[one] * (1 + 0.1 * math.sin(number)) for one in running if one not in self._missing}


def test_the_slower_half_is_dropped_after_each_round() -> None:
    laps = Laps()
    race(list("jihgfedcba"), laps)
    assert [sorted(running) for running in laps.rounds] == [
        list("abcdefghij"), list("abcde"), list("abc")
    ]  # fmt: skip
    assert len(laps.rounds[-1]) == FINALISTS


def test_what_all_of_a_lap_have_in_common_is_taken_out() -> None:
    """The drift is beyond what sets the candidates apart, and those dropped early met a part of it alone."""
    found = race(list(TRUE), Laps())
    middle = [statistics.median(found[one].samples_us) / TRUE[one] for one in TRUE]
    assert max(middle) / min(middle) == pytest.approx(1.0, abs=1e-5)
    for one, timing in found.items():
        assert timing.samples_us == pytest.approx([middle[0] * TRUE[one]] * len(timing.samples_us), rel=1e-5)
        assert timing.error == pytest.approx(0.0, abs=1e-5)


def test_a_disturbed_sample_moves_nothing_and_noise_is_told() -> None:
    laps = Laps()(list("abc"))
    laps[2]["b"] *= 7
    found = timings(laps)
    times = {one: statistics.median(timing.samples_us) for one, timing in found.items()}
    assert times["b"] / times["a"] == pytest.approx(TRUE["b"] / TRUE["a"])
    gpu = NoisyGpu(0.02, seed=1)
    noisy = [{one: gpu.launch(one) for one in ENTRANTS[0]} for _ in range(50)]
    expected = 1.2533 * 0.02 / math.sqrt(50)  # a median's standard error
    assert all(0.5 * expected < timing.error < 2 * expected for timing in timings(noisy).values())


def test_a_trial_keeps_quantiles_and_their_count() -> None:
    (timing,) = timings([{"a": float(us)} for us in range(1, 12)]).values()
    error = pytest.approx(0.227, abs=1e-3)
    assert timing.detail() == {
        "samples": 11, "p20_us": 3.0, "p50_us": 6.0, "p80_us": 9.0, "time_error": error
    }  # fmt: skip


def test_who_is_in_no_lap_is_out() -> None:
    laps = Laps(missing="a")
    assert "a" not in race(list("abcdefgh"), laps)
    assert all("a" not in running for running in laps.rounds[1:])


@pytest.mark.parametrize("entrants", ["", "a"])
def test_a_race_of_one_or_none(entrants: str) -> None:
    found = race(list(entrants), Laps())
    assert list(found) == list(entrants)


def test_no_laps_end_the_race_with_what_there_is() -> None:
    rounds = iter([Laps()(list(TRUE)), []])
    assert set(race(list(TRUE), lambda _: next(rounds))) == set(TRUE)


@pytest.mark.parametrize("noise", NOISES)
def test_on_a_noisy_gpu_winners_flip_less_and_regret_less_than_the_least_median_s(noise: float) -> None:
    ours, theirs = (swept(ENTRANTS, choice, noise, sweeps=10) for choice in (by_race, by_median))
    assert ours["launches"] <= 1.02 * theirs["launches"]
    assert ours["flips"] < theirs["flips"] and ours["regret_pct"] < theirs["regret_pct"]


def test_the_simulated_gpu_drifts_and_is_the_same_for_the_same_seed() -> None:
    one = Candidate("one", 10.0, 32, 0)
    times = [[gpu.launch(one) for _ in range(4000)] for gpu in (NoisyGpu(0.02, 1), NoisyGpu(0.02, 1))]
    assert times[0] == times[1]
    logs = [math.log(us / 10.0) for us in times[0]]
    assert statistics.pstdev(logs) == pytest.approx(0.02 * math.sqrt(2), rel=0.3)
    means = [statistics.mean(logs[start : start + 50]) for start in range(0, 4000, 50)]
    assert statistics.pstdev(means) > 2 * 0.02 / math.sqrt(50), "noise alone would leave a third of that"
