"""Checks that need not be made again: the interpreter knows no device, so one check does for all of them."""

from __future__ import annotations

from contextlib import suppress

from autoconv.config import Config
from autoconv.errors import ConfigError
from autoconv.kernels.source import source_of
from autoconv.sweep.ledger import Ledger
from autoconv.sweep.verify import Verdict
from tuning_db import EnvironmentRecord, ProblemRecord, Trial


def passed_elsewhere(
    database: Ledger, problem: ProblemRecord, environment: EnvironmentRecord
) -> dict[Config, Verdict]:
    """Return the checks that configs of today's sources passed on this problem, for whatever device.

    They are those made under this Triton, in the interpreter or on a GPU. What failed is checked again.

    Raises:
        TuningDBError: the database cannot be read.
    """
    triton = environment.hard.get("triton")
    others = {run.environment.hash for run in database.runs(problem.key)
              if run.environment.hard.get("triton") == triton}  # fmt: skip
    found = {}
    for trial in (one for other in sorted(others) for one in database.trials(problem.key, other)):
        verdict = _passed(trial)
        if verdict is not None:
            with suppress(ConfigError):
                found[Config.from_document(trial.config)] = verdict
    return found


def _passed(trial: Trial) -> Verdict | None:
    check = trial.detail.get("check")
    if trial.source != source_of(str(trial.config.get("kernel"))) or not isinstance(check, dict):
        return None
    try:
        verdict = Verdict(**check)
    except TypeError:  # of another version
        return None
    return verdict if verdict.ok is True else None
