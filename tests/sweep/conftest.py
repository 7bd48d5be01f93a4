"""A small problem, one sweep of it for all tests, and the worker processes they share."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from autoconv import settings
from autoconv.device import find
from autoconv.environment import Environment
from autoconv.problem import Problem
from autoconv.settings import Settings
from autoconv.sweep.pool import WorkerPool
from autoconv.sweep.sweep import Job
from autoconv.tuning.tuner import Tuned, Tuner

sys.path.insert(0, str(Path(__file__).parent))  # of probe_tasks, for the worker processes too

DEVICE = find("rtx4090")
SMALL = Problem(2, 8, 16, 3, 40, padding=1, bias=True)
SHORTLIST = 5


@pytest.fixture(scope="session")
def small() -> Problem:
    return SMALL


@pytest.fixture(scope="session")
def pool() -> Iterator[WorkerPool]:
    with WorkerPool(1) as pool:
        yield pool


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Compiled resources, kept from test to test."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="session")
def job(cache: Path) -> Job:
    environment = Environment.current(DEVICE)
    return Job(DEVICE, environment, cache, on_gpu=False, shortlist=SHORTLIST)


@pytest.fixture(scope="session")
def settings_for() -> Callable[[Path], Settings]:
    return lambda database: replace(settings.load(), database=database, site_databases=())


@dataclass(frozen=True)
class Sweep:
    """One sweep, and all it left behind."""

    database: Path
    tuned: Tuned
    progress: tuple[tuple[str, int, int], ...]


@pytest.fixture(scope="session")
def swept(
    tmp_path_factory: pytest.TempPathFactory,
    pool: WorkerPool,
    job: Job,
    settings_for: Callable[[Path], Settings],
) -> Sweep:
    database = tmp_path_factory.mktemp("swept") / "tuning.db"
    progress: list[tuple[str, int, int]] = []
    tuner = Tuner(settings_for(database))
    tuned = tuner.tune(SMALL, job, pool=pool, progress=lambda *step: progress.append(step))
    return Sweep(database, tuned, tuple(progress))
