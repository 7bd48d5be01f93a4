"""`autoconv capture`: a program's convolutions, in a file that `tune` takes."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result

from autoconv.problem import Problem
from autoconv.settings import child_environment
from autoconv.tuning.asked import read

Run = Callable[..., Result]

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


def test_a_failure_of_the_program_is_told_as_python_does_and_the_file_is_where_it_was_named(
    tmp_path: Path,
) -> None:
    """Of a kind that this command has words of its own for, after the program went to another folder."""
    (tmp_path / "program.py").write_text(
        "import os, torch\nos.chdir('/')\ntorch.nn.Conv1d(4, 8, 3)(torch.zeros(2, 4, 40))\n"
        "raise ConnectionRefusedError(111, 'nobody answers')",
        encoding="utf-8",
    )
    done = capture("--output", "seen.jsonl", "program.py", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.rstrip().endswith("ConnectionRefusedError: [Errno 111] nobody answers")
    assert len(read((tmp_path / "seen.jsonl").read_text(encoding="utf-8"), "f")) == 1


@pytest.mark.parametrize(
    "raised", ["EOFError('no more')", "click.Abort()", "FieldError('a', 'b', 1, 'is', 'no')"]
)
def test_no_failure_of_the_program_is_taken_for_this_command_s(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, raised: str
) -> None:
    monkeypatch.setattr(sys, "argv", [])
    monkeypatch.setattr(sys, "path", [*sys.path])
    script = tmp_path / "program.py"
    script.write_text(
        f"import click\nfrom autoconv.errors import FieldError\nraise {raised}", encoding="utf-8"
    )
    shown = run("capture", str(script))
    assert shown.exit_code == 1 and f"raise {raised}" in shown.stderr


def test_where_nothing_can_be_written_the_program_is_not_run(run: Run, tmp_path: Path) -> None:
    script = tmp_path / "program.py"
    script.write_text(f"open({str(tmp_path / 'ran')!r}, 'w')", encoding="utf-8")
    shown = run("capture", "--output", str(tmp_path / "absent" / "seen.jsonl"), str(script))
    assert shown.exit_code == 2 and "it cannot be written" in shown.stderr
    assert not (tmp_path / "ran").exists()


def test_a_module_is_run_as_python_does(program: Path) -> None:
    done = capture("-m", "program", cwd=program.parent)
    assert done.returncode == 0, done.stderr
    assert Problem.parse(json.loads(done.stdout.splitlines()[0])["problem"]).L == 40


def test_a_script_that_is_not_there_is_a_wrong_call() -> None:
    done = capture("absent.py")
    assert (done.returncode, done.stdout) == (2, "") and "there is no such file" in done.stderr
