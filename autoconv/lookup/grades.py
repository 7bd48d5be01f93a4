"""What the layers have for a problem, best grade first; and what a sweep should try first."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from autoconv.config import Config
from autoconv.device import Device
from autoconv.environment import Environment
from autoconv.errors import ConfigError, ProblemError
from autoconv.kernels.aten import ATEN
from autoconv.lookup.legality import in_space, runnable
from autoconv.problem import Problem
from tuning_db import EnvironmentRecord, Layers, ProblemRecord, Winner
from tuning_db.nearest import logarithm

GRADES = ("exact", "soft", "scaled", "nearest", "default")
"""Best first. exact: all that bears on the figure is the same. soft: a soft field of the environment differs.
scaled: of this very problem, from another device of the architecture. nearest: of the nearest problem, from
this device. default: not from the database at all, but the least estimate."""

PROVENANCES = ("measured", "predicted", "transferred", "default")
"""What stands behind a config: its own times, its own predictions, what was found elsewhere, or nothing:
torch's own convolution where a sweep was in vain."""

# A prediction rests on the compiler and the device; driver, power limit and timing protocol do not enter it.
_SOFT_OF_PREDICTION = ("device", "sms", "triton_patch")

# Fields that call for other kernels or other tiles: a config is not carried from one value to another.
_KINDS = ("op", "dtype", "precision", "layout")

# A judgement, not a measurement: beyond four doublings in all the estimate should be the better guess.
_FARTHEST = 4.0

_NEIGHBOURS = 16  # asked of each layer: fields that have no column are compared only afterwards
_PRIORS = 4  # configs that the next sweep tries first

AmongEnvironments = Callable[[EnvironmentRecord], bool]


@dataclass(frozen=True)
class Found:
    """A config for a problem, with where it came from and how well it fits."""

    config: Config
    provenance: str  # one of PROVENANCES
    grade: str  # one of GRADES
    layer: (
        str  # "user", "site 1", ..., "prebuilt"; "memory" where no file could be written, "none" of a guess
    )
    measured_us: float | None  # None where transferred: the time was another's
    predicted_us: float | None

    @property
    def hit(self) -> bool:
        """Whether it is of this problem and this environment, so that nothing needs to be swept."""
        return self.grade in ("exact", "soft")


def records(problem: Problem, environment: Environment) -> tuple[ProblemRecord, EnvironmentRecord]:
    """Return both as the database keeps them."""
    return ProblemRecord(problem.key(), problem.columns()), EnvironmentRecord(
        environment.hard(), environment.soft()
    )


def find(layers: Layers, problem: Problem, environment: Environment) -> Found | None:
    """Return the best entry for `problem` in `environment`, "exact" or "soft", or None.

    The better grade comes first, then measured before predicted, then the layers' precedence; never the
    fastest across layers. An entry whose config today's kernels cannot run is passed over.
    """
    fitting = [
        found
        for layer, winner in layers.winners(problem.key())
        if _hard_fits(winner, environment) and _device_of(winner) == environment.device
        if (found := _found(layer, winner, problem, environment)) is not None
    ]
    return min(fitting, key=_rank, default=None)


def transferred(layers: Layers, problem: Problem, environment: Environment, device: Device) -> Found | None:
    """Return the best config found elsewhere that its kernel offers for `problem` on `device`, or None.

    This problem's on another device of the architecture ("scaled") come before the nearest problems' on this
    device ("nearest"); then measured before predicted, then the nearer, then the layers' precedence. Their
    times are another's, so they are left out.
    """
    for found in _elsewhere(layers, problem, environment):
        if in_space(found.config, problem, device):
            return replace(found, provenance="transferred", measured_us=None, predicted_us=None)
    return None


