"""The part of a sweep that needs a GPU: torch's own convolution is timed first, then each candidate."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TypeVar

from autoconv.config import Config
from autoconv.cost.prediction import Prediction
from autoconv.device import Device
from autoconv.kernels.aten import ATEN
from autoconv.problem import Problem
from autoconv.sweep.outcomes import Failed, Unavailable
from autoconv.sweep.pool import Workers
from autoconv.sweep.preflight import needed_bytes, shortage
from autoconv.sweep.recorder import Recorder
from autoconv.sweep.tasks import Open, Samples, Skipped, Task, Time, Verify, device_name
from autoconv.sweep.trials import checked_trial, compiled_trial, timed_trial
from tuning_db import Trial

Result = TypeVar("Result")

TIMING_SECONDS = 0.5  # for the samples of one candidate


class Bench:
    """Checks and times configs of one problem on one GPU.

    One at a time, in a single worker: two candidates timed at once would time each other.
    """

    def __init__(
        self, problem: Problem, device: Device, ordinal: int, workers: Workers, share: float = 1.0
    ) -> None:
        """Use the `device` at CUDA ordinal `ordinal`, as this process counts, by way of `workers`.

        `share` is how much of the memory that is free on it may be taken.
        """
        self._problem = problem
        self._device = device
        self._ordinal = ordinal
        self._workers = workers
        self._share = share
        self._free_bytes = 0

    def open(self) -> None:
        """Have the worker started, with its context on the device and all that its tasks import.

        Raises:
            Unavailable: the device cannot be used, or lacks the memory for this problem.
        """
        free = self._perform(Open(self._ordinal, self._device.name), math.inf)
        if isinstance(free, (Failed, Skipped)):
            raise Unavailable(f"{device_name(self._ordinal)} cannot be used: {free.reason}")
        self._free_bytes = int(free * self._share)
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

        The first is done whatever the deadline, so that no sweep ends without having tried anything.

        Raises:
            Unavailable: the device or its memory is not to be had any more.
        """
        for done, (config, prediction) in enumerate(compiled):
            progress("measure", done, len(compiled))
            recorder.add(self._trial(config, prediction, deadline if done else math.inf))
        progress("measure", len(compiled), len(compiled))

    def _trial(self, config: Config, prediction: Prediction, deadline: float) -> Trial:
        if self._lacking(config) is not None:  # its scratch memory: no fault, and no reason to stop either
            return compiled_trial(config, prediction)
        task = Verify.fresh(self._problem, config, on_gpu=True, ordinal=self._ordinal)
        trial = checked_trial(config, prediction, self._perform(task, deadline))
        return timed_trial(trial, self._time(config, deadline)) if trial.outcome == "ok" else trial

    def _time(self, config: Config, deadline: float) -> Samples | Failed | Skipped:
        task = Time(self._problem, config, device_name(self._ordinal), TIMING_SECONDS)
        return self._perform(task, deadline)

    def _perform(self, task: Task[Result], deadline: float) -> Result | Failed | Skipped:
        (answer,) = self._workers.perform([task], deadline)
        return answer

    def _lacking(self, config: Config) -> str | None:
        needed = needed_bytes(self._problem, config, self._device)
        return shortage(needed, self._free_bytes, self._share)
