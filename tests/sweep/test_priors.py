"""What was best under another Triton, or other kernel sources, is no answer, but the first to be tried."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, cast

import pytest

from autoconv.compiler.resources import Resources
from autoconv.config import Config
from autoconv.cost.model import estimate_seconds
from autoconv.kernels.aten import ATEN
from autoconv.kernels.source import source_of
from autoconv.lookup import open_user, records
from autoconv.problem import Problem
from autoconv.settings import Settings
from autoconv.sweep.candidates import best_guess, candidates
from autoconv.sweep.pool import Crew
from autoconv.sweep.sweep import Job
from autoconv.sweep.tuner import Tuner
from tuning_db import Trial


class Workers:
    """Does every task at once, all of them alike, and notes which candidates' they were."""

    def __init__(self) -> None:
        self.configs: list[Config] = []

    def perform(self, tasks: Iterable[dict[str, Any]], _: float) -> list[dict[str, Any]]:
        return [self._perform(task) for task in tasks]

    def _perform(self, task: dict[str, Any]) -> dict[str, Any]:
        if task["do"] in ("load", "open"):
            return {"free_bytes": 1 << 40} if task["do"] == "open" else {}
        config = Config.from_document(task["config"])
        if config == ATEN:
            return {"samples_us": [9.0, 9.0, 9.0]}
        self.configs.append(config)
        if task["do"] == "compile":
            return asdict(Resources(registers=64, spills=0, shared=1024))
        if task["do"] == "verify":
            return {"ok": True, "max_rel_err": 0.0, "unwritten": 0, "overrun": 0}
        return {"samples_us": [5.0, 5.0, 5.0]}


class InstantCrew:
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
    tuner, crew = Tuner(settings), InstantCrew()
    assert tuner.find(small, job.environment) is None  # nothing stale is served

    tuned = tuner.tune(small, replace(job, on_gpu=on_gpu), crew=cast(Crew, crew))
    assert tuned.swept is not None and tuned.found is not None
    assert crew.compilers.configs[0] == unlikely
    assert not on_gpu or crew.gpu.configs[0] == unlikely
    assert unlikely.document() in [dict(trial.config) for trial in tuned.swept.trials]
    with open_user(settings) as database:  # nothing is wiped
        kept = [(winner.environment, winner.source) for winner in database.winners(problem.key)]
        assert (old, source) in kept


def test_without_an_old_winner_it_is_not_tried(
    unlikely: Config, small: Problem, job: Job, settings_for: Callable[[Path], Settings], tmp_path: Path
) -> None:
    crew = InstantCrew()
    Tuner(settings_for(tmp_path / "tuning.db")).tune(small, job, crew=cast(Crew, crew))
    assert crew.compilers.configs and unlikely not in crew.compilers.configs


def test_what_would_serve_without_a_sweep_is_the_default_that_gains_are_told_over(
    small: Problem, job: Job, settings_for: Callable[[Path], Settings], tmp_path: Path
) -> None:
    settings = settings_for(tmp_path / "tuning.db")
    tuned = Tuner(settings).tune(small, replace(job, on_gpu=True), crew=cast(Crew, InstantCrew()))
    assert tuned.swept is not None and tuned.swept.winner is not None
    guess, _ = best_guess(small, job.device)
    marked = [trial for trial in tuned.swept.trials if trial.is_default]
    assert [dict(trial.config) for trial in marked] == [guess.document()]
    assert tuned.swept.winner.default_us == 5.0
