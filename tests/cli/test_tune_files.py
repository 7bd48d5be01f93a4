"""`autoconv tune` of files, ranges and several devices; the sweeps are scripted."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from autoconv import lookup
from autoconv.cli import cli
from autoconv.config import Config
from autoconv.cost.prediction import floor_seconds
from autoconv.device import find
from autoconv.errors import ProblemError
from autoconv.problem import Problem
from autoconv.tuning import tuner
from autoconv.tuning.asked import parsed
from autoconv.tuning.effort import EFFORTS
from tests.cli.conftest import PROBLEM, Run
from tuning_db import TuningDB

CONFIG = Config("dense", {"BLOCK_CO": 16, "BLOCK_L": 16, "BLOCK_R": 16}, num_warps=2, num_stages=2)
LARGE = "N=8,Cin=256,Cout=256,K=5,L=8192"
FOUND = lookup.Found(CONFIG, "predicted", "exact", "user", measured_us=None, predicted_us=12.5)


@pytest.fixture(autouse=True)
def _no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("autoconv.gpu.present", lambda: False)
    monkeypatch.setattr("os.cpu_count", lambda: 1)  # one after the other


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str, int]]:
    """The problem, device and shortlist of each sweep that is asked for; all of them find something."""
    seen: list[tuple[str, str, int]] = []

    def tune(_: Any, problem: Problem, job: Any, **__: Any) -> tuner.Tuned:
        seen.append((str(problem), job.device.name, job.shortlist))
        return tuner.Tuned(FOUND, None)

    monkeypatch.setattr(tuner.Tuner, "tune", tune)
    return seen


def lines(shown: Any) -> list[dict[str, Any]]:
    return [json.loads(line) for line in shown.stdout.splitlines()]


def test_a_file_for_two_devices_the_most_time_first(
    run: Run, asked: list[tuple[str, str, int]], tmp_path: Path
) -> None:
    file = tmp_path / "problems.jsonl"
    file.write_text(f'{PROBLEM}\n{{"problem": "{LARGE}", "calls": 2}}\n', encoding="utf-8")
    shown = run("tune", str(file), "--device", "rtx4090", "--device", "l4", "--json", "--effort", "quick")
    assert shown.exit_code == 0, shown.output
    order = [(LARGE, "rtx4090"), (LARGE, "l4"), (PROBLEM, "rtx4090"), (PROBLEM, "l4")]
    assert asked == [(*one, EFFORTS["quick"].shortlist) for one in order]
    assert [(row["problem"], row["device"]) for row in lines(shown)] == order


def test_calls_of_all_files_count_together(
    run: Run, asked: list[tuple[str, str, int]], tmp_path: Path
) -> None:
    """The small one, called often enough, comes before the large."""
    file, other = tmp_path / "a.json", tmp_path / "b.json"
    file.write_text(json.dumps([{"problem": PROBLEM, "calls": 10**6}, LARGE]), encoding="utf-8")
    other.write_text(json.dumps([{"problem": PROBLEM, "calls": 10**7}]), encoding="utf-8")
    assert run("tune", str(file), str(other), "--device", "l4", "--json").exit_code == 0
    assert [problem for problem, *_ in asked] == [PROBLEM, LARGE]


def test_standard_input_and_ranges(asked: list[tuple[str, str, int]]) -> None:
    text = f"{PROBLEM}\n{LARGE.replace('L=8192', 'L=200..4000')}\n"
    shown = CliRunner().invoke(cli, ["tune", "-", "--device", "l4", "--json"], input=text)
    assert shown.exit_code == 0, shown.output
    ranged = [one.problem.L for one in parsed(LARGE.replace("L=8192", "L=200..4000"))]
    assert sorted(Problem.parse(problem).L for problem, *_ in asked) == [16, *ranged] and len(ranged) == 3


def test_with_buckets_near_sizes_are_one(run: Run, asked: list[tuple[str, str, int]]) -> None:
    near = [PROBLEM.replace("L=16", f"L={length}") for length in (1000, 1500, 2000, 9000)]
    shown = run("tune", *near, "--device", "l4", "--buckets", "--json")
    assert shown.exit_code == 0 and {Problem.parse(problem).L for problem, *_ in asked} == {1500, 9000}
    assert "2 in those of 2 others" in shown.stderr
    asked.clear()
    assert run("tune", *near, "--device", "l4", "--json").exit_code == 0
    assert len(asked) == 4


def test_a_summary_has_a_line_each(run: Run, asked: list[tuple[str, str, int]]) -> None:
    shown = run("tune", PROBLEM, LARGE, "--device", "l4")
    _, summary = shown.stdout.split("2 problems")
    head, *rows = summary.strip().splitlines()
    assert head.split() == [
        "problem",
        "device",
        "kernel",
        "config",
        "predicted",
        "measured",
        "of",
        "floor",
        "from",
    ]
    assert sum("dense" in row and "0.0125 ms" in row for row in rows) == 2


def test_a_summary_shows_times_taken_beside_other_work_and_rests_on_them(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    beside = replace(FOUND, provenance="contended", contended_us=50.0)
    monkeypatch.setattr(tuner.Tuner, "tune", lambda *_, **__: tuner.Tuned(beside, None))
    shown = run("tune", PROBLEM, LARGE, "--device", "l4")
    _, summary = shown.stdout.split("2 problems")
    head, *rows = summary.strip().splitlines()
    assert "contended" in head and sum("0.05 ms" in row for row in rows) == 2
    floor = floor_seconds(Problem.parse(PROBLEM), find("l4"))
    assert f"{100 * floor / 50e-6:.0f} %" in summary


def test_of_many_problems_there_is_the_summary_alone(
    run: Run, asked: list[tuple[str, str, int]], tmp_path: Path
) -> None:
    texts = [f"N=1,Cin=16,Cout=16,K=3,L={64 << n}" for n in range(6)]
    (tmp_path / "f").write_text("\n".join(texts), encoding="utf-8")
    shown = run("tune", str(tmp_path / "f"), "--device", "l4")
    assert shown.stdout.lstrip().startswith("6 problems")
    assert len(asked) == 6


def test_what_no_kernel_runs_does_not_stop_a_file(
    run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def tune(_: Any, problem: Problem, *__: Any, **___: Any) -> tuner.Tuned:
        if problem == Problem.parse(LARGE):
            raise ProblemError("op", "conv", "no kernel runs it", "leave it to torch")
        return tuner.Tuned(FOUND, None)

    monkeypatch.setattr(tuner.Tuner, "tune", tune)
    (tmp_path / "f").write_text(f"{LARGE}\n{PROBLEM}", encoding="utf-8")
    shown = run("tune", str(tmp_path / "f"), "--device", "l4", "--json")
    assert (shown.exit_code, [row["problem"] for row in lines(shown)]) == (0, [PROBLEM])
    assert f"torch serves {LARGE}: problem: op=conv: no kernel runs it" in shown.stderr


def ends_after(count: int, error: Callable[[], BaseException], found: lookup.Found = FOUND) -> Any:
    """Stand in for `Tuner.tune`: so many problems are tuned, then something ends it."""
    done: list[Problem] = []

    def tune(_: Any, problem: Problem, *__: Any, **___: Any) -> tuner.Tuned:
        if len(done) == count:
            raise error()
        done.append(problem)
        return tuner.Tuned(found, None)

    return tune


def test_ctrl_c_says_what_is_done_and_how_to_go_on(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tuner.Tuner, "tune", ends_after(1, KeyboardInterrupt))
    shown = run("tune", PROBLEM, LARGE, "--device", "l4", "--json")
    assert (shown.exit_code, len(lines(shown))) == (130, 1)
    assert "1 of 2 ended and are recorded; the same command goes on from there" in shown.stderr


def test_ctrl_c_claims_nothing_that_no_file_took(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    ending = ends_after(1, KeyboardInterrupt, replace(FOUND, layer="memory"))
    monkeypatch.setattr(tuner.Tuner, "tune", ending)
    shown = run("tune", PROBLEM, LARGE, "--device", "l4", "--json")
    assert (shown.exit_code, len(lines(shown))) == (130, 1)
    assert "1 of 2 ended, 1 of them not recorded; the same command goes on from there" in shown.stderr


def test_a_file_that_takes_no_writes_is_told_before_any_work(
    run: Run, asked: list[tuple[str, str, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is the connection that refuses: nothing that is known of the file beforehand says so."""
    reading = TuningDB.reading

    @contextmanager
    def refusing(database: TuningDB) -> Iterator[sqlite3.Connection]:
        with reading(database) as connection:
            connection.execute("PRAGMA query_only = 1")
            yield connection

    monkeypatch.setattr(TuningDB, "reading", refusing)
    shown = run("tune", PROBLEM, "--device", "l4")
    assert (shown.exit_code, shown.stdout, asked) == (2, "", [])
    assert "attempt to write a readonly database" in shown.stderr


