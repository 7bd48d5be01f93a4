"""What the layers have for a problem, best grade first; and what a sweep should try first."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from autoconv.config import Config
from autoconv.device import Device
from autoconv.environment import IDENTITY, Environment
from autoconv.errors import ConfigError, ProblemError
from autoconv.kernels.aten import ATEN
from autoconv.kernels.registry import supporting
from autoconv.kernels.source import source_of
from autoconv.lookup.legality import in_space, runnable
from autoconv.problem import Problem
from tuning_db import EnvironmentRecord, Layers, ProblemRecord, RunRecord, Winner
from tuning_db.nearest import logarithm

GRADES = ("exact", "soft", "scaled", "nearest", "default")
"""Best first. exact: all that bears on the figure is the same. soft: a soft field of the environment differs,
another version of the model predicted it, or the only sweeps that tried it were interrupted. scaled: of this
very problem, from another device of the architecture. nearest: of the nearest problem, from this device.
default: not from the database at all, but the least estimate."""

PROVENANCES = ("measured", "predicted", "transferred", "default")
"""What stands behind a config: its own times, its own predictions, what was found elsewhere, or nothing:
torch's own convolution where a sweep was in vain."""

# A prediction rests on the compiler and the device; driver, power limit and timing protocol do not enter it.
_SOFT_OF_PREDICTION = (*IDENTITY, "triton_patch")

# Fields that call for other kernels or other tiles: a config is not carried from one value to another.
_KINDS = ("op", "dtype", "precision", "layout")

# A judgement, not a measurement: beyond four doublings in all the estimate should be the better guess.
_FARTHEST = 4.0

_NEIGHBOURS = 16  # asked of each layer: fields that have no column are compared only afterwards
_PRIORS = 4  # configs that the next sweep tries first

AmongEnvironments = Callable[[EnvironmentRecord], bool]
PredictorOf = Callable[[str], str]
"""What predicts times of a kernel today: MODEL-KERNEL, of which MODEL is alike for all kernels."""


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


def find(
    layers: Layers, problem: Problem, environment: Environment, predictor_of: PredictorOf
) -> Found | None:
    """Return the best entry for `problem` in `environment`, "exact" or "soft", or None.

    Measured comes before predicted, then the better grade, then the layers' precedence; never the fastest
    across layers. Among the bests of today's kernels in one layer and environment, measured or predicted by
    one model, each kernel by one version of its own, the fastest serves. An entry whose config today's
    kernels cannot run is passed over, and so is one of a kernel whose source has changed since.

    Args:
        layers: The layers to ask.
        problem: The problem.
        environment: Where the config is to run.
        predictor_of: What predicts here; what others predicted is soft.
    """
    entries = [
        (layer, winner)
        for layer, winner in layers.winners(problem.key())
        if _hard_fits(winner.environment, environment) and _same_device(winner.environment, environment)
    ]
    return min(_founds(entries, problem, environment, predictor_of), key=_rank, default=None)


def covered(
    runs: Iterable[RunRecord],
    problem: Problem,
    environment: Environment,
    predictor_of: PredictorOf,
    *,
    on_gpu: bool,
) -> bool:
    """Return whether a sweep of `problem` now would find what `runs` found: one of them was such a sweep.

    It came to its end here, tried every kernel as it is today, and measured, or, where there is no GPU to
    measure on, predicted with this model.
    """
    here = records(problem, environment)[1]
    wanted = tried(problem, predictor_of, on_gpu=on_gpu)
    return any(
        run.finished
        and run.info.get("sources") == wanted["sources"]
        and _hard_fits(run.environment, environment)
        and (
            (run.environment == here and run.info.get("measured") is True)
            or (not on_gpu and run.info == wanted and _alike(run.environment, here, _SOFT_OF_PREDICTION))
        )
        for run in runs
    )


def tried(problem: Problem, predictor_of: PredictorOf, *, on_gpu: bool) -> dict[str, Any]:
    """Return what a sweep notes about its run: the sources that it tries, and how it tells them apart."""
    names = [kernel.name for kernel in supporting(problem)]
    return {
        "sources": {name: source_of(name) for name in names},
        "predictors": {name: predictor_of(name) for name in names},
        "measured": on_gpu,
    }


def transferred(
    layers: Layers, problem: Problem, environment: Environment, device: Device, predictor_of: PredictorOf
) -> Found | None:
    """Return the best config found elsewhere that its kernel offers for `problem` on `device`, or None.

    This problem's on another device of the architecture ("scaled") come before the nearest problems' on this
    device ("nearest"); then measured before predicted, then the nearer, then the layers' precedence. Their
    times are another's, so they are left out.
    """
    for found in _elsewhere(layers, problem, environment, predictor_of):
        if in_space(found.config, problem, device):
            return replace(found, provenance="transferred", measured_us=None, predicted_us=None)
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
    entries = [
        (layer, winner)
        for layer, winner in layers.winners(problem.key())
        if _hard_fits(winner.environment, environment) and not _same_device(winner.environment, environment)
    ]
    scaled = [
        replace(found, grade="scaled") for found in _founds(entries, problem, environment, predictor_of)
    ]
    yield from sorted(scaled, key=_rank)

    def here(one: EnvironmentRecord) -> bool:
        return _hard_fits(one, environment) and _same_device(one, environment)

    near = []
    for other in neighbours(layers, problem, here):
        kinds, doublings, _ = distance(problem, other)
        found = None
        if not kinds and doublings <= _FARTHEST:
            found = find(layers, other, environment, predictor_of)
        if found is not None:
            near.append(replace(found, grade="nearest"))
    yield from sorted(near, key=_rank)  # which is stable, so the nearer stay before the farther


