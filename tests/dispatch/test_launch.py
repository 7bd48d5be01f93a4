"""The path of one call: lookup, plan, launch; and what a second call of the kind does without."""

from __future__ import annotations

import sys
import threading
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
import torch

import autoconv
from autoconv import Config, Problem
from autoconv.compiler.recording import RecordedLaunch, recording
from autoconv.device import find
from autoconv.dispatch.choosing import Chooser
from autoconv.dispatch.machines import Recorded
from autoconv.dispatch.plans import Plan
from autoconv.kernels.registry import kernel as kernel_called
from autoconv.kernels.sizes import x_strides_of
from autoconv.lookup import Found, open_user
from autoconv.settings import load

DEVICE = "rtx4090"
PROBLEM = Problem(3, 20, 40, 3, 333, stride=2, dilation=3, padding=4, bias=True)
CONFIGS = [
    Config("dense", {"BLOCK_CO": 32, "BLOCK_L": 64, "BLOCK_R": 16}, num_warps=4, num_stages=3),
    Config("im2col_rows", {"BLOCK_M": 64, "BLOCK_N": 32, "BLOCK_K": 16}, num_warps=2, num_stages=2),
]


def tensors(problem: Problem) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
    dtype = getattr(torch, problem.dtype)
    x = torch.zeros(problem.x_shape, dtype=dtype)
    if problem.layout == "nlc":
        x = x.transpose(1, 2).contiguous().transpose(1, 2)
    bias = torch.zeros(problem.Cout, dtype=dtype) if problem.bias else None
    return x, torch.zeros(problem.w_shape, dtype=dtype), bias


def convolve(problem: Problem, x: torch.Tensor, w: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    padding = problem.pad_left if problem.pad_left == problem.pad_right else "same"
    return autoconv.conv1d(x, w, bias, problem.stride, padding, problem.dilation)


def same_but_y(one: RecordedLaunch, other: RecordedLaunch) -> bool:
    """Whether two launches differ in nothing but the output that each allocated."""
    x, w, b, _, *constants = one.arguments
    x2, w2, b2, _, *constants2 = other.arguments
    same_tensors = all(a is c for a, c in ((x, x2), (w, w2), (b, b2)))
    shapes = [(launch.kernel, launch.grid, launch.num_warps, launch.num_stages) for launch in (one, other)]
    return same_tensors and constants == constants2 and shapes[0] == shapes[1] and one.shared == other.shared


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: config.kernel)
@pytest.mark.parametrize(
    "problem",
    [
        PROBLEM,
        Problem(2, 16, 16, 3, 64, padding=1, dtype="float16"),
        Problem(2, 16, 24, 4, 65, padding=(1, 2), dtype="bfloat16", layout="nlc"),
    ],
    ids=str,
)
def test_the_launch_is_the_one_that_tritons_own_path_makes_of_the_config_on_record(
    problem, config, remember, launches
):
    remember(problem, config)
    x, w, bias = tensors(problem)
    y = convolve(problem, x, w, bias)

    (launch,) = launches
    kernel = kernel_called(config.kernel)
    expected = kernel.keywords(problem, config, x_strides_of(problem))
    grid = kernel.grid(problem)(config.meta)
    assert launch.kernel == kernel.jit.fn.__name__
    assert launch.grid == (*grid, 1, 1)[:3]
    assert (launch.num_warps, launch.num_stages) == (config.num_warps, config.num_stages)
    assert [id(tensor) for tensor in launch.arguments[:4]] == [id(x), id(w), id(bias), id(y)]
    assert list(launch.arguments[4:]) == [expected[name] for name in kernel.jit.arg_names[4:]]
    assert (y.shape, y.dtype, y.is_contiguous()) == (problem.y_shape, x.dtype, True)

    kernel.launch(problem, config, x, w, bias, y)  # binds, specialises and compiles anew
    assert same_but_y(launches[1], launch)


def test_the_second_call_is_the_same_launch(remember, launches):
    remember(PROBLEM, CONFIGS[0])
    x, w, bias = tensors(PROBLEM)
    first, second = (convolve(PROBLEM, x, w, bias) for _ in range(2))
    assert same_but_y(*launches)
    assert first.data_ptr() != second.data_ptr()


def test_a_config_on_record_is_preferred_to_a_prediction(remember, launches):
    x, w, bias = tensors(PROBLEM)
    convolve(PROBLEM, x, w, bias)
    remember(PROBLEM, CONFIGS[1])
    with autoconv.recorded(DEVICE) as later:  # as another process would
        convolve(PROBLEM, x, w, bias)
    tiles = tuple(CONFIGS[1].tiles[tile] for tile in kernel_called("im2col_rows").tiles)
    assert (later[0].kernel, later[0].arguments[-len(tiles) :]) == ("im2col_rows_kernel", tiles)
    assert launches[0].arguments[4:] != later[0].arguments[4:]


# --- what a hit does without ----------------------------------------------------------------------

