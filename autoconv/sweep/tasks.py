"""What a parent and its worker processes say to each other: tasks one way, results or outcomes the other.

A task is a small frozen dataclass that knows how it is done; `worker` does it. Its answer is its result, or
the `Outcome` that says why there is none.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Protocol, TypeVar

from autoconv.config import Config
from autoconv.device import Device
from autoconv.kernels.registry import kernel as kernel_called
from autoconv.problem import Problem
from autoconv.sweep.outcomes import Failed, Outcome
from autoconv.sweep.reduced import reduced

if TYPE_CHECKING:
    from autoconv.compiler.resources import Resources
    from autoconv.sweep.verify import Verdict

INTERPRETED_STEPS = 200  # main-loop steps that the interpreter does in a second or two
GPU_ELEMENTS = 1 << 26  # of x and y together, whose float64 reference a GPU computes in a moment

Result = TypeVar("Result", covariant=True)


class Task(Protocol[Result]):
    """Something for a worker process to do; pickled, so its class must be importable there."""

    needs: ClassVar[str]  # module to import first: torch alone takes seconds, which are not the task's
    failure: ClassVar[str]  # outcome of the trial where `perform` fails

    def perform(self) -> Result:
        """Do it, in the worker."""


@dataclass(frozen=True)
class Compile:
    """Cross-compile `config` for `device`, and keep its resources in the folder `cache`."""

    problem: Problem
    config: Config
    device: Device
    cache: Path

    needs: ClassVar[str] = "autoconv.compiler.candidate"
    failure: ClassVar[str] = "compile"

    def perform(self) -> Resources:
        """Compile; the cubin is left in Triton's cache."""
        from autoconv.compiler.candidate import compile_candidate

        return compile_candidate(self.problem, self.config, self.device, self.cache)


@dataclass(frozen=True)
class Verify:
    """Check the output of `config` on fresh inputs; `fresh` makes one."""

    problem: Problem
    config: Config
    where: str  # cpu, in the interpreter, or cuda
    seed: int  # of the random draws

    needs: ClassVar[str] = "autoconv.sweep.verify"
    failure: ClassVar[str] = "launch"

    @classmethod
    def fresh(cls, problem: Problem, config: Config, *, on_gpu: bool) -> Verify:
        """Return a check with a seed of its own; a large problem is reduced first."""
        small = problem if _is_small(problem, config, on_gpu=on_gpu) else reduced(problem, config)
        return cls(small, config, "cuda" if on_gpu else "cpu", secrets.randbits(31))

    def perform(self) -> Verdict:
        """Run the kernel and compare with float64."""
        from autoconv.sweep.verify import verify

        return verify(self.problem, self.config, where=self.where, seed=self.seed)


@dataclass(frozen=True)
class Samples:
    """Times of single launches, in microseconds."""

    us: tuple[float, ...]


@dataclass(frozen=True)
class Time:
    """Time `config` on the GPU for about `seconds`."""

    problem: Problem
    config: Config
    seconds: float

    needs: ClassVar[str] = "autoconv.sweep.timing"
    failure: ClassVar[str] = "launch"

    def perform(self) -> Samples:
        """Launch it again and again."""
        from autoconv.sweep.timing import time_candidate

        return Samples(tuple(time_candidate(self.problem, self.config, seconds=self.seconds)))


class Ready:
    """What a worker says before its answer: it has what the task needs and begins, so the time counts."""


class Crashed(Failed):
    """The candidate killed its process."""


class TimedOut(Failed):
    """The candidate was not done within its time, and was ended."""


class Skipped(Outcome):
    """The sweep's deadline came first; no fault of the candidate's."""


def _is_small(problem: Problem, config: Config, *, on_gpu: bool) -> bool:
    if on_gpu:
        return problem.ideal_bytes // problem.dtype_bytes <= GPU_ELEMENTS
    work = kernel_called(config.kernel).work(problem, config)
    return work.blocks * work.steps <= INTERPRETED_STEPS
