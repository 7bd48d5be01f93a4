"""What becomes of the workers' answers: trials."""

from __future__ import annotations

import math
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

from autoconv.config import Config
from autoconv.cost.prediction import Prediction
from autoconv.sweep.outcomes import Failed
from autoconv.sweep.racing import Timing
from autoconv.sweep.tasks import Crashed, Laps, Skipped, TimedOut
from tuning_db import Trial

if TYPE_CHECKING:
    from autoconv.sweep.verify import Verdict


def checked_trial(config: Config, prediction: Prediction, verdict: Verdict | Failed | Skipped) -> Trial:
    """Return the trial that the answer to a check makes: "ok", "wrong", a failure, or left over."""
    if isinstance(verdict, Skipped):
        return compiled_trial(config, prediction)
    if isinstance(verdict, Failed):
        return failed_trial(config, verdict, "launch")
    error = verdict.max_rel_err  # infinite where nothing was written, which no JSON can hold
    check = {**asdict(verdict), "max_rel_err": error if math.isfinite(error) else None}
    trial = Trial(
        config.document(),
        "ok",
        prediction.seconds * 1e6,
        max_err=error,
        detail={**_detail(prediction), "check": check},
    )
    if verdict.ok:
        return trial
    found = f"error {error:.2g}, {verdict.unwritten} unwritten, {verdict.overrun} overrun"
    return replace(trial, outcome="wrong", error=found)


def compiled_trial(config: Config, prediction: Prediction) -> Trial:
    """Return the trial of a candidate that was compiled and left over, which never wins."""
    return Trial(config.document(), "compiled", prediction.seconds * 1e6, detail=_detail(prediction))


def timed_trial(trial: Trial, timed: Laps | Failed | Skipped) -> Trial:
    """Return `trial`, which is "ok", with the times that were taken of it alone."""
    if isinstance(timed, Skipped):
        return replace(trial, outcome="compiled")  # right, but without a time it may not win on a GPU
    if isinstance(timed, Failed):
        return Trial(trial.config, _outcome(timed, "launch"), error=timed.reason, detail=trial.detail)
    return replace(trial, samples_us=tuple(us for (us,) in timed.us), measured_us=None)


def raced_trial(trial: Trial, timing: Timing, race: str, *, graph: bool) -> Trial:
    """Return `trial` with the times that were taken of it in turn with others, in the race of that name."""
    detail = {**trial.detail, **timing.detail(), "race": race, "graph": graph}
    return replace(trial, samples_us=timing.samples_us, measured_us=None, detail=detail)


def failed_trial(config: Config, failed: Failed, otherwise: str) -> Trial:
    """Return the trial of a candidate that failed: its process died, hung, or lived to say what is wrong."""
    return Trial(config.document(), _outcome(failed, otherwise), error=failed.reason)


def _outcome(failed: Failed, otherwise: str) -> str:
    return {Crashed: "crash", TimedOut: "timeout"}.get(type(failed), otherwise)


def _detail(prediction: Prediction) -> dict[str, Any]:
    return {
        "registers": prediction.registers,
        "spills": prediction.spills,
        "shared": prediction.shared,
        "blocks_per_sm": prediction.blocks_per_sm,
        "grid": list(prediction.grid),
        "bound": prediction.bound,
    }
