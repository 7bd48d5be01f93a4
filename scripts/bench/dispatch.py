"""What a call costs before the kernel runs: a hit of autoconv against plain Triton and triton.autotune.

All of them launch the same kernel with the same config and the same arguments, which is checked first, on the
same driver, which stands in for a GPU and drops the launch where Triton hands it to its launcher. What that
does on a GPU before it comes to C, plain Triton pays on top and a hit does not. All allocate their output.
They take turns, and the thread's own CPU time is counted, so that a noisy machine disturbs them little and
alike; the ratios of their medians, each net of what its own output takes to allocate ("output" in a hit,
"new_empty" in Triton's), say more than the microseconds, and the numbers of bytecodes, Python's own work, are
the same each time. "served by torch" is a call for which torch won, beside torch's own functional.conv1d of
the same tensors. Prints one JSON object.

    python scripts/bench/dispatch.py [rounds]
"""

from __future__ import annotations

import json
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from importlib.metadata import version
from types import FrameType
from typing import Any

import torch
import triton
from torch import nn
from torch.nn import functional

import autoconv
from autoconv import Config, Problem, device, lookup, ops, serving, settings
from autoconv.compiler.recording import RecordedLaunch, RecordingDriver, recording
from autoconv.cost.version import predictor_of
from autoconv.dispatch.dispatcher import Dispatcher
from autoconv.dispatch.launchers import empty_on
from autoconv.dispatch.machines import Recorded
from autoconv.environment import Environment
from autoconv.kernels.aten import ATEN
from autoconv.kernels.registry import kernel as kernel_called
from autoconv.kernels.source import source_of
from tuning_db import Trial

DEVICE = "rtx4090"
PROBLEM = Problem(2, 32, 32, 3, 128, dilation=2)  # small, so that allocating its output is not what is timed
KERNEL = kernel_called("dense")
CONFIG = next(iter(KERNEL.space(PROBLEM, device.find(DEVICE))))
Y_SHAPE = PROBLEM.y_shape
WON_BY_TORCH = Problem(1, 4, 4, 1, 16)  # torch computes this one for real, so the smaller the better
NUMBERS = (PROBLEM.stride, 0, PROBLEM.dilation, 1)
ROUNDS = 200
CALLS = 200  # of each, in one round
PARTS = ("torch.empty", "new_empty", "output", "launch", "plan")  # of a call
TRITON = ("kernel[grid]", "triton.autotune", "kernel[grid] with gradients")  # whose outputs are by new_empty
BY_TORCH = ("functional.conv1d", "served by torch")  # which compute, on the CPU

Variant = Callable[[], object]


def main() -> None:
    """Measure every variant in turn, and print medians, ratios and shares."""
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else ROUNDS
    torch.set_num_threads(1)  # two that wait for each other on a busy machine would be all that is timed
    with ExitStack() as stack:
        measurable = variants(stack)
        codes = {name: bytecodes(call) for name, call in measurable.items()}
        medians = measured(measurable, rounds)
    hit, launch, output = medians["conv1d"], medians["launch"], medians["output"]
    net = {
        name: us - (medians["new_empty"] if name in TRITON else output)
        for name, us in medians.items()
        if name not in PARTS + BY_TORCH
    }
    print(
        json.dumps(
            {
                "benchmark": "dispatch",
                "problem": str(PROBLEM),
                "config": str(CONFIG),
                "arguments": len(KERNEL.jit.arg_names),
                "environment": environment(),
                "rounds": rounds,
                "calls_a_round": CALLS,
                "median_us": {name: round(us, 3) for name, us in medians.items()},
                "bytecodes": codes,
                "net_ratio_to_plain": {name: round(us / net["kernel[grid]"], 3) for name, us in net.items()},
                "us_beyond_torch": round(medians["served by torch"] - medians["functional.conv1d"], 3),
                "share_of_hit_pct": {
                    "checks in conv1d": round(100 * (hit - launch) / hit),
                    "output allocation": round(100 * output / hit),
                    "launch, without the driver": round(100 * (launch - output) / hit),
                },
            }
        )
    )


