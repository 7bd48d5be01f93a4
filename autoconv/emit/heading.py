"""The docstring of a file: what it is for, what it should take, and why it is launched as it is."""

from __future__ import annotations

import math
import textwrap
from dataclasses import dataclass
from inspect import getdoc
from sys import modules

from autoconv.config import Config
from autoconv.cost.prediction import Prediction
from autoconv.device import Device
from autoconv.emit.layout import WIDTH
from autoconv.kernels.base import Kernel
from autoconv.problem import Problem

AXES = {
    "co": "tile{} of Cout",
    "l": "window{} of L_out",
    "n": "sample{}",
    "r": "tile{} of (channel, tap)",
    "band": "band{} of windows",
    "group": "group{}",
    "phase": "phase{} of the stride",
    "part": "part{} of the reduction",
}
"""What blocks run over, by the names that a kernel's work has; another is shown as it is."""

_LABEL = 9  # columns


@dataclass(frozen=True)
class Facts:
    """What is known of the config on a device."""

    device: Device
    prediction: Prediction  # of this config, compiled for the device
    milliseconds: float | None  # None: the device cannot launch it
    measured: bool
    versions: str  # of what wrote the file


def heading(kernel: Kernel, problem: Problem, config: Config, facts: Facts) -> list[str]:
    """Return the lines of the docstring, quotes included."""
    what = {
        "conv": "Conv1d",
        "conv_transpose": "ConvTranspose1d",
        "conv_weight": "The gradient of Conv1d's weight",
    }
    products = problem.precision if problem.dtype == "float32" else "exact"
    rows = {
        "Problem": f"{problem} ({problem.dtype}, {products} products)",
        "Device": f"{facts.device.name}: {facts.device.sms} SMs, sm_{facts.device.arch.capability}",
        "Config": " ".join(f"{name}={value}" for name, value in config.to_json().items()),
        "Time": _time(facts),
        "Grid": _grid(kernel, problem, config, facts),
    }
    lines = [
        f'"""{what[problem.op]} by the Triton kernel `{kernel.name}`, tuned for {facts.device.name}.',
        "",
    ]
    for label, text in rows.items():
        wrapped = textwrap.wrap(text, WIDTH - _LABEL, break_long_words=False, break_on_hyphens=False)
        lines += [f"{label if line is wrapped[0] else '':{_LABEL}}{line}" for line in wrapped]
    schedule = (getdoc(modules[type(kernel).__module__]) or "").splitlines()
    return [*lines, "", *schedule, "", *textwrap.wrap(_origin(facts), WIDTH), '"""']


def _time(facts: Facts) -> str:
    floor = f"the floor, every tensor moved once, is {_ms(facts.prediction.floor_seconds * 1e3)}"
    if facts.milliseconds is None:
        return f"none: a block is more than an SM of this device holds; {floor}"
    kind = "measured" if facts.measured else "predicted, not measured"
    return f"{_ms(facts.milliseconds)} ({kind}); {floor}; bound by {facts.prediction.bound}"


def _ms(milliseconds: float) -> str:
    return f"{milliseconds:.4g} ms"


def _grid(kernel: Kernel, problem: Problem, config: Config, facts: Facts) -> str:
    """Return the blocks by what they run over, and how they fill the device."""
    blocks = math.prod(facts.prediction.grid)
    order = " x ".join(
        f"{extent:g} {AXES.get(name, name).format('' if extent == 1 else 's')}"
        for name, extent in kernel.work(problem, config).raster
    )
    text = f"{blocks} blocks: {order}, neighbours along the first. "
    at_once = facts.prediction.blocks_per_sm * facts.device.sms
    if not at_once:
        return text + "The device can launch none of them."
    return text + (
        f"{facts.prediction.blocks_per_sm} run on an SM at once, {at_once} on the device: "
        f"{blocks / at_once:.3g} waves. Axis x has what can pass 65535, where y and z stop, and what shares "
        "operands lies side by side, so that the L2 serves it."
    )


def _origin(facts: Facts) -> str:
    return (
        f"Written by {facts.versions}. It needs torch and Triton alone, and serves every size: what the "
        "kernel does not run, torch does. The tiles were chosen for the problem above, and may not be the "
        "best for another."
    )
