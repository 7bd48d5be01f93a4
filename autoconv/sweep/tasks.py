"""What a parent and its worker processes say to each other: tasks one way, results or outcomes the other.

A task is a small frozen dataclass that knows how it is done; `worker` does it. Its answer is its result, or
the `Outcome` that says why there is none.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Protocol, TypeVar

from autoconv.config import Config
from autoconv.device import Device
from autoconv.problem import Problem
from autoconv.sweep.outcomes import Failed, Outcome
from autoconv.sweep.reduced import fits_gpu, fits_interpreter, reduced

if TYPE_CHECKING:
    from autoconv.compiler.resources import Resources
    from autoconv.compiler.specialisation import Form
    from autoconv.sweep.verify import Verdict

Result = TypeVar("Result", covariant=True)
Value = TypeVar("Value")


class Task(Protocol[Result]):
    """Something for a worker process to do; pickled, so its class must be importable there."""

    @property
    def needs(self) -> str:
        """The module to import first: torch alone takes seconds, which are not the task's."""

    def perform(self) -> Result:
        """Do it, in the worker."""


@dataclass(frozen=True)
class Load:
    """Import what tasks of another kind need; a clock need not run for that."""

    needs: str

    def perform(self) -> bool:
        """Do nothing: what was needed is there."""
        return True


@dataclass(frozen=True)
class Apply(Generic[Value]):
    """Call a function of some module with these arguments: one that would hold up its caller's process."""

    function: Callable[..., Value]
    arguments: tuple[Any, ...]

    @property
    def needs(self) -> str:
        """The function's module."""
        return self.function.__module__

    def perform(self) -> Value:
        """Call it."""
        return self.function(*self.arguments)


@dataclass(frozen=True)
class Open:
    """Make the worker's context on the GPU at `ordinal`, which is to be the device of that name."""

    ordinal: int  # as the parent counts, whose CUDA_VISIBLE_DEVICES the worker inherits
    device: str

    needs: ClassVar[str] = "autoconv.sweep.preflight"

    def perform(self) -> int:
        """Return the bytes free on it; all that its further tasks import is there then."""
        from autoconv.sweep import timing, verify  # noqa: F401 - imported now, while no clock runs
        from autoconv.sweep.preflight import open_device

        return open_device(self.ordinal, self.device)


@dataclass(frozen=True)
class Compile:
    """Cross-compile `config` for `device`, and keep its resources in the folder `cache`."""

    problem: Problem
    config: Config
    device: Device
    cache: Path

    needs: ClassVar[str] = "autoconv.compiler.candidate"

    def perform(self) -> Resources:
        """Compile; the cubin is left in Triton's cache."""
        from autoconv.compiler.candidate import compile_candidate

        return compile_candidate(self.problem, self.config, self.device, self.cache)


@dataclass(frozen=True)
class Specialise:
    """Cross-compile every launch of calls of one form with `config`, for this process's parent to load."""

    problem: Problem
    config: Config
    device: Device
    cache: Path
    form: Form

    needs: ClassVar[str] = "autoconv.compiler.specialisation"

    def perform(self) -> bool:
        """Compile; the cubins are left in Triton's cache."""
        from autoconv.compiler.specialisation import compile_form

        compile_form(self.problem, self.config, self.device, self.cache, self.form)
        return True


@dataclass(frozen=True)
class Verify:
    """Check the output of `config` on fresh inputs; `fresh` makes one."""

    problem: Problem
    config: Config
    where: str  # cpu, in the interpreter, or cuda:0, cuda:1 and so on
    seed: int  # of the random draws

    needs: ClassVar[str] = "autoconv.sweep.verify"

    @classmethod
    def fresh(cls, problem: Problem, config: Config, *, on_gpu: bool, ordinal: int = 0) -> Verify:
        """Return a check with a seed of its own; a large problem is reduced first."""
        fits = fits_gpu(problem) if on_gpu else fits_interpreter(problem, config)
        small = problem if fits else reduced(problem, config)
        return cls(small, config, device_name(ordinal) if on_gpu else "cpu", secrets.randbits(31))

    def perform(self) -> Verdict:
        """Run the kernel and compare with float64."""
        from autoconv.gpu import using
        from autoconv.sweep.verify import verify

        with using(self.where):
            return verify(self.problem, self.config, where=self.where, seed=self.seed)


@dataclass(frozen=True)
class Laps:
    """Times of single launches, in microseconds: laps in which every config was launched once."""

    us: tuple[tuple[float, ...], ...]


@dataclass(frozen=True)
class Time:
    """Time `configs` on a GPU in turn, for about `seconds` together."""

    problem: Problem
    configs: tuple[Config, ...]
    where: str  # cuda:0, cuda:1 and so on
    seconds: float
    graph: bool = False  # whether replays of a captured graph are timed

    needs: ClassVar[str] = "autoconv.sweep.timing"

    def perform(self) -> Laps:
        """Launch them again and again."""
        from autoconv.gpu import using
        from autoconv.sweep.timing import time_in_turn

        with using(self.where):
            laps = time_in_turn(
                self.problem, self.configs, where=self.where, seconds=self.seconds, graph=self.graph
            )
        return Laps(tuple(map(tuple, laps)))


class Ready:
    """What a worker says before its answer: it has what the task needs and begins, so the time counts."""


class Crashed(Failed):
    """The candidate killed its process."""


class TimedOut(Failed):
    """The candidate was not done within its time, and was ended."""


class Skipped(Outcome):
    """The sweep's deadline came first; no fault of the candidate's."""


def device_name(ordinal: int) -> str:
    """Return what torch calls the CUDA device at `ordinal`."""
    return f"cuda:{ordinal}"