def variants(stack: ExitStack) -> dict[str, Variant]:
    """Return what to measure, by name; what they need lives as long as `stack`."""
    x, weight = torch.zeros(PROBLEM.x_shape), torch.zeros(PROBLEM.w_shape)
    sizes: Any = (PROBLEM.Cin, PROBLEM.Cout, PROBLEM.K)
    window: Any = {"stride": PROBLEM.stride, "dilation": PROBLEM.dilation, "bias": False}
    model, module = autoconv.ModelNew(*sizes, **window), autoconv.Conv1d(*sizes, **window)
    accelerated = nn.Conv1d(*sizes, **window)
    autoconv.accelerate(accelerated)
    plain, autotuned = by_triton(x, weight)
    allocate, strides = empty_on(x.device), x.new_empty(Y_SHAPE).stride()
    torchs = torch.zeros(WON_BY_TORCH.x_shape), torch.zeros(WON_BY_TORCH.w_shape)
    dispatcher = stack.enter_context(swallowing((x, weight), plain))
    launch = dispatcher.plan(x, weight, None, *NUMBERS).launch
    wanted = weight.clone().requires_grad_()
    operator = torch.compile(by_operator, backend="aot_eager", fullgraph=True)

    def with_gradients(call: Variant) -> Variant:
        def called() -> object:
            with torch.enable_grad():
                return call()

        return called

    return {
        "torch.empty": lambda: torch.empty(Y_SHAPE, dtype=torch.float32, device=x.device),
        "new_empty": lambda: x.new_empty(Y_SHAPE),
        "output": lambda: allocate(Y_SHAPE, strides, torch.float32),
        "launch": lambda: launch(x, weight, None),
        "plan": lambda: dispatcher.plan(x, weight, None, *NUMBERS),
        "conv1d": lambda: ops.conv1d(x, weight, None, *NUMBERS),
        "ModelNew": lambda: model(x),
        "Conv1d": lambda: module(x),
        "accelerated": lambda: accelerated(x),
        "functional.conv1d": lambda: functional.conv1d(*torchs, None, 1, 0, 1, 1),
        "served by torch": lambda: ops.conv1d(*torchs, None, 1, 0, 1, 1),
        "kernel[grid]": plain,
        "triton.autotune": autotuned,
        "kernel[grid] with gradients": with_gradients(lambda: Plain.apply(x, wanted, plain)),  # type: ignore[no-untyped-call]
        "conv1d with gradients": with_gradients(lambda: ops.conv1d(x, wanted, None, *NUMBERS)),
        "ModelNew with gradients": with_gradients(lambda: model(x)),
        "Conv1d with gradients": with_gradients(lambda: module(x)),
        "accelerated with gradients": with_gradients(lambda: accelerated(x)),
        "operator": lambda: by_operator(x, weight),
        "operator in a compiled graph": lambda: operator(x, weight),
    }


class Plain(torch.autograd.Function):
    """A plain launch that can be differentiated, in the least that torch asks of one."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, weight: torch.Tensor, launch: Variant) -> Any:
        """Launch, and save what a backward pass reads."""
        ctx.save_for_backward(x, weight)
        return launch()


def by_operator(x: torch.Tensor, weight: torch.Tensor) -> Any:
    """Call the operator that stands for a convolution in compiled graphs."""
    stride, padding, dilation, groups = NUMBERS
    return torch.ops.autoconv.convolution(
        x, weight, None, stride, [padding, padding], dilation, groups, False, 0
    )


def by_triton(x: torch.Tensor, weight: torch.Tensor) -> tuple[Variant, Variant]:
    """Return a plain launch and an autotuned one, arguments and grid made ready beforehand."""
    jit, grid, keywords = KERNEL.jit, KERNEL.grid(PROBLEM), KERNEL.keywords(PROBLEM, CONFIG)
    options = {"num_warps": CONFIG.num_warps, "num_stages": CONFIG.num_stages}
    choices = [triton.Config(CONFIG.meta, **{**options, "num_stages": stages}) for stages in (2, 3)]
    tuner = triton.autotune(choices, key=["L_units", "L_out_units"], do_bench=same_time)
    autotuned = tuner(jit)
    untuned = {name: value for name, value in keywords.items() if name not in CONFIG.to_json()}

    def plain() -> torch.Tensor:
        y = x.new_empty(Y_SHAPE)
        jit[grid](x, weight, None, y, **keywords)
        return y

    def hit() -> torch.Tensor:
        y = x.new_empty(Y_SHAPE)
        autotuned[grid](x, weight, None, y, **untuned)
        return y

    return plain, hit


@contextmanager
def swallowing(tensors: tuple[torch.Tensor, torch.Tensor], plain: Variant) -> Iterator[Dispatcher]:
    """Yield a dispatcher in force on a driver that drops launches, with a database and a cache of its own.

    Raises:
        RuntimeError: a call of its own is not the launch that `plain` makes.
    """
    target = device.find(DEVICE)
    with tempfile.TemporaryDirectory() as folder:
        os.environ |= {
            "AUTOCONV_DB": f"{folder}/tuning.db",
            "AUTOCONV_CACHE": f"{folder}/cache",
            "AUTOCONV_ON_MISS": "predict",
        }
        remember(PROBLEM, CONFIG, Environment.current(target))
        remember(WON_BY_TORCH, ATEN, Environment.current(target))
        with torch.no_grad(), autoconv.recorded(target) as launches:
            ops.conv1d(*tensors, None, *NUMBERS)
            plain()
        if without_y(launches[0]) != without_y(launches[-1]) or len(launches) != 2:
            raise RuntimeError("conv1d and the plain launch are not the same: there is nothing to compare")
        dispatcher = Dispatcher(Recorded(target), settings.load())
        with torch.no_grad(), recording(target) as driver, serving.served_by(dispatcher):
            swallow_from_now_on(driver)
            yield dispatcher
            dispatcher.wait(0)  # it writes what it missed, while the folder is there


def remember(problem: Problem, config: Config, environment: Environment) -> None:
    """Make `config` the winner of `problem` in the user's database."""
    problem_record, environment_record = lookup.records(problem, environment)
    trial = Trial(
        config.document(),
        "ok",
        predicted_us=5.0,
        max_err=0.0,
        source=source_of(config.kernel) or "",
        predictor=predictor_of(config.kernel),
    )
    with lookup.open_user(settings.load()) as database:
        database.record(environment_record, problem_record, [trial], origin="bench")


