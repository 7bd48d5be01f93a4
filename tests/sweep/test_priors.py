"""What was best under another Triton, or other kernel sources, is no answer, but the first to be tried."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest

from autoconv.compiler.resources import Resources
from autoconv.config import Config
from autoconv.cost.predict import estimate_seconds
from autoconv.kernels.aten import ATEN
from autoconv.kernels.source import source_of
from autoconv.lookup import open_user, records
from autoconv.problem import Problem
from autoconv.settings import Settings
from autoconv.sweep.candidates import best_guess, candidates
from autoconv.sweep.pool import WorkerPool
from autoconv.sweep.sweep import Job
from autoconv.sweep.tasks import Compile, Laps, Load, Open, Task, Time, Verify
from autoconv.sweep.verify import Verdict
from autoconv.tuning.tuner import Tuner
from tuning_db import Trial


class Workers:
    """Does every task at once, all of them alike, and notes which candidates' they were."""

    def __init__(self) -> None:
        self.configs: list[Config] = []
        self.fastest = ""  # the kernel whose configs are; all are where it is none

    def perform(self, tasks: Iterable[Task[Any]], *_: Any, **__: Any) -> list[Any]:
        return [self._done(task) for task in tasks]

    def _done(self, task: Task[Any]) -> Any:
        if isinstance(task, (Load, Open)):
            return 1 << 40  # bytes free
        assert isinstance(task, (Compile, Verify, Time))
        if isinstance(task, Time):
            self.configs += task.configs if len(task.configs) == 1 and ATEN not in task.configs else ()
            return Laps((tuple(map(self._us, task.configs)),) * 3)
        self.configs.append(task.config)
        if isinstance(task, Compile):
            return Resources(registers=64, spills=0, shared=1024)
        return Verdict(True, 0.0, unwritten=0, overrun=0, seed=task.seed, problem=str(task.problem))

    def _us(self, config: Config) -> float:
        if config == ATEN:
            return 9.0
        return 5.0 if self.fastest in ("", config.kernel) else 6.0


class InstantPool:
    def __init__(self) -> None:
        self.compilers, self.interpreters, self.gpu = Workers(), Workers(), Workers()


@pytest.fixture
def unlikely(small: Problem, job: Job) -> Config:
    """The config that no sweep would try of itself."""
    configs = candidates(small, job.device)
    seconds = estimate_seconds(small, configs, job.device)
    return configs[int(seconds.argmax())]


@pytest.mark.parametrize("on_gpu", [False, True])
@pytest.mark.parametrize("older", ["triton", "source"])
def test_the_next_sweep_tries_the_old_winner_first(
    older: str,
    on_gpu: bool,
    unlikely: Config,
    small: Problem,
    job: Job,
    settings_for: Callable[[Path], Settings],
    tmp_path: Path,
) -> None:
    settings = settings_for(tmp_path / "tuning.db")
    there = replace(job.environment, triton="3.1") if older == "triton" else job.environment
    problem, old = records(small, there)
    source = "f" * 16 if older == "source" else source_of(unlikely.kernel) or ""
    with open_user(settings) as database:
        trial = Trial(unlikely.document(), "ok", measured_us=1.0, source=source)
        database.record(old, problem, [trial], origin="an older version")
    tuner, pool = Tuner(settings), InstantPool()
    serving = tuner.find(small, job.environment)
    assert serving is not None and serving.grade == "carried", "until it is tuned"

    tuned = tuner.tune(small, replace(job, on_gpu=on_gpu), pool=cast(WorkerPool, pool))
    assert tuned.swept is not None and tuned.found is not None
    assert pool.compilers.configs[0] == unlikely
    assert not on_gpu or pool.gpu.configs[0] == unlikely
    assert unlikely.document() in [dict(trial.config) for trial in tuned.swept.trials]
    with open_user(settings) as database:  # nothing is wiped
        kept = [(winner.environment, winner.source) for winner in database.winners(problem.key)]
        assert (old, source) in kept


def test_the_next_sweep_tries_what_was_best_at_a_near_size_first(
    unlikely: Config, small: Problem, job: Job, settings_for: Callable[[Path], Settings], tmp_path: Path
) -> None:
    settings, pool = settings_for(tmp_path / "tuning.db"), InstantPool()
    near = replace(small, N=3 * small.N)
    problem, environment = records(near, job.environment)
    with open_user(settings) as database:
        source = source_of(unlikely.kernel) or ""
        trial = Trial(unlikely.document(), "ok", measured_us=1.0, source=source)
        database.record(environment, problem, [trial], origin="test")
    Tuner(settings).tune(small, job, pool=cast(WorkerPool, pool))
    assert pool.compilers.configs[0] == unlikely


def test_without_an_old_winner_it_is_not_tried(
    unlikely: Config, small: Problem, job: Job, settings_for: Callable[[Path], Settings], tmp_path: Path
) -> None:
    pool = InstantPool()
    Tuner(settings_for(tmp_path / "tuning.db")).tune(small, job, pool=cast(WorkerPool, pool))
    assert pool.compilers.configs and unlikely not in pool.compilers.configs


def test_what_would_serve_without_a_sweep_is_the_default_that_gains_are_told_over(
    small: Problem, job: Job, settings_for: Callable[[Path], Settings], tmp_path: Path
) -> None:
    settings = settings_for(tmp_path / "tuning.db")
    guess, _ = best_guess(small, job.device)
    pool = InstantPool()
    pool.gpu.fastest = guess.kernel
    tuned = Tuner(settings).tune(small, replace(job, on_gpu=True), pool=cast(WorkerPool, pool))
    assert tuned.swept is not None and tuned.swept.winner is not None
    marked = [trial for trial in tuned.swept.trials if trial.is_default]
    assert [dict(trial.config) for trial in marked] == [guess.document()]
    assert tuned.swept.winner.default_us == 5.0
