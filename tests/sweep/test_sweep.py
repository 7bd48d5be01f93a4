"""A whole sweep without a GPU: what it finds, what it records, and what it does when things go wrong."""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from subprocess import PIPE
from typing import Any

import pytest

from autoconv.config import Config
from autoconv.kernels.registry import supporting
from autoconv.lookup import COLUMNS, records
from autoconv.problem import Problem
from autoconv.settings import Settings
from autoconv.sweep.candidates import candidates, shortlist
from autoconv.sweep.pool import WorkerPool
from autoconv.sweep.sweep import CHECKED, Job, sweep
from autoconv.tuning.tuner import Tuner, no_progress
from tuning_db import Trial, TuningDB
from tuning_db.ranking import TIE_TOLERANCE

ROOT = Path(__file__).parents[2]

SettingsFor = Callable[[Path], Settings]


def recorded(database: Path, problem: Problem) -> list[Trial]:
    with TuningDB.open_readonly(database, columns=COLUMNS, application="autoconv") as opened:
        return opened.trials(problem.key())


# --- candidates that misbehave --------------------------------------------------------------------

FAULTY_PROBLEM = Problem(1, 16, 16, 3, 64, bias=True)
FAULTS = {
    "breaks the compiler": "compile",
    "kills its compiler": "crash",
    "hangs in its compiler": "timeout",
    "takes too much shared memory": "resources",
    "kills its interpreter": "crash",
    "computes something else": "wrong",
    "writes nothing": "wrong",
    "breaks in the interpreter": "launch",
    "is right": "ok",
}

MISS = """
import json, sys
from autoconv import settings
from autoconv.device import find
from autoconv.environment import Environment
from autoconv.kernels.registry import kernels
from autoconv.problem import Problem
from autoconv.sweep.pool import WorkerPool
from autoconv.sweep.sweep import Job
from autoconv.tuning.tuner import Tuner

for name in set(kernels()) - {"faulty"}:
    del kernels()[name]
now, device = settings.load(), find("rtx4090")
job = Job(device, Environment.current(device), now.cache, on_gpu=False, shortlist=99)
tuner, problem = Tuner(now), Problem.parse(sys.argv[1])
assert tuner.find(problem, job.environment) is None
print("missed", flush=True)
sys.stdin.readline()
with WorkerPool(2, compile_seconds=30) as pool:
    tuned = tuner.tune(problem, job, wait=240, pool=pool)
print(json.dumps([tuned.swept is not None, tuned.found.grade, tuned.found.config.document()]))
"""


@dataclass(frozen=True)
class Race:
    """Four processes that missed on one key at the same time."""

    database: Path
    processes: tuple[subprocess.Popen[str], ...]

    @cached_property
    def answers(self) -> list[tuple[bool, str, dict[str, Any]]]:
        """Of each: whether it swept, and the grade and the config that it found."""
        outputs = [process.communicate(timeout=240)[0] for process in self.processes]
        return [json.loads(output) for output in outputs]


@pytest.fixture(scope="module", autouse=True)
def race(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Race]:
    """Sweeps in a copy of the package that has one kernel more, whose configs each do harm in their own way.

    One of them hangs for long, so all this goes on beside the module's other tests.
    """
    folder = tmp_path_factory.mktemp("faulty")
    for package in ("autoconv", "tuning_db"):
        shutil.copytree(ROOT / package, folder / package, ignore=shutil.ignore_patterns("__pycache__"))
    kernel = Path(__file__).with_name("faulty_kernel.py")
    shutil.copyfile(kernel, folder / "autoconv" / "kernels" / "faulty.py")
    database = folder / "tuning.db"
    files = {"AUTOCONV_DB": str(database), "AUTOCONV_CACHE": str(folder / "cache")}
    command = [sys.executable, "-W", "error", "-c", MISS, str(FAULTY_PROBLEM)]
    with ExitStack() as stack:
        processes = tuple(
            stack.enter_context(
                subprocess.Popen(
                    command, cwd=folder, env={**os.environ, **files}, text=True, stdin=PIPE, stdout=PIPE
                )
            )
            for _ in range(4)
        )
        for process in processes:
            stack.callback(process.kill)
        for process in processes:
            assert process.stdout is not None and process.stdin is not None
            assert process.stdout.readline() == "missed\n"
        for process in processes:
            process.stdin.write("now\n")
            process.stdin.flush()
        yield Race(database, processes)


# --- what a sweep finds and records ---------------------------------------------------------------


