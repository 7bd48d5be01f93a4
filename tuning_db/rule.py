"""The rule that derives a winner from trials: a pure function of the set of trials, not of order or clock."""

from __future__ import annotations

import statistics
from collections.abc import Iterable
from dataclasses import dataclass

from .records import EnvironmentRecord, ProblemRecord, Trial, Winner, canonical

# Identical sweeps repeated elsewhere flip between configurations 0.1 to 2 % apart (flashinfer#3920).
TIE_TOLERANCE = 0.02


@dataclass(frozen=True)
class _Contender:
    """One configuration with all its verified trials."""

    config_hash: str
    trials: tuple[Trial, ...]

    @property
    def measured_us(self) -> float | None:
        return _median(trial.measured_us for trial in self.trials)

    @property
    def predicted_us(self) -> float | None:
        return _median(trial.predicted_us for trial in self.trials)

    @property
    def max_err(self) -> float | None:
        return max((trial.max_err for trial in self.trials if trial.max_err is not None), default=None)

    def typical(self, provenance: str) -> Trial:
        """The trial at the (low) median, so that its details belong to a time like the winner's."""
        ranked = sorted(self.trials, key=lambda trial: (_time(trial, provenance), _spelled(trial)))
        return ranked[(sum(_time(trial, provenance) < float("inf") for trial in ranked) - 1) // 2]


def _median(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return statistics.median(known) if known else None


def _time(one: Trial | _Contender, provenance: str) -> float:
    time = one.measured_us if provenance == "measured" else one.predicted_us
    return float("inf") if time is None else time


def _spelled(trial: Trial) -> str:
    return canonical([trial.samples_us, trial.measured_us, trial.predicted_us, trial.max_err, trial.detail])


def choose(environment: EnvironmentRecord, problem: ProblemRecord, trials: Iterable[Trial]) -> Winner | None:
    """Return the winner among `trials` of one problem in one environment, or None.

    Only configurations with an "ok" trial and a time compete, and none that was "wrong" in any run. Measured
    ones come before predicted ones; then the least median over the runs wins; then the smaller config hash.
    """
    groups: dict[str, list[Trial]] = {}
    wrong = set()
    for trial in trials:
        if trial.outcome == "ok":
            groups.setdefault(trial.config_hash, []).append(trial)
        elif trial.outcome == "wrong":
            wrong.add(trial.config_hash)
    contenders = [_Contender(name, tuple(group)) for name, group in groups.items() if name not in wrong]
    for provenance in ("measured", "predicted"):
        ranked = sorted(
            (one for one in contenders if _time(one, provenance) < float("inf")),
            key=lambda one: (_time(one, provenance), one.config_hash),
        )
        if ranked:
            return _winner(environment, problem, ranked, provenance)
    return None


def _winner(
    environment: EnvironmentRecord, problem: ProblemRecord, ranked: list[_Contender], provenance: str
) -> Winner:
    best, others = ranked[0], ranked[1:]
    time = _time(best, provenance)
    typical = best.typical(provenance)
    return Winner(
        environment=environment,
        problem=problem,
        config=typical.config,
        provenance=provenance,
        measured_us=best.measured_us,
        predicted_us=best.predicted_us,
        max_err=best.max_err,
        margin=_time(others[0], provenance) / time - 1 if others else None,
        ties=sum(_time(other, provenance) <= time * (1 + TIE_TOLERANCE) for other in others),
        detail=typical.detail,
    )
