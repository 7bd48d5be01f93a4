"""What every supported Triton must do: import, compile, record a launch, interpret.

`make test-triton-versions` runs this folder and tests/launcher from the oldest Triton to the newest, `make
test` under the pinned one. What a version makes of a kernel, its registers for one, is not looked at: that
differs, and the version is a hard field of the environment for it.
"""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

import pytest
import torch

import autoconv
from autoconv.compiler.candidate import compile_candidate
from autoconv.compiler.targets import uncompilable
from autoconv.config import Config
from autoconv.device import ARCHITECTURES, Architecture, find
from autoconv.environment import Environment
from autoconv.kernels.registry import kernels
from autoconv.problem import Problem
from autoconv.settings import child_environment

ROOT = Path(__file__).parents[2]
PROBLEM = Problem(2, 16, 32, 3, 100, stride=2, padding=1, bias=True)
CONFIGS = [
    Config(name, dict.fromkeys(kernel.tiles, 32), num_warps=4, num_stages=2)
    for name, kernel in kernels().items()
    if name in ("dense", "im2col_rows")
]


def test_the_environment_is_this_triton_s() -> None:
    environment = Environment.current(find("rtx4090"))
    assert environment.triton_patch == version("triton")
    assert version("triton").startswith(f"{environment.triton}.")


@pytest.mark.parametrize("config", CONFIGS, ids=str)
def test_kernels_compile_for_a_gpu_that_is_not_here(config: Config, tmp_path: Path) -> None:
    found = compile_candidate(PROBLEM, config, find("rtx4090"), tmp_path)
    assert found.unrunnable(config, find("rtx4090")) is None
    assert 16 <= found.registers <= 255
    assert found.loop["HMMA.1688"] > 0
    assert any(opcode.startswith("LDGSTS") for opcode in found.loop)
    assert compile_candidate(PROBLEM, config, find("rtx4090"), tmp_path) == found
    other = compile_candidate(PROBLEM, config, find("a100-80gb"), tmp_path)
    assert other.loop["HMMA.1688"] > 0


def test_calls_are_recorded_up_to_the_launch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AUTOCONV_ON_MISS", "predict")
    model = autoconv.ModelNew(16, 32, 3, stride=2, bias=True)
    x = torch.zeros(2, 16, 100)
    for _ in range(2):  # another context, the same compiled kernel
        with torch.no_grad(), autoconv.recorded("rtx4090") as launches:
            shapes = [model(x).shape for _ in range(3)]
        assert shapes == [(2, 32, 49)] * 3
        assert [launch.kernel for launch in launches] == [launches[0].kernel] * 3
        assert launches[0].grid[0] >= 1 and launches[0].shared > 0
        assert launches[0].arguments[0] is x
        assert launches[0].arguments[1] is model.conv1d.weight


INTERPRET = """
import json, sys
from dataclasses import asdict
import autoconv.cli, autoconv.simulation, autoconv.diagnosis, autoconv.sweep.worker, autoconv.sweep.timing
from autoconv.config import Config
from autoconv.kernels.interpreter import interpreting
from autoconv.problem import Problem
from autoconv.sweep.verify import verify

assert interpreting()
config = Config.from_document(json.loads(sys.argv[1]))
for text in sys.argv[2:]:
    print(json.dumps(asdict(verify(Problem.parse(text), config, where="cpu", seed=1))))
"""


def test_the_interpreter_agrees_with_float64() -> None:
    """With every module imported, and without a warning."""
    half = Problem(1, 16, 16, 3, 40, padding=1, bias=True, dtype="bfloat16")
    dense = json.dumps(CONFIGS[0].document())
    out = subprocess.run(
        [sys.executable, "-W", "error", "-c", INTERPRET, dense, str(PROBLEM), str(half)],
        cwd=ROOT,
        env=child_environment(TRITON_INTERPRET="1"),
        capture_output=True,
        text=True,
        check=False,
    )
    assert out.returncode == 0, out.stderr
    verdicts = [json.loads(line) for line in out.stdout.splitlines()]
    assert [verdict["ok"] for verdict in verdicts] == [True, True], verdicts


@pytest.mark.parametrize(
    "arch",
    [arch for arch in ARCHITECTURES.values() if uncompilable(arch) is None],
    ids=lambda arch: arch.name,
)
def test_triton_compiles_for_the_architectures_that_it_is_said_to(arch: Architecture, tmp_path: Path) -> None:
    """For the others it must not be asked: Triton 3.3 ends the process over sm_103."""
    compile_candidate(PROBLEM, CONFIGS[0], replace(find("rtx4090"), arch=arch), tmp_path)
