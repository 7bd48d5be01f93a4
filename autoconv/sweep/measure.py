"""The part of a sweep that needs a GPU: torch's own convolution is timed first, then each candidate."""

from __future__ import annotations

import math
from collections.abc import Callable

from autoconv.config import Config
from autoconv.cost.prediction import Prediction
from autoconv.device import Device
from autoconv.kernels.aten import ATEN
from autoconv.problem import Problem
from autoconv.sweep.outcomes import Unavailable
from autoconv.sweep.pool import Pool
from autoconv.sweep.preflight import needed_bytes, shortage
from autoconv.sweep.tasks import Reply, Task, open_task, time_task, verify_task
from autoconv.sweep.trials import Recorder, available, checked_trial, compiled_trial, timed_trial
from tuning_db import Trial

TIMING_SECONDS = 0.5  # for the samples of one candidate


class Bench:
    """Checks and times configs of one problem on one GPU.

    One at a time, in the pool's single worker: two candidates timed at once would time each other.
    """

    def __init__(self, problem: Problem, device: Device, ordinal: int, pool: Pool) -> None:
        """Use the `device` at CUDA ordinal `ordinal`, as this process counts, by way of `pool`."""
        self._problem = problem
        self._device = device
        self._ordinal = ordinal
        self._pool = pool
        self._free_bytes = 0

    def open(self) -> None:
        """Have the worker started, with its context on the device and all that its tasks import.

        Raises:
            Unavailable: the device cannot be used, or lacks the memory for this problem.
        """
        reply = self._perform(open_task(self._device, ordinal=self._ordinal), math.inf)
        if "error" in reply:
            raise Unavailable(f"cuda:{self._ordinal} cannot be used: {reply['error']}")
        self._free_bytes = reply["free_bytes"]
        lacking = self._lacking(ATEN)
        if lacking is not None:
            raise Unavailable(lacking)

    def time_torch(self) -> Trial:
        """Time torch's own convolution, whatever the deadline, so that every sweep has its time.

        Its result needs no check: a problem that torch wins is left to torch altogether.

        Raises:
            Unavailable: the device or its memory is not to be had any more.
        """
        return timed_trial(Trial(ATEN.document(), "ok"), self._time(ATEN, math.inf))

    def measure(
        self,
        compiled: list[tuple[Config, Prediction]],
        recorder: Recorder,
        deadline: float,
        progress: Callable[[str, int, int], None],
    ) -> None:
        """Check and time the candidates in the order given; those the deadline leaves over are never winners.

        Raises:
            Unavailable: the device or its memory is not to be had any more.
        """
        for done, (config, prediction) in enumerate(compiled):
            progress("measure", done, len(compiled))
            recorder.add(self._trial(config, prediction, deadline))
        progress("measure", len(compiled), len(compiled))

    def _trial(self, config: Config, prediction: Prediction, deadline: float) -> Trial:
        if (
            self._lacking(config) is not None
        ):  # its scratch memory: not its fault, but no reason to stop either
            return compiled_trial(config, prediction)
        task = verify_task(self._problem, config, on_gpu=True, ordinal=self._ordinal)
        trial = checked_trial(config, prediction, self._perform(task, deadline))
        return timed_trial(trial, self._time(config, deadline)) if trial.outcome == "ok" else trial

    def _time(self, config: Config, deadline: float) -> Reply:
        task = time_task(self._problem, config, TIMING_SECONDS, ordinal=self._ordinal)
        return self._perform(task, deadline)

    def _perform(self, task: Task, deadline: float) -> Reply:
        (reply,) = self._pool.perform([task], deadline)
        return available(reply)

    def _lacking(self, config: Config) -> str | None:
        return shortage(needed_bytes(self._problem, config, self._device), self._free_bytes)
