"""The part of a sweep that needs a GPU: torch's own convolution is timed first, then each candidate.

Each is timed alone first, for a moment: what fails does so by itself, and what is far off is done with. The
others, and torch, are timed in turn, the slower half of them dropped after each round.
"""

from __future__ import annotations

import math
import secrets
import statistics
import time
from collections.abc import Callable, Sequence
from typing import TypeVar

from autoconv.config import Config
from autoconv.cost.prediction import Prediction
from autoconv.device import Device
from autoconv.kernels.aten import ATEN
from autoconv.problem import Problem
from autoconv.sweep.outcomes import Failed, Unavailable
from autoconv.sweep.pool import Workers
from autoconv.sweep.preflight import needed_bytes, shortage
from autoconv.sweep.racing import race
from autoconv.sweep.recorder import Recorder
from autoconv.sweep.tasks import Laps, Open, Skipped, Task, Time, Verify, device_name
from autoconv.sweep.trials import checked_trial, compiled_trial, raced_trial, timed_trial
from tuning_db import Trial

Result = TypeVar("Result")

HEAT_SECONDS = 0.1  # for the samples of one candidate alone
BESIDE_SECONDS = 0.5  # for those of one candidate and of what serves, in turn, beside other work
ROUND_SECONDS = 0.1  # of a round, for each candidate that enters the race: a round of the few is as long
REST = 3.0  # times as long as a task beside other work took, it rests: the device is that work's, mostly
LONGEST_REST_SECONDS = 5.0
FAR = 1.5  # times the fastest so far: beyond that no drift explains it, and the candidate stays out
SHORT_US = 10.0  # then launches are timed in a graph: an event tells 0.5 us, a gap between two is 1 or 2


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
        return self._alone(Trial(ATEN.document(), "ok"), ATEN, math.inf)

    def measure(
        self,
        compiled: list[tuple[Config, Prediction]],
        recorder: Recorder,
        deadline: float,
        progress: Callable[[str, int, int], None],
    ) -> None:
        """Check and time the candidates in the order given; those the deadline leaves over are never winners.

        The first is done whatever the deadline, so that no sweep ends without having tried anything. What was
        timed is recorded whatever ends it, a kill apart.

        Raises:
            Unavailable: the device or its memory is not to be had any more.
        """
        timed: dict[Config, Trial] = {}
        racing = self._beside is None  # else each is held to what serves, and its time stays as it is
        if racing and recorder.baseline is not None and recorder.baseline.samples_us:
            timed[ATEN] = recorder.baseline
        try:
            for done, (config, prediction) in enumerate(compiled):
                progress("measure", done, len(compiled))
                trial = self._trial(config, prediction, deadline if done else math.inf)
                if racing and trial.samples_us:
                    timed[config] = trial
                else:
                    recorder.add(trial)
            self._race(timed, deadline)
            progress("measure", len(compiled), len(compiled))
        finally:
            recorder.baseline = timed.pop(ATEN, recorder.baseline)
            for trial in timed.values():
                recorder.add(trial)

    def _trial(self, config: Config, prediction: Prediction, deadline: float) -> Trial:
        if self._lacking(config) is not None:  # its scratch memory: no fault, and no reason to stop either
            return compiled_trial(config, prediction)
        task = Verify.fresh(self._problem, config, on_gpu=True, ordinal=self._ordinal)
        trial = checked_trial(config, prediction, self._perform(task, deadline))
        return self._alone(trial, config, deadline) if trial.outcome == "ok" else trial

    def _alone(self, trial: Trial, config: Config, deadline: float) -> Trial:
        if self._beside is not None:
            return timed_trial(trial, self._beside_other_work(config, self._beside, deadline))
        return timed_trial(trial, self._time([config], HEAT_SECONDS, deadline))

    def _beside_other_work(self, config: Config, serving: Config, deadline: float) -> Laps | Failed | Skipped:
        usual_us = self._usual_us(serving)
        pairs = self._time([config, serving], BESIDE_SECONDS, deadline)
        return in_proportion(pairs, usual_us) if isinstance(pairs, Laps) else pairs

    def _usual_us(self, serving: Config) -> float:
        """Return what a call of what serves now takes, timed once for the whole sweep.

        Raises:
            Unavailable: it cannot be timed, so there is nothing to compare with.
        """
        if self._beside_us is None:
            timed = self._time([serving], BESIDE_SECONDS, math.inf)
            if not isinstance(timed, Laps):
                raise Unavailable(f"{serving}, which serves now, cannot be timed: {timed.reason}")
            self._beside_us = statistics.median(us for (us,) in timed.us)
        return self._beside_us

    def _race(self, trials: dict[Config, Trial], deadline: float) -> None:
        """Time in turn those that are not far off, and put what came of it into `trials`."""
        fastest = min(map(_us, trials.values()), default=0.0)
        near = [config for config, trial in trials.items() if _us(trial) <= FAR * fastest]
        if len(near) < 2:
            return
        graph, seconds = fastest < SHORT_US, ROUND_SECONDS * len(near)

        def in_turn(running: Sequence[Config]) -> list[dict[Config, float]]:
            laps = self._time(running, seconds, deadline, graph=graph)
            if isinstance(laps, Failed):  # each passed alone, and now one of them has ended the worker
                left = self._sifted(running, trials, deadline)
                return in_turn(left) if len(left) < len(running) else []
            return (
                [] if isinstance(laps, Skipped) else [dict(zip(running, us, strict=True)) for us in laps.us]
            )

        name = secrets.token_hex(4)
        for config, timing in race(near, in_turn).items():
            if trials[config].outcome == "ok":
                trials[config] = raced_trial(trials[config], timing, name, graph=graph)

    def _sifted(
        self, running: Sequence[Config], trials: dict[Config, Trial], deadline: float
    ) -> list[Config]:
        """Time each alone once more: who fails then is out, and its trial says so. Return the others."""
        for config in running:
            again = self._alone(trials[config], config, deadline)
            if again.outcome not in ("ok", "compiled"):
                trials[config] = again
        return [config for config in running if trials[config].outcome == "ok"]

    def _time(
        self, configs: Sequence[Config], seconds: float, deadline: float, *, graph: bool = False
    ) -> Laps | Failed | Skipped:
        task = Time(self._problem, tuple(configs), device_name(self._ordinal), seconds, graph)
        return self._perform(task, deadline)

    def _perform(self, task: Task[Result], deadline: float) -> Result | Failed | Skipped:
        begun = time.monotonic()
        (answer,) = self._workers.perform([task], deadline)
        if self._beside is not None and not isinstance(task, Open):
            time.sleep(min(REST * (time.monotonic() - begun), LONGEST_REST_SECONDS))
        return answer

    def _lacking(self, config: Config) -> str | None:
        needed = needed_bytes(self._problem, config, self._device)
        return shortage(needed, self._free_bytes, self._share)


def in_proportion(pairs: Laps, usual_us: float) -> Laps:
    """Return the first config's samples as if the second's had each taken `usual_us`, microseconds."""
    return Laps(tuple((own * usual_us / other,) for own, other in pairs.us))


def _us(trial: Trial) -> float:
    return math.inf if trial.measured_us is None else trial.measured_us
