"""What may be compiled and launched: all that a space offers, and nothing that no machine could take."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from autoconv.config import Config
from autoconv.device import ARCHITECTURES, CATALOGUE, find
from autoconv.errors import ConfigError, ProblemError
from autoconv.kernels.aten import ATEN
from autoconv.kernels.base import Kernel
from autoconv.kernels.registry import kernel as kernel_called
from autoconv.kernels.registry import kernels, supporting
from autoconv.kernels.soundness import GRID_LIMITS, SCRATCH_BYTES, check_runs, check_sound, refusal
from autoconv.problem import Problem
from autoconv.sweep.candidates import candidates

ProblemsOf = Callable[[Kernel, bool], "st.SearchStrategy[Problem]"]

PROBLEM = Problem(64, 64, 128, 3, 224280, stride=3, dilation=4)
TINY = Problem(1, 1, 1, 3, 20)
broad = settings(max_examples=6, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])


@pytest.mark.parametrize("name", list(kernels()))
@broad
@given(data=st.data(), device=st.sampled_from(sorted(CATALOGUE)))
def test_what_a_space_offers_is_sound(
    name: str, data: st.DataObject, device: str, problems_of: ProblemsOf
) -> None:
    kernel = kernel_called(name)
    problem = data.draw(problems_of(kernel, True))
    for config in kernel.space(problem, find(device)):
        assert refusal(problem, config, find(device).arch) is None
        assert refusal(problem, config, None) is None  # on a device that the catalogue lacks


def test_a_device_that_is_not_known_may_run_what_any_known_one_may() -> None:
    """Of the deepest pipelines sm_80 keeps a stage less in shared memory than sm_90, which has more of it."""
    tiles = {"BLOCK_CO": 256, "BLOCK_L": 64, "BLOCK_R": 64}
    deep = Config("dense", tiles, num_warps=4, num_stages=3)
    wide = Problem(1, 63, 331, 134, 716, stride=3, dilation=3)
    assert refusal(wide, deep, find("a100-80gb").arch) is None
    assert "bytes in shared memory" in str(refusal(wide, deep, find("h200").arch))
    assert refusal(wide, deep, None) is None


@pytest.mark.parametrize("device", sorted(CATALOGUE))
def test_the_smallest_tiles_of_the_smallest_problem_are_sound(device: str) -> None:
    offered = candidates(TINY, find(device))
    assert Config("depthwise", {"BLOCK_CO": 1, "BLOCK_L": 32}, num_warps=1, num_stages=2) in offered
    for config in offered:
        check_sound(TINY, config, find(device).arch)


@pytest.mark.parametrize("channels", [3, 64])
def test_a_tile_of_channels_that_does_not_divide_its_step_is_refused(channels: int) -> None:
    tiles = {"BLOCK_CO": 16, "BLOCK_L": 32, "BLOCK_R": 32, "CHANNELS": channels}
    config = Config("grouped_channels_last", tiles, num_warps=4, num_stages=2)
    reason = refusal(Problem(1, 96, 96, 8, 90, groups=2, layout="nlc"), config, None)
    assert f"CHANNELS={channels}: does not divide BLOCK_R=32" in str(reason)


def test_torch_s_own_convolution_is_always_sound() -> None:
    assert refusal(PROBLEM, ATEN, None) is None


def dense(warps: int = 8, stages: int = 3, **tiles: int) -> Config:
    return Config("dense", {"BLOCK_CO": 64, "BLOCK_L": 64, "BLOCK_R": 16, **tiles}, warps, stages)


def split(parts: int, **tiles: int) -> Config:
    sizes = {"BLOCK_CO": 32, "BLOCK_L": 32, "BLOCK_R": 16, **tiles}
    return Config("split_k", {**sizes, "SPLIT": parts}, num_warps=4, num_stages=2)


HOSTILE = {
    # The field named, and what is said of it; whatever the device is.
    "tile": ("BLOCK_CO", "1024 x 1024 accumulators", PROBLEM, dense(BLOCK_CO=1024, BLOCK_L=1024)),
    "tile of few warps": ("BLOCK_L", "more than the 4096 that 1 warps", PROBLEM, dense(1, BLOCK_L=128)),
    "warps": ("BLOCK_CO", "more than the 32768", PROBLEM, dense(32, BLOCK_CO=512, BLOCK_L=256)),
    "vast tile": ("BLOCK_R", "is more than 1048576", PROBLEM, dense(BLOCK_R=2**40)),
    "depth": ("BLOCK_R", "bytes in shared memory", PROBLEM, dense(BLOCK_R=1024)),
    "stages": ("num_stages", "is more than 8", PROBLEM, dense(stages=1000)),
    "stages of no memory": (
        "num_stages", "is more than 8", TINY,
        Config("narrow", {"BLOCK_CO": 1, "BLOCK_L": 32}, num_warps=1, num_stages=1000),
    ),
    "no product": ("BLOCK_R", "no side of which may be under 16", PROBLEM, dense(BLOCK_R=8)),
    "unrolled": (
        "BLOCK_R", "multiply-adds a thread and step", Problem(1, 512, 64, 3, 2000, precision="ieee"),
        dense(warps=1, BLOCK_CO=32, BLOCK_R=128),
    ),
    "parts": ("SPLIT", "is more than 1024", Problem(1, 64, 64, 3, 100), split(2**20)),
    "parts on axis z": ("SPLIT", "is more than 1024", Problem(1, 64, 64, 3, 100), split(65536)),
    "scratch": ("scratch", f"is more than {SCRATCH_BYTES} bytes", Problem(8, 64, 64, 3, 20000), split(1024)),
    "blocks": ("grid", "on axis x", Problem(2530, 1, 1702, 1, 159585), dense(2, BLOCK_CO=16, BLOCK_L=16)),
    "kernel": ("kernel", "is not known", PROBLEM, Config("retired", {"BLOCK_L": 16}, 4, 2)),
    "another problem's kernel": (
        "kernel", "cannot run", PROBLEM, Config("depthwise", {"BLOCK_CO": 1, "BLOCK_L": 128}, 4, 2),
    ),
    "another kernel's tile": ("BLOCK_M", "is not a tile of dense", PROBLEM, dense(BLOCK_M=16)),
    "a problem out of reach": (
        "kernel", "past the 2**49 that a GPU addresses", Problem(1, 16, 16, 1, 20, stride=2**61), dense(),
    ),
}  # fmt: skip


@pytest.mark.parametrize("arch", [*ARCHITECTURES.values(), None], ids=lambda arch: arch and arch.name)
@pytest.mark.parametrize("hostile", HOSTILE)
def test_what_no_machine_should_be_asked_for_is_refused(hostile: str, arch: object) -> None:
    field, said, problem, config = HOSTILE[hostile]
    with pytest.raises(ConfigError) as refused:
        check_sound(problem, config, arch)
    assert refused.value.field == field and said in str(refused.value)
    assert refusal(problem, config, arch) == str(refused.value)
    assert "\n" not in str(refused.value) and refused.value.remedy


def test_shared_memory_is_the_architecture_s() -> None:
    deep = dense(stages=4, BLOCK_CO=128, BLOCK_L=64, BLOCK_R=64)
    assert refusal(PROBLEM, deep, ARCHITECTURES["sm_90"]) is None
    assert "sm_89" in str(refusal(PROBLEM, deep, ARCHITECTURES["sm_89"]))
    assert refusal(PROBLEM, deep, None) is None  # the most that any has


def test_a_result_that_is_large_itself_may_have_a_float32_copy() -> None:
    weights = Problem(4, 8192, 8192, 3, 100, op="conv_weight", dtype="float16")
    tiles = {"BLOCK_CO": 128, "BLOCK_R": 128, "BLOCK_L": 32}
    one = Config("weight_gradient", {**tiles, "SPLIT": 1}, num_warps=8, num_stages=2)
    assert 4 * kernel_called("weight_gradient").workspace(weights, one) > SCRATCH_BYTES
    assert refusal(weights, one, None) is None
    two = Config("weight_gradient", {**tiles, "SPLIT": 2}, num_warps=8, num_stages=2)
    assert str(refusal(weights, two, None)).startswith("config: scratch=")


def test_the_limits_are_those_of_cuda() -> None:
    assert tuple(GRID_LIMITS.values()) == (2**31 - 1, 65535, 65535)


# --- problems out of reach ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("problem", "field"),
    [
        (Problem(1, 1, 1, 1, 20, stride=2**61), "stride"),
        (Problem(1, 1, 1, 1, 2, stride=2**58, op="conv_transpose"), "stride"),
        (Problem(1, 1, 1, 3, 20, padding=2**55), "padding"),
        (Problem(1, 1, 1, 1, 20, dilation=2**60), "dilation"),
        (Problem(2**50, 1, 1, 1, 1), "N"),
        (Problem(1, 1, 1, 1, 2**50, op="conv_weight"), "L"),
        (Problem(2**40, 16, 8, 1, 1, groups=1), "N"),  # addressed, but more blocks than any grid has
    ],
    ids=str,
)
def test_what_no_kernel_reaches_is_left_to_torch(problem: Problem, field: str) -> None:
    for device in CATALOGUE.values():
        with pytest.raises(ProblemError) as refused:
            candidates(problem, device)
        assert (refused.value.field, refused.value.value) == (field, getattr(problem, field))
        assert "\n" not in str(refused.value)


def test_a_kernel_by_name_is_refused_too() -> None:
    for stride, serves in ((2**20, True), (2**61, False)):
        problem = Problem(1, 16, 16, 1, 20, stride=stride)
        assert bool(supporting(problem)) is serves
        if serves:
            check_runs(problem, dense())
        else:
            with pytest.raises(ConfigError, match=r"cannot run .*: its offsets reach"):
                check_runs(problem, dense())