def _rank(found: Found) -> tuple[int, int]:
    return PROVENANCES.index(found.provenance), GRADES.index(found.grade)


def _hard_fits(there: EnvironmentRecord, environment: Environment) -> bool:
    return dict(there.hard) == environment.hard()


def _same_device(there: EnvironmentRecord, environment: Environment) -> bool:
    soft = environment.soft()
    return all(there.soft.get(name) == soft[name] for name in IDENTITY)


def _alike(one: EnvironmentRecord, other: EnvironmentRecord, names: Iterable[str]) -> bool:
    return all(one.soft.get(name) == other.soft.get(name) for name in names)


def _founds(
    entries: Iterable[tuple[str, Winner]],
    problem: Problem,
    environment: Environment,
    predictor_of: PredictorOf,
) -> list[Found]:
    """Return the fastest of today's kernels from each layer, environment and model, in their order.

    What this process's own model predicted comes before what others did.
    """
    groups: dict[tuple[str, str, bool, str], list[tuple[Winner, Config]]] = {}
    for layer, winner in entries:
        try:
            config = runnable(winner.config, problem, environment.arch)
        except ConfigError:
            continue
        foreign = winner.provenance == "predicted" and winner.predictor != predictor_of(config.kernel)
        key = layer, winner.environment.hash, foreign, winner.predictor.partition("-")[0]
        groups.setdefault(key, []).append((winner, config))
    order = list(dict.fromkeys(layer for layer, *_ in groups))
    found = []
    for key in sorted(groups, key=lambda key: (order.index(key[0]), *key[1:])):
        best = _fastest(groups[key], predictor_of)
        if best is not None:
            found.append(_found(key[0], *best, environment, predictor_of))
    return found


def _fastest(entries: list[tuple[Winner, Config]], predictor_of: PredictorOf) -> tuple[Winner, Config] | None:
    """Return the fastest of entries of one model, of those made with the sources of today.

    torch's own convolution competes with the time it had under another torch or cuDNN where it has none of
    today: to leave it out would have a kernel serve that is slower than torch.
    """
    today = [entry for entry in entries if entry[0].source == source_of(entry[1].kernel)]
    if not any(config == ATEN for _, config in today):
        today += [entry for entry in entries if entry[1] == ATEN]
    same = _of_one_version(today, predictor_of)
    return min(same, key=lambda entry: (_time(entry[0]), entry[0].config_hash), default=None)


def _of_one_version(
    entries: list[tuple[Winner, Config]], predictor_of: PredictorOf
) -> list[tuple[Winner, Config]]:
    """Return the entries but for those that another version of their kernel predicted, of several versions.

    Times of two versions do not compare, so the one that reads as today stays, or else the first by name.
    """
    chosen: dict[str, str] = {}
    for winner, config in entries:
        today = predictor_of(config.kernel).partition("-")[2]
        rivals = chosen.get(config.kernel, winner.predictor), winner.predictor
        chosen[config.kernel] = min(rivals, key=lambda one: (one.partition("-")[2] != today, one))
    return [entry for entry in entries if entry[0].predictor == chosen[entry[1].kernel]]


def _time(winner: Winner) -> float:
    time = winner.measured_us if winner.provenance == "measured" else winner.predicted_us
    return float("inf") if time is None else time


def _found(
    layer: str, winner: Winner, config: Config, environment: Environment, predictor_of: PredictorOf
) -> Found:
    same = not departures(winner, environment, predictor_of)
    times = winner.measured_us, winner.predicted_us
    return Found(config, winner.provenance, "exact" if same else "soft", layer, *times)


def departures(
    winner: Winner, environment: Environment, predictor_of: PredictorOf
) -> Mapping[str, tuple[Any, Any]]:
    """Return what makes an entry of this device and these hard fields soft, by name: here, and there."""
    predicted = winner.provenance == "predicted"
    theirs, ours = dict(winner.environment.soft), environment.soft()
    pairs = {name: (ours[name], theirs.get(name)) for name in (_SOFT_OF_PREDICTION if predicted else ours)}
    kernel = str(winner.config.get("kernel"))
    if source_of(kernel) is not None:  # else it is no kernel of today, which `runnable` says
        pairs[f"source of {kernel}"] = source_of(kernel), winner.source
    if predicted:
        pairs["model"] = predictor_of(kernel), winner.predictor
    pairs["sweep"] = "finished", "finished" if winner.finished else "interrupted"
    return {name: pair for name, pair in pairs.items() if pair[0] != pair[1]}
