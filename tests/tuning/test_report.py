"""The rows of the table that `autoconv.tune` returns: each time with where it comes from."""

from __future__ import annotations

import pytest

from autoconv.kernels.aten import ATEN
from autoconv.problem import Problem
from autoconv.sweep.candidates import best_guess
from autoconv.targets import target
from autoconv.tuning.asked import Asked
from autoconv.tuning.report import Section, row
from tuning_db import Trial

BESIDE = {"contended": True}


def test_a_time_taken_beside_other_work_is_shown_as_that() -> None:
    problem, at = Problem(2, 8, 16, 3, 40), target("l4", print)
    config, _ = best_guess(problem, at.device)
    ours = Trial(config.document(), "ok", 5.0, (4.0, 4.0, 4.0), max_err=1e-7, detail=BESIDE)
    torchs = Trial(ATEN.document(), "ok", None, (9.0, 9.0, 9.0), detail=BESIDE)
    for trial in (ours, torchs):
        at.tuner.record(problem, at.environment, trial, origin="test")
    shown = row(Asked(problem), at.tuner, at.job())
    assert (shown.kernel, shown.provenance, shown.seconds) == (
        config.kernel,
        "contended",
        pytest.approx(4e-6),
    )
    assert shown.torch_seconds is None
    assert "contended" in str(Section("l4", (shown,))).splitlines()[-1]


def test_so_is_torch_s_own_where_it_won() -> None:
    problem, at = Problem(2, 8, 16, 3, 40), target("l4", print)
    torchs = Trial(ATEN.document(), "ok", None, (3.0, 3.0, 3.0), detail=BESIDE)
    at.tuner.record(problem, at.environment, torchs, origin="test")
    shown = row(Asked(problem), at.tuner, at.job())
    assert (shown.kernel, shown.provenance, shown.seconds) == ("torch", "contended", pytest.approx(3e-6))
