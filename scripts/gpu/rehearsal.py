"""What takes the GPU's place in a rehearsal: checks that pass, and times that a script makes up.

Nothing made with it is a measurement, and `adopt` refuses it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from autoconv.config import Config
from autoconv.cost.predict import estimate
from autoconv.device import Device
from autoconv.kernels.aten import ATEN
from autoconv.problem import Problem
from autoconv.sweep.pool import WorkerPool
from autoconv.sweep.tasks import Laps, Open, Task, Time, Verify
from autoconv.sweep.verify import Verdict

FREE_BYTES = 1 << 36
SLOWER = 1.25  # a scripted time over the estimate
TORCH_US = 1e3


class Script:
    """Stands in for the worker on the GPU."""

    def __init__(self, device: Device) -> None:
        """Answer for `device`."""
        self._device = device

    def perform(self, tasks: Iterable[Task[Any]], *_: Any, **__: Any) -> Iterator[Any]:
        """Yield what the worker would, had it a GPU."""
        for task in tasks:
            yield self._answer(task)

    def close(self) -> None:
        """End nothing: there is no process."""

    def _answer(self, task: Task[Any]) -> Any:
        if isinstance(task, Open):
            return FREE_BYTES
        if isinstance(task, Verify):
            return Verdict(True, 0.0, unwritten=0, overrun=0, seed=task.seed, problem=str(task.problem))
        if isinstance(task, Time):
            return Laps((tuple(self._us(task.problem, config) for config in task.configs),) * 5)
        raise TypeError(f"no answer to {task}")

    def _us(self, problem: Problem, config: Config) -> float:
        return TORCH_US if config == ATEN else estimate(problem, config, self._device).seconds * 1e6 * SLOWER


class RehearsedPool(WorkerPool):
    """A pool whose compilers are real, and whose GPU is not."""

    def __init__(self, device: Device) -> None:
        """Make one that answers for `device`."""
        super().__init__()
        self.gpu = Script(device)  # type: ignore[assignment]


def torch_us(problem: Problem, *, benchmark: bool) -> float:  # noqa: ARG001 - as the real one is called
    """Return a made-up time of torch's convolution."""
    return TORCH_US