HIT_FILES = {
    "ops.py", "binding.py", "machines.py",
    "recording.py", "driver.py", "<string>",  # the recorder, Triton's active driver, a dataclass's __init__
}  # fmt: skip
HIT_CALLS = {
    # of a tensor: its place, whether it is as it was, and the one allocation
    "id", "numel", "check", "data_ptr", "_empty_strided_cpu",
    # of torch: modes in which it serves the call, and the precision of float32
    "is_grad_enabled", "_is_torch_function_mode_enabled", "_get_fp32_precision_getter",
    "get",  # of the dictionary
    "append", "__setattr__",  # of the recorder
}  # fmt: skip


def test_a_hit_calls_nothing_but_what_is_listed_here(remember, launches):
    """No file, no lock, no digest, no second allocation: every call of Python and of C is looked at."""
    remember(PROBLEM, CONFIGS[0])
    x, w, bias = tensors(PROBLEM)
    conv1d, numbers = autoconv.conv1d, (PROBLEM.stride, PROBLEM.pad_left, PROBLEM.dilation)
    for _ in range(2):  # the first makes the plan, the second is what the next ones are recognised by
        conv1d(x, w, bias, *numbers)
    files, calls = set(), []

    def look(frame: FrameType, event: str, argument: Any) -> None:
        if event == "call":
            files.add(Path(frame.f_code.co_filename))
        elif event == "c_call":
            calls.append(argument.__name__)

    with torch.no_grad():
        sys.setprofile(look)
        try:
            conv1d(x, w, bias, *numbers)
        finally:
            sys.setprofile(None)
    calls.remove("setprofile")
    assert {file.name for file in files - {Path(torch.compiler.__file__)}} <= HIT_FILES
    assert set(calls) <= HIT_CALLS
    assert calls.count("_empty_strided_cpu") == 1
    assert len(launches) == 3


def test_a_hit_allocates_the_output_and_nothing_else(remember, launches):
    remember(PROBLEM, CONFIGS[0])
    x, w, bias = tensors(PROBLEM)
    convolve(PROBLEM, x, w, bias)
    with torch.no_grad(), torch.profiler.profile(profile_memory=True) as profile:
        y = convolve(PROBLEM, x, w, bias)
    events = profile.events()
    assert not [event.name for event in events if event.name.startswith("aten::")]
    allocated = sum(event.self_cpu_memory_usage for event in events if event.self_cpu_memory_usage > 0)
    assert allocated == y.numel() * y.element_size()


@pytest.fixture
def deterministic():
    assert torch.utils.deterministic.fill_uninitialized_memory  # torch's default
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


@pytest.mark.parametrize("name", ["dense", "split_k"])
def test_outputs_and_scratch_are_not_filled_under_deterministic_algorithms(name, deterministic, launches):
    """torch.empty would be, with NaN: one more pass over y in each call."""
    problem = Problem(2, 64, 16, 3, 66)
    tiles = dict.fromkeys(kernel_called(name).tiles, 16) | ({"SPLIT": 2} if name == "split_k" else {})
    config = Config(name, tiles, num_warps=1, num_stages=2)
    x, w, bias = tensors(problem)
    with recording(find(DEVICE)):
        launch = Recorded(find(DEVICE)).bind(kernel_called(name), problem, config, x, w, bias)
        with torch.profiler.profile() as profile:
            y = launch(x, w, bias)
    assert (y.shape, y.dtype, y.is_contiguous()) == (problem.y_shape, x.dtype, True)
    assert "aten::fill_" not in {event.name for event in profile.events()}


def test_where_torch_cannot_but_fill_one_warning_says_so(deterministic, monkeypatch, launches):
    monkeypatch.delattr(torch._C._dynamo.guards, "_empty_strided_cpu")
    x, w, bias = tensors(PROBLEM)
    with pytest.warns(RuntimeWarning, match="fill_uninitialized_memory = False ends that") as warned:
        y = convolve(PROBLEM, x, w, bias)
        convolve(PROBLEM, x, w, bias)
    assert len(warned) == 1
    assert (y.shape, y.dtype, y.is_contiguous()) == (PROBLEM.y_shape, x.dtype, True)
    assert len(launches) == 2


def test_a_hit_needs_neither_the_database_nor_the_lock(remember, launches, dispatcher, monkeypatch):
    remember(PROBLEM, CONFIGS[0])
    x, w, bias = tensors(PROBLEM)
    convolve(PROBLEM, x, w, bias)
    with open_user(load()) as database:
        database.path.unlink()
    planning, served = threading.Event(), threading.Event()
    choose = Chooser.choose

    def slow(chooser: Chooser, plan: Plan) -> Found | None:
        planning.set()
        assert served.wait(60)
        return choose(chooser, plan)

    monkeypatch.setattr(Chooser, "choose", slow)
    other = threading.Thread(target=dispatcher.plan, args=(x[:1], w, bias, 1, 0, 1, 1))
    other.start()  # a first call, which makes its plan under the lock
    assert planning.wait(60)
    hit = threading.Thread(target=convolve, args=(PROBLEM, x, w, bias))
    hit.start()
    hit.join(timeout=20)
    assert not hit.is_alive()
    served.set()
    other.join()
    assert same_but_y(*launches)