def test_the_winner_is_verified_and_predicted(swept: Any, small: Problem) -> None:
    found, result = swept.tuned.found, swept.tuned.swept
    assert (found.provenance, found.grade, found.layer) == ("predicted", "exact", "user")
    assert found.measured_us is None
    assert found.predicted_us > 0
    winner = result.winner
    assert Config.from_document(winner.config) == found.config
    assert winner.measured_us is None and winner.max_err < 1e-3
    check = winner.detail["check"]
    assert (check["ok"], check["unwritten"], check["overrun"]) == (True, 0, 0)
    best = min(trial.predicted_us for trial in result.trials if trial.outcome == "ok")
    assert best <= found.predicted_us <= best * (1 + TIE_TOLERANCE["predicted"])


def test_every_candidate_tried_is_a_trial(swept: Any, small: Problem, job: Job) -> None:
    result = swept.tuned.swept
    outcomes = Counter(trial.outcome for trial in result.trials)
    assert outcomes["ok"] == CHECKED
    assert outcomes == {"ok": CHECKED, "compiled": result.compiled - CHECKED}
    at_other_sizes = job.shortlist // 4
    assert 0 <= result.compiled - job.shortlist <= len(supporting(small)) + at_other_sizes
    assert result.candidates > result.compiled
    assert {trial.config["kernel"] for trial in result.trials} == {k.name for k in supporting(small)}
    assert all(trial.measured_us is None and trial.samples_us == () for trial in result.trials)
    assert all(trial.predicted_us and trial.detail["registers"] > 0 for trial in result.trials)


def test_the_database_holds_what_the_sweep_returns(swept: Any, small: Problem) -> None:
    assert recorded(swept.database, small) == list(swept.tuned.swept.trials)


def test_progress_counts_up(swept: Any) -> None:
    steps: dict[str, list[tuple[int, int]]] = {}
    for doing, done, of in swept.progress:
        steps.setdefault(doing, []).append((done, of))
    assert list(steps) == ["compile", "check"]
    for counted in steps.values():
        total = counted[0][1]
        assert counted == [(done, total) for done in range(1, total + 1)]


def test_what_is_known_is_not_swept(swept: Any, small: Problem, job: Job, settings_for: SettingsFor) -> None:
    """By another tuner, as another process would have; without a pool, so a sweep would take long."""
    tuned = Tuner(settings_for(swept.database)).tune(small, job)
    assert tuned.swept is None
    assert tuned.found == swept.tuned.found


def test_again_sweeps_again_and_adds_its_trials(
    swept: Any, small: Problem, job: Job, pool: WorkerPool, settings_for: SettingsFor, tmp_path: Path
) -> None:
    database = tmp_path / "tuning.db"
    shutil.copyfile(swept.database, database)
    tuned = Tuner(settings_for(database)).tune(small, job, again=True, pool=pool)
    assert tuned.swept is not None
    assert tuned.found == swept.tuned.found
    assert len(recorded(database, small)) == 2 * len(swept.tuned.swept.trials)


# --- deadlines ------------------------------------------------------------------------------------


def test_the_best_candidate_is_compiled_and_checked_whatever_the_deadline(
    small: Problem, job: Job, pool: WorkerPool, tmp_path: Path
) -> None:
    result = sweep(small, replace(job, seconds=1e-6), None, pool, no_progress)
    best = shortlist(small, candidates(small, job.device), job.device, 1)[0]
    assert result.winner is not None and dict(result.winner.config) == best.document()
    assert result.compiled >= 1
    assert [trial.outcome for trial in result.trials if trial.outcome != "compiled"] == ["ok"]


