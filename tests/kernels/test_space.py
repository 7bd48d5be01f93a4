"""What every kernel of the registry states of itself: its configs, its grid, its arguments."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from autoconv.config import Config
from autoconv.device import find
from autoconv.errors import ConfigError
from autoconv.kernels.base import Kernel
from autoconv.kernels.registry import kernel as kernel_called
from autoconv.kernels.registry import kernels, supporting
from autoconv.kernels.sizes import alignment, x_strides_of
from autoconv.problem import Problem

NAMES = list(kernels())
EXAMPLES = [
    Problem.parse(text)
    for text in (
        "N=2,Cin=64,Cout=128,K=3,L=2000,stride=3,dilation=4",
        "N=2,Cin=64,Cout=128,K=1,L=2000",
        "N=2,Cin=3,Cout=128,K=7,L=2000",
        "N=2,Cin=64,Cout=128,K=3,L=2000,layout=nlc",
        "N=2,Cin=64,Cout=64,K=41,L=2000,groups=4",
        "N=2,Cin=64,Cout=64,K=41,L=2000,groups=4,layout=nlc",
        "N=2,Cin=64,Cout=64,K=31,L=2000,groups=64",
        "N=2,Cin=64,Cout=64,K=4,L=2000,stride=2,op=conv_transpose",
        "N=2,Cin=64,Cout=64,K=4,L=2000,stride=2,groups=64,op=conv_transpose",
        "N=2,Cin=64,Cout=64,K=3,L=2000,op=conv_weight",
    )
]
GRID_LIMITS = (2**31 - 1, 65535, 65535)  # blocks along x, y and z: CUDA C++ Programming Guide
broad = settings(max_examples=6, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])

ProblemsOf = Callable[[Kernel, bool], "st.SearchStrategy[Problem]"]


@pytest.mark.parametrize("name", NAMES)
@broad
@given(data=st.data(), device=st.sampled_from(["rtx4090", "rtx3090", "a100-80gb", "h100-sxm"]))
def test_spaces_hold_legal_configs_that_cover_the_output(
    name: str, data: st.DataObject, device: str, problems_of: ProblemsOf
) -> None:
    kernel = kernel_called(name)
    problem = data.draw(problems_of(kernel, True))
    configs = list(kernel.space(problem, find(device)))
    if name == "split_k" and not configs:
        return  # the device is full without a split
    assert configs, f"{name} supports {problem} and offers no config for it"
    assert len(set(configs)) == len(configs)
    grid_of = kernel.grid(problem)
    for config in configs:
        kernel.check(config)
        grid = grid_of(config.meta)
        assert 1 <= len(grid) <= 3
        assert all(type(axis) is int and axis >= 1 for axis in grid)
        assert all(axis <= limit for axis, limit in zip(grid, GRID_LIMITS, strict=False))
        assert math.prod(grid) == kernel.work(problem, config).blocks


def test_no_config_has_more_blocks_than_a_grid_can_have() -> None:
    vast = Problem(253, 1, 1702, 1, 159585)
    for kernel in supporting(vast):
        grid_of = kernel.grid(vast)
        assert all(
            grid_of(config.meta)[0] <= GRID_LIMITS[0] for config in kernel.space(vast, find("rtx4090"))
        )


@pytest.mark.parametrize("name", NAMES)
@broad
@given(data=st.data())
def test_work_counts_at_least_what_the_problem_needs(
    name: str, data: st.DataObject, problems_of: ProblemsOf
) -> None:
    kernel = kernel_called(name)
    large = name != "split_k"  # which has a config only where the blocks are few
    problem = data.draw(problems_of(kernel, large))
    config = next(iter(kernel.space(problem, find("rtx4090"))), None)
    assume(config is not None)
    work = kernel.work(problem, config)
    assert work.blocks * work.accumulators >= math.prod(problem.y_shape)
    if problem.op == "conv":  # some products of a transposed one fall into its padding
        assert work.blocks * work.flops >= problem.flops
    assert {access.tensor for access in work.reads} == {"x", "w"}
    assert work.write.tensor == "y"
    assert work.write.tensor_bytes == math.prod(problem.y_shape) * problem.dtype_bytes


def example(kernel: Kernel) -> Problem:
    return next(problem for problem in EXAMPLES if kernel.unsupported(problem) is None)


@pytest.mark.parametrize("name", NAMES)
def test_arguments_follow_the_signature_and_leave_the_tiles_to_the_config(name: str) -> None:
    kernel = kernel_called(name)
    problem = example(kernel)
    arguments = kernel.arguments(problem, x_strides_of(problem))
    assert not set(arguments) & {*kernel.tiles, "num_warps", "num_stages", "num_ctas"}
    assert not any(argument.startswith("BLOCK_") for argument in arguments)
    taken = kernel.jit.arg_names[: len(kernel.tensors)]
    assert all(name.endswith("_ptr") for name in taken)
    assert kernel.jit.arg_names == [*taken, *arguments, *kernel.tiles]


@pytest.mark.parametrize("name", NAMES)
def test_the_grid_needs_the_tiles_and_nothing_else(name: str) -> None:
    kernel = kernel_called(name)
    problem = example(kernel)
    config = next(iter(kernel.space(problem, find("rtx4090"))))
    with_options = {**config.meta, "num_warps": 4, "num_stages": 2, "BLOCK_UNKNOWN": 1}
    assert kernel.grid(problem)(config.meta) == kernel.grid(problem)(with_options)
    with pytest.raises(KeyError):
        kernel.grid(problem)({})


@pytest.mark.parametrize("name", NAMES)
def test_a_config_with_other_tiles_is_refused(name: str) -> None:
    kernel = kernel_called(name)
    legal = dict.fromkeys(kernel.tiles, 16)
    kernel.check(Config(name, legal, num_warps=4, num_stages=2))
    first = kernel.tiles[0]
    for tiles, field in (
        ({tile: size for tile, size in legal.items() if tile != first}, first),
        ({**legal, "BLOCK_X": 16}, "BLOCK_X"),
    ):
        with pytest.raises(ConfigError) as refused:
            kernel.check(Config(name, tiles, num_warps=4, num_stages=2))
        assert refused.value.field == field
    with pytest.raises(ConfigError) as refused:
        kernel.check(Config("another", legal, num_warps=4, num_stages=2))
    assert (refused.value.field, refused.value.value) == ("kernel", "another")


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    "problem",
    [
        Problem(1, 1, 1, 1, 2**31),  # one row of x
        Problem(1, 64, 1, 1, 2**25, stride=2),  # one sample of x, y being small
        Problem(1, 1, 64, 1, 2**25),  # one sample of y
        Problem(1, 64, 64, 3, 2**25, layout="nlc"),
    ],
    ids=str,
)
def test_offsets_that_pass_31_bits_take_64(name: str, problem: Problem) -> None:
    kernel = kernel_called(name)
    if kernel.unsupported(problem) is not None:
        pytest.skip("runs other problems than this")
    arguments = kernel.arguments(problem, x_strides_of(problem))
    if "INDEX_64" not in arguments:
        pytest.skip("takes 64 bits whatever the problem")
    assert arguments["INDEX_64"] is True


def test_dense_counts_31_bits_a_sample_and_the_yardstick_a_batch() -> None:
    kernelbench_76 = Problem(64, 64, 128, 3, 524280, stride=3, dilation=4)  # y passes 2**31 elements
    narrow = {
        name: kernel_called(name).arguments(kernelbench_76, x_strides_of(kernelbench_76))["INDEX_64"]
        for name in ("dense", "im2col_rows")
    }
    assert narrow == {"dense": False, "im2col_rows": True}


ACROSS = ["dense", "pointwise", "tap_major"]  # their columns run from one sample into the next


@pytest.mark.parametrize("name", ACROSS)
def test_columns_of_all_samples_that_pass_31_bits_take_64(name: str) -> None:
    problem = Problem(2**21, 1, 1, 1 if name == "pointwise" else 3, 1100)
    assert kernel_called(name).arguments(problem, x_strides_of(problem))["INDEX_64"] is True


@pytest.mark.parametrize("name", ACROSS)
def test_short_samples_share_tiles(name: str) -> None:
    problem = Problem(
        72, 64, 64, 1 if name == "pointwise" else 3, 33, padding=0 if name == "pointwise" else 1
    )
    sizes = {"BLOCK_CO": 64, "BLOCK_L": 128, "BLOCK_R": 16, "GROUP_L": 8, "X_BYTES": 16}
    grid = kernel_called(name).grid(problem)({tile: sizes[tile] for tile in kernel_called(name).tiles})
    assert math.prod(grid) == math.ceil(72 * 33 / 128)


counts = st.integers(0, 2**40)


@given(st.lists(counts, min_size=1, max_size=4), st.sampled_from([1, 2, 4, 8, 16]))
def test_alignment_is_the_largest_power_of_two_in_all(numbers: list[int], most: int) -> None:
    unit = alignment(*numbers, most=most)
    assert unit <= most and unit & (unit - 1) == 0
    assert all(number % unit == 0 for number in numbers)
    assert unit == most or any(number % (2 * unit) for number in numbers)


@given(
    st.tuples(st.integers(0, 2**33), st.integers(0, 2**30), st.integers(1, 2**20)),
    st.integers(3, 2**20),
)
def test_dense_s_units_restore_lengths_and_strides(strides: tuple[int, int, int], length: int) -> None:
    problem = Problem(2, 3, 4, 3, length)
    arguments = kernel_called("dense").arguments(problem, strides)
    assert arguments["L_out_units"] * arguments["Y_ALIGN"] == problem.L_out
    restored = [arguments[f"x_{axis}_units"] * arguments["X_ALIGN"] for axis in ("batch", "channel")]
    assert (*restored, arguments["x_step"]) == strides


@pytest.mark.parametrize(
    "problem",
    [
        Problem(1, 4, 6, 3, 20, op="conv_transpose", stride=2),
        Problem(1, 4, 6, 3, 20, groups=2),
        Problem(1, 2, 65536 * 16, 1, 2),
    ],
    ids=str,
)
def test_a_kernel_that_does_not_run_a_problem_says_why(problem: Problem) -> None:
    reasons = {name: kernel.unsupported(problem) for name, kernel in kernels().items()}
    assert {kernel.name for kernel in supporting(problem)} == {n for n, why in reasons.items() if why is None}
    assert reasons["im2col_rows"], "the baseline runs plain convolutions alone, of few enough channels"
    assert not any("\n" in why for why in reasons.values() if why is not None)