# --- tensors as they come -------------------------------------------------------------------------


def test_a_transposed_input_is_read_in_place_as_channels_last(remember, launches):
    problem = Problem(2, 16, 32, 3, 70, layout="nlc")
    remember(problem, CONFIGS[0])
    x = torch.zeros(2, 70, 16).transpose(1, 2)
    autoconv.conv1d(x, torch.zeros(32, 16, 3))
    (launch,) = launches
    by_name = dict(zip(kernel_called("dense").jit.arg_names, launch.arguments, strict=True))
    assert launch.arguments[0] is x
    assert by_name["x_channel_units"] * by_name["X_ALIGN"] == 1
    assert by_name["x_step"] == 16
    assert by_name["L_units"] * by_name["X_ALIGN"] == problem.L


@pytest.mark.parametrize(
    ("x", "strides"),
    [
        (torch.zeros(2, 16, 200)[:, :, 50:150], (3200, 200, 1)),
        (torch.zeros(2, 16, 200)[:, :, ::2], (3200, 200, 2)),
        (torch.zeros(2, 32, 100)[:, ::2], (3200, 200, 1)),
        (torch.zeros(1, 16, 100).expand(2, 16, 100), (0, 100, 1)),
        (torch.zeros(2, 1, 100).expand(2, 16, 100), (100, 0, 1)),
    ],
    ids=["sliced", "every other position", "every other channel", "expanded batch", "expanded channels"],
)
def test_strided_inputs_are_read_in_place(x, strides, remember, launches):
    remember(Problem(2, 16, 32, 3, 100), CONFIGS[0])
    y = autoconv.conv1d(x, torch.zeros(32, 16, 3))
    (launch,) = launches
    by_name = dict(zip(kernel_called("dense").jit.arg_names, launch.arguments, strict=True))
    units = (by_name["x_batch_units"], by_name["x_channel_units"])
    assert launch.arguments[0] is x
    assert (*(unit * by_name["X_ALIGN"] for unit in units), by_name["x_step"]) == strides
    assert y.shape == (2, 32, 98)


def test_a_weight_and_a_bias_that_are_not_packed_are_copied_for_each_launch(remember, launches):
    remember(Problem(2, 16, 32, 3, 100, bias=True), CONFIGS[0])
    x = torch.zeros(2, 16, 100)
    weight = torch.arange(32 * 16 * 3.0).view(3, 16, 32).permute(2, 1, 0)
    bias = torch.arange(64.0)[::2]
    for _ in range(2):
        autoconv.conv1d(x, weight, bias)
        weight += 1
    for launch, added in zip(launches, (0, 1), strict=True):
        _, read_weight, read_bias, *_ = launch.arguments
        assert read_weight.is_contiguous() and read_bias.is_contiguous()
        assert torch.equal(read_weight, weight - 2 + added)
        assert torch.equal(read_bias, bias)


def test_a_thin_view_of_a_huge_tensor_is_packed_for_the_kernels_32_bit_offsets(tmp_path, launches):
    channels = torch.from_file(str(tmp_path / "holes"), shared=True, size=3 << 30, dtype=torch.float16)
    x = channels.view(1, 3, 1 << 30)[:, :, :64]  # the third channel begins at element 2**31
    x[0, 2, 0] = 1
    weight = torch.zeros(8, 3, 3, dtype=torch.float16)
    for thin in (x, x[0]):
        autoconv.conv1d(thin, weight)
    for launch in launches:
        read = launch.arguments[0]
        assert read.is_contiguous()
        assert torch.equal(read, x)


def test_an_input_without_a_batch_is_a_batch_of_one(launches):
    x, w = torch.zeros(16, 100), torch.zeros(32, 16, 3)
    y = autoconv.conv1d(x, w, padding="same")
    autoconv.conv1d(x.unsqueeze(0), w, padding="same")
    assert y.shape == (32, 100)
    assert launches[0].arguments[0].shape == (1, 16, 100)
    assert launches[0].arguments[0].data_ptr() == x.data_ptr()
    assert launches[0].arguments[4:] == launches[1].arguments[4:]


@pytest.mark.parametrize(
    "tensors",
    [
        (torch.randn(2, 4, 30).double(), torch.randn(4, 4, 3).double()),
        (torch.randn(0, 4, 30), torch.randn(4, 4, 3)),
        (torch.ones(2, 4, 30, dtype=torch.int32), torch.ones(4, 4, 3, dtype=torch.int32)),
    ],
    ids=["float64", "no samples", "integers"],
)
def test_what_no_kernel_runs_is_torchs(tensors, launches):
    assert torch.equal(autoconv.conv1d(*tensors), torch.nn.functional.conv1d(*tensors))
    assert launches == []
