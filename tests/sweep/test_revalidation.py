"""After an upgrade: what was best before is tried first, and where it holds nothing else is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest

from autoconv.config import Config
from autoconv.kernels.aten import ATEN
from autoconv.problem import Problem
from autoconv.settings import Settings
from autoconv.sweep.pool import WorkerPool
from autoconv.sweep.revalidation import FEW, SLOWER, Before
from autoconv.sweep.sweep import Job
from autoconv.tuning.tuner import Tuned, Tuner
from tests.sweep.test_priors import InstantPool
from tuning_db import Trial


@pytest.fixture(params=[False, True], ids=["predicted", "measured"])
def before(request: pytest.FixtureRequest, job: Job) -> Job:
    """The job as it was under the last toolchain."""
    older = replace(job.environment, triton="3.5", triton_patch="3.5.9", cuda_driver="500.1")
    return replace(job, on_gpu=request.param, environment=older)


@pytest.fixture
def settings(settings_for: Callable[[Path], Settings], tmp_path: Path) -> Settings:
    return settings_for(tmp_path / "tuning.db")


def tune(settings: Settings, problem: Problem, job: Job, pool: InstantPool, **how: Any) -> Tuned:
    return Tuner(settings).tune(problem, job, pool=cast(WorkerPool, pool), **how)


def after(before: Job, job: Job) -> Job:
    return replace(before, environment=job.environment)


def test_what_holds_ends_it(small: Problem, job: Job, before: Job, settings: Settings) -> None:
    old = tune(settings, small, before, InstantPool())
    pool = InstantPool()
    tuned = tune(settings, small, after(before, job), pool, revalidate=True)
    assert old.found is not None and tuned.found is not None and tuned.swept is not None
    assert tuned.swept.held and tuned.found.grade == "exact" and tuned.found.config == old.found.config
    assert 1 <= len(set(pool.compilers.configs)) <= FEW
    assert tune(settings, small, after(before, job), InstantPool()).swept is None, "it counts as a sweep"
    assert tune(settings, small, after(before, job), InstantPool(), revalidate=True).swept is None


def test_what_became_slower_leads_to_a_sweep(
    small: Problem, job: Job, before: Job, settings: Settings
) -> None:
    old = tune(settings, small, replace(before, on_gpu=True), InstantPool())
    assert old.found is not None
    pool = InstantPool()
    pool.gpu.fastest = "none"  # all take 6 us, no longer 5
    tuned = tune(settings, small, replace(job, on_gpu=True), pool, revalidate=True)
    assert tuned.swept is not None and not tuned.swept.held
    assert len(set(pool.compilers.configs)) > FEW
    assert len(pool.compilers.configs) == len(set(pool.compilers.configs)), "nothing is tried twice"


def test_with_nothing_before_it_is_a_sweep(small: Problem, job: Job, settings: Settings) -> None:
    pool = InstantPool()
    tuned = tune(settings, small, job, pool, revalidate=True)
    assert tuned.swept is not None and not tuned.swept.held and len(pool.compilers.configs) > FEW


FIRST, SECOND = (Config("dense", {"BLOCK_CO": size}, num_warps=4, num_stages=2) for size in (64, 128))


@pytest.mark.parametrize(
    ("first_us", "second_us", "holds"),
    [
        (100.0, 120.0, True),
        (100.0 * (1 + SLOWER), 120.0, True),
        (100.0 * (1 + SLOWER) + 0.1, 120.0, False),  # slower than it was
        (100.0, 98.5, True),  # as good, within the tolerance
        (100.0, 97.0, False),  # beaten
        (50.0, 60.0, True),  # all became faster
    ],
)
def test_the_first_holds_where_it_is_as_good_as_any_and_as_fast_as_it_was(
    first_us: float, second_us: float, holds: bool
) -> None:
    before = Before((FIRST, SECOND), measured_us=100.0)
    trials = [
        Trial(config.document(), "ok", samples_us=(us,))
        for config, us in ((FIRST, first_us), (SECOND, second_us))
    ]
    assert before.holds(trials) is holds
    assert not before.holds([replace(trials[0], outcome="wrong"), trials[1]])
    assert not Before().holds(trials)


def test_torch_s_own_holds_as_any_other() -> None:
    before = Before((ATEN, FIRST), measured_us=10.0)
    ours = Trial(FIRST.document(), "ok", samples_us=(12.0,))
    assert before.ours == [FIRST]
    assert before.holds([Trial(ATEN.document(), "ok", samples_us=(10.1,)), ours])
    assert not before.holds([ours])
