"""What is tuned, and what was tried, over all layers: for people, who ask about more than one call."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from autoconv import device as devices
from autoconv.config import Config
from autoconv.device import Device
from autoconv.environment import IDENTITY
from autoconv.errors import ConfigError, ProblemError
from autoconv.kernels.aten import ATEN
from autoconv.kernels.source import source_of
from autoconv.lookup.found import TIMED, PredictorOf, Times, times_of
from autoconv.problem import Problem
from tuning_db import EnvironmentRecord, Layers, Trial, Winner
from tuning_db.records import PROVENANCES


class _InEnvironment:
    """What was made in an environment."""

    environment: EnvironmentRecord

    @property
    def device(self) -> str:
        """The name of the device."""
        return str(self.environment.soft.get("device"))

    @property
    def triton(self) -> str:
        """Major and minor version of the Triton that it was tuned under."""
        return str(self.environment.hard.get("triton"))


@dataclass(frozen=True)
class Entry(_InEnvironment):
    """The best that one layer has of a problem in one environment."""

    problem: Problem
    environment: EnvironmentRecord
    layer: str
    config: Config
    provenance: str  # of PROVENANCES
    times: Times
    default_us: float | None  # of the config that served without tuning, and that this one competed with
    floor_us: float | None  # None where nothing is known of the device
    today: bool  # whether it is of today's kernel, and of today's model where predicted

    @property
    def time_us(self) -> float:
        """The time that its place rests on."""
        time = {
            "measured": self.times["measured_us"],
            "contended": self.times["contended_us"],
            "predicted": self.times["predicted_us"],
        }[self.provenance]
        return math.inf if time is None else time

    @property
    def floor_pct(self) -> float | None:
        """The floor over the time, in percent: 100 is as fast as the hardware allows."""
        return None if self.floor_us is None else 100 * self.floor_us / self.time_us


def entries(layers: Layers, predictor_of: PredictorOf) -> Iterator[Entry]:
    """Yield the best of each layer, problem and environment, in the order of the problems' keys.

    What is of today's kernels comes before what is not, then the better provenance, then the faster. Keys and
    configs of other versions are left out.
    """
    for record in layers.problems():
        try:
            problem = Problem.from_key(record.key)
        except ProblemError:
            continue
        groups: dict[tuple[str, str], list[Entry]] = {}
        for layer, winner in layers.winners(record.key):
            made = _entry(layer, winner, problem, predictor_of)
            if made is not None:
                groups.setdefault((layer, winner.environment.hash), []).append(made)
        for group in groups.values():
            yield min(group, key=lambda one: (not one.today, PROVENANCES.index(one.provenance), one.time_us))


def _entry(layer: str, winner: Winner, problem: Problem, predictor_of: PredictorOf) -> Entry | None:
    try:
        config = Config.from_document(winner.config)
    except ConfigError:
        return None
    ours = config == ATEN or winner.source == source_of(
        config.kernel
    )  # torch's own needs no torch to be told
    model = winner.provenance in TIMED or winner.predictor == predictor_of(config.kernel)
    times = times_of(winner)
    floor = floor_us(problem, device_of(winner.environment))
    known = problem, winner.environment, layer, config, winner.provenance, times, winner.default_us, floor
    return Entry(*known, today=ours and model)


def device_of(environment: EnvironmentRecord) -> Device | None:
    """Return the device of an environment, the catalogue's or one like its kin; None where none is known."""
    name, sms, memory = (environment.soft.get(field) for field in IDENTITY)
    if not isinstance(sms, int) or not isinstance(memory, int):
        return None
    return devices.recalled(str(name), str(environment.hard.get("arch")), sms, memory)


def floor_us(problem: Problem, device: Device | None) -> float | None:
    """Return the least time of the problem on a device, microseconds; None where there is no device."""
    # Not above: the command line loads this package, and --help does not wait for NumPy.
    from autoconv.cost.prediction import floor_seconds

    return None if device is None else floor_seconds(problem, device) * 1e6


@dataclass(frozen=True)
class Tried:
    """A trial with its place among those of its environment and layer."""

    trial: Trial
    place: int | None  # 1 is the best; None where it did not compete
    best_pct: float | None  # the best time over its own, in percent

    @property
    def kernel(self) -> str:
        """The kernel's name."""
        return str(self.trial.config.get("kernel"))

    @property
    def numbers(self) -> dict[str, Any]:
        """The config without the kernel's name."""
        return {name: value for name, value in self.trial.config.items() if name != "kernel"}


def placed(trials: Iterable[Trial]) -> list[Tried]:
    """Return trials of one problem and environment, the best first, then those that did not compete.

    Measured times compete where there are any, else those taken beside other work, else predicted ones. A
    config that was found wrong does not compete, nor is any of several sources preferred.
    """
    trials = list(trials)
    wrong = {(trial.config_hash, trial.source) for trial in trials if trial.outcome == "wrong"}
    sound = [trial for trial in trials if trial.outcome == "ok" and _named(trial) not in wrong]
    timed_at_all = [trial for trial in sound if trial.measured_us is not None]
    quiet = [trial for trial in timed_at_all if not trial.contended]
    times = {id(trial): trial.measured_us for trial in quiet or timed_at_all}
    if not times:
        times = {id(trial): trial.predicted_us for trial in sound}
    timed = sorted(
        (trial for trial in sound if times.get(id(trial)) is not None),
        key=lambda one: (times[id(one)], one.config_hash),
    )
    best = times[id(timed[0])] if timed else None
    found = [
        Tried(trial, place, 100 * (best or 0.0) / (times[id(trial)] or 1.0))
        for place, trial in enumerate(timed, 1)
    ]
    competed = {id(trial) for trial in timed}
    rest = [trial for trial in trials if id(trial) not in competed]
    rest.sort(key=lambda one: (one.outcome, one.predicted_us or math.inf, one.config_hash))
    return found + [Tried(trial, None, None) for trial in rest]


def _named(trial: Trial) -> tuple[str, str]:
    return trial.config_hash, trial.source


@dataclass(frozen=True)
class Sweep(_InEnvironment):
    """All that one layer has of a problem in one environment."""

    layer: str
    environment: EnvironmentRecord
    tried: list[Tried]


def sweeps(layers: Layers, problem: Problem) -> list[Sweep]:
    """Return what was tried on a problem, by layer and environment, in the layers' order."""
    groups: dict[tuple[str, str], list[tuple[EnvironmentRecord, Trial]]] = {}
    for layer, (environment, trial) in layers.trials(problem.key()):
        groups.setdefault((layer, environment.hash), []).append((environment, trial))
    return [
        Sweep(layer, group[0][0], placed(trial for _, trial in group)) for (layer, _), group in groups.items()
    ]
