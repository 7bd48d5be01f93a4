"""`autoconv db missed` and `autoconv tune --missed`: what most time goes to first."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from autoconv import lookup, settings
from autoconv.compiler.resources import Resources
from autoconv.config import Config
from autoconv.device import find
from autoconv.environment import Environment
from autoconv.problem import Problem
from autoconv.sweep.candidates import best_guess
from autoconv.sweep.pool import Workers
from autoconv.sweep.tasks import Compile, Task, Verify
from autoconv.sweep.verify import Verdict
from autoconv.tuning import tuner
from autoconv.tuning.backlog import backlog
from tests.cli.conftest import PROBLEM, Run
from tests.cli.test_commands import documented, in_vain
from tuning_db import BusyError, EnvironmentRecord, Miss, ProblemRecord, TuningDB, UnwritableError

SMALL, LARGE = Problem.parse(PROBLEM), Problem.parse("N=8,Cin=256,Cout=256,K=5,L=8192")
BEYOND = Problem(1, 2**20, 16, 1, 2**31)  # no kernel reaches so far
HERE, L4 = (Environment.current(find(name)) for name in ("rtx4090", "l4"))


@pytest.fixture(autouse=True)
def _no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("autoconv.gpu.present", lambda: False)


def miss(
    problem: Problem, environment: Environment = HERE, calls: int = 1, served: str = "torch", day: int = 1
) -> Miss:
    at = f"2026-01-{day:02}T00:00:00+00:00"
    return Miss(*lookup.records(problem, environment), calls, served, at, at)


def note(*misses: Miss, path: Path | None = None) -> Path:
    path = path or settings.load().database
    with TuningDB.open(path, columns=lookup.COLUMNS, application=lookup.APPLICATION) as database:
        database.note_misses(misses)
    return path


def left() -> list[str]:
    with lookup.open_as_it_is(settings.load()) as database:
        return [one.problem.key for one in database.misses()]


def listed(shown: Any) -> list[dict[str, Any]]:
    assert shown.exit_code == 0, shown.output
    rows = [json.loads(line) for line in shown.stdout.splitlines()]
    assert all(set(row) == documented("db missed") for row in rows)
    return rows


# --- db missed ------------------------------------------------------------------------------------


def test_what_most_time_goes_to_comes_first(run: Run) -> None:
    each = {one: best_guess(one, find("rtx4090"))[1] for one in (SMALL, LARGE)}
    calls = int(each[LARGE] / each[SMALL])  # so many small ones take a little less than a large one
    note(miss(SMALL, calls=calls - 1), miss(LARGE, calls=1), miss(LARGE, L4, calls=1))
    rows = listed(run("db", "missed", "--json"))
    assert [(row["problem"], row["device"]) for row in rows] == [
        (str(LARGE), "l4"), (str(LARGE), "rtx4090"), (str(SMALL), "rtx4090"),
    ]  # fmt: skip
    assert rows[1]["estimated_ms"] == pytest.approx(each[LARGE] * 1e3)
    assert rows[0]["estimated_ms"] > 1.2 * rows[1]["estimated_ms"]
    note(miss(SMALL, calls=2), miss(SMALL, L4, calls=10**9, served="carried", day=9))
    rows = listed(run("db", "missed", "--json"))
    assert [row["calls"] for row in rows] == [10**9, 1, calls + 1, 1]
    assert (rows[0]["served"], rows[0]["first_seen"]) == ("carried", "2026-01-09T00:00:00+00:00")
    assert [row["problem"] for row in listed(run("db", "missed", "--device", "rtx4090", "--json"))] == [
        str(SMALL), str(LARGE),
    ]  # fmt: skip


def test_one_device_is_one_line_whatever_its_driver_and_triton(run: Run) -> None:
    newer = replace(HERE, cuda_driver="600.1", triton="9.9", triton_patch="9.9.0")
    slice_of_it = replace(HERE, sms=HERE.sms // 2)
    note(miss(LARGE, calls=2, day=3), miss(LARGE, newer, calls=3, served="carried", day=5))
    (row,) = listed(run("db", "missed", "--json"))
    assert (row["calls"], row["served"]) == (5, "carried")
    assert (row["first_seen"][:10], row["last_seen"][:10]) == ("2026-01-03", "2026-01-05")
    note(miss(LARGE, slice_of_it))
    rows = listed(run("db", "missed", "--json"))
    assert [row["calls"] for row in rows] == [5, 1]
    assert rows[1]["estimated_ms"] > rows[0]["estimated_ms"]


def test_a_list_for_a_person(run: Run, tmp_path: Path) -> None:
    path = note(miss(SMALL, calls=12345, served="[red]\x1b[2Jtorch"), path=tmp_path / "other.db")
    shown = run("db", "missed", str(path))
    head, line, *_ = shown.stdout.splitlines()
    assert head.split() == ["problem", "device", "calls", "estimate", "served", "last", "seen"]
    assert "12345" in line and " ms" in line and "rtx4090" in line and "[red]\\x1b[2Jtorch" in shown.stdout
    assert run("db", "missed").stdout == "nothing was missed\n"


def test_a_name_that_no_device_has_is_told(run: Run) -> None:
    note(miss(SMALL))
    shown = run("db", "missed", "--device", "rtx4091")
    assert (shown.exit_code, shown.stdout) == (2, "") and "did you mean rtx4090?" in shown.stderr
    assert listed(run("db", "missed", "--device", "l4", "--json")) == []


def test_a_key_of_another_version_is_left_out_and_told(run: Run) -> None:
    old = replace(miss(SMALL), problem=ProblemRecord("v0:N=1"))
    note(old, miss(SMALL))
    shown = run("db", "missed", "--json")
    assert len(listed(shown)) == 1
    assert "1 have the key of no problem of this version" in shown.stderr
    assert json.loads(run("db", "prune", "--missed", "--json").stdout)["misses"] == 2
    assert left() == []


def test_no_estimate_comes_last_and_torch_s_least_where_no_kernel_runs_it() -> None:
    unknown = EnvironmentRecord({"arch": "sm_999", "triton": "3.7"}, {"device": "new", "sms": 1})
    found = backlog([replace(miss(LARGE, calls=10**6), environment=unknown), miss(SMALL), miss(BEYOND)])
    assert [one.problem for one in found] == [BEYOND, SMALL, LARGE]
    assert found[0].seconds is not None and found[0].seconds > 1
    assert found[2].seconds is None and found[2].total_seconds == 0


def test_sizes_near_each_other_are_estimated_almost_as_if_each_were_searched() -> None:
    problems = [replace(LARGE, L=length) for length in range(5000, 8000, 617)]
    for one in backlog([miss(problem) for problem in problems]):
        least = best_guess(one.problem, find("rtx4090"))[1]
        assert one.seconds is not None and least <= one.seconds * (1 + 1e-9) <= 1.25 * least


# --- tune --missed --------------------------------------------------------------------------------


@pytest.fixture
def known(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """The small problem tuned for one device; no sweep starts a process, all answers come at once."""

    def perform(_: Workers, tasks: Iterable[Task[Any]], *__: Any, **___: Any) -> Iterator[Any]:
        for task in tasks:
            if isinstance(task, Compile):
                yield Resources(registers=64, spills=0, shared=1024)
            elif isinstance(task, Verify):
                yield Verdict(True, 1e-7, unwritten=0, overrun=0, seed=1, problem=str(task.problem))
            else:
                yield True

    monkeypatch.setattr(Workers, "perform", perform)
    assert run("tune", PROBLEM, "--device", "rtx4090").exit_code == 0


def test_tune_missed_tunes_in_order_each_for_its_device_and_forgets(known: None, run: Run) -> None:
    """Two of them by a sweep of few candidates, one from the database."""
    other = replace(SMALL, L=4 * SMALL.L)  # beyond the bucket of what was tuned
    note(miss(SMALL, calls=5), miss(other, calls=10**6), miss(SMALL, L4, calls=10**3))
    order = [(row["problem"], row["device"]) for row in listed(run("db", "missed", "--json"))]
    assert order == [(str(other), "rtx4090"), (str(SMALL), "l4"), (str(SMALL), "rtx4090")]
    shown = run("tune", "--missed", "--json")
    assert shown.exit_code == 0, shown.output
    rows = [json.loads(line) for line in shown.stdout.splitlines()]
    swept = {(row["problem"], row["device"]): row["swept"] for row in rows}  # side by side: each as it ends
    assert swept == dict(zip(order, [True, True, False], strict=True))
    assert [row["provenance"] for row in rows] == ["predicted"] * 3
    assert left() == [] and run("db", "missed").stdout == "nothing was missed\n"
    again = run("tune", "--missed", "--json")
    assert (again.exit_code, again.stdout) == (0, "") and "nothing was missed" in again.stderr
    for problem, device in order:
        assert run("lookup", problem, "--device", device).exit_code == 0


def test_what_no_file_took_stays_among_the_missed(
    known: None, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(database: TuningDB, *_: object) -> None:
        raise UnwritableError(database.path, "the disk is full", "make room")

    monkeypatch.setattr(TuningDB, "add", full)
    other = replace(SMALL, L=4 * SMALL.L)
    note(miss(SMALL), miss(other))
    shown = run("tune", "--missed")
    assert shown.exit_code == 1, shown.output
    assert shown.stderr.count(f"results of {other} are not recorded") == 1
    assert "the disk is full" in shown.stderr and f"results of {SMALL}" not in shown.stderr
    assert "2 of 2 ended, 1 of them not recorded" in shown.stderr
    assert left() == [other.key()]


def test_tune_missed_of_one_device_leaves_the_others(known: None, run: Run) -> None:
    slice_of_it = replace(HERE, sms=HERE.sms // 2)
    note(miss(SMALL), miss(LARGE, L4), miss(LARGE, slice_of_it))
    shown = run("tune", "--missed", "--device", "rtx4090", "--json")
    assert shown.exit_code == 0, shown.output
    assert [json.loads(line)["problem"] for line in shown.stdout.splitlines()] == [PROBLEM]
    assert left() == [LARGE.key()] * 2
    assert "1 problems were missed by devices that are tuned for elsewhere" in shown.stderr


def test_what_was_swept_in_vain_stays_and_what_no_kernel_runs_goes(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("autoconv.sweep.executor.sweep", in_vain)
    note(miss(SMALL), miss(BEYOND))
    shown = run("tune", "--missed", "--json")
    assert shown.exit_code == 1, shown.output
    assert [json.loads(line)["problem"] for line in shown.stdout.splitlines()] == [PROBLEM]
    assert f"torch serves {BEYOND}" in shown.stderr
    assert left() == [SMALL.key()]


def test_a_device_that_cannot_be_tuned_for_here_is_told(run: Run) -> None:
    note(miss(SMALL, replace(HERE, device="a-board-of-its-own")))
    shown = run("tune", "--missed")
    assert (shown.exit_code, shown.stdout) == (0, "")
    assert "a-board-of-its-own: is not a known device" in shown.stderr
    assert "nothing was missed that can be tuned here" in shown.stderr and left() == [SMALL.key()]


def scripted(grade: str) -> Callable[..., Any]:
    """What stands in for `Tuner.tune`: an answer of that grade, and no sweep."""
    config = Config("dense", {"BLOCK_CO": 16, "BLOCK_L": 16, "BLOCK_R": 16}, num_warps=2, num_stages=2)
    return lambda *_, **__: tuner.Tuned(lookup.Found(config, "measured", grade, "user", 1.0, None), None)


def test_with_a_gpu_only_what_it_asked_for_is_tuned(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("autoconv.gpu.present", lambda: True)
    monkeypatch.setattr("autoconv.gpu.current", lambda _: find("l4"))
    monkeypatch.setattr("autoconv.gpu.driver_and_power", lambda _: ("570.1", 72))
    monkeypatch.setattr(tuner.Tuner, "tune", scripted("exact"))
    note(miss(SMALL), miss(LARGE, L4), miss(SMALL, replace(L4, cuda_driver="550.2")))
    shown = run("tune", "--missed", "--json")
    rows = [json.loads(line) for line in shown.stdout.splitlines()]
    assert {(row["problem"], row["device"]) for row in rows} == {(str(LARGE), "l4"), (PROBLEM, "l4")}
    assert left() == [SMALL.key()] and listed(run("db", "missed", "--json"))[0]["device"] == "rtx4090"


def test_what_another_process_is_still_sweeping_stays(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tuner.Tuner, "tune", scripted("default"))
    note(miss(SMALL))
    assert run("tune", "--missed").exit_code == 0 and left() == [SMALL.key()]


def test_trouble_in_forgetting_costs_no_result(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def busy(*_: object) -> None:
        raise BusyError("the.db", "another process keeps it busy", "try again")

    monkeypatch.setattr(tuner.Tuner, "tune", scripted("soft"))
    monkeypatch.setattr(TuningDB, "forget_misses", busy)
    note(miss(SMALL), miss(LARGE))
    shown = run("tune", "--missed", "--json")
    assert (shown.exit_code, len(shown.stdout.splitlines())) == (0, 2)
    assert shown.stderr.count("it stays among the missed") == 2 and len(left()) == 2


@pytest.mark.parametrize("arguments", [(), (PROBLEM, "--missed")])
def test_problems_are_named_or_missed(run: Run, arguments: tuple[str, ...]) -> None:
    shown = run("tune", *arguments)
    assert (shown.exit_code, shown.stdout) == (2, "") and "one of the two" in shown.stderr


def test_all_anew_and_as_little_as_it_can_are_two_wishes(run: Run) -> None:
    shown = run("tune", "N=1,Cin=16,Cout=16,K=1,L=20", "--again", "--revalidate", "--device", "l4")
    assert (shown.exit_code, shown.stdout) == (2, "") and "--revalidate as little as it can" in shown.stderr
