"""What the tests of the dispatcher share: a device that is not here, and results put into a database."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch

import autoconv
from autoconv import Config, Problem, device, lookup, serving, settings
from autoconv.compiler.recording import RecordedLaunch
from autoconv.compiler.specialisation import note_compiled, specialisation
from autoconv.cost.version import predictor_of
from autoconv.device import Device
from autoconv.dispatch.dispatcher import Dispatcher
from autoconv.environment import Environment
from autoconv.kernels.source import source_of
from autoconv.sweep.candidates import best_guess
from autoconv.sweep.pool import Workers
from autoconv.sweep.sweep import Job
from autoconv.sweep.tasks import Specialise
from autoconv.tuning.tuner import Tuned, Tuner
from tuning_db import Trial

DEVICE = "rtx4090"

Remember = Callable[[Problem, Config], None]


@pytest.fixture
def environment() -> Environment:
    return Environment.current(device.find(DEVICE))


@pytest.fixture
def remember(environment: Environment) -> Remember:
    """Put a config that passed its check into the user's database, as the winner of a problem."""

    def put(problem: Problem, config: Config) -> None:
        problem_record, environment_record = lookup.records(problem, environment)
        made = {"source": source_of(config.kernel) or "", "predictor": predictor_of(config.kernel)}
        trial = Trial(config.document(), "ok", predicted_us=5.0, max_err=0.0, **made)
        with lookup.open_user(settings.load()) as database:
            database.record(environment_record, problem_record, [trial], origin="test")

    return put


@pytest.fixture
def deterministic() -> Iterator[None]:
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


@pytest.fixture
def compiled_here(monkeypatch: pytest.MonkeyPatch) -> list[Specialise]:
    """Have what is to be compiled beside only noted as compiled: no worker starts, and a call compiles it.

    Returns the tasks, as they come.
    """
    tasks: list[Specialise] = []

    def perform(_workers: Workers, given: Iterable[Any], *_: object) -> Iterator[Any]:
        for task in given:
            if not isinstance(task, Specialise):
                yield task.perform()
                continue
            tasks.append(task)
            name = specialisation(task.problem, task.config, task.device, task.form)
            note_compiled(task.cache, name)
            yield True

    monkeypatch.setattr(Workers, "perform", perform)
    return tasks


@dataclass
class ScriptedSweeps:
    """Sweeps that choose at once, and record what they chose as the winner."""

    remember: Remember
    choose: Callable[[Problem, Device], Config] = lambda problem, device: best_guess(problem, device)[0]
    problems: list[Problem] = field(default_factory=list)  # swept so far

    def tune(self, tuner: Tuner, problem: Problem, job: Job, **_: object) -> Tuned:
        self.problems.append(problem)
        self.remember(problem, self.choose(problem, job.device))
        return Tuned(tuner.find(problem, job.environment), None)


@pytest.fixture
def sweeps(monkeypatch: pytest.MonkeyPatch, remember: Remember, compiled_here: object) -> ScriptedSweeps:
    scripted = ScriptedSweeps(remember)
    monkeypatch.setattr(Tuner, "tune", lambda tuner, *args, **rest: scripted.tune(tuner, *args, **rest))
    return scripted


@pytest.fixture
def predicting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AUTOCONV_ON_MISS", "predict")


@pytest.fixture
def launches(predicting: None) -> Iterator[list[RecordedLaunch]]:
    """The launches that conv1d makes on the device, never sweeping."""
    with autoconv.recorded(DEVICE) as recorded:
        yield recorded


@pytest.fixture
def dispatcher(launches: list[RecordedLaunch]) -> Dispatcher:
    """The dispatcher behind `launches`."""
    assert serving.current is not None
    return serving.current
