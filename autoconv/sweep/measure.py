"""The part of a sweep that needs a GPU: torch's own convolution is timed first, then each candidate."""

from __future__ import annotations

import math
import statistics
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
from autoconv.sweep.tasks import Open, Pairs, Samples, Skipped, Task, Time, TimeBeside, Verify, device_name
from autoconv.sweep.trials import checked_trial, compiled_trial, timed_trial
from tuning_db import Trial

Result = TypeVar("Result")

TIMING_SECONDS = 0.5  # for the samples of one candidate


class Bench:
    """Checks and times configs of one problem on one GPU.

    One at a time, in a single worker: two candidates timed at once would time each other. Beside other work
    each is timed in turn with what serves now, in pairs, and told as the ratio of the two times what that
    took when it was timed alone, at the start.
    """

    def __init__(
        self,
        problem: Problem,
        device: Device,
        ordinal: int,
        workers: Workers,
        share: float = 1.0,
        beside: Config | None = None,
    ) -> None:
        """Use the `device` at CUDA ordinal `ordinal`, as this process counts, by way of `workers`.

        `share` is how much of the memory that is free on it may be taken. `beside` is what serves now, where
        other work goes on on the device.
        """
        self._problem = problem
        self._device = device
        self._ordinal = ordinal
        self._workers = workers
        self._share = share
        self._beside = beside
        self._free_bytes = 0
        self._beside_us: float | None = None

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
        where = device_name(self._ordinal)
        if self._beside is None:
            return self._perform(Time(self._problem, config, where, TIMING_SECONDS), deadline)
        usual_us = self._usual_us(self._beside)
        task = TimeBeside(self._problem, config, self._beside, where, TIMING_SECONDS)
        pairs = self._perform(task, deadline)
        return in_proportion(pairs, usual_us) if isinstance(pairs, Pairs) else pairs

    def _usual_us(self, beside: Config) -> float:
        """Return what a call of what serves now takes, timed once for the whole sweep.

        Raises:
            Unavailable: it cannot be timed, so there is nothing to compare with.
        """
        if self._beside_us is None:
            task = Time(self._problem, beside, device_name(self._ordinal), TIMING_SECONDS)
            timed = self._perform(task, math.inf)
            if not isinstance(timed, Samples):
                raise Unavailable(f"{beside}, which serves now, cannot be timed: {timed.reason}")
            self._beside_us = statistics.median(timed.us)
        return self._beside_us

    def _perform(self, task: Task[Result], deadline: float) -> Result | Failed | Skipped:
        (answer,) = self._workers.perform([task], deadline)
        return answer

    def _lacking(self, config: Config) -> str | None:
        needed = needed_bytes(self._problem, config, self._device)
        return shortage(needed, self._free_bytes, self._share)


def in_proportion(pairs: Pairs, usual_us: float) -> Samples:
    """Return the config's samples as if the other's had each taken `usual_us`, microseconds."""
    return Samples(tuple(own * usual_us / other for own, other in pairs.us))
