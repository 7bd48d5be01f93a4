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
from autoconv.sweep.tasks import Laps, Open, Time, Verify

CONFIG = Config("dense", {"BLOCK_CO": 16, "BLOCK_L": 16, "BLOCK_R": 16}, num_warps=1, num_stages=2)
PROBLEMS = [
    Problem(2, 4, 6, 3, 30, padding=1, bias=True, activation="gelu"),
    Problem(2, 4, 6, 3, 30, padding=(1, 2), precision="ieee", layout="nlc"),
    Problem(2, 4, 6, 4, 30, op="conv_transpose", stride=2, padding=(1, 0), output_padding=1, bias=True),
    Problem(2, 4, 6, 3, 30, op="conv_weight", padding=1, groups=2),
]


class Timer:
    """Stands in for gpu.sampler: makes each call, and answers from its script by how torch is set then."""

    def __init__(self, script: dict[bool, float]) -> None:
        self._script = script
        self.flags: list[tuple[bool, bool, bool]] = []
        self.results: list[torch.Tensor] = []
        self.graphs: list[int] = []

    def __call__(
        self, call: Callable[[], torch.Tensor], _flush: torch.Tensor, *, graph: int = 0
    ) -> Callable[[], float]:
        self.graphs.append(graph)

        def sample() -> float:
            self.results.append(call())
            return self._script[self.flags[-1][0]]

        return sample

    def convolved(self, *arguments: Any) -> torch.Tensor:
        cudnn = torch.backends.cudnn
        self.flags.append((cudnn.benchmark, cudnn.deterministic, cudnn.allow_tf32))
        return convolution(*arguments)


def timer_for(script: dict[bool, float], monkeypatch: pytest.MonkeyPatch) -> Timer:
    timer = Timer(script)
    monkeypatch.setattr(gpu, "sampler", timer)
    monkeypatch.setattr(gpu, "flush_buffer", lambda: torch.empty(0))
    monkeypatch.setattr(timing, "convolution", timer.convolved)
    return timer


@pytest.mark.parametrize("problem", PROBLEMS, ids=str)
@pytest.mark.parametrize("script", [{False: 5.0, True: 3.0}, {False: 3.0, True: 5.0}], ids=str)
def test_torch_is_timed_at_its_best(
    problem: Problem, script: dict[bool, float], monkeypatch: pytest.MonkeyPatch
) -> None:
    timer = timer_for(script, monkeypatch)
    monkeypatch.setattr(torch.backends.cudnn, "deterministic", True)  # of a caller; here it must not count
    laps = timing.time_in_turn(problem, [ATEN], where="cpu", seconds=0.0)
    assert laps == [[3.0]] * timing.LEAST_SAMPLES
    assert set(timer.flags) == {(choose, False, problem.precision == "tf32") for choose in (False, True)}
    for y in timer.results:
        assert y.shape == problem.y_shape and y.is_contiguous()


def test_the_activation_is_in_torch_s_time(monkeypatch: pytest.MonkeyPatch) -> None:
    problem = Problem(2, 4, 6, 3, 30, activation="relu")
    timer = timer_for({False: 1.0, True: 1.0}, monkeypatch)
    timing.time_in_turn(problem, [ATEN], where="cpu", seconds=0.0)
    assert timer.results and all((y >= 0).all() and (y == 0).any() for y in timer.results)


@pytest.mark.parametrize("graph", [False, True])
def test_candidates_are_timed_in_turn_and_every_other_lap_the_other_way_round(
    graph: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    order: list[Config] = []
    graphs: list[int] = []

    def sampler(call: Callable[[], Config], flush: Any, *, graph: int) -> Callable[[], float]:
        graphs.append(graph)
        return lambda: order.append(call()) or float(call().num_warps)  # type: ignore[func-returns-value]

    monkeypatch.setattr(gpu, "sampler", sampler)
    monkeypatch.setattr(gpu, "flush_buffer", lambda: torch.empty(0))
    monkeypatch.setattr(timing, "_call", lambda _problem, config, *_: lambda: config)
    configs = [Config("dense", {}, num_warps=warps, num_stages=2) for warps in (1, 2, 4)]
    laps = timing.time_in_turn(PROBLEMS[0], configs, where="cpu", seconds=0.0, graph=graph)
    assert laps == [[1.0, 2.0, 4.0]] * timing.LEAST_SAMPLES, "each beside its own config"
    assert order[:6] == [*configs, *reversed(configs)]
    assert set(graphs) == {timing.GRAPHED if graph else 0}


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


def test_torch_beside_torch_is_timed_in_pairs(monkeypatch: pytest.MonkeyPatch) -> None:
    timer = timer_for({False: 5.0, True: 3.0}, monkeypatch)
    laps = timing.time_in_turn(PROBLEMS[0], [ATEN, ATEN], where="cpu", seconds=0.0)
    assert laps == [[3.0, 3.0]] * timing.LEAST_SAMPLES
    assert {benchmark for benchmark, *_ in timer.flags[-2 * timing.LEAST_SAMPLES :]} == {True}


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
    monkeypatch.setattr(timing, "time_in_turn", lambda *_, where, **__: seen.append(where) or [[1.0]])
    monkeypatch.setattr("autoconv.sweep.verify.verify", lambda *_, where, **__: seen.append(where))
    assert Time(PROBLEMS[0], (ATEN,), "cuda:1", 0.1).perform() == Laps(((1.0,),))
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

    monkeypatch.setattr(timing, "time_in_turn", refuse)
    with pytest.raises(torch.OutOfMemoryError) as raised:
        Time(PROBLEMS[0], (CONFIG,), "cuda:0", 0.1).perform()
    outcome = outcome_of(raised.value)  # what the worker answers
    assert isinstance(outcome, Unavailable) and "out of memory" in outcome.reason


def test_memory_that_a_task_took_on_the_gpu_is_free_for_other_processes_after_it(monkeypatch):
    order = []
    monkeypatch.setattr(torch.cuda, "device", lambda where: nullcontext(order.append(where)))
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: order.append("emptied"))
    with gpu.using("cuda:1"):
        order.append("task")
    assert order == ["cuda:1", "task", "emptied"]
    with gpu.using("cpu"):
        pass
    assert order[-1] == "emptied"  # which does nothing where CUDA was never initialised
