"""Real cubins for GPUs that are not here, and what is read out of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from autoconv.compiler.candidate import compile_candidate
from autoconv.compiler.resources import Resources
from autoconv.config import Config
from autoconv.device import ARCHITECTURES, find
from autoconv.errors import ConfigError
from autoconv.kernels.registry import kernels
from autoconv.problem import Problem

Compiled = Callable[[Config, str], Resources]


def test_the_yardstick_on_sm_89(compiled: Compiled, baseline: Config) -> None:
    found = compiled(baseline, "rtx4090")
    assert found.spills == 0
    # A plain im2col convolution of these tiles was seen to take 128 to 184, by Triton version.
    assert 100 <= found.registers <= 200
    assert found.shared == 64 * 32 * 4 * 2  # one stage in flight: both operands, 4 bytes an element
    assert baseline.num_warps * found.loop["HMMA.1688"] * (16 * 8 * 8) == 64 * 64 * 32  # every product, once


def test_a_dense_config_on_sm_89(compiled: Compiled, dense: Config) -> None:
    found = compiled(dense, "rtx4090")
    assert found.spills == 0 and found.registers <= 255
    assert found.shared == (128 + 64) * 32 * 4 * (dense.num_stages - 1)
    assert dense.num_warps * found.loop["HMMA.1688"] * (16 * 8 * 8) == 128 * 64 * 32
    assert found.loop["LDGSTS.128"] * 16 * 128 == 128 * 32 * 4  # 128 threads fetch the weight's tile
    assert found.loop["LDGSTS.32"] * 4 * 128 == 64 * 32 * 4  # and x's: its taps are 4 elements apart
    assert not any(opcode.startswith(("LDL", "STL")) for opcode in found.instructions)
    for opcode, count in found.loop.items():
        assert count <= found.instructions[opcode]


def test_float16_multiplies_16_deep(seed: Problem, dense: Config, tmp_path: Path) -> None:
    found = compile_candidate(replace(seed, dtype="float16", precision=""), dense, find("rtx4090"), tmp_path)
    assert found.loop["HMMA.16816"] > 0


def test_ieee_multiplies_on_the_cuda_cores(tmp_path: Path) -> None:
    tiles = {"BLOCK_CO": 32, "BLOCK_L": 32, "BLOCK_R": 16}
    config = Config("dense", tiles, num_warps=4, num_stages=2)
    problem = Problem(4, 32, 32, 3, 1000, precision="ieee")
    found = compile_candidate(problem, config, find("rtx4090"), tmp_path)
    assert found.loop["FFMA"] * 32 * 4 == 32 * 32 * 16
    assert not any("MMA" in opcode for opcode in found.instructions if opcode != "FFMA")


@pytest.mark.parametrize("device", ["a100-80gb", "rtx3090", "h100-sxm"])
def test_one_process_compiles_for_any_architecture(device: str, compiled: Compiled, dense: Config) -> None:
    """After another one: Triton keeps compiled kernels in the process, and must not mix them up."""
    ada = compiled(dense, "rtx4090")
    found = compiled(dense, device)
    assert found.spills == 0
    assert any(opcode.startswith(("HMMA", "HGMMA")) for opcode in found.loop)
    # Only Hopper has the warp group's instruction, and only its operands come from shared memory alone.
    assert any(opcode.startswith("HGMMA") for opcode in found.loop) == (device == "h100-sxm")
    assert found != ada or device == "rtx3090"
    assert ada == compiled(dense, "rtx4090")


@pytest.mark.parametrize("name", kernels())
def test_the_variant_with_64_bit_offsets_compiles(name: str, tmp_path: Path) -> None:
    huge = Problem(1, 64, 64, 3, 2**26, padding=1, bias=True)
    kernel = kernels()[name]
    if kernel.unsupported(huge) is not None:
        pytest.skip("runs other problems than this")
    assert kernel.arguments(huge, (2**32, 2**26, 1)).get("INDEX_64", True) is True
    config = min(kernel.space(huge, find("rtx4090")), key=lambda c: kernel.work(huge, c).accumulators)
    found = compile_candidate(huge, config, find("rtx4090"), tmp_path)
    assert found.unrunnable(config, find("rtx4090")) is None


def test_what_cannot_run_is_told_with_figure_and_limit(compiled: Compiled, too_large: Config) -> None:
    found = compiled(too_large, "rtx4090")
    in_flight = (128 + 256) * 64 * 4 * (too_large.num_stages - 1)
    assert found.shared == in_flight
    reason = found.unrunnable(too_large, find("rtx4090"))
    assert reason == f"shared memory: {in_flight} bytes a block, {99 * 1024} at most"


def test_each_limit_of_a_block() -> None:
    device = find("rtx4090")
    config = Config("dense", {"BLOCK_L": 16}, num_warps=16, num_stages=2)
    most = Resources(registers=128, spills=0, shared=99 * 1024)
    assert most.unrunnable(config, device) is None
    assert "shared memory" in str(replace(most, shared=99 * 1024 + 1).unrunnable(config, device))
    assert (
        replace(most, registers=129).unrunnable(config, device)
        == "registers: 512 x 129 a block, 65536 at most"
    )
    narrow = replace(device, arch=replace(ARCHITECTURES["sm_89"], max_threads_per_block=256))
    assert most.unrunnable(config, narrow) == "threads: 512 a block, 256 at most"


def test_tiles_of_another_kernel_are_refused(seed: Problem, baseline: Config, tmp_path: Path) -> None:
    stranger = Config("dense", baseline.tiles, num_warps=4, num_stages=2)
    with pytest.raises(ConfigError, match="BLOCK_CO"):
        compile_candidate(seed, stranger, find("rtx4090"), tmp_path)
    with pytest.raises(ConfigError, match="kernel=conv3d: is not known; use one of"):
        compile_candidate(seed, replace(baseline, kernel="conv3d"), find("rtx4090"), tmp_path)