def test_the_budget_leaves_the_rest_over(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[float] = []

    def none(orders: Any, _: Any, *, seconds: float, **__: Any) -> Any:
        given.append(seconds)
        yield from ()

    monkeypatch.setattr("autoconv.tuning.scheduler.tune_all", none)
    shown = run("tune", PROBLEM, LARGE, "--device", "l4", "--budget", "30m", "--json")
    assert (shown.exit_code, given) == (1, [1800.0])
    assert "the budget left 2 of 2 over; the same command goes on from there" in shown.stderr


def test_what_another_process_sweeps_is_left_over(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """The guess that serves meanwhile is no result."""
    monkeypatch.setattr(tuner, "FLIGHT_SECONDS", 0.0)
    monkeypatch.setattr(tuner, "single_flight", lambda *_: nullcontext(enter_result=False))
    shown = run("tune", PROBLEM, "--device", "l4", "--json")
    assert (shown.exit_code, shown.stdout) == (1, "")
    assert "1 of 1 are being swept by another process; the same command tells what it found" in shown.stderr
    assert "budget" not in shown.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ("--effort", "quik"),
            "tune: effort=quik: is not an effort, did you mean quick?; give quick, normal,",
        ),
        (("--budget", "soon"), "tune: budget=soon: is not a time above 0; give seconds, or such as"),
        (("--budget", "0m"), "tune: budget=0m: is not a time above 0;"),
    ],
)
def test_an_option_that_is_none(run: Run, arguments: tuple[str, ...], message: str) -> None:
    shown = run("tune", PROBLEM, *arguments)
    assert (shown.exit_code, shown.stdout) == (2, "") and shown.stderr.startswith(f"Error: {message}")


def test_a_file_that_is_none_of_problems(run: Run, tmp_path: Path) -> None:
    (tmp_path / "bad").write_bytes(b"\xff\xfe")
    shown = run("tune", str(tmp_path / "bad"))
    assert shown.exit_code == 2 and "cannot be read" in shown.stderr
    assert "or name a file that is there" in run("tune", str(tmp_path / "absent")).stderr
