"""The directions in which predictions must move, and what sets devices of one architecture apart."""

from __future__ import annotations

from dataclasses import replace
from itertools import islice

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autoconv.compiler.resources import Resources
from autoconv.config import Config
from autoconv.cost.occupancy import occupancy
from autoconv.cost.predict import estimate, estimate_seconds, predict
from autoconv.cost.prediction import Prediction
from autoconv.device import CATALOGUE, find
from autoconv.kernels.registry import kernels, supporting
from autoconv.problem import Problem

RTX4090 = find("rtx4090")
SEED = Problem(64, 64, 128, 3, 224280, stride=3, dilation=4)
KB67 = Problem(32, 64, 128, 3, 131072)
ONE_OF_EACH = (
    SEED,
    KB67,
    Problem(8, 512, 512, 1, 1000, dtype="float16"),
    Problem(8, 64, 64, 3, 4096, groups=64),
    Problem(8, 64, 64, 41, 4096, groups=64, padding=20),
    Problem(4, 64, 64, 5, 1000, groups=4, dtype="bfloat16"),
    Problem(4, 1, 64, 7, 16000, padding=3),
    Problem(4, 64, 64, 3, 1000, layout="nlc", dtype="float16"),
    Problem(4, 64, 64, 5, 1000, groups=4, layout="nlc", dtype="float16"),
    Problem(4, 64, 64, 12, 1000, op="conv_transpose", stride=2, groups=64),
    Problem(2, 128, 64, 8, 500, op="conv_transpose", stride=4, padding=2),
    Problem(2, 64, 64, 3, 1000, op="conv_weight"),
    Problem(1, 2048, 512, 3, 64),
)


