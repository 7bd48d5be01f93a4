"""What an emitted file looks like: in order, formatted, with nothing that was not asked for."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from autoconv.cli import cli
from autoconv.compiler.recording import RecordingDriver, recording
from autoconv.config import Config
from autoconv.environment import Environment
from autoconv.kernels.registry import kernels, supporting
from autoconv.problem import Problem
from scripts.emitted import FOLDER, PROBLEMS
from tests.emit.loading import DEVICE, emitted, load, operands, tensors, window, wrapper

# fmt: off
KINDS = [
    "N=2,Cin=16,Cout=20,K=3,L=70,padding=1,layout=nlc",
    "N=1,Cin=64,Cout=64,K=1,L=1000,bias=1",
    "N=1,Cin=64,Cout=64,K=3,L=1000,padding=1:2,activation=gelu",
    "N=2,Cin=15,Cout=10,K=3,L=50,padding=1,groups=5,bias=1,dtype=float16",
    "N=2,Cin=32,Cout=12,K=3,L=50,padding=1,groups=2,layout=nlc",
    "N=1,Cin=8,Cout=8,K=31,L=1000,groups=8",
    "N=1,Cin=8,Cout=8,K=4,L=100,groups=8,stride=2,op=conv_transpose,bias=1",
    "N=2,Cin=6,Cout=9,K=8,L=15,stride=4,op=conv_transpose,padding=2:1,groups=3,activation=silu,bias=1",
    "N=2,Cin=6,Cout=4,K=3,L=50,op=conv_weight,groups=2,padding=1:0",
    "N=2,Cin=6,Cout=4,K=3,L=50,op=conv_weight",
]
# fmt: on
IMPORTS = ["torch", "torch.nn", "triton", "triton.language"]


def first_configs(name: str, problem: Problem, count: int = 1) -> list[Config]:
    space = kernels()[name].space(problem, DEVICE)
    return [config for config, _ in zip(space, range(count), strict=False)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of every kind, kernel and way to tune."""
    folder = tmp_path_factory.mktemp("emitted")
    for number, problem in enumerate(map(Problem.parse, KINDS)):
        for kernel in supporting(problem):
            configs = first_configs(kernel.name, problem, 2)
            for over in (None, "blocks", "launch") if configs else ():
                text = emitted(kernel, problem, configs, over)
                (folder / f"{kernel.name}_{number}_{over}.py").write_text(text, encoding="utf-8")
    return folder


def ruff(*arguments: str | Path) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "ruff", *arguments, "--isolated", "--no-cache", "--line-length", "110"],
        capture_output=True,
        text=True,
    )
    return "" if done.returncode == 0 else done.stdout + done.stderr


def test_every_file_is_formatted_as_a_formatter_would(folder: Path) -> None:
    assert ruff("format", "--diff", folder) == ""


def test_no_file_gives_a_linter_cause(folder: Path) -> None:
    # E731: Triton's own way to write a grid is a lambda of META with a name.
    assert ruff("check", "--select", "E,F,W,UP,B,SIM,C4,RET", "--ignore", "E731", folder) == ""


def test_every_file_is_in_the_asked_order(folder: Path) -> None:
    files = list(folder.glob("*.py"))
    assert {path.name.rsplit("_", 2)[0] for path in files} == set(kernels())
    for path in files:
        tree = ast.parse(path.read_text(encoding="utf-8"))
        imports = [alias.name for node in tree.body if isinstance(node, ast.Import) for alias in node.names]
        assert [name for name in imports if name != "math"] == IMPORTS
        kinds = [kind_of(node) for node in tree.body]
        assert re.fullmatch(r"docstring( import)+( jit)+ function function class class", " ".join(kinds)), (
            path
        )
        assert isinstance(tree.body[-1], ast.ClassDef) and tree.body[-1].name == "ModelNew"
        assert ast.get_docstring(tree)


def kind_of(node: ast.stmt) -> str:
    if isinstance(node, ast.FunctionDef):
        return "jit" if node.decorator_list else "function"
    return {ast.Import: "import", ast.ClassDef: "class", ast.Expr: "docstring"}[type(node)]


def test_no_file_sets_a_number_of_its_config_twice(folder: Path) -> None:
    for path in folder.glob("*.py"):
        text, way = path.read_text(encoding="utf-8"), path.stem.rsplit("_", 1)[1]
        tree = ast.parse(text)
        tuned = [
            node for node in ast.walk(tree) if isinstance(node, ast.Call) and called(node) == "triton.Config"
        ]
        launched = [
            {word.arg for word in node.keywords}
            for node in ast.walk(tree)
            if isinstance(node, ast.Call) and called(node).endswith("_kernel[grid]")
            and called(node).startswith(path.name.rsplit("_", 2)[0])
        ]  # fmt: skip
        assert len(launched) == 1
        blocks = {word for word in launched[0] if word and word.startswith("BLOCK_")}
        if way == "None":
            assert not tuned and blocks and {"num_warps", "num_stages"} <= launched[0]
            continue
        in_configs = {key.value for node in tuned for key in node.args[0].keys}  # type: ignore[attr-defined]
        assert tuned and not {"num_warps", "num_stages"} & launched[0]
        assert bool(in_configs) == (way == "blocks") and bool(blocks) == (way == "launch")
        assert all(name.startswith("BLOCK_") for name in in_configs)


