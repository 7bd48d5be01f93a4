"""What does without torch, which takes seconds to import: help, wrong calls, hits, and the lists."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from autoconv.cli.common import Target, target_to_look_up
from autoconv.settings import child_environment
from tests.cli.conftest import DEVICE, PROBLEM, Tuned

SEED = "N=64,Cin=64,Cout=128,K=3,L=224280,stride=3,dilation=4"
NEAR = SEED.replace("N=64", "N=63")

LOADED = """
import sys
from autoconv.cli import main
try:
    main()
finally:
    heavy = {"torch", "triton", "numpy", "sqlite_utils"}
    kernels = {name for name in sys.modules if getattr(sys.modules[name], "KERNEL", None) is not None}
    print("loaded:", *sorted(heavy & set(sys.modules) | kernels), file=sys.stderr)
"""


def run(*arguments: str) -> tuple[subprocess.CompletedProcess[str], set[str]]:
    """A command in a process of its own, and what it loaded of what is heavy."""
    done = subprocess.run(
        [sys.executable, "-c", LOADED, *arguments],
        env=child_environment(), capture_output=True, text=True, timeout=200,
    )  # fmt: skip
    return done, set(done.stderr.splitlines()[-1].split()[1:])


@pytest.mark.parametrize("json_or_not", [(), ("--json",)], ids=["person", "json"])
@pytest.mark.parametrize(
    ("problem", "device", "grade"),
    [
        (PROBLEM, DEVICE, "exact"),
        (SEED, DEVICE, "exact"),  # the packaged one's
        (NEAR, DEVICE, "bucket"),  # whose time is estimated
        (SEED, "h200", ""),  # measured beside torch's own; exact or carried, by this process's Triton
    ],
)
def test_a_hit_does_without_torch(
    tuned: Tuned, problem: str, device: str, grade: str, json_or_not: tuple[str, ...]
) -> None:
    done, loaded = run("lookup", problem, "--device", device, *json_or_not)
    assert done.returncode == 0, done.stderr
    of_kernels = {name for name in loaded if name.startswith("autoconv.kernels.")}
    assert len(of_kernels) <= 4  # those that its trials name, of all
    of_estimates = set() if grade == "exact" else {"numpy"}  # an exact entry has its own time
    assert loaded - of_kernels - of_estimates == {"triton"}
    if json_or_not:
        fields = json.loads(done.stdout)
        assert grade in ("", fields["grade"])
        assert fields["predicted_ms"] or fields["measured_ms"]
    else:
        assert f"grade {grade}" in done.stdout and " % of floor" in done.stdout


@pytest.mark.parametrize(
    "arguments", [("--help",), ("lookup", "--help"), ("tune", "--help"), ("lookup", "N=0")]
)
def test_help_and_wrong_calls_load_nothing_heavy(arguments: tuple[str, ...]) -> None:
    _, loaded = run(*arguments)
    assert loaded == set()


@pytest.mark.parametrize("arguments", [("db", "list"), ("db", "show", PROBLEM), ("db", "info")])
def test_lists_do_without_torch_and_triton(tuned: Tuned, arguments: tuple[str, ...]) -> None:
    done, loaded = run(*arguments)
    assert done.returncode == 0, done.stderr
    assert loaded == set()


def smi(folder: Path, *products: str) -> str:
    """A PATH with an nvidia-smi that lists these GPUs."""
    listing = "\n".join(products)
    (folder / "nvidia-smi").write_text(f"#!/bin/sh\ncat <<END\n{listing}\nEND\n")
    (folder / "nvidia-smi").chmod(0o755)
    return f"{folder}{os.pathsep}{os.environ['PATH']}"


@pytest.mark.parametrize(
    ("products", "asked"),
    [((), False), (("NVIDIA H200",), False), (("NVIDIA H200", "NVIDIA GeForce RTX 4090"), True)],
    ids=["no GPU", "another GPU", "the GPU"],
)
def test_torch_is_asked_where_the_device_may_be_here(
    products: tuple[str, ...], asked: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its driver and its power limit are part of the environment."""
    monkeypatch.setenv("PATH", smi(tmp_path, *products))
    names: list[str] = []

    def target(name: str, _warn: object) -> Target:
        names.append(name)
        raise InterruptedError

    monkeypatch.setattr("autoconv.targets.target", target)
    if asked:
        with pytest.raises(InterruptedError):
            target_to_look_up("rtx4090")
    else:
        assert target_to_look_up("rtx4090").environment.cuda_driver is None
    assert names == ["rtx4090"] * asked
