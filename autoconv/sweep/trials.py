"""What becomes of the workers' replies: trials, and where they are kept."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

from autoconv.config import Config
from autoconv.cost.prediction import Prediction
from autoconv.environment import Environment
from autoconv.lookup import records
from autoconv.problem import Problem
from autoconv.sweep.outcomes import Unavailable
from autoconv.sweep.tasks import Reply
from tuning_db import Trial, TuningDB, TuningDBError


class Recorder:
    """Keeps trials in memory and, as long as that works, in the database.

    Attributes:
        baseline: torch's own trial. It is kept back until a candidate has a time too, or none can: where a
            sweep was cut off before, torch has won against nobody, and the next one is to find that out.
    """

    baseline: Trial | None = None

    def __init__(
        self, problem: Problem, environment: Environment, database: TuningDB | None, default: Config
    ) -> None:
        """Record in a run of its own; the config `default` is the one that would serve without a sweep."""
        self.trials: list[Trial] = []
        self._default = default.document()
        self._problem, environment_record = records(problem, environment)
        self._database = database
        self._run_id = ""
        if database is not None:
            try:
                self._run_id = database.start(environment_record, origin="sweep")
            except TuningDBError:
                self._database = None

    def settle(self) -> None:
        """Record the baseline now, if there is one."""
        baseline, self.baseline = self.baseline, None
        if baseline is not None:
            self.add(baseline)

    def add(self, trial: Trial) -> None:
        """Record `trial`, and before the first that has a time, the baseline."""
        if trial.samples_us:
            self.settle()  # first, so that a sweep killed here leaves no candidate that torch was not held to
        if trial.config == self._default:
            trial = replace(trial, detail={**trial.detail, "default": True})
        self.trials.append(trial)
        if self._database is not None:
            try:
                self._database.add(self._run_id, self._problem, trial)
            except TuningDBError:
                self._database = None  # the sweep goes on: its result is still of use to this process


def available(reply: Reply) -> Reply:
    """Return `reply`, or raise Unavailable where the machine is at fault."""
    if "unavailable" in reply:
        raise Unavailable(reply["unavailable"])
    return reply


def checked_trial(config: Config, prediction: Prediction, reply: Reply) -> Trial:
    """Return the trial that the reply to a check makes: "ok", "wrong", "launch", or left over."""
    if reply.get("skipped"):
        return compiled_trial(config, prediction)
    if "error" in reply:
        return failed_trial(config, reply, "launch")
    error = reply["max_rel_err"]  # infinite where nothing was written, which no JSON can hold
    check = {**reply, "max_rel_err": error if math.isfinite(error) else None}
    trial = Trial(
        config.document(),
        "ok",
        _us(prediction),
        max_err=error,
        detail={**_detail(prediction), "check": check},
    )
    if reply["ok"]:
        return trial
    found = f"error {error:.2g}, {reply['unwritten']} unwritten, {reply['overrun']} overrun"
    return replace(trial, outcome="wrong", error=found)


def compiled_trial(config: Config, prediction: Prediction) -> Trial:
    """Return the trial of a candidate that was compiled and left over, which never wins."""
    return Trial(config.document(), "compiled", _us(prediction), detail=_detail(prediction))


def timed_trial(trial: Trial, reply: Reply) -> Trial:
    """Return `trial`, which is "ok", with the times in the reply."""
    if reply.get("skipped"):
        return replace(trial, outcome="compiled")  # right, but without a time it may not win on a GPU
    if "error" in reply:
        return Trial(trial.config, reply.get("outcome", "launch"), error=reply["error"], detail=trial.detail)
    return replace(trial, samples_us=tuple(reply["samples_us"]))


def failed_trial(config: Config, reply: Reply, outcome: str) -> Trial:
    """Return the trial of a candidate that failed, with `outcome` unless the reply names one."""
    return Trial(config.document(), reply.get("outcome", outcome), error=reply["error"])


def _us(prediction: Prediction) -> float:
    return prediction.seconds * 1e6


def _detail(prediction: Prediction) -> dict[str, Any]:
    return {
        "registers": prediction.registers,
        "spills": prediction.spills,
        "shared": prediction.shared,
        "blocks_per_sm": prediction.blocks_per_sm,
        "grid": list(prediction.grid),
        "bound": prediction.bound,
    }
