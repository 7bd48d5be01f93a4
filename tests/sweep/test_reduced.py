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
from autoconv.sweep.reduced import reduced
from autoconv.sweep.tasks import INTERPRETED_STEPS, verify_task

DENSE = Config("dense", {"BLOCK_CO": 32, "BLOCK_L": 128, "BLOCK_R": 32}, num_warps=4, num_stages=2)
ROWS = Config("im2col_rows", {"BLOCK_M": 128, "BLOCK_N": 32, "BLOCK_K": 32}, num_warps=4, num_stages=2)
SEED = Problem(64, 64, 128, 3, 224280, stride=3, dilation=4)


@st.composite
def cases(draw: st.DrawFn) -> tuple[Problem, Config]:
    op = draw(st.sampled_from(["conv", "conv", "conv_transpose", "conv_weight"]))
    groups = draw(st.sampled_from([1, 1, 2, 7, 48]))
    channels = st.integers(1, 1000 // groups) | st.just(1)
    pads = st.integers(0, 400 if op != "conv_transpose" else 40)
    problem = Problem(
        N=draw(st.integers(1, 64)),
        Cin=groups * draw(channels),
        Cout=groups * draw(channels),
        K=draw(st.integers(1, 41)),
        L=draw(st.integers(500, 10**6)),
        stride=draw(st.integers(1, 8)),
        dilation=draw(st.integers(1, 9)),
        op=op,
        padding=(draw(pads), draw(pads)),
        groups=groups,
        bias=op != "conv_weight" and draw(st.booleans()),
        dtype=draw(st.sampled_from(["float32", "float16"])),
        layout=draw(st.sampled_from(["ncl", "nlc"])),
    )
    spaces = (list(kernel.space(problem, find("rtx4090"))) for kernel in supporting(problem))
    configs = draw(st.sampled_from([space for space in spaces if space]))
    return problem, draw(st.sampled_from(configs))


def tile(config: Config, *names: str) -> int:
    """The first tile of these names that the config has; 1 where it has none."""
    return next((config.meta[name] for name in names if name in config.meta), 1)


def columns_of(config: Config) -> int:
    return tile(config, "BLOCK_L", "BLOCK_M", "BLOCK_P") * tile(config, "BLOCK_Q")


def tiled_lengths(problem: Problem, config: Config) -> list[tuple[int, int]]:
    """What is cut into tiles, each with its tile."""
    columns = columns_of(config)
    return [
        (problem.L if problem.op == "conv_transpose" else problem.L_out, columns),
        (problem.Cout_per_group, tile(config, "BLOCK_CO", "BLOCK_N")),
        (problem.groups, tile(config, "PACK")),
        (problem.L, 16),
        *(
            [(problem.reduction, tile(config, "BLOCK_R", "BLOCK_K"))]
            if problem.op != "conv_transpose"
            else []
        ),
        *([(problem.Cin_per_group, 16)] if problem.layout == "nlc" else []),
    ]


thorough = settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])


@thorough
@given(cases())
@example((SEED, DENSE))
@example((SEED, ROWS))
def test_what_decides_the_code_path_stays(case: tuple[Problem, Config]) -> None:
    problem, config = case
    small = reduced(problem, config)
    sizes = {name: getattr(problem, name) for name in ("N", "L", "Cin", "Cout", "groups")}
    assert replace(small, **sizes) == problem
    for (whole, of), (part, _) in zip(
        tiled_lengths(problem, config), tiled_lengths(small, config), strict=True
    ):
        assert part <= whole
        assert part % of == whole % of
        assert part // of >= min(1, whole // of)  # a whole tile, where there was one
    assert small.Cin_per_group >= min(2, problem.Cin_per_group), "a second channel's address"
    assert small.groups >= min(2, problem.groups), "a second group's"
    assert min(2, problem.N) <= small.N, "a second sample's"
    columns = columns_of(config)
    if problem.op == "conv" and problem.N > 2 and problem.L_out % columns:
        assert (small.N * small.L_out) % columns, "rows of N * L_out ended in a partial tile"


@thorough
@given(cases())
def test_every_part_of_a_split_reduction_has_work(case: tuple[Problem, Config]) -> None:
    problem, config = case
    small, parts = reduced(problem, config), tile(config, "SPLIT")
    if problem.op == "conv":
        steps = small.reduction / tile(config, "BLOCK_R", "BLOCK_K")
        assert small.Cin_per_group == problem.Cin_per_group or steps >= parts
    if problem.op == "conv_weight":
        chunks = small.N * -(-small.L_out // columns_of(config))
        assert small.L == problem.L or chunks > parts


@thorough
@given(cases())
def test_a_reduced_problem_is_small(case: tuple[Problem, Config]) -> None:
    problem, config = case
    small, parts = reduced(problem, config), tile(config, "SPLIT")
    columns, rows = columns_of(config), tile(config, "BLOCK_CO", "BLOCK_N")
    depth = tile(config, "BLOCK_R", "BLOCK_K") if tile(config, "BLOCK_R", "BLOCK_K") > 1 else 16
    reach = (problem.K - 1) * problem.dilation + 1
    stride = 1 if problem.op == "conv_transpose" else problem.stride
    assert small.N <= 3
    assert (2.5 + (1.5 * parts if problem.op == "conv_weight" else 0)) * columns * stride + reach >= small.L
    assert small.Cout_per_group < 2 * rows
    assert small.Cin_per_group <= (parts + 2) * depth
    assert small.groups < 2 + 2 * max(rows, tile(config, "PACK"))


@given(st.sampled_from([DENSE, ROWS]))
def test_a_small_problem_is_checked_as_it_is(config: Config) -> None:
    problem = Problem(2, 16, 32, 3, 200)
    work = kernel_called(config.kernel).work(problem, config)
    assert work.blocks * work.steps <= INTERPRETED_STEPS
    assert verify_task(problem, config, on_gpu=False)["problem"] == str(problem)
    assert verify_task(SEED, config, on_gpu=False)["problem"] == str(reduced(SEED, config))
    assert verify_task(replace(SEED, N=1), config, on_gpu=True)["problem"] == str(replace(SEED, N=1))


def test_a_grouped_problem_keeps_whole_and_partial_packs_of_groups() -> None:
    packed = Config("grouped", {"BLOCK_CO": 16, "BLOCK_L": 32, "BLOCK_R": 16, "PACK": 4}, 4, num_stages=2)
    small = reduced(Problem(8, 84, 84, 5, 10_000, groups=42), packed)
    assert (small.groups, small.Cin, small.Cout) == (6, 12, 12)
    assert (small.N, small.L < 500) == (3, True)


def test_a_depthwise_problem_keeps_whole_and_partial_tiles_of_channels() -> None:
    small = reduced(
        Problem(8, 83, 83, 5, 10_000, groups=83), Config("depthwise", {"BLOCK_CO": 8, "BLOCK_L": 64}, 2, 2)
    )
    assert (small.groups, small.Cin, small.Cout) == (11, 11, 11)


def test_a_kernel_without_a_tile_on_some_axis_is_reduced_too() -> None:
    config = Config("narrow", {"BLOCK_L": 256}, num_warps=4, num_stages=2)
    small = reduced(SEED, config)
    assert small.L_out % 256 == SEED.L_out % 256
    assert 2 <= small.Cin < SEED.Cin and small.Cout < SEED.Cout
