"""What was found for other problems or devices: it orders a sweep, and serves where all is guessed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

from autoconv.config import Config
from autoconv.device import Device
from autoconv.environment import Environment
from autoconv.errors import ConfigError, ProblemError
from autoconv.kernels.aten import ATEN
from autoconv.kernels.source import source_of
from autoconv.lookup.bests import bests
from autoconv.lookup.found import GRADES, PROVENANCES, Found, PredictorOf, hard_fits, records, same_device
from autoconv.lookup.legality import in_space, runnable
from autoconv.problem import Problem
from tuning_db import EnvironmentRecord, Layers, ProblemRecord
from tuning_db.nearest import logarithm

# Fields that call for other kernels or other tiles: a config is not carried from one value to another.
_KINDS = ("op", "dtype", "precision", "layout")

# A judgement, not a measurement: beyond four doublings in all the estimate should be the better guess.
_FARTHEST = 4.0

_NEIGHBOURS = 16  # asked of each layer: fields that have no column are compared only afterwards
_PRIORS = 4  # configs that the next sweep tries first

AmongEnvironments = Callable[[EnvironmentRecord], bool]
Offered = Callable[[Config, Problem, Device], bool]


def transferred(
    layers: Layers,
    problem: Problem,
    environment: Environment,
    device: Device,
    predictor_of: PredictorOf,
    offered: Offered = in_space,
) -> Found | None:
    """Return the best config found elsewhere that its kernel offers for `problem` on `device`, or None.

    This problem's on another device of the architecture ("scaled") come before the nearest problems' on this
    device ("nearest"); then measured before predicted, then the nearer, then the layers' precedence. Their
    times are another's, so they are left out. To know what a kernel has `offered` it makes its whole space.
    """
    for found in _elsewhere(layers, problem, environment, predictor_of):
        if offered(found.config, problem, device):
            return replace(found.without_times(), provenance="transferred")
    return None


def priors(layers: Layers, problem: Problem, environment: Environment) -> list[Config]:
    """Return what was best for `problem` elsewhere on the architecture: of older sources, tools, or devices.

    That is no answer here, since other code ran there. A sweep tries these configs first.
    """
    here = records(problem, environment)[1].hash

    def of_architecture(one: EnvironmentRecord) -> bool:
        return one.hard.get("arch") == environment.arch

    ranked = [
        one
        for _, one in layers.ranked(problem.key(), among=of_architecture, limit=_PRIORS)
        if one.environment.hash != here or one.source != source_of(str(one.config.get("kernel")))
    ]
    configs = []
    for one in sorted(ranked, key=lambda one: (PROVENANCES.index(one.provenance), one.place)):
        try:
            configs.append(runnable(one.config, problem, environment.arch))
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


def _elsewhere(
    layers: Layers, problem: Problem, environment: Environment, predictor_of: PredictorOf
) -> Iterator[Found]:
    """Yield what may be transferred, best first."""

    def kin(one: EnvironmentRecord) -> bool:
        return hard_fits(one, environment) and not same_device(one, environment)

    def here(one: EnvironmentRecord) -> bool:
        return hard_fits(one, environment) and same_device(one, environment)

    def of(other: Problem, among: AmongEnvironments) -> list[Found]:
        entries = [entry for entry in layers.winners(other.key()) if among(entry[1].environment)]
        return sorted((one.found for one in bests(entries, other, environment, predictor_of)), key=_rank)

    yield from (replace(found, grade="scaled") for found in of(problem, kin))
    near = []
    for other in neighbours(layers, problem, here):
        kinds, doublings, _ = distance(problem, other)
        if not kinds and doublings <= _FARTHEST:
            near += [replace(found, grade="nearest", tuned=other) for found in of(other, here)[:1]]
    yield from sorted(near, key=_rank)  # which is stable, so the nearer stay before the farther


def _rank(found: Found) -> tuple[int, int]:
    return PROVENANCES.index(found.provenance), GRADES.index(found.grade)
