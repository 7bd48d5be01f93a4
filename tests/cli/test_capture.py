"""`autoconv capture`: a program's convolutions, in a file that `tune` takes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from autoconv.problem import Problem
from autoconv.settings import child_environment
from autoconv.tuning.asked import read

PROGRAM = """
import sys, torch
from helper import LENGTH
print("to standard output", sys.argv[1:])
model = torch.nn.Sequential(torch.nn.Conv1d(4, 8, 3), torch.nn.ReLU())
for _ in range(2):
    model(torch.zeros(2, 4, LENGTH)).sum().backward()
torch.nn.functional.conv1d(torch.zeros(1, 1, 9).double(), torch.zeros(1, 1, 3).double())
if "fail" in sys.argv:
    raise SystemExit(3)
if "raise" in sys.argv:
    raise ZeroDivisionError
"""


@pytest.fixture
def program(tmp_path: Path) -> Path:
    (tmp_path / "helper.py").write_text("LENGTH = 40", encoding="utf-8")
    (tmp_path / "program.py").write_text(PROGRAM, encoding="utf-8")
    return tmp_path / "program.py"


def capture(*arguments: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "autoconv", "capture", *arguments],
        capture_output=True,
        text=True,
        env=child_environment(PYTHONPATH=str(Path(__file__).parents[2])),
        cwd=cwd,
    )


def test_a_program_is_run_with_its_arguments_and_its_problems_are_lines(program: Path) -> None:
    done = capture(str(program), "--output", "mine", "fail")
    assert done.returncode == 3, done.stderr
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert [(row["calls"], row["modules"]) for row in rows] == [(2, ["Sequential.0"])] * 2
    assert "to standard output ['--output', 'mine', 'fail']" in done.stderr
    assert "left to torch: conv of x (1, 1, 9) and weight (1, 1, 3), torch.float64" in done.stderr
    ops = [one.problem.op for one in read(done.stdout, "its output")]
    assert ops == ["conv", "conv_weight"]


def test_what_was_seen_is_written_though_the_program_fails(program: Path, tmp_path: Path) -> None:
    output = tmp_path / "problems.jsonl"
    done = capture("--output", str(output), "--fake", str(program), "raise")
    assert (done.returncode, done.stdout) == (1, "") and "ZeroDivisionError" in done.stderr
    assert len(read(output.read_text(encoding="utf-8"), "f")) == 2


def test_a_module_is_run_as_python_does(program: Path) -> None:
    done = capture("-m", "program", cwd=program.parent)
    assert done.returncode == 0, done.stderr
    assert Problem.parse(json.loads(done.stdout.splitlines()[0])["problem"]).L == 40


def test_a_script_that_is_not_there_is_a_wrong_call() -> None:
    done = capture("absent.py")
    assert (done.returncode, done.stdout) == (2, "") and "there is no such file" in done.stderr