def some(problem: Problem, count: int = 6) -> list[Config]:
    found = []
    for kernel in supporting(problem):
        configs = list(kernel.space(problem, RTX4090))
        found += configs[:: max(1, len(configs) // count)]
    return found


def test_every_kernel_is_among_the_problems() -> None:
    assert {config.kernel for problem in ONE_OF_EACH for config in some(problem)} == set(kernels())


@pytest.mark.parametrize("problem", ONE_OF_EACH, ids=str)
def test_predictions_are_sound(problem: Problem) -> None:
    for config in some(problem):
        found = estimate(problem, config, RTX4090)
        assert found.floor_seconds <= found.seconds < 100
        assert 0 <= found.l2_hit_pct <= 100
        assert 0 <= found.dram_throughput_pct <= 100
        assert 0 <= found.sm_throughput_pct <= 100
        assert found.dram_bytes > 0 and found.l2_bytes > 0 and found.l1_bytes > 0
        assert found.terms[found.bound] >= found.terms[found.runner_up] == sorted(found.terms.values())[-2]


@pytest.mark.parametrize("problem", ONE_OF_EACH, ids=str)
def test_a_batch_says_what_single_estimates_say(problem: Problem) -> None:
    configs = some(problem, 3)
    together = estimate_seconds(problem, configs, RTX4090)
    alone = [estimate(problem, config, RTX4090).seconds for config in configs]
    assert together == pytest.approx(alone)


@pytest.mark.parametrize("problem", ONE_OF_EACH, ids=str)
def test_a_better_device_is_never_slower(problem: Problem) -> None:
    configs = some(problem)
    before = estimate_seconds(problem, configs, RTX4090)
    rates = {name: 2 * rate for name, rate in RTX4090.tensor_tflops.items()}
    for better in (
        replace(RTX4090, dram_gbps=2 * RTX4090.dram_gbps),
        replace(RTX4090, l2_bytes=2 * RTX4090.l2_bytes),
        replace(RTX4090, tensor_tflops=rates, fp32_tflops=2 * RTX4090.fp32_tflops),
    ):
        assert (estimate_seconds(problem, configs, better) <= before * (1 + 1e-9)).all()
    halved = replace(RTX4090, l2_bytes=RTX4090.l2_bytes // 2)
    assert (estimate_seconds(problem, configs, halved) >= before * (1 - 1e-9)).all()


@pytest.mark.parametrize("problem", ONE_OF_EACH, ids=str)
def test_more_samples_are_never_faster(problem: Problem) -> None:
    configs = some(problem)
    before = estimate_seconds(problem, configs, RTX4090)
    for factor in (2, 3, 7):
        more = estimate_seconds(replace(problem, N=factor * problem.N), configs, RTX4090)
        assert (more >= before * (1 - 1e-9)).all()
        before = more if factor == 2 else before


def test_double_bandwidth_halves_what_dram_bounds() -> None:
    config = some(SEED)[0]
    before = estimate(SEED, config, RTX4090)
    after = estimate(SEED, config, replace(RTX4090, dram_gbps=2 * RTX4090.dram_gbps))
    assert after.terms["dram"] == pytest.approx(before.terms["dram"] / 2)
    assert after.terms["tensor"] == before.terms["tensor"]


@settings(deadline=None, max_examples=60)
@given(
    st.integers(16, 254), st.integers(0, 98), st.sampled_from([1, 2, 4, 8]), st.sampled_from([80, 86, 89, 90])
)
def test_a_larger_limit_never_lowers_occupancy(registers: int, kib: int, warps: int, capability: int) -> None:
    arch = next(d.arch for d in CATALOGUE.values() if d.arch.capability == capability)
    room = occupancy(registers, kib << 10, warps, arch).blocks_per_sm
    assert occupancy(registers + 1, kib << 10, warps, arch).blocks_per_sm <= room
    assert occupancy(registers, (kib + 1) << 10, warps, arch).blocks_per_sm <= room
    for larger in (
        replace(arch, max_warps_per_sm=2 * arch.max_warps_per_sm),
        replace(arch, registers_per_sm=2 * arch.registers_per_sm),
        replace(arch, shared_per_sm=2 * arch.shared_per_sm),
        replace(arch, max_blocks_per_sm=2 * arch.max_blocks_per_sm),
    ):
        assert occupancy(registers, kib << 10, warps, larger).blocks_per_sm >= room


@pytest.mark.parametrize("problem", [SEED, KB67, Problem(1, 512, 512, 3, 256)], ids=str)
def test_more_registers_are_never_faster(problem: Problem) -> None:
    for config in islice(some(problem), 8):
        times = [
            predict(problem, config, RTX4090, Resources(registers, 0, 16384)).seconds
            for registers in (32, 64, 96, 128, 168, 200, 255)
        ]
        assert times == sorted(times)


def test_the_architecture_is_not_the_device() -> None:
    """KernelBench 67 moves 3.2 GB: on an L4, with 300 GB/s, it takes three times as long."""
    best = {}
    for name in ("l4", "l40s", "rtx4090"):
        configs = [c for k in supporting(KB67) for c in k.space(KB67, find(name))]
        best[name] = float(np.min(estimate_seconds(KB67, configs, find(name))))
    assert best["l4"] / best["rtx4090"] == pytest.approx(1008 / 300, rel=0.15)
    assert best["l40s"] / best["rtx4090"] == pytest.approx(1008 / 864, rel=0.15)


def test_phases_that_no_tap_meets_read_and_multiply_nothing() -> None:
    problem = Problem(16, 32, 64, 3, 131072, stride=2, padding=1, dilation=2, op="conv_transpose")
    tiles = {"BLOCK_CO": 64, "BLOCK_L": 256, "BLOCK_R": 16}
    config = Config("transposed_phases", tiles, num_warps=8, num_stages=2)
    kernel = kernels()["transposed_phases"]
    work = kernel.work(problem, config)
    assert work.idle == 0.5  # of phases 0 and 1, dilation 2 reaches 0 alone
    assert kernel.work(replace(problem, dilation=3), config).idle == 0

    def predicted(idle: float) -> Prediction:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(type(kernel), "work", lambda *_: replace(work, idle=idle))
            return estimate(problem, config, RTX4090)

    half, whole = estimate(problem, config, RTX4090), predicted(0.0)
    assert half.terms["tensor"] == pytest.approx(whole.terms["tensor"] / 2)
    assert half.l2_bytes < whole.l2_bytes and half.dram_read_bytes < whole.dram_read_bytes
    assert half.dram_bytes - half.dram_read_bytes == whole.dram_bytes - whole.dram_read_bytes  # all write
    assert half.seconds < whole.seconds
