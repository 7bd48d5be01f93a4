"""After an upgrade: what was best before it, and whether that holds."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from autoconv.config import Config
from autoconv.environment import Environment
from autoconv.errors import ConfigError
from autoconv.kernels.aten import ATEN
from autoconv.kernels.source import source_of
from autoconv.lookup import PROVENANCES, records
from autoconv.lookup.found import same_device
from autoconv.lookup.legality import runnable
from autoconv.problem import Problem
from tuning_db import EnvironmentRecord, Layers, Trial
from tuning_db.ranking import TIE_TOLERANCE, Ranked

FEW = 4
"""Configs measured anew: identical sweeps flip between the two or three that are nearly as good."""

SLOWER = 0.05
"""By how much the old winner may have become slower: a driver's or a compiler's release seldom costs as much,
and where it does, another kernel may do better under it."""


@dataclass(frozen=True)
class Before:
    """The best of a problem under other tools, or of older sources, on this device."""

    configs: tuple[Config, ...] = ()  # best first; torch's own may be among them
    measured_us: float | None = None  # the first one's time; None where it was predicted

    @property
    def ours(self) -> list[Config]:
        """Those of a kernel of ours."""
        return [config for config in self.configs if config != ATEN]

    def holds(self, trials: Iterable[Trial]) -> bool:
        """Return whether, by these trials of today, the first is as good as any and as fast as it was."""
        now = {
            Config.from_document(trial.config): trial.measured_us or trial.predicted_us
            for trial in trials
            if trial.outcome == "ok"
        }
        times = {config: us for config, us in now.items() if us is not None}
        first = times.get(self.configs[0]) if self.configs else None
        if first is None:
            return False
        tolerance = TIE_TOLERANCE["predicted" if self.measured_us is None else "measured"]
        as_fast = self.measured_us is None or first <= self.measured_us * (1 + SLOWER)
        return as_fast and first <= min(times.values()) * (1 + tolerance)


NOTHING_BEFORE = Before()


def before(layers: Layers, problem: Problem, environment: Environment, *, measured: bool) -> Before:
    """Return what was best for `problem` on this device before an upgrade; of what was `measured`, or of all.

    Where several environments had it, the best of each come before the second best.
    """
    here = records(problem, environment)[1].hash

    def on_this_device(one: EnvironmentRecord) -> bool:
        return one.hard.get("arch") == environment.arch and same_device(one, environment)

    ranked = [
        one
        for _, one in layers.ranked(problem.key(), among=on_this_device, limit=FEW)
        if (one.environment.hash != here or one.source != source_of(str(one.config.get("kernel"))))
        and (one.provenance == "measured" or not measured)
    ]
    ranked.sort(key=lambda one: (PROVENANCES.index(one.provenance), one.place))
    found: dict[Config, Ranked] = {}
    for one in ranked:
        config = _runnable(one, problem, environment)
        if config is not None:
            found.setdefault(config, one)
    if not found:
        return Before()
    first = next(iter(found.values()))
    return Before(tuple(found)[:FEW], first.time_us if first.provenance == "measured" else None)


def _runnable(one: Ranked, problem: Problem, environment: Environment) -> Config | None:
    try:
        return runnable(one.config, problem, environment.arch)
    except ConfigError:
        return None
