"""A sweep that was interrupted is gone on with; what is known of the kernels of today is not tried again."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest

from autoconv.config import Config
from autoconv.cost.version import predictor_of
from autoconv.kernels.aten import ATEN
from autoconv.kernels.registry import supporting
from autoconv.kernels.source import source_of
from autoconv.lookup import open_user, records, tried
from autoconv.problem import Problem
from autoconv.settings import Settings
from autoconv.sweep.candidates import best_guess
from autoconv.sweep.pool import WorkerPool
from autoconv.sweep.recorder import CHECKED
from autoconv.sweep.sweep import Job
from autoconv.sweep.tasks import Task, Verify
from autoconv.tuning.tuner import Tuned, Tuner
from tests.sweep.test_priors import InstantPool, Workers
from tuning_db import RunRecord, Trial, Winner


class Killed(BaseException):
    """What kill -9 would be to the sweep: nothing catches it."""


class Mortal(Workers):
    """Takes the sweep down when it is asked for one config too many."""

    def __init__(self, lives: int) -> None:
        super().__init__()
        self._lives = lives

    def _done(self, task: Task[Any]) -> Any:
        if len(self.configs) == self._lives:
            raise Killed
        return super()._done(task)


class Each(Mortal):
    """Answers task by task, so that what is answered is recorded before the next is begun."""

    def perform(self, tasks: Iterable[Task[Any]], *_: Any, **__: Any) -> Any:
        return map(self._done, tasks)


@pytest.fixture(params=[False, True], ids=["predicted", "measured"])
def job_(request: pytest.FixtureRequest, job: Job) -> Job:
    return replace(job, on_gpu=request.param)


@pytest.fixture
def settings(settings_for: Callable[[Path], Settings], tmp_path: Path) -> Settings:
    return settings_for(tmp_path / "tuning.db")


def tune(settings: Settings, problem: Problem, job: Job, pool: InstantPool, **options: Any) -> Tuned:
    return Tuner(settings).tune(problem, job, pool=cast(WorkerPool, pool), **options)


def content(
    settings: Settings, problem: Problem, job: Job
) -> tuple[list[Trial], list[RunRecord], list[Winner]]:
    record, environment = records(problem, job.environment)
    with open_user(settings) as database:
        trials = database.trials(record.key, environment.hash)
        return trials, database.runs(record.key), database.winners(record.key)


def interrupted(settings: Settings, problem: Problem, job: Job, lives: int) -> None:
    pool = InstantPool()
    pool.interpreters = pool.gpu = Each(lives)
    with pytest.raises(Killed):
        tune(settings, problem, job, pool)


def test_an_interrupted_sweep_is_gone_on_with_trial_by_trial(
    small: Problem, job_: Job, settings: Settings
) -> None:
    interrupted(settings, small, job_, 2 * (1 + job_.on_gpu))  # on a GPU it is checked, then timed
    before, (run,), winners = content(settings, small, job_)
    assert len(before) == 2 + job_.on_gpu and not run.finished  # and torch's
    assert {winner.finished for winner in winners} == {False}
    serving = Tuner(settings).find(small, job_.environment)
    assert serving is not None and serving.grade == "soft"

    pool = InstantPool()
    tuned = tune(settings, small, job_, pool)
    assert tuned.swept is not None and tuned.found is not None and tuned.found.grade == "exact"
    known = {Config.from_document(trial.config) for trial in before}
    assert not known & {*pool.compilers.configs, *pool.interpreters.configs, *pool.gpu.configs}
    after, (same,), _ = content(settings, small, job_)
    assert same.id == run.id and same.finished
    assert after[: len(before)] == before and len({trial.config_hash for trial in after}) == len(after)
    by_config = {trial.config_hash: trial for trial in after}
    assert {trial.config_hash: trial for trial in tuned.swept.trials} == by_config
    assert tune(settings, small, job_, InstantPool()).swept is None


def test_a_sweep_that_ended_tries_what_one_that_was_interrupted_would_have(
    small: Problem, job_: Job, settings: Settings, settings_for: Callable[[Path], Settings], tmp_path: Path
) -> None:
    whole = settings_for(tmp_path / "whole.db")
    tune(whole, small, job_, InstantPool())
    interrupted(settings, small, job_, 2)
    tune(settings, small, job_, InstantPool())
    outcomes = [
        {trial.config_hash: (trial.outcome, trial.predicted_us) for trial in content(one, small, job_)[0]}
        for one in (whole, settings)
    ]
    assert outcomes[0] == outcomes[1] and len(outcomes[0]) > 5


class Wrong(Each):
    """Finds the first of the candidates it checks wrong, `CHECKED` of them, and goes down at one too many."""

    def __init__(self, lives: int = -1) -> None:
        super().__init__(lives)
        self.wrong: list[Config] = []

    def _done(self, task: Task[Any]) -> Any:
        answer = super()._done(task)
        if isinstance(task, Verify) and len(self.wrong) < CHECKED:
            self.wrong.append(task.config)
            return replace(answer, ok=False)
        return answer


def test_a_sweep_interrupted_in_the_midst_of_a_batch_checks_all_of_it(
    small: Problem, job: Job, settings: Settings, settings_for: Callable[[Path], Settings], tmp_path: Path
) -> None:
    """Whatever passed before the interruption: of a batch, all are checked."""
    whole = settings_for(tmp_path / "whole.db")
    for one, lives in ((whole, -1), (settings, CHECKED + 1)):
        pool = InstantPool()
        pool.interpreters = Wrong(lives)
        with pytest.raises(Killed) if lives > 0 else nullcontext():
            tune(one, small, job, pool)
    tune(settings, small, job, InstantPool())
    alone, resumed = (
        {trial.config_hash: trial.outcome for trial in content(one, small, job)[0]}
        for one in (whole, settings)
    )
    assert resumed == alone and Counter(alone.values())["ok"] > 1


def test_what_an_interrupted_sweep_compiled_and_had_no_time_for_is_measured(
    small: Problem, job: Job, settings: Settings
) -> None:
    """The run that is gone on with has it already, compiled, and a finished trial never changes."""
    measuring = replace(job, on_gpu=True)
    config, _ = best_guess(small, job.device)
    record, environment = records(small, job.environment)
    named = {"source": source_of(config.kernel) or "", "predictor": predictor_of(config.kernel)}
    with open_user(settings) as database:
        run = database.start(environment, origin="sweep", info=tried(small, predictor_of, on_gpu=True))
        database.add(run, record, Trial(config.document(), "compiled", 1.0, **named))
    tuned = tune(settings, small, measuring, InstantPool())
    assert tuned.found is not None and tuned.found.layer == "user" and tuned.found.grade == "exact"
    trials, runs, _ = content(settings, small, measuring)
    assert [t.outcome for t in trials if t.config == config.document()] == ["compiled", "ok"]
    assert len(runs) == 2 and all(run.finished for run in runs)
    assert tune(settings, small, measuring, InstantPool()).swept is None


def test_again_tries_all_of_it_anew(small: Problem, job_: Job, settings: Settings) -> None:
    for again in (False, True):
        pool = InstantPool()
        assert tune(settings, small, job_, pool, again=again).swept is not None
        assert len(pool.compilers.configs) > 5
    trials, runs, _ = content(settings, small, job_)
    assert len(runs) == 2 and all(run.finished for run in runs)
    assert len(trials) == 2 * len({trial.config_hash for trial in trials})


def changed(monkeypatch: pytest.MonkeyPatch, kernel: str) -> None:
    def source(name: str) -> str | None:
        return "f" * 16 if name == kernel else source_of(name)

    for module in (
        "autoconv.lookup.bests",
        "autoconv.lookup.families",
        "autoconv.lookup.runs",
        "autoconv.sweep.recorder",
    ):
        monkeypatch.setattr(f"{module}.source_of", source)


def test_a_changed_kernel_alone_is_tried_again(
    small: Problem, job: Job, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    measuring = replace(job, on_gpu=True)
    tune(settings, small, measuring, InstantPool())
    old, _, _ = content(settings, small, measuring)
    assert {trial.config["kernel"] for trial in old} > {"im2col_rows", "dense", ATEN.kernel}
    changed(monkeypatch, "dense")
    pool = InstantPool()
    assert tune(settings, small, measuring, pool).swept is not None
    assert {config.kernel for config in pool.gpu.configs} == {"dense"}
    trials, _, winners = content(settings, small, measuring)
    assert [trial for trial in trials if trial.source != "f" * 16] == old  # nothing is lost
    assert {winner.source for winner in winners} > {"f" * 16, source_of("dense")}
    assert tune(settings, small, measuring, InstantPool()).swept is None


def test_what_an_older_sweep_left_unfinished_counts_once_one_of_today_ended(
    small: Problem, job_: Job, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An upgrade came between: the run is not gone on with, but its trials are not made again either."""
    interrupted(settings, small, job_, 2 * (1 + job_.on_gpu))
    before, _, (*_, winner) = content(settings, small, job_)
    kernels = {str(trial.config["kernel"]) for trial in before}
    changed(monkeypatch, next(one.name for one in supporting(small) if one.name not in kernels))
    assert tune(settings, small, job_, InstantPool()).swept is not None
    trials, runs, winners = content(settings, small, job_)
    assert trials[: len(before)] == before and len(runs) == 2 and all(run.finished for run in runs)
    assert winner.source in {one.source for one in winners} and all(one.finished for one in winners)
    for _ in range(2):
        assert tune(settings, small, job_, InstantPool()).swept is None
    assert content(settings, small, job_)[0] == trials


def test_predictions_of_an_older_model_will_do_until_they_are_asked_for_again(
    small: Problem, job_: Job, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    tune(settings, small, job_, InstantPool())
    for module in ("autoconv.sweep.recorder", "autoconv.tuning.tuner"):
        monkeypatch.setattr(f"{module}.predictor_of", lambda kernel: f"0000-{kernel}")
    serving = Tuner(settings).find(small, job_.environment)
    assert serving is not None and serving.grade == ("exact" if job_.on_gpu else "soft")
    assert tune(settings, small, job_, InstantPool()).swept is None
    again = tune(settings, small, job_, InstantPool(), again=True).swept
    assert again is not None
    ours = [trial for trial in again.trials if trial.config["kernel"] != ATEN.kernel]
    assert all(trial.predictor == f"0000-{trial.config['kernel']}" for trial in ours)
    found = Tuner(settings).find(small, job_.environment)
    assert found is not None and found.grade == "exact"
