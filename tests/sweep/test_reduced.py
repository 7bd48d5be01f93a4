"""A reduced problem takes the code path of the large one."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from autoconv.config import Config
from autoconv.device import find
from autoconv.kernels.registry import kernel as kernel_called
from autoconv.kernels.registry import supporting
from autoconv.problem import Problem
from autoconv.sweep.reduced import INTERPRETED_STEPS, reduced
from autoconv.sweep.tasks import Verify

DENSE = Config("dense", {"BLOCK_CO": 32, "BLOCK_L": 128, "BLOCK_R": 32}, num_warps=4, num_stages=2)
ROWS = Config("im2col_rows", {"BLOCK_M": 128, "BLOCK_N": 32, "BLOCK_K": 32}, num_warps=4, num_stages=2)
SEED = Problem(64, 64, 128, 3, 224280, stride=3, dilation=4)


@st.composite
def cases(draw: st.DrawFn) -> tuple[Problem, Config]:
    problem = Problem(
        N=draw(st.integers(1, 64)),
        Cin=draw(st.integers(1, 1000)),
        Cout=draw(st.integers(1, 1000)),
        K=draw(st.integers(1, 41)),
        L=draw(st.integers(500, 10**6)),
        stride=draw(st.integers(1, 8)),
        dilation=draw(st.integers(1, 9)),
        padding=(draw(st.integers(0, 400)), draw(st.integers(0, 400))),
        bias=draw(st.booleans()),
        dtype=draw(st.sampled_from(["float32", "float16"])),
        layout=draw(st.sampled_from(["ncl", "nlc"])),
    )
    spaces = (list(kernel.space(problem, find("rtx4090"))) for kernel in supporting(problem))
    configs = draw(st.sampled_from([space for space in spaces if space]))
    return problem, draw(st.sampled_from(configs))


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(cases())
@example((SEED, DENSE))
@example((SEED, ROWS))
def test_what_decides_the_code_path_stays(case: tuple[Problem, Config]) -> None:
    problem, config = case
    small = reduced(problem, config)
    assert replace(small, N=problem.N, L=problem.L, Cin=problem.Cin, Cout=problem.Cout) == problem
    meta = config.meta
    columns = meta.get("BLOCK_L", meta.get("BLOCK_M", 16))
    rows = meta.get("BLOCK_CO", meta.get("BLOCK_N", 16))
    depth = meta.get("BLOCK_R", meta.get("BLOCK_K", 16))
    for whole, part, tile in (
        (problem.L_out, small.L_out, columns),
        (problem.Cout, small.Cout, rows),
        (problem.reduction, small.reduction, depth),
        (problem.L, small.L, 16),
        (problem.Cin * problem.L, small.Cin * small.L, 16),
    ):
        assert part <= whole
        assert part % tile == whole % tile
        assert part // tile >= min(1, whole // tile)  # a whole tile, where there was one
    assert 1 <= small.N <= problem.N
    if (problem.N * problem.L_out) % columns and problem.N > 2 and problem.L_out % columns:
        assert (small.N * small.L_out) % columns, "rows of N * L_out ended in a partial tile"


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(cases())
def test_a_reduced_problem_is_small(case: tuple[Problem, Config]) -> None:
    problem, config = case
    small = reduced(problem, config)
    meta = config.meta
    columns = meta.get("BLOCK_L", meta.get("BLOCK_M", 16))
    depth = meta.get("BLOCK_R", meta.get("BLOCK_K", 16))
    padding = (problem.pad_left + problem.pad_right) // problem.stride
    assert small.N <= 3
    assert small.L_out <= 2.5 * columns + padding + 1
    assert small.Cout < 2 * meta.get("BLOCK_CO", meta.get("BLOCK_N", 16))
    parts = meta.get("SPLIT", 1)
    assert small.Cin <= (parts + 1) * depth // problem.K + depth


@given(st.sampled_from([DENSE, ROWS]))
def test_a_small_problem_is_checked_as_it_is(config: Config) -> None:
    problem = Problem(2, 16, 32, 3, 200)
    work = kernel_called(config.kernel).work(problem, config)
    assert work.blocks * work.steps <= INTERPRETED_STEPS
    assert Verify.fresh(problem, config, on_gpu=False).problem == problem
    assert Verify.fresh(SEED, config, on_gpu=False).problem == reduced(SEED, config)
    assert Verify.fresh(replace(SEED, N=1), config, on_gpu=True).problem == replace(SEED, N=1)


def test_a_grouped_problem_keeps_whole_and_partial_packs_of_groups() -> None:
    packed = Config("grouped", {"BLOCK_CO": 16, "BLOCK_L": 32, "BLOCK_R": 16, "PACK": 4}, 4, num_stages=2)
    small = reduced(Problem(8, 84, 84, 5, 10_000, groups=42), packed)
    assert (small.groups, small.Cin, small.Cout) == (6, 12, 12)
    assert (small.N, small.L < 500) == (3, True)


def test_a_group_of_channels_side_by_side_keeps_whole_and_partial_tiles_of_them() -> None:
    tiles = {"BLOCK_CO": 16, "BLOCK_L": 32, "BLOCK_R": 64, "CHANNELS": 8}
    problem = Problem(8, 130, 84, 128, 10_000, groups=2, layout="nlc")
    small = reduced(problem, Config("grouped_channels_last", tiles, num_warps=4, num_stages=2))
    assert small.Cin == 2 * 65
    assert kernel_called("grouped_channels_last").unsupported(small) is None


def test_a_depthwise_problem_keeps_whole_and_partial_tiles_of_channels() -> None:
    small = reduced(
        Problem(8, 83, 83, 5, 10_000, groups=83), Config("depthwise", {"BLOCK_CO": 8, "BLOCK_L": 64}, 2, 2)
    )
    assert (small.groups, small.Cin, small.Cout) == (11, 11, 11)


def test_a_kernel_without_a_tile_on_some_axis_is_reduced_too() -> None:
    config = Config("narrow", {"BLOCK_L": 256}, num_warps=4, num_stages=2)
    small = reduced(SEED, config)
    assert small.L_out % 256 == SEED.L_out % 256
    assert (small.Cin % 16, small.Cout % 16) == (SEED.Cin % 16, SEED.Cout % 16)
    assert small.Cin < SEED.Cin and small.Cout < SEED.Cout
