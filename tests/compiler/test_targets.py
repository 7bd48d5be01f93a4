"""Which architectures Triton compiles for, and what is said of the others."""

from __future__ import annotations

import pytest
import triton
from click.testing import CliRunner

from autoconv import gpu
from autoconv.cli import cli
from autoconv.compiler.targets import uncompilable
from autoconv.device import ARCHITECTURES, find
from autoconv.dispatch.machines import Cuda

THOR = find("agx-thor")


@pytest.mark.parametrize(
    ("version", "missing"),
    [
        ("3.3.1", {"sm_103", "sm_110", "sm_121"}),
        ("3.6.0", {"sm_103", "sm_110", "sm_121"}),
        ("3.7.1", set()),
        ("3.10.0", set()),
    ],
)
def test_what_a_triton_compiles_for(version, missing, monkeypatch):
    monkeypatch.setattr(triton, "__version__", version)
    assert {name for name, arch in ARCHITECTURES.items() if uncompilable(arch)} == missing


def test_where_triton_does_not_compile_for_the_gpu_torch_serves_and_a_warning_says_so(monkeypatch):
    monkeypatch.setattr(triton, "__version__", "3.6.0")
    monkeypatch.setattr(gpu, "current", lambda index: [find("l4"), THOR][index])
    assert Cuda().device(0) == find("l4")
    said = "Triton 3.6.0 does not compile for sm_110, Triton 3.7 does, so torch serves .* of NVIDIA Thor"
    with pytest.warns(RuntimeWarning, match=said):
        assert Cuda().device(1) is None


def test_nothing_is_tuned_for_it_either(monkeypatch):
    monkeypatch.setattr(triton, "__version__", "3.6.0")
    result = CliRunner().invoke(cli, ["lookup", "N=1,Cin=16,Cout=16,K=1,L=16", "--device", "agx-thor"])
    assert result.exit_code == 2
    assert result.stderr == (
        "Error: device: name=agx-thor: cannot be tuned for: Triton 3.6.0 does not compile for sm_110, "
        "Triton 3.7 does; install that Triton\n"
    )