def without_y(launch: RecordedLaunch) -> tuple[object, ...]:
    """Return a launch but for the output that each allocates."""
    x, weight, bias, _, *rest = launch.arguments
    shape = launch.grid, launch.num_warps, launch.num_stages
    return launch.kernel, *shape, x.data_ptr(), weight.data_ptr(), bias, *rest


def swallow_from_now_on(driver: RecordingDriver) -> None:
    """Drop launches where Triton hands them to its launcher."""
    ordinal = 1 - driver.get_current_device()  # whose kernels have no launchers yet
    driver.get_current_device = lambda: -ordinal  # type: ignore[method-assign]
    setattr(driver, "launcher_cls", lambda _source, _metadata: swallow)  # noqa: B010 - shadows a method


def swallow(*_arguments: Any) -> None:
    """Launch nothing."""


def same_time(_call: Variant, quantiles: Sequence[float]) -> list[float]:
    """Time no candidate, where nothing runs: the first one wins."""
    return [1.0 for _ in quantiles]


def bytecodes(call: Variant) -> int:
    """Return how many of Python's bytecodes a call runs, once it is warm."""
    count = 0

    def look(frame: FrameType, event: str, _argument: object) -> Any:
        nonlocal count
        frame.f_trace_opcodes = True
        count += event == "opcode"
        return look

    for _ in range(3):
        call()
    before = sys.gettrace()
    sys.settrace(look)
    try:
        call()
    finally:
        sys.settrace(before)
    return count


def measured(variants: dict[str, Variant], rounds: int) -> dict[str, float]:
    """Return the median over the rounds of one call of each variant, in microseconds."""
    samples: dict[str, list[float]] = {name: [] for name in variants}
    for _ in range(rounds):
        for name, call in variants.items():
            call()  # the caches of the processor are another variant's
            begun = time.thread_time_ns()
            for _ in range(CALLS):
                call()
            samples[name].append((time.thread_time_ns() - begun) / CALLS / 1e3)
    return {name: statistics.median(taken) for name, taken in samples.items()}


def environment() -> dict[str, object]:
    """Return what the figures depend on beside the code."""
    return {
        "python": platform.python_version(),
        "torch": version("torch"),
        "triton": version("triton"),
        "machine": platform.machine(),
        "cpu": processor(),
        "cores": os.cpu_count(),
        "load_average": round(os.getloadavg()[0], 2),
        "stands_in_for": DEVICE,
    }


def processor() -> str:
    """Return the processor's model, as Linux tells it."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as lines:  # noqa: PTH123 - not a file of ours
            return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor()


if __name__ == "__main__":
    main()
