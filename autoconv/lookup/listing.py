"""What is tuned, and what was tried, over all layers: for people, who ask about more than one call."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from autoconv import device as devices
from autoconv.config import Config
from autoconv.cost import version
from autoconv.device import Device
from autoconv.environment import IDENTITY
from autoconv.errors import ConfigError, ProblemError
from autoconv.kernels.aten import ATEN
from autoconv.kernels.source import source_of
from autoconv.lookup.found import TIMED, HasTimes, PredictorOf, times_of
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
class Entry(_InEnvironment, HasTimes):
    """The best that one layer has of a problem in one environment."""

    problem: Problem
    environment: EnvironmentRecord
    layer: str
    config: Config
    provenance: str  # of PROVENANCES
    measured_us: float | None
    predicted_us: float | None
    contended_us: float | None
    default_us: float | None  # of the config that served without tuning, and that this one competed with
    floor_us: float | None  # None where nothing is known of the device
    today: bool  # whether it is of today's kernel, and of today's model where predicted

    @property
    def time_us(self) -> float:
        """The time that its place rests on."""
        return self.times.get(self.provenance, math.inf)

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
    return Entry(
        problem,
        winner.environment,
        layer,
        config,
        winner.provenance,
        **times_of(winner),
        default_us=winner.default_us,
        floor_us=floor_us(problem, device_of(winner.environment)),
        today=ours and model,
    )


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


class Kind(NamedTuple):
    """What trials have in common whose times compare; today's sort first, then the better provenance."""

    outdated: bool  # of kernels whose source has changed since
    rank: int  # of what their times rest on, among PROVENANCES
    foreign: bool  # predicted by another model than today's
    model: str  # which predicted; empty where timed


@dataclass(frozen=True)
class Tried:
    """A trial with its place among those of its kind in its environment and layer."""

    trial: Trial
    place: int | None  # 1 is the best of its kind; None where it did not compete
    best_pct: float | None  # the best time of its kind over its own, in percent
    kind: Kind | None = None  # None where it did not compete

    @property
    def kernel(self) -> str:
        """The kernel's name."""
        return _kernel(self.trial)

    @property
    def numbers(self) -> dict[str, Any]:
        """The config without the kernel's name."""
        return {name: value for name, value in self.trial.config.items() if name != "kernel"}


def placed(trials: Iterable[Trial]) -> list[Tried]:
    """Return trials of one problem and environment, kind by kind, the best first; then what did not compete.

    Of today's sources, and likewise of others, measured times compete where there are any, else those taken
    beside other work, else those that one model predicted, among themselves. Each kind has places of its own,
    and today's come first. A config that was found wrong does not compete.
    """
    trials = list(trials)
    wrong = {_named(trial) for trial in trials if trial.outcome == "wrong"}
    sound = [trial for trial in trials if trial.outcome == "ok" and _named(trial) not in wrong]
    kinds: dict[Kind, list[tuple[float, Trial]]] = {}
    for outdated, group in enumerate(_by_source(sound)):
        for kind, time, trial in _competing(group, bool(outdated)):
            kinds.setdefault(kind, []).append((time, trial))
    found = [one for kind in sorted(kinds) for one in _in_order(kind, kinds[kind])]
    competed = {id(one.trial) for one in found}
    rest = [trial for trial in trials if id(trial) not in competed]
    rest.sort(key=lambda one: (one.outcome, one.predicted_us or math.inf, one.config_hash))
    return found + [Tried(trial, None, None) for trial in rest]


def _by_source(trials: Sequence[Trial]) -> tuple[list[Trial], list[Trial]]:
    """Return the trials of today's sources, and the others.

    torch's own convolution is today's with whatever torch it was timed, if never with today's, as a lookup
    has it; it stays with kernels of before where there are none of today.
    """
    ours = [trial for trial in trials if _kernel(trial) != ATEN.kernel]
    torchs = [trial for trial in trials if _kernel(trial) == ATEN.kernel]
    today = [trial for trial in ours if trial.source == source_of(_kernel(trial))]
    if len({trial.source for trial in torchs}) > 1:  # else it is that one, and torch need not be imported
        torchs = [trial for trial in torchs if trial.source == source_of(ATEN.kernel)] or torchs
    if today or not ours:
        today += torchs
    taken = set(map(id, today))
    return today, [trial for trial in trials if id(trial) not in taken]


def _competing(trials: Sequence[Trial], outdated: bool) -> Iterator[tuple[Kind, float, Trial]]:
    """Yield those of the best provenance that there is, each with its kind and time."""
    timed = [(trial.measured_us, trial) for trial in trials if trial.measured_us is not None]
    quiet = [(time, trial) for time, trial in timed if not trial.contended]
    if timed:
        kind = Kind(outdated, PROVENANCES.index("measured" if quiet else "contended"), False, "")
        yield from ((kind, time, trial) for time, trial in quiet or timed)
        return
    for trial in trials:
        if trial.predicted_us is not None:
            foreign = trial.predictor != version.predictor_of(_kernel(trial))
            model = trial.predictor.partition("-")[0]
            yield Kind(outdated, PROVENANCES.index("predicted"), foreign, model), trial.predicted_us, trial


def _in_order(kind: Kind, timed: list[tuple[float, Trial]]) -> Iterator[Tried]:
    timed.sort(key=lambda one: (one[0], one[1].config_hash))
    for place, (time, trial) in enumerate(timed, start=1):
        yield Tried(trial, place, 100 * timed[0][0] / time, kind)


def _kernel(trial: Trial) -> str:
    return str(trial.config.get("kernel"))


def _named(trial: Trial) -> tuple[str, str]:
    return trial.config_hash, trial.source


@dataclass(frozen=True)
class Sweep(_InEnvironment):
    """All that one layer has of a problem in one environment."""

    layer: str
    environment: EnvironmentRecord
    tried: list[Tried]  # as `placed` has them, one at least

    @property
    def kind(self) -> Kind | None:
        """Of the trials that come first; None where none competed."""
        return self.tried[0].kind


def sweeps(layers: Layers, problem: Problem) -> list[Sweep]:
    """Return what was tried on a problem, by layer and environment, in the layers' order."""
    groups: dict[tuple[str, str], list[tuple[EnvironmentRecord, Trial]]] = {}
    for layer, (environment, trial) in layers.trials(problem.key()):
        groups.setdefault((layer, environment.hash), []).append((environment, trial))
    return [
        Sweep(layer, group[0][0], placed(trial for _, trial in group)) for (layer, _), group in groups.items()
    ]
