"""The rule that derives a winner from trials: a pure function of the set of trials, not of order or clock."""

from __future__ import annotations

import statistics
from bisect import bisect_right
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from operator import attrgetter
from typing import Any, Generic, Protocol, TypeVar

from .records import EnvironmentRecord, ProblemRecord, Winner, canonical

# Identical sweeps repeated elsewhere flip between configurations 0.1 to 2 % apart (flashinfer#3920).
TIE_TOLERANCE = 0.02
NOISE_SAMPLES = 3  # fewer tell nothing about noise


class Tried(Protocol):
    """What the rule looks at in a trial: a `Trial`, or a stored row that is parsed no further than needed."""

    @property
    def config_hash(self) -> str: ...  # noqa: D102 - these are Trial's
    @property
    def outcome(self) -> str: ...  # noqa: D102
    @property
    def predicted_us(self) -> float | None: ...  # noqa: D102
    @property
    def measured_us(self) -> float | None: ...  # noqa: D102
    @property
    def max_err(self) -> float | None: ...  # noqa: D102
    @property
    def samples_us(self) -> tuple[float, ...]: ...  # noqa: D102
    @property
    def config(self) -> Mapping[str, Any]: ...  # noqa: D102
    @property
    def detail(self) -> Mapping[str, Any]: ...  # noqa: D102
    @property
    def is_default(self) -> bool: ...  # noqa: D102


T = TypeVar("T", bound=Tried)

# How contenders are ranked; config hashes differ, so nothing else is ever compared.
_ORDERS = {
    "measured": attrgetter("measured_us", "config_hash"),
    "predicted": attrgetter("predicted_us", "config_hash"),
}


@dataclass(slots=True)  # not frozen, which would take four times as long to make, and there are many
class Contender(Generic[T]):
    """One configuration with all its verified trials."""

    config_hash: str
    trials: list[T]
    measured_us: float | None  # the median over its runs
    predicted_us: float | None  # likewise

    @property
    def max_err(self) -> float | None:
        """The largest over its runs."""
        return max((trial.max_err for trial in self.trials if trial.max_err is not None), default=None)

    @property
    def noise(self) -> float | None:
        """The median deviation of all its samples from their median, over that median."""
        samples = [sample for trial in self.trials for sample in trial.samples_us]
        if len(samples) < NOISE_SAMPLES:
            return None
        middle = statistics.median(samples)
        return statistics.median([abs(sample - middle) for sample in samples]) / middle

    def typical(self, provenance: str) -> T:
        """The trial at the (low) median, so that its details belong to a time like the winner's."""
        if len(self.trials) == 1:
            return self.trials[0]
        ranked = sorted(self.trials, key=lambda trial: (_time(trial, provenance), _spelled(trial)))
        return ranked[(sum(_time(trial, provenance) < float("inf") for trial in ranked) - 1) // 2]


def _contender(config_hash: str, trials: list[T]) -> Contender[T]:
    if len(trials) == 1:
        return Contender(config_hash, trials, trials[0].measured_us, trials[0].predicted_us)
    measured = [trial.measured_us for trial in trials if trial.measured_us is not None]
    predicted = [trial.predicted_us for trial in trials if trial.predicted_us is not None]
    return Contender(config_hash, trials, _median(measured), _median(predicted))


def _median(known: list[float]) -> float | None:
    if len(known) < 2:
        return known[0] if known else None
    return statistics.median(known)


def _time(trial: Tried, provenance: str) -> float:
    time = trial.measured_us if provenance == "measured" else trial.predicted_us
    return float("inf") if time is None else time


def _spelled(trial: Tried) -> str:
    return canonical([trial.samples_us, trial.measured_us, trial.predicted_us, trial.max_err, trial.detail])


@dataclass(frozen=True)
class Ranking(Generic[T]):
    """The configurations that compete, best first."""

    provenance: str  # what their times rest on: "measured" or "predicted"
    contenders: list[Contender[T]]  # at least one
    times: list[float]  # microseconds, one a contender

    @property
    def margin(self) -> float | None:
        """The runner-up's time over the winner's, less 1; None without a runner-up."""
        return self.times[1] / self.times[0] - 1 if len(self.times) > 1 else None

    @property
    def ties(self) -> int:
        """How many others lie within TIE_TOLERANCE of the winner."""
        return bisect_right(self.times, self.times[0] * (1 + TIE_TOLERANCE)) - 1

    @property
    def noise(self) -> float | None:
        """The winner's, where it was measured."""
        return self.contenders[0].noise if self.provenance == "measured" else None

    @property
    def default_us(self) -> float | None:
        """The time of the default configuration; of several, the least, so no gain is overstated."""
        for contender, time in zip(self.contenders, self.times, strict=True):
            if any(trial.is_default for trial in contender.trials):
                return time
        return None


def rank(trials: Iterable[T]) -> Ranking[T] | None:
    """Rank the configurations among `trials` of one problem in one environment; None where none competes.

    Only configurations with an "ok" trial and a time compete, and none that was "wrong" in any run. Where any
    was measured, only measured ones compete. The least median over the runs comes first, then the smaller
    config hash.
    """
    groups: dict[str, list[T]] = {}
    wrong = set()
    for trial in trials:
        if trial.outcome == "ok":
            groups.setdefault(trial.config_hash, []).append(trial)
        elif trial.outcome == "wrong":
            wrong.add(trial.config_hash)
    contenders = [_contender(name, group) for name, group in groups.items() if name not in wrong]
    for provenance, ranked_by in _ORDERS.items():
        timed = sorted([(*ranked_by(one), one) for one in contenders if ranked_by(one)[0] is not None])
        if timed:
            return Ranking(provenance, [one for _, _, one in timed], [time for time, _, _ in timed])
    return None


def choose(environment: EnvironmentRecord, problem: ProblemRecord, trials: Iterable[Tried]) -> Winner | None:
    """Return the winner among `trials` of one problem in one environment: the first that `rank` gives."""
    ranking = rank(trials)
    if ranking is None:
        return None
    best = ranking.contenders[0]
    typical = best.typical(ranking.provenance)
    return Winner(
        environment=environment,
        problem=problem,
        config=typical.config,
        provenance=ranking.provenance,
        measured_us=best.measured_us,
        predicted_us=best.predicted_us,
        max_err=best.max_err,
        margin=ranking.margin,
        ties=ranking.ties,
        noise=ranking.noise,
        default_us=ranking.default_us,
        detail=typical.detail,
    )
