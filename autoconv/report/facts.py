"""What a report tells: of one problem on one device all that was tried, of several a table and a sum."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby

from autoconv import lookup, nsight
from autoconv.compiler.resources import Resources
from autoconv.config import Config
from autoconv.cost.predict import estimate, predict
from autoconv.cost.prediction import Prediction, floor_seconds
from autoconv.cost.version import predictor_of
from autoconv.device import Device
from autoconv.environment import Environment
from autoconv.errors import ConfigError
from autoconv.kernels.aten import ATEN
from autoconv.lookup.found import HasTimes, same_device
from autoconv.lookup.listing import Sweep, Tried, sweeps
from autoconv.problem import Problem
from autoconv.sweep.candidates import best_guess
from tuning_db import Layers
from tuning_db.ranking import TIE_TOLERANCE


@dataclass(frozen=True)
class Asked:
    """A problem to report on."""

    problem: Problem
    name: str = ""  # of the layer that poses it
    calls: int = 1  # in one pass of the model


@dataclass(frozen=True)
class Point(HasTimes):
    """One config with its times; what they rest on is told by which of them there is."""

    config: Config
    measured_us: float | None
    contended_us: float | None  # taken beside other work
    predicted_us: float | None
    dram_bytes: int | None  # by the model; None of torch's own convolution

    @property
    def provenance(self) -> str:
        """What its time rests on: "measured", "contended" or "predicted"."""
        return next(iter(self.times), "predicted")

    @property
    def time_us(self) -> float | None:
        """The measured time, or else the one taken beside other work, or else the predicted one."""
        return self.times.get(self.provenance)


@dataclass(frozen=True)
class Subject:
    """What is known of one problem on one device."""

    asked: Asked
    device: Device
    sweep: Sweep | None  # the trials that the points are of; None where nothing was tried
    points: tuple[Point, ...]  # whose times compare, the best first
    failed: tuple[Tried, ...]  # that could not run, or were wrong
    compiled: int  # how many were compiled and left over
    apart: int  # how many passed without a time that compares: of older kernels, other models, another kind
    grade: str  # of `best`: "tried", or as a lookup has it

    @property
    def problem(self) -> Problem:
        """The problem."""
        return self.asked.problem

    @property
    def best(self) -> Point:
        """The best of today's kernels and model, or of others where there are none of today."""
        return self.points[0]

    @property
    def measured(self) -> bool:
        """Whether the times that points are ranked by were measured."""
        return self.best.measured_us is not None

    @property
    def provenance(self) -> str:
        """What the best time rests on, in words."""
        if self.grade != "tried":
            return f"estimated, not compiled ({self.grade})"
        return _in_words({self.best.provenance})

    @property
    def floor_us(self) -> float:
        """The least time that the hardware allows, microseconds."""
        return floor_seconds(self.problem, self.device) * 1e6

    @property
    def torch_us(self) -> float | None:
        """The measured time of torch's own convolution, None where it was not measured."""
        return next((one.measured_us for one in self.points if one.config == ATEN), None)

    @property
    def gain(self) -> float | None:
        """By how much torch's own takes longer than the best; None where one of them was not measured."""
        best, torch = self.best.measured_us, self.torch_us
        return None if torch is None or not best else torch / best

    @property
    def tolerance(self) -> float:
        """How far apart times of the best's kind may be and tell nothing, as a part of the lesser."""
        return TIE_TOLERANCE[self.best.provenance]

    @property
    def tied(self) -> tuple[Point, ...]:
        """Which others are within the tolerance of the best: noise decides among them."""
        limit = (self.best.time_us or math.inf) * (1 + self.tolerance)
        return tuple(one for one in self.points[1:] if (one.time_us or math.inf) <= limit)

    @property
    def best_of_ours(self) -> Config | None:
        """The best config of one of our kernels, None where there is none."""
        return next((one.config for one in self.points if one.config != ATEN), None)

    @cached_property
    def prediction(self) -> Prediction | None:
        """What the model says of it, with the resources that compiling it gave, where it was compiled."""
        config = self.best_of_ours
        if config is None:
            return None
        taken = self._resources(config)
        if taken is None:
            return estimate(self.problem, config, self.device)
        return predict(self.problem, config, self.device, taken)

    def _resources(self, config: Config) -> Resources | None:
        tried = self.sweep.tried if self.sweep else []
        detail = next((one.trial.detail for one in tried if one.trial.config == config.document()), {})
        sizes = {name: detail.get(name) for name in ("registers", "spills", "shared")}
        known = {name: size for name, size in sizes.items() if isinstance(size, int)}
        if len(known) < len(sizes):
            return None
        return Resources(known["registers"], known["spills"], known["shared"])

    @property
    def words(self) -> dict[str, str]:
        """What bounds it, line by line; empty where there is none."""
        config, told = self.best_of_ours, self.prediction
        if config is None or told is None:
            return {}
        # Its time is among the points, by the instructions that compiling gave, of which nothing is kept.
        return {
            name: text
            for name, text in nsight.facts(config, told).items()
            if name not in ("config", "time", "issue slots")
        }


