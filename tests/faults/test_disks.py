"""A full disk loses the write that failed and nothing else."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

Scenario = Callable[..., Any]


def test_a_disk_that_fills_loses_no_acknowledged_trial(
    tmp_path: Path, scenario: Scenario, stress: Any
) -> None:
    times = stress.pick(8, 80)
    found = scenario("disks", "full_disks", tmp_path, times, 4)
    stress.report("the disk is full in mid-sweep, in journal or file", times, found["lost"])
    assert found["acknowledged"] > 0 and found["full"] == times and (found["lost"], found["failed"]) == (0, 0)


def test_a_disk_that_fills_leaves_an_older_file_as_it_was(
    tmp_path: Path, scenario: Scenario, stress: Any, older: tuple[Path, int]
) -> None:
    times = stress.pick(8, 40)
    found = scenario("disks", "full_disk_at_upgrade", tmp_path, *older, times)
    stress.report("the disk is full in mid-upgrade, in backup, journal or file", times, found["lost"])
    assert found["refused"] >= times / 3 and (found["lost"], found["failed"]) == (0, 0)


def test_a_damaged_file_on_a_full_disk_heals_when_there_is_room(
    tmp_path: Path, scenario: Scenario, stress: Any
) -> None:
    trials = stress.pick(60, 400)
    found = scenario("disks", "full_disk_at_healing", tmp_path / "tuning.db", trials)
    stress.report("the disk is full while a damaged file is salvaged", 1, found["lost"])
    assert found == {"refused": True, "lost": 0}
