"""The first lookup of a process, while it forks and while others hold the file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

Scenario = Callable[..., Any]


def test_a_fork_during_a_first_lookup_leaves_no_child_hanging(
    tmp_path: Path, scenario: Scenario, stress: Any
) -> None:
    times = stress.pick(15, 1000)
    found = scenario("forks", "first_lookups", tmp_path / "tuning.db", times, 9)
    stress.report("the process forks while a thread looks up first", times, found["hung"] + found["failed"])
    assert found == {"hung": 0, "failed": 0}


def test_a_file_that_is_busy_at_the_first_lookup_is_tried_again(
    tmp_path: Path, scenario: Scenario, stress: Any
) -> None:
    times = stress.pick(5, 200)
    found = scenario("forks", "busy_at_first", tmp_path / "tuning.db", times)
    stress.report("the file is locked at a process's first lookup", times, found["missed"])
    assert found == {"missed": 0, "early": 0}
