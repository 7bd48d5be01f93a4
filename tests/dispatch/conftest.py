"""What the tests of the dispatcher share: a device that is not here, and results put into a database."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

import autoconv
from autoconv import Config, Problem, device, lookup, serving, settings
from autoconv.compiler.recording import RecordedLaunch
from autoconv.cost.version import predictor_of
from autoconv.dispatch.dispatcher import Dispatcher
from autoconv.environment import Environment
from autoconv.kernels.source import source_of
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
