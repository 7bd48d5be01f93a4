"""Many processes at once on one file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

Scenario = Callable[..., Any]


def test_processes_on_shared_and_own_keys_lose_nothing(
    tmp_path: Path, scenario: Scenario, stress: Any
) -> None:
    processes, rounds = stress.pick((16, 3), (64, 10))
    found = scenario("crowds", "crowd", tmp_path / "tuning.db", processes, rounds)
    stress.report(f"{processes} processes write on a shared and on own keys", found["written"], found["lost"])
    assert found == {"failed": 0, "lost": 0, "sound": True, "written": 2 * processes * rounds}


def test_processes_that_miss_together_tune_once(tmp_path: Path, scenario: Scenario, stress: Any) -> None:
    keys = stress.pick(3, 40)
    counts = scenario("crowds", "one_flight", tmp_path / "tuning.db", 16, keys)
    stress.report("16 processes miss on one key, one tunes", keys, sum(count != 1 for count in counts))
    assert counts == [1] * keys


def test_the_next_goes_on_when_the_holder_is_killed(tmp_path: Path, scenario: Scenario, stress: Any) -> None:
    times = stress.pick(4, 100)
    held = scenario("crowds", "killed_holders", tmp_path / "tuning.db", times)
    stress.report("the holder is killed, the next goes on at once", times, times - held)
    assert held == times


def test_processes_open_a_new_file_at_once(tmp_path: Path, scenario: Scenario, stress: Any) -> None:
    times = stress.pick(4, 60)
    found = scenario("crowds", "first_opening", tmp_path, times, 8)
    stress.report("8 processes open a file that is not there yet", times, found["lost"])
    assert found == {"failed": 0, "lost": 0}


def test_processes_upgrade_a_file_at_once(
    tmp_path: Path, scenario: Scenario, stress: Any, older: tuple[Path, int]
) -> None:
    times = stress.pick(2, 25)
    found = scenario("crowds", "upgrades_raced", tmp_path, *older, times, 8)
    stress.report("8 processes upgrade a file of version 1", times, found["lost"])
    assert found == {"failed": 0, "lost": 0}
