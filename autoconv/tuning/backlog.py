"""What was asked for and had no entry, by problem and device: where most time goes comes first."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import reduce

from autoconv import device as devices
from autoconv.config import Config
from autoconv.cost.predict import estimate
from autoconv.cost.prediction import floor_seconds
from autoconv.device import Device
from autoconv.environment import IDENTITY, Environment
from autoconv.errors import ProblemError
from autoconv.lookup.buckets import module_shape
from autoconv.problem import Problem
from autoconv.sweep.candidates import best_guess
from autoconv.sweep.sweep import Progress
from autoconv.tuning.tuner import no_progress
from tuning_db import EnvironmentRecord, Miss
from tuning_db.misses import joined


@dataclass(frozen=True)
class MissedProblem:
    """All calls of one problem on one device that found no entry, under whatever driver or Triton."""

    problem: Problem
    miss: Miss  # all of them as one, in the environment of the last
    seconds: float | None  # a call by the best estimate; None where nothing is known of the architecture
    keys: tuple[tuple[str, str], ...]  # for `TuningDB.forget_misses`

    @property
    def device(self) -> str:
        """The name of the device."""
        return device_name(self.miss)

    @property
    def total_seconds(self) -> float:
        """What all calls take together, by the best estimate; 0 where there is none."""
        return self.miss.calls * (self.seconds or 0.0)

    def is_of(self, environment: Environment) -> bool:
        """Return whether it is of that device: of its name, and as large."""
        soft = environment.soft()
        return _identity(self.miss.environment) == tuple(soft[name] for name in IDENTITY)


def device_name(miss: Miss) -> str:
    """Return the name of the device that asked."""
    return str(miss.environment.soft.get("device"))


def backlog(misses: Iterable[Miss], progress: Progress = no_progress) -> list[MissedProblem]:
    """Return what was missed, the most calls x best estimate first; keys of another version are left out.

    The estimate is that of the config with the least on that device; where no kernel runs the problem, the
    least time that torch could take.
    """
    groups: dict[tuple[str, tuple[object, ...]], list[Miss]] = {}
    for miss in misses:
        groups.setdefault((miss.problem.key, _identity(miss.environment)), []).append(miss)
    estimates = _Estimates()
    found = []
    for number, ((key, _), group) in enumerate(groups.items(), start=1):
        progress("estimate", number, len(groups))
        try:
            problem = Problem.from_key(key)
        except ProblemError:
            continue
        device = _device(group[0].environment)
        seconds = None if device is None else estimates.seconds(problem, device)
        keys = tuple((miss.problem.key, miss.environment.hash) for miss in group)
        found.append(MissedProblem(problem, reduce(joined, group), seconds, keys))
    return sorted(found, key=lambda one: (-one.total_seconds, -one.miss.calls, one.device, one.problem.key()))


def _identity(environment: EnvironmentRecord) -> tuple[object, ...]:
    return tuple(environment.soft.get(name) for name in IDENTITY)


def _device(environment: EnvironmentRecord) -> Device | None:
    name, sms, memory = _identity(environment)
    if not isinstance(sms, int) or not isinstance(memory, int):
        return None
    return devices.recalled(str(name), str(environment.hard.get("arch")), sms, memory)


class _Estimates:
    """Best estimates, of which the first costs a search of 0.3 s, and the next of a like size 15 ms.

    Sizes of one module shape that are near each other are estimated with one config, the first one's best.
    """

    def __init__(self) -> None:
        self._configs: dict[tuple[object, ...], Config] = {}

    def seconds(self, problem: Problem, device: Device) -> float:
        """Return the time of one call on `device`."""
        octaves = problem.L_out.bit_length(), (problem.N * problem.L_out).bit_length()
        near = (device, *octaves, module_shape(problem))
        config = self._configs.get(near)
        if config is not None:
            return estimate(problem, config, device).seconds
        try:
            self._configs[near], seconds = best_guess(problem, device)
        except ProblemError:  # no kernel runs it
            return floor_seconds(problem, device)
        return seconds
