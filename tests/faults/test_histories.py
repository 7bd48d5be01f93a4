"""Histories merged, upgraded and repeated; a fresh process with nothing but the packaged database."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import triton

from autoconv import lookup
from autoconv.problem import Problem
from autoconv.settings import child_environment
from tests.values.test_problem_text import BASE, MUTATIONS

Scenario = Callable[..., Any]


def test_random_histories_merge_in_any_order_and_grouping(
    tmp_path: Path, scenario: Scenario, stress: Any
) -> None:
    times = stress.pick(6, 100)
    found = scenario("histories", "merges", tmp_path, times, 7)
    stress.report("random histories merged in five ways, by file and text", times, found["lost"])
    assert found == {"lost": 0, "broken": 0}


def test_files_of_every_version_open(tmp_path: Path, scenario: Scenario, stress: Any) -> None:
    times = stress.pick(1, 25)
    found = scenario("histories", "versions", tmp_path, times)
    stress.report("files of every version of the schema are opened, twice", times, found["lost"])
    assert found == {"lost": 0, "failed": 0}


def test_threads_forks_and_spawned_processes_share_a_file(
    tmp_path: Path, scenario: Scenario, stress: Any
) -> None:
    rounds = stress.pick(1, 20)
    found = scenario("histories", "kin", tmp_path / "tuning.db", rounds)
    stress.report("3 threads, 4 forks and 2 spawned processes write at once", rounds, found["lost"])
    assert found == {"failed": 0, "lost": 0}


def test_tuning_again_with_noise_never_ends_slower_than_the_default(
    tmp_path: Path, scenario: Scenario, stress: Any
) -> None:
    times = stress.pick(20, 300)
    found = scenario("histories", "repeated", tmp_path / "tuning.db", times, 8)
    stress.report(
        f"tuned again with 1 % noise: {found['flips']} flips, regret {found['regret']:.1%} at most",
        times,
        found["slower"],
    )
    assert found["slower"] == 0 and found["regret"] <= 0.02


def test_every_field_of_a_problem_is_in_its_key(stress: Any) -> None:
    problems = {BASE}
    for name, value in MUTATIONS.items():
        fields = {**BASE.to_json(), name: value}
        problems.add(Problem(**{**fields, "precision": "" if name == "dtype" else fields["precision"]}))
    stress.report("a field of a problem is changed: another key", len(problems) - 1, 0)
    assert len({problem.key() for problem in problems}) == len(MUTATIONS) + 1


def test_the_packaged_database_alone_answers_in_a_fresh_process(tmp_path: Path, stress: Any) -> None:
    here = ".".join(triton.__version__.split(".")[:2])
    with lookup.open_file(lookup.PREBUILT, immutable=True) as database:
        tuned = [
            (str(Problem.from_key(record.key)), str(winner.environment.soft["device"]))
            for record in database.problems()
            for winner in database.winners(record.key)
            if winner.environment.hard["triton"] == here
        ]
    missed = 0
    for problem, device in list(dict.fromkeys(tuned))[: stress.pick(1, 3)]:
        done = subprocess.run(
            [sys.executable, "-m", "autoconv", "lookup", problem, "--device", device, "--json"],
            env=child_environment(AUTOCONV_DB=str(tmp_path / "new.db"), AUTOCONV_ON_MISS="strict"),
            capture_output=True,
            text=True,
            check=False,
        )
        found = json.loads(done.stdout)
        missed += (found["found"], found["layer"]) != (True, "prebuilt")
    stress.report("a fresh process asks the packaged database alone", stress.pick(1, 3), missed)
    assert missed == 0
