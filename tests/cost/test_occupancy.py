"""Blocks per SM, against published cases and against the hardware's own rules."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from autoconv.compiler.resources import Resources
from autoconv.config import Config
from autoconv.cost.occupancy import occupancy
from autoconv.device import ARCHITECTURES, find

SM_89 = ARCHITECTURES["sm_89"]
WARPS = st.sampled_from([1, 2, 4, 8, 16, 32])
ARCH = st.sampled_from(list(ARCHITECTURES.values()))


@pytest.mark.parametrize(
    ("registers", "blocks", "warps_active_pct"),
    # The im2col baseline (4 warps, 16 KiB) as Triton 3.3.1, 3.4.0, 3.6.0 and 3.9.0 compile it.
    [(184, 2, 16.67), (134, 3, 25.0), (128, 4, 33.33), (168, 3, 25.0)],
)
def test_the_published_cases(registers: int, blocks: int, warps_active_pct: float) -> None:
    found = occupancy(registers, 16384, 4, SM_89)
    assert (found.blocks_per_sm, found.limiter) == (blocks, "registers")
    assert found.warps_active_pct == pytest.approx(warps_active_pct, abs=0.005)


@pytest.mark.parametrize(
    ("arch", "registers", "shared", "warps", "blocks", "limiter"),
    [
        # Few of everything: the limit on blocks, or on warps.
        ("sm_80", 16, 0, 1, 32, "blocks"),
        ("sm_86", 16, 0, 1, 16, "blocks"),
        ("sm_89", 16, 0, 1, 24, "blocks"),
        ("sm_90", 16, 0, 1, 32, "blocks"),
        ("sm_80", 32, 0, 4, 16, "registers"),
        ("sm_86", 32, 0, 4, 12, "warps"),
        ("sm_89", 32, 0, 4, 12, "warps"),
        ("sm_120", 32, 0, 32, 1, "warps"),
        # 100 KiB an SM hold 99 KiB and the KiB that the system keeps of each block, once.
        ("sm_89", 32, 99 * 1024, 4, 1, "shared memory"),
        ("sm_89", 32, 49 * 1024, 4, 2, "shared memory"),
        ("sm_89", 32, 49 * 1024 + 1, 4, 1, "shared memory"),
        ("sm_80", 32, 81 * 1024, 4, 2, "shared memory"),
        ("sm_90", 32, 113 * 1024, 4, 2, "shared memory"),
        # 255 registers round to 256, of which the file holds 8 warps; with 8 warps a block, one.
        ("sm_89", 255, 0, 8, 1, "registers"),
        ("sm_89", 255, 0, 16, 0, "registers"),
        # 168 registers: 12 warps fit in the four partitions, and so 12 blocks of one warp but 1 of 8.
        ("sm_89", 168, 0, 1, 12, "registers"),
        ("sm_89", 168, 0, 8, 1, "registers"),
    ],
)
def test_limits_by_architecture(
    arch: str, registers: int, shared: int, warps: int, blocks: int, limiter: str
) -> None:
    found = occupancy(registers, shared, warps, ARCHITECTURES[arch])
    assert found.blocks_per_sm == blocks
    if (arch, registers, warps) != ("sm_80", 32, 4):  # there two limits meet
        assert found.limiter == limiter


@given(st.integers(1, 255), st.integers(0, 230_000), WARPS, ARCH)
def test_the_blocks_fit_and_one_more_does_not(registers: int, shared: int, warps: int, arch: object) -> None:
    """Counted anew from the rules: registers by the warp in units of 256, warps by partition."""
    assert isinstance(arch, type(SM_89))
    blocks = occupancy(registers, shared, warps, arch).blocks_per_sm

    def fits(count: int) -> bool:
        registers_of_warp = -(-registers * 32 // 256) * 256
        warps_held = 4 * (16384 // registers_of_warp)  # four partitions of a quarter of the file each
        shared_of_block = -(-(shared + 1024) // 128) * 128
        return (
            count * warps <= min(warps_held, arch.max_warps_per_sm)
            and count * shared_of_block <= arch.shared_per_sm
            and count <= arch.max_blocks_per_sm
        )

    assert fits(blocks) and not fits(blocks + 1)


@given(st.integers(1, 254), st.integers(0, 200_000), st.sampled_from([1, 2, 4, 8, 16]), ARCH)
def test_more_of_anything_never_fits_more(registers: int, shared: int, warps: int, arch: object) -> None:
    assert isinstance(arch, type(SM_89))
    blocks = occupancy(registers, shared, warps, arch).blocks_per_sm
    assert occupancy(registers + 1, shared, warps, arch).blocks_per_sm <= blocks
    assert occupancy(registers, shared + 1, warps, arch).blocks_per_sm <= blocks
    assert occupancy(registers, shared, 2 * warps, arch).blocks_per_sm <= blocks


@given(
    st.integers(1, 255), st.integers(0, 300_000), WARPS, st.sampled_from(["rtx4090", "a100-80gb", "h100-sxm"])
)
def test_what_is_runnable_has_a_block(registers: int, shared: int, warps: int, device: str) -> None:
    """The two ways to say "too large" agree, so a candidate that is compiled has a finite prediction."""
    config = Config("dense", {"BLOCK_L": 16}, num_warps=warps, num_stages=2)
    resources = Resources(registers, 0, shared)
    assume(resources.unrunnable(config, find(device)) is None)
    assert occupancy(registers, shared, warps, find(device).arch).blocks_per_sm >= 1


def test_warps_active_counts_against_the_architecture_s_own_limit() -> None:
    assert occupancy(64, 0, 8, SM_89).warps_active_pct == pytest.approx(100 * 32 / 48)
    more = replace(SM_89, max_warps_per_sm=64)
    assert occupancy(64, 0, 8, more).warps_active_pct == pytest.approx(50.0)