@pytest.mark.parametrize("name", ["dense", "tap_major", "pointwise"])
def test_a_file_that_tunes_itself_does_so_anew_for_each_length(name: str) -> None:
    """125 and 2000 are 125 units each, of 1 and of 16."""
    kernel = kernels()[name]
    lengths = (125, 250, 1000, 2000)
    taps = 1 if name == "pointwise" else 3
    problems = [Problem(1, 64, 64, taps, length, padding=taps // 2, dtype="float16") for length in lengths]
    configs = first_configs(name, problems[0], 2)
    (call,) = (
        node
        for node in ast.walk(ast.parse(emitted(kernel, problems[0], configs, "launch")))
        if isinstance(node, ast.Call) and called(node) == "triton.autotune"
    )
    (names,) = (ast.literal_eval(word.value) for word in call.keywords if word.arg == "key")
    launches = [kernel.main_launch(problem, configs[0]).keywords for problem in problems]
    keys = {tuple(keywords[name] for name in names) for keywords in launches}
    assert len(keys) == len(lengths)


def called(node: ast.Call) -> str:
    return ast.unparse(node.func)


def run(*arguments: str) -> Result:
    return CliRunner().invoke(cli, ["emit", *arguments], prog_name="autoconv")


@pytest.mark.parametrize("name", PROBLEMS)
def test_the_examples_are_what_the_generator_writes(name: str) -> None:
    text = (FOLDER / f"{name}.py").read_text(encoding="utf-8")
    here = Environment.current(DEVICE).triton_patch
    if f"with Triton {here}." not in " ".join(text.split()):
        pytest.skip(f"they were written with another Triton than {here}")
    assert run(PROBLEMS[name], "--device", "rtx4090").stdout == text, "run 'make emitted'"


SEED_CONFIG = (
    "--kernel", "dense", "--config",
    '{"BLOCK_CO":16,"BLOCK_L":32,"BLOCK_R":16,"num_warps":2,"num_stages":2}',
)  # fmt: skip
SMALL = "N=2,Cin=16,Cout=20,K=3,L=100"


def test_a_config_of_ones_own_is_written_to_a_file(tmp_path: Path) -> None:
    path = tmp_path / "conv.py"
    shown = run(SMALL, "--device", "l4", *SEED_CONFIG, "-o", str(path), "--json")
    fields = json.loads(shown.stdout)
    assert (shown.exit_code, fields["file"], fields["device"]) == (0, str(path), "l4")
    assert (fields["kernel"], fields["grid"], fields["measured_ms"]) == ("dense", [2 * 7], None)
    assert "predicted, not measured" in path.read_text(encoding="utf-8")
    assert "BLOCK_CO=16,\n" in path.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--over", "launch"], "--autotune"),
        (["--kernel", "dense"], "--config"),
        (["--autotune", "1"], "--autotune"),
        (["--kernel", "pointwise", *SEED_CONFIG[2:]], "GROUP_L"),
    ],
)
def test_a_wrong_call_is_told_in_one_line(arguments: Sequence[str], said: str) -> None:
    shown = run(SMALL, "--device", "rtx4090", *arguments)
    assert shown.exit_code == 2 and said in shown.stderr and shown.stdout == ""


@pytest.mark.parametrize("over", ["blocks", "launch"])
def test_a_file_that_tunes_launches_each_of_its_configs(
    over: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    problem = Problem.parse(SMALL)
    tiles = [{"BLOCK_CO": 16, "BLOCK_L": size, "BLOCK_R": 16} for size in (32, 64)]
    warps = (2, 2) if over == "blocks" else (2, 4)
    configs = [
        Config("dense", tiles[number if over == "blocks" else 0], num_warps=warps[number], num_stages=2)
        for number in range(2)
    ]
    module = load(emitted(kernels()["dense"], problem, configs, over), tmp_path / "tuned.py")

    def timed(launch: Any, **_: Any) -> list[float]:
        launch()
        return [1.0, 1.0, 1.0]

    monkeypatch.setattr(RecordingDriver, "get_benchmarker", lambda _: timed)
    with recording(DEVICE) as recorder:
        wrapper(module, problem)(*operands(problem, tensors(problem)), **window(problem))
    seen = {(launch.num_warps, launch.grid) for launch in recorder.launches}
    tiles_co, columns = -(-problem.Cout // 16), problem.N * problem.L_out
    grids = [(tiles_co * -(-columns // config.tiles["BLOCK_L"]), 1, 1) for config in configs]
    assert seen == {(config.num_warps, grid) for config, grid in zip(configs, grids, strict=True)}