def test_what_the_deadline_left_unchecked_is_recorded_as_compiled(
    swept: Any, small: Problem, job: Job, pool: WorkerPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When the compilers are done, so is the time."""
    now, hour, passed = time.monotonic, 3600.0, [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now() + sum(passed))

    def pass_time(doing: str, done: int, of: int) -> None:
        if (doing, done) == ("compile", of):
            passed.append(hour)

    result = sweep(small, replace(job, seconds=hour), None, pool, pass_time)
    assert result.winner is not None
    assert sorted(trial.outcome for trial in result.trials) == ["compiled"] * (result.compiled - 1) + ["ok"]
    assert len(result.trials) == result.compiled <= swept.tuned.swept.compiled


# --- trouble with the database --------------------------------------------------------------------


def test_a_database_that_cannot_be_written_keeps_the_result_in_memory(
    swept: Any, small: Problem, job: Job, pool: WorkerPool, settings_for: SettingsFor, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("no folder", encoding="utf-8")
    warnings: list[str] = []
    tuner = Tuner(settings_for(tmp_path / "file" / "tuning.db"), warn=warnings.append)
    tuned = tuner.tune(small, job, pool=pool)
    assert tuned.swept is not None and tuned.found is not None
    assert (tuned.found.layer, tuned.found.grade, tuned.found.provenance) == ("memory", "exact", "predicted")
    assert tuned.found.config == swept.tuned.found.config
    assert tuner.find(small, job.environment) == tuned.found
    assert tuner.tune(small, job).swept is None
    assert any("'user' is skipped" in warning for warning in warnings)


def drop_trials(database: Path) -> None:
    with sqlite3.connect(database) as connection:
        connection.execute("DROP TABLE trials")


def put_a_folder_there(database: Path) -> None:
    database.unlink()
    database.mkdir()


@pytest.mark.parametrize(("breaking", "layer"), [(drop_trials, "user"), (put_a_folder_there, "memory")])
def test_a_database_that_fails_on_the_way_does_not_stop_the_sweep(
    breaking: Callable[[Path], None],
    layer: str,
    swept: Any,
    small: Problem,
    job: Job,
    pool: WorkerPool,
    settings_for: SettingsFor,
    tmp_path: Path,
) -> None:
    """A damaged one is mended, and takes what is to come; one that cannot be leaves the result in memory."""
    database = tmp_path / "tuning.db"
    warnings: list[str] = []
    tuner = Tuner(settings_for(database), warn=warnings.append)

    def break_it(doing: str, done: int, of: int) -> None:
        if (doing, done) == ("check", 1):
            breaking(database)

    tuned = tuner.tune(small, job, pool=pool, progress=break_it)
    assert tuned.swept is not None and tuned.found is not None
    assert len(tuned.swept.trials) == len(swept.tuned.swept.trials)
    assert tuned.found.config == swept.tuned.found.config
    assert tuned.found.layer == layer
    assert (layer == "user") == any("was damaged; it is kept as" in warning for warning in warnings)
    assert tuner.tune(small, job).swept is None


# --- one sweep at a time --------------------------------------------------------------------------


def test_a_guess_serves_while_another_sweeps(
    small: Problem, job: Job, pool: WorkerPool, settings_for: SettingsFor, tmp_path: Path
) -> None:
    settings = settings_for(tmp_path / "tuning.db")
    under_way, go_on = threading.Event(), threading.Event()

    def hold(doing: str, done: int, of: int) -> None:
        under_way.set()
        go_on.wait(60)

    tuned: list[Any] = []
    sweeping = threading.Thread(
        target=lambda: tuned.append(Tuner(settings).tune(small, job, pool=pool, progress=hold))
    )
    sweeping.start()
    try:
        assert under_way.wait(60)
        other = Tuner(settings)
        guessed = other.tune(small, job, wait=0.1)
        assert guessed.swept is None
        assert guessed.found == other.guess(small, job.device)
        assert (guessed.found.provenance, guessed.found.grade, guessed.found.layer) == (
            "predicted", "default", "none",
        )  # fmt: skip
        assert other.find(small, job.environment) is None, "a guess is not kept"
    finally:
        go_on.set()
        sweeping.join()
    assert tuned[0].swept is not None
    other.forget()  # a miss is remembered for a second
    assert other.find(small, job.environment) == tuned[0].found


def test_records_are_those_of_the_lookup(swept: Any, small: Problem, job: Job) -> None:
    problem, environment = records(small, job.environment)
    winner = swept.tuned.swept.winner
    assert (winner.problem, winner.environment) == (problem, environment)


def test_of_four_processes_that_miss_one_sweeps(race: Race) -> None:
    assert sorted(swept for swept, _, _ in race.answers) == [False, False, False, True]
    assert {grade for _, grade, _ in race.answers} == {"exact"}
    assert all(config == race.answers[0][2] for _, _, config in race.answers)
    hashes = [trial.config_hash for trial in recorded(race.database, FAULTY_PROBLEM)]
    assert len(set(hashes)) == len(hashes) == len(FAULTS)


def test_each_bad_candidate_costs_one_trial(race: Race) -> None:
    faults = list(FAULTS)
    assert faults[race.answers[0][2]["FAULT"] - 1] == "is right"
    trials = recorded(race.database, FAULTY_PROBLEM)
    assert {faults[trial.config["FAULT"] - 1]: trial.outcome for trial in trials} == FAULTS
    errors = {faults[trial.config["FAULT"] - 1]: trial.error for trial in trials}
    assert errors["breaks the compiler"] == "ValueError: no such tile"
    assert errors["kills its compiler"] == errors["kills its interpreter"] == "worker ended with status -9"
    assert errors["hangs in its compiler"] == "no answer within 30 s"
    assert "shared memory" in errors["takes too much shared memory"]
    assert errors["breaks in the interpreter"] == "RuntimeError: no such instruction"
    assert "unwritten" in errors["writes nothing"] and "error inf" in errors["writes nothing"]
    assert errors["is right"] is None
