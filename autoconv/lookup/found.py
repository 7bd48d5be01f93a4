"""What a lookup gives: a config, its grade and its provenance; and how an environment fits another."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TypedDict

from autoconv.config import Config
from autoconv.environment import IDENTITY, Environment
from autoconv.problem import Problem
from tuning_db import EnvironmentRecord, ProblemRecord, Winner

OWN = ("exact", "soft")
HITS = (*OWN, "bucket")
SERVING = (*HITS, "carried")
GRADES = (*SERVING, "scaled", "nearest", "default")
"""Best first. exact: all that bears on the figure is the same. soft: a soft field of the environment differs,
another version of the model predicted it, or the only sweeps that tried it were interrupted. bucket: of this
module shape at a size within a factor of two, see `lookup.buckets`. carried: as one of these, but tuned under
another minor version of Triton, or before the source of its kernel changed. scaled: of this very problem,
from another device of the architecture. nearest: of the nearest problem, from this device. default: not from
the database at all, but the least estimate; or torch, where a pinned file lacks the problem."""

TIMED = ("measured", "contended")
OF_ITS_OWN = (*TIMED, "predicted")
PROVENANCES = (*OF_ITS_OWN, "transferred", "default")
"""What stands behind a config: its own times; times beside other work, taken in turn with what served then
and told in proportion to that; its own predictions; what was found elsewhere; or nothing: torch's own
convolution where a sweep was in vain, or where a pinned file lacks the problem."""

PredictorOf = Callable[[str], str]
"""What predicts times of a kernel today: MODEL-KERNEL, of which MODEL is alike for all kernels."""


class HasTimes:
    """What has times of its own, microseconds, each None where there is none."""

    measured_us: float | None
    contended_us: float | None  # taken beside other work; where there is one, nothing was measured
    predicted_us: float | None

    @property
    def times(self) -> dict[str, float]:
        """The times that there are, microseconds, by what they rest on: of OF_ITS_OWN, in that order."""
        times = {"measured": self.measured_us, "contended": self.contended_us, "predicted": self.predicted_us}
        return {provenance: time for provenance, time in times.items() if time is not None}


@dataclass(frozen=True)
class Found(HasTimes):
    """A config for a problem, with where it came from and how well it fits."""

    config: Config
    provenance: str  # one of PROVENANCES; in a bucket, that of the entry at its own size
    grade: str  # one of GRADES
    layer: str  # "process", "user", "site 1" ..., "prebuilt"; "memory": no file took it; "none": a guess
    measured_us: float | None  # None of a bucket or transferred: the time is another's
    predicted_us: float | None  # likewise
    tuned: Problem | None = None  # what it was tuned for, where that is another size: of a bucket
    contended_us: float | None = None  # likewise; of provenance contended, which has no measured time
    pinned: bool = False  # out of a pinned file, or torch where that lacks the problem: final

    @property
    def hit(self) -> bool:
        """Whether it serves as it is: a carried one serves until the problem is tuned."""
        return self.grade in HITS

    @property
    def has_time(self) -> bool:
        """Whether it has a time of its own, of whatever provenance."""
        return bool(self.times)

    def without_times(self) -> Found:
        """Return this where its times are another's: another size's, or another device's."""
        return replace(self, measured_us=None, predicted_us=None, contended_us=None)


class Times(TypedDict):
    """The times of what has them, by field."""

    measured_us: float | None
    predicted_us: float | None
    contended_us: float | None


def times_of(winner: Winner) -> Times:
    """Return a winner's times as `Found` has them: one taken beside other work is not measured."""
    contended = winner.provenance == "contended"
    return Times(
        measured_us=None if contended else winner.measured_us,
        predicted_us=winner.predicted_us,
        contended_us=winner.measured_us if contended else None,
    )


def records(problem: Problem, environment: Environment) -> tuple[ProblemRecord, EnvironmentRecord]:
    """Return both as the database keeps them."""
    return ProblemRecord(problem.key(), problem.columns()), EnvironmentRecord(
        environment.hard(), environment.soft()
    )


def hard_fits(there: EnvironmentRecord, environment: Environment) -> bool:
    """Return whether results from `there` are results here, if it is the same device."""
    return dict(there.hard) == environment.hard()


def same_device(there: EnvironmentRecord, environment: Environment) -> bool:
    """Return whether `there` is the same device: neither a slice of one, nor a board cut down, nor a kin."""
    soft = environment.soft()
    return there.hard.get("arch") == environment.arch and all(
        there.soft.get(name) == soft[name] for name in IDENTITY
    )
