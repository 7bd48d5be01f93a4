"""What a sweep records: what finds no room is kept and told of; what it takes over ends with it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import pytest

from autoconv.config import Config
from autoconv.cost.version import predictor_of
from autoconv.kernels.source import source_of
from autoconv.lookup import open_user, records, tried
from autoconv.problem import Problem
from autoconv.settings import Settings
from autoconv.sweep.candidates import candidates
from autoconv.sweep.pool import WorkerPool
from autoconv.sweep.recorder import Recorder
from autoconv.sweep.sweep import Job
from autoconv.tuning.tuner import Tuner
from tests.sweep.test_priors import InstantPool
from tuning_db import BusyError, Trial, TuningDB, UnwritableError
from tuning_db.connection import WRITE_TIMEOUT_S, patience


@pytest.fixture
def settings(settings_for: Callable[[Path], Settings], tmp_path: Path) -> Settings:
    return settings_for(tmp_path / "tuning.db")


@pytest.fixture
def database(settings: Settings) -> Iterator[TuningDB]:
    with open_user(settings) as database:
        yield database


@pytest.fixture
def configs(small: Problem, job: Job) -> list[Config]:
    return [one for one in candidates(small, job.device) if one.kernel == "dense"][:4]


def recorder(small: Problem, job: Job, database: TuningDB, configs: list[Config], **how: Any) -> Recorder:
    given = {"default": configs[0], "on_gpu": False, "again": False, **how}
    return Recorder(small, job.environment, database, **given)


def ok(config: Config) -> Trial:
    return Trial(config.document(), "ok", predicted_us=2.0)


class Disk:
    """Takes writes or does not; notes how long each waits for a lock."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.full = False
        self.waits: list[float] = []
        for name in ("start", "add", "finish"):
            monkeypatch.setattr(TuningDB, name, self._guarded(getattr(TuningDB, name)))

    def _guarded(self, method: Callable[..., Any]) -> Callable[..., Any]:
        def call(database: TuningDB, *arguments: Any, **options: Any) -> Any:
            self.waits.append(patience(WRITE_TIMEOUT_S))
            if self.full:
                raise UnwritableError(database.path, "the disk is full", "make room")
            return method(database, *arguments, **options)

        return call


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Disk:
    return Disk(monkeypatch)


# --- what finds no room ---------------------------------------------------------------------------


@pytest.mark.parametrize("begun", [False, True], ids=["before its run", "in the midst"])
def test_a_trial_that_found_no_room_is_written_before_the_next(
    begun: bool, small: Problem, job: Job, database: TuningDB, configs: list[Config], disk: Disk
) -> None:
    one = recorder(small, job, database, configs)
    if begun:
        one.add(ok(configs[0]))
    disk.full = True
    one.add(ok(configs[1]))
    one.add(ok(configs[2]))
    assert not one.recorded and one.unrecorded is not None and "the disk is full; make room" in one.unrecorded
    assert disk.waits[-2:] == [WRITE_TIMEOUT_S, 0.0], "who waited in vain once waits no more"
    disk.full = False
    one.add(ok(configs[3]))
    assert one.recorded and one.unrecorded is None
    one.finish()
    tried = [dict(trial.config) for trial in database.trials(small.key())]
    assert tried == [config.document() for config in configs[0 if begun else 1 :]]
    assert [run.finished for run in database.runs(small.key())] == [True]


def test_the_end_of_a_sweep_is_the_last_chance(
    small: Problem, job: Job, database: TuningDB, configs: list[Config], disk: Disk
) -> None:
    one = recorder(small, job, database, configs)
    disk.full = True
    one.add(ok(configs[0]))
    one.finish()
    assert not one.recorded
    disk.full = False
    one.finish()
    assert one.recorded and len(database.trials(small.key())) == 1
    assert disk.waits[-1] == WRITE_TIMEOUT_S


def test_one_warning_says_that_results_are_not_recorded_and_why(
    small: Problem, job: Job, settings: Settings, disk: Disk
) -> None:
    told: list[str] = []
    tuner, disk.full = Tuner(settings, told.append), True
    tuned = tuner.tune(small, job, pool=cast(WorkerPool, InstantPool()))
    (warning,) = told
    assert warning.startswith(f"results of {small} are not recorded") and "the disk is full" in warning
    assert tuned.found is not None and tuned.found.layer == "memory" and tuned.swept is not None
    assert not tuned.swept.recorded and tuned.swept.unrecorded is not None
    assert tuner.find(small, job.environment) == tuned.found


def test_a_sweep_that_could_not_read_what_was_tried_records_all_the_same(
    small: Problem, job: Job, database: TuningDB, configs: list[Config], monkeypatch: pytest.MonkeyPatch
) -> None:
    def busy(*_: object) -> None:
        raise BusyError("the.db", "another process keeps it busy", "try again")

    with monkeypatch.context() as patch:
        patch.setattr(TuningDB, "trials", busy)
        one = recorder(small, job, database, configs)
    one.add(ok(configs[0]))
    assert one.recorded and len(database.trials(small.key())) == 1


# --- what is taken over ---------------------------------------------------------------------------


def started(
    database: TuningDB, small: Problem, job: Job, config: Config, *, source: str | None = None, **info: Any
) -> str:
    """An interrupted run with one trial of `config`, which notes `info` instead of what one now would."""
    problem, environment = records(small, job.environment)
    noted = {**tried(small, predictor_of, on_gpu=False), **info}
    run = database.start(environment, origin="sweep", info=noted)
    named = {"source": source or source_of(config.kernel) or "", "predictor": predictor_of(config.kernel)}
    database.add(run, problem, Trial(config.document(), "ok", 1.0, **named))
    return run


def ended(database: TuningDB, small: Problem) -> set[str]:
    return {run.id for run in database.runs(small.key()) if run.finished}


def test_interrupted_runs_whose_trials_are_taken_over_end_with_the_sweep(
    small: Problem, job: Job, database: TuningDB, configs: list[Config]
) -> None:
    """They need not be gone on with: a later cost model, or one other kernel, makes another run of it."""
    older = started(database, small, job, configs[0], predictors={"dense": "0"})
    stale = started(
        database, small, job, configs[1], sources={"dense": "0" * 16}, source="0" * 16, predictors={}
    )
    beside = started(database, small, job, configs[2], contended=True)
    timed = started(database, small, job, configs[2], measured=True)
    odd = started(database, small, job, configs[2], sources=["dense"])
    one = recorder(small, job, database, configs)
    assert configs[0] in one.done and configs[1] not in one.done
    later = started(database, small, job, configs[0], predictors={"dense": "0"})
    one.add(ok(configs[3]))
    assert ended(database, small) == set()
    one.finish()
    (own,) = ended(database, small) - {older}
    assert own not in {stale, beside, timed, odd, later} and older in ended(database, small)
    assert not database.started.keys() & {own, older}, "what has ended is not kept"


def test_all_anew_takes_nothing_over(
    small: Problem, job: Job, database: TuningDB, configs: list[Config]
) -> None:
    run = started(database, small, job, configs[0])
    one = recorder(small, job, database, configs, again=True)
    one.add(ok(configs[0]))
    one.finish()
    assert run not in ended(database, small) and len(database.runs(small.key())) == 2