def gather(asked: Asked, device: Device, environment: Environment, layers: Layers) -> Subject:
    """Return what is known of a problem on a device.

    Of its sweeps those of today's kernels come first, then the measured, then those timed beside other work,
    then those that today's model predicted, then those of today's Triton.

    Raises:
        ProblemError: nothing was tried, and no kernel runs it.
    """
    chosen = _chosen(sweeps(layers, asked.problem), environment)
    if chosen is None:
        point, grade = _untried(asked.problem, device, environment, layers)
        return Subject(asked, device, None, (point,), (), 0, 0, grade)
    outcomes = [one.trial.outcome for one in chosen.tried]
    failed = tuple(one for one in chosen.tried if one.trial.outcome not in ("ok", "compiled", "started"))
    points, grade = _points(asked.problem, device, chosen), "tried"
    apart = outcomes.count("ok") - len(points)
    if not points:
        point, grade = _untried(asked.problem, device, environment, layers)
        points = (point,)
    return Subject(asked, device, chosen, points, failed, outcomes.count("compiled"), apart, grade)


def _chosen(found: Sequence[Sweep], environment: Environment) -> Sweep | None:
    def order(one: Sweep) -> tuple[bool, tuple[int, ...], bool]:
        standing = () if one.kind is None else (one.kind.outdated, one.kind.rank, one.kind.foreign)
        return one.kind is None, standing, one.triton != environment.triton

    return min((one for one in found if same_device(one.environment, environment)), key=order, default=None)


def _points(problem: Problem, device: Device, sweep: Sweep) -> tuple[Point, ...]:
    """Return the points of the first kind of trials that has any; those of the others do not compare."""
    competed = (one for one in sweep.tried if one.place is not None)
    for _, alike in groupby(competed, key=lambda one: one.kind):
        points = tuple(told for one in alike if (told := _point(problem, device, one)) is not None)
        if points:
            return points
    return ()


def _point(problem: Problem, device: Device, one: Tried) -> Point | None:
    trial = one.trial
    try:
        config = Config.from_document(trial.config)
        moved = None if config == ATEN else estimate(problem, config, device).dram_bytes
    except ConfigError:  # none of today's
        return None
    measured, contended = (None, trial.measured_us) if trial.contended else (trial.measured_us, None)
    return Point(config, measured, contended, trial.predicted_us, moved)


def _untried(problem: Problem, device: Device, environment: Environment, layers: Layers) -> tuple[Point, str]:
    """Return what would serve a problem that was not tried, with its estimate, and its grade."""
    found = lookup.find(layers, problem, environment, predictor_of)
    config = best_guess(problem, device)[0] if found is None or found.config == ATEN else found.config
    told = estimate(problem, config, device)
    grade = "the best estimate of all candidates" if found is None else f"grade {found.grade}"
    return Point(config, None, None, told.seconds * 1e6, told.dram_bytes), grade


def _in_words(provenances: Collection[str]) -> str:
    """Say what times of these provenances rest on, taken together."""
    words = {"contended": "timed beside other work", "predicted": "predicted"}
    others = [text for name, text in words.items() if name in provenances]
    if not others:
        return "measured"
    return f"{'in part ' if 'measured' in provenances else ''}{' or '.join(others)}, not measured"


@dataclass(frozen=True)
class Total:
    """The sum over several problems, each times its calls; None where one of the times is not known."""

    best_us: float
    floor_us: float
    torch_us: float | None
    provenance: str  # of the best times, in words

    @property
    def floor_pct(self) -> float:
        """The floor over the time, in percent."""
        return 100 * self.floor_us / self.best_us


def total(subjects: Sequence[Subject]) -> Total:
    """Return the sum over `subjects`, one at least."""
    torchs = [(one.torch_us, one.asked.calls) for one in subjects]
    known = all(time is not None for time, _ in torchs)
    return Total(
        best_us=sum((one.best.time_us or 0.0) * one.asked.calls for one in subjects),
        floor_us=sum(one.floor_us * one.asked.calls for one in subjects),
        torch_us=sum((time or 0.0) * calls for time, calls in torchs) if known else None,
        provenance=_in_words({one.best.provenance for one in subjects}),
    )
