"""How torch's own convolution is timed, by a timer that keeps a script; and on whose device tasks run."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import pytest
import torch

from autoconv import gpu
from autoconv.config import Config
from autoconv.device import find
from autoconv.kernels.aten import ATEN, convolution
from autoconv.problem import Problem
from autoconv.sweep import timing
from autoconv.sweep.outcomes import Unavailable, outcome_of
from autoconv.sweep.tasks import Open, Samples, Time, Verify

CONFIG = Config("dense", {"BLOCK_CO": 16, "BLOCK_L": 16, "BLOCK_R": 16}, num_warps=1, num_stages=2)
PROBLEMS = [
    Problem(2, 4, 6, 3, 30, padding=1, bias=True, activation="gelu"),
    Problem(2, 4, 6, 3, 30, padding=(1, 2), precision="ieee", layout="nlc"),
    Problem(2, 4, 6, 4, 30, op="conv_transpose", stride=2, padding=(1, 0), output_padding=1, bias=True),
    Problem(2, 4, 6, 3, 30, op="conv_weight", padding=1, groups=2),
]


class Timer:
    """Stands in for gpu.time_callable: makes each call once, and answers from its script."""

    def __init__(self, script: dict[bool, float]) -> None:
        self._script = script
        self.flags: list[tuple[bool, bool, bool]] = []
        self.results: list[torch.Tensor] = []
        self.seconds = 0.0

    def __call__(self, call: Callable[[], torch.Tensor], *, seconds: float) -> list[float]:
        cudnn = torch.backends.cudnn
        self.flags.append((cudnn.benchmark, cudnn.deterministic, cudnn.allow_tf32))
        self.results.append(call())
        self.seconds += seconds
        return [self._script[cudnn.benchmark]] * 3


@pytest.mark.parametrize("problem", PROBLEMS, ids=str)
@pytest.mark.parametrize("script", [{False: 5.0, True: 3.0}, {False: 3.0, True: 5.0}], ids=str)
def test_torch_is_timed_at_its_best(
    problem: Problem, script: dict[bool, float], monkeypatch: pytest.MonkeyPatch
) -> None:
    timer = Timer(script)
    monkeypatch.setattr(gpu, "time_callable", timer)
    monkeypatch.setattr(torch.backends.cudnn, "deterministic", True)  # of a caller; here it must not count
    samples = timing.time_candidate(problem, ATEN, where="cpu", seconds=0.5)
    assert samples == [3.0] * 3
    assert timer.flags == [(choose, False, problem.precision == "tf32") for choose in (False, True)]
    assert timer.seconds == 0.5
    for y in timer.results:
        assert y.shape == problem.y_shape and y.is_contiguous()


def test_the_activation_is_in_torch_s_time(monkeypatch: pytest.MonkeyPatch) -> None:
    problem = Problem(2, 4, 6, 3, 30, activation="relu")
    timer = Timer({False: 1.0, True: 1.0})
    monkeypatch.setattr(gpu, "time_callable", timer)
    timing.time_candidate(problem, ATEN, where="cpu", seconds=0.1)
    assert all((y >= 0).all() and (y == 0).any() for y in timer.results)


def test_torch_computes_every_op_as_the_definition_says() -> None:
    """Uneven padding, which no argument of torch has: zeros before and after, or a cropped result."""
    for problem in PROBLEMS:
        x, w = (torch.randn(shape, dtype=torch.float64) for shape in (problem.x_shape, problem.w_shape))
        bias = torch.randn(problem.Cout, dtype=torch.float64) if problem.bias else None
        y = convolution(problem, x, w, bias)
        assert torch.allclose(y, by_definition(problem, x, w, bias))


def by_definition(problem: Problem, x: Any, w: Any, bias: Any) -> torch.Tensor:
    y = torch.zeros(problem.y_shape, dtype=x.dtype)
    per_in, per_out = problem.Cin_per_group, problem.Cout_per_group
    for group in range(problem.groups):
        ins, outs = slice(group * per_in, (group + 1) * per_in), slice(group * per_out, (group + 1) * per_out)
        for tap in range(problem.K):
            long, short = (
                (problem.L_out, problem.L) if problem.op == "conv_transpose" else (problem.L, problem.L_out)
            )
            for at in range(short):
                far = at * problem.stride + tap * problem.dilation - problem.pad_left
                if not 0 <= far < long:
                    continue
                if problem.op == "conv_transpose":
                    y[:, outs, far] += x[:, ins, at] @ w[ins, :, tap]
                elif problem.op == "conv_weight":
                    y[outs, :, tap] += w[:, outs, at].T @ x[:, ins, far]
                else:
                    y[:, outs, at] += x[:, ins, far] @ w[outs, :, tap].T
    return y if bias is None else y + bias[:, None]


def test_beside_other_work_both_are_called_in_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    ways: list[int] = []

    def alternately(calls: list[Callable[[], torch.Tensor]], *, seconds: float) -> list[tuple[float, ...]]:
        ways.append(len(calls))
        for call in calls[-2:]:  # torch's, which run here
            assert call().shape == PROBLEMS[0].y_shape
        return [tuple(float(10 * number + place) for place in range(len(calls))) for number in (1, 2, 3)]

    monkeypatch.setattr(gpu, "time_alternately", alternately)
    pairs = timing.time_beside(PROBLEMS[0], CONFIG, ATEN, "cpu", 0.5)
    assert pairs == ((10.0, 11.0), (20.0, 21.0), (30.0, 31.0)), "with the faster of torch's two ways"
    assert timing.time_beside(PROBLEMS[0], ATEN, ATEN, "cpu", 0.5)[0] == (10.0, 12.0)
    assert ways == [3, 4]


# --- the caller's device --------------------------------------------------------------------------


@pytest.fixture
def entered(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The devices that were made the current one, in a process that has two."""
    found: list[str] = []

    def device(where: str) -> AbstractContextManager[None]:
        found.append(str(where))
        return nullcontext()

    monkeypatch.setattr(torch.cuda, "device", device)
    return found


