"""Processes that are killed or interrupted lose nothing that was acknowledged."""

from __future__ import annotations

import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Scenario = Callable[..., Any]


@pytest.mark.parametrize("mode", ["delete", "wal"])
def test_a_kill_loses_no_acknowledged_trial(
    tmp_path: Path, scenario: Scenario, stress: Any, mode: str
) -> None:
    times = stress.pick(15, 500)
    found = scenario("kills", "kills", tmp_path / "tuning.db", times, 1, mode)
    told = f"{found['acknowledged']:,} trials acknowledged"
    stress.report(f"kill -9 in mid-sweep, journal mode {mode} ({told})", times, found["lost"])
    assert found["acknowledged"] >= times / 2 and found["mode"] == mode
    assert (found["lost"], found["twice"], found["sound"], found["aside"]) == (0, 0, True, 0)


def test_an_interrupt_loses_no_acknowledged_trial(tmp_path: Path, scenario: Scenario, stress: Any) -> None:
    times = stress.pick(20, 300)
    found = scenario("kills", "interrupts", tmp_path / "tuning.db", times, 2)
    stress.report("SIGINT in mid-sweep, and on with the same database", times, found["lost"])
    assert found["acknowledged"] > 0 and (found["lost"], found["sound"]) == (0, True)


@pytest.mark.parametrize("on_gpu", [False, True], ids=["predicted", "measured"])
def test_a_sweep_that_is_stopped_again_and_again_ends_as_one_left_alone(
    tmp_path: Path, scenario: Scenario, stress: Any, on_gpu: bool
) -> None:
    times = stress.pick(4, 200)
    found = scenario("resumed", "resumed", tmp_path, times, 5, on_gpu)
    lost = found["again"] + found["lost"] + found["other"]
    of = f"{found['sweeps']} sweeps, {'measured' if on_gpu else 'predicted'}"
    stress.report(
        f"kill -9 and SIGINT in mid-sweep, and the sweep gone on with ({of})", found["stopped"], lost
    )
    assert found["stopped"] >= times
    assert (found["again"], found["lost"], found["other"]) == (0, 0, 0)


def test_the_tuning_of_a_file_that_is_killed_goes_on_where_it_stopped(
    tmp_path: Path, scenario: Scenario, stress: Any
) -> None:
    problems, times = stress.pick((2, 3), (6, 50))
    found = scenario("tunings", "killed", tmp_path, problems, times, 7)
    lost = found["again"] + found["lost"] + found["other"]
    stress.report(f"kill -9 of tune FILE, {problems} problems for two devices", found["killed"], lost)
    assert found["killed"] >= times
    assert (found["again"], found["lost"], found["other"]) == (0, 0, 0)


def test_an_upgrade_that_is_killed_begins_again(
    tmp_path: Path, scenario: Scenario, stress: Any, older: tuple[Path, int]
) -> None:
    times = stress.pick(6, 80)
    found = scenario("kills", "upgrades_killed", tmp_path, *older, times, 3)
    stress.report("kill -9 in mid-upgrade", times, found["lost"])
    assert found["half_done"] >= times / 4 and (found["lost"], found["failed"]) == (0, 0)


def test_wrong_clocks_change_no_winner(tmp_path: Path, scenario: Scenario, stress: Any) -> None:
    years = stress.pick([-10, 10], [-10, 10] * 10)
    winners = scenario("kills", "wrong_clocks", tmp_path / "tuning.db", years)
    stress.report("writing with a clock ten years off", len(years), sum(winner != 1 for winner in winners))
    assert winners == [1] * (len(years) + 1)


def test_a_hanging_compiler_outlives_nobody(tmp_path: Path, scenario: Scenario, stress: Any) -> None:
    ends = stress.pick([signal.SIGKILL], [signal.SIGKILL, signal.SIGTERM, signal.SIGINT] * 7)
    found = scenario("compilers", "hanging_compilers", tmp_path, ends, 4)
    stress.report("tuning is ended while its compilers hang: processes left", len(ends), found["left"])
    statuses = {signal.SIGKILL: -9, signal.SIGTERM: -15, signal.SIGINT: 130}
    assert found == {"left": 0, "statuses": [statuses[end] for end in ends]}