def priors(layers: Layers, problem: Problem, environment: Environment) -> list[Config]:
    """Return what was best for `problem` in other environments of the architecture: other tools, or devices.

    That is no answer here, since other code ran there. A sweep tries these configs first.
    """
    here = records(problem, environment)[1].hash

    def elsewhere(one: EnvironmentRecord) -> bool:
        return one.hash != here and one.hard.get("arch") == environment.arch

    ranked = layers.ranked(problem.key(), among=elsewhere, limit=_PRIORS)
    ranked.sort(key=lambda entry: (PROVENANCES.index(entry[1].provenance), entry[1].place))
    configs = []
    for _, one in ranked:
        try:
            configs.append(runnable(one.config, problem))
        except ConfigError:
            continue
    return [config for config in dict.fromkeys(configs) if config != ATEN][:_PRIORS]


def neighbours(layers: Layers, problem: Problem, among: AmongEnvironments | None = None) -> list[Problem]:
    """Return problems near this one that have a winner `among` environments of some layer, nearest first."""
    wanted = ProblemRecord(problem.key(), problem.columns())
    found = []
    for _, neighbour in layers.nearest(wanted, among=among, limit=_NEIGHBOURS):
        try:
            found.append(Problem.from_key(neighbour.problem.key))
        except ProblemError:  # a key of an older version, or of none
            continue
    return sorted(found, key=lambda other: distance(problem, other))


def distance(one: Problem, other: Problem) -> tuple[int, float, str]:
    """Order problems by the fields that call for another kernel, then by the doublings between them."""
    kinds = sum(getattr(one, name) != getattr(other, name) for name in _KINDS)
    here, there = _numbers(one), _numbers(other)
    return kinds, sum(abs(logarithm(here[name]) - logarithm(there[name])) for name in here), other.key()


def _numbers(problem: Problem) -> dict[str, int]:
    """Return the fields compared as numbers; a bias, or an activation, counts as one doubling."""
    plain = ("N", "Cin", "Cout", "K", "L", "stride", "dilation", "groups", "output_padding")
    numbers = {name: int(getattr(problem, name)) for name in plain}
    return numbers | {
        "padding": problem.pad_left + problem.pad_right,
        "bias": 1 + problem.bias,
        "activation": 1 + (problem.activation != "none"),
    }


def _elsewhere(layers: Layers, problem: Problem, environment: Environment) -> Iterator[Found]:
    """Yield what may be transferred, best first."""
    entries = [(layer, winner) for layer, winner in layers.winners(problem.key())]
    scaled = [
        replace(found, grade="scaled")
        for layer, winner in entries
        if _hard_fits(winner, environment) and _device_of(winner) != environment.device
        if (found := _found(layer, winner, problem, environment)) is not None
    ]
    yield from sorted(scaled, key=_rank)

    def here(one: EnvironmentRecord) -> bool:
        return dict(one.hard) == environment.hard() and one.soft.get("device") == environment.device

    near = []
    for other in neighbours(layers, problem, here):
        kinds, doublings, _ = distance(problem, other)
        found = find(layers, other, environment) if not kinds and doublings <= _FARTHEST else None
        if found is not None:
            near.append(replace(found, grade="nearest"))
    yield from sorted(near, key=_rank)  # which is stable, so the nearer stay before the farther


def _rank(found: Found) -> tuple[int, int]:
    return GRADES.index(found.grade), PROVENANCES.index(found.provenance)


def _hard_fits(winner: Winner, environment: Environment) -> bool:
    return dict(winner.environment.hard) == environment.hard()


def _device_of(winner: Winner) -> object:
    return winner.environment.soft.get("device")


def _found(layer: str, winner: Winner, problem: Problem, environment: Environment) -> Found | None:
    try:
        config = runnable(winner.config, problem)
    except ConfigError:
        return None
    theirs, ours = winner.environment.soft, environment.soft()
    bearing = _SOFT_OF_PREDICTION if winner.provenance == "predicted" else tuple(ours)
    same = all(theirs.get(name) == ours[name] for name in bearing)
    grade = "exact" if same else "soft"
    return Found(config, winner.provenance, grade, layer, winner.measured_us, winner.predicted_us)