def test_checking_and_timing_run_on_the_caller_s_device(
    entered: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[str] = []
    monkeypatch.setattr(timing, "time_candidate", lambda *_, where, **__: seen.append(where) or [1.0])
    monkeypatch.setattr("autoconv.sweep.verify.verify", lambda *_, where, **__: seen.append(where))
    assert Time(PROBLEMS[0], ATEN, "cuda:1", 0.1).perform() == Samples((1.0,))
    Verify.fresh(PROBLEMS[0], CONFIG, on_gpu=True, ordinal=1).perform()
    assert seen == entered == ["cuda:1", "cuda:1"]


def test_opening_makes_the_context_there_and_tells_what_is_free(
    entered: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    device = find("l4")
    asked: list[int] = []
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda index: asked.append(index) or (5 << 30, 24 << 30))
    monkeypatch.setattr(gpu, "current", {1: device, 0: find("rtx4090")}.get)
    assert Open(1, device.name).perform() == 5 << 30
    assert (entered, asked) == (["1"], [1])


def test_another_device_than_the_one_meant_is_not_measured_on(
    entered: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (1 << 30, 1 << 30))
    monkeypatch.setattr(gpu, "current", lambda _: find("l4"))
    with pytest.raises(Unavailable) as unavailable:
        Open(1, "rtx4090").perform()
    reason = unavailable.value.reason
    assert reason.startswith("cuda:1 is l4 to a worker process, not rtx4090; set CUDA_VISIBLE")


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("CUDA error: CUDA-capable device(s) is/are busy or unavailable"),
        ValueError("whatever a driver says"),
    ],
)
def test_a_device_that_cannot_be_opened_is_unavailable(
    error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    def opened(_: int) -> int:
        raise error

    monkeypatch.setattr(gpu, "opened", opened)
    with pytest.raises(Unavailable) as unavailable:
        Open(1, "rtx4090").perform()
    assert unavailable.value.reason == f"cuda:1 cannot be used: {type(error).__name__}: {error}"


def test_a_task_that_runs_out_of_memory_is_no_candidate_s_fault(
    entered: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any, **__: Any) -> list[float]:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    monkeypatch.setattr(timing, "time_candidate", refuse)
    with pytest.raises(torch.OutOfMemoryError) as raised:
        Time(PROBLEMS[0], CONFIG, "cuda:0", 0.1).perform()
    outcome = outcome_of(raised.value)  # what the worker answers
    assert isinstance(outcome, Unavailable) and "out of memory" in outcome.reason
