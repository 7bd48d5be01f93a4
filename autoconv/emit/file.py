"""A convolution as one Python file: jit functions, the function that launches them, and torch's module."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from autoconv.config import Config
from autoconv.emit.expressions import parts_of, value_of
from autoconv.emit.heading import Facts, heading
from autoconv.emit.jits import constants, in_order, source_text
from autoconv.emit.kinds import kind_of
from autoconv.emit.layout import INDENT, declared_with
from autoconv.emit.module import autograd_function, module
from autoconv.emit.rivals import LAUNCH, Over, varied
from autoconv.emit.tracing import X_STRIDES, Traced, traced
from autoconv.emit.wrapper import Tuning, by_kernel, by_torch, outside_grids
from autoconv.errors import ConfigError
from autoconv.kernels.base import Kernel
from autoconv.problem import Problem


def emit(
    kernel: Kernel, problem: Problem, configs: Sequence[Config], facts: Facts, over: Over | None = None
) -> str:
    """Return the text of a file that computes `problem` and its like, and needs torch and Triton alone.

    Args:
        kernel: What runs the problem.
        problem: The problem; its kind is that of the file: op, layout, dtype, activation, and which of
            padding and groups it has. All sizes are those of the tensors that the file's functions are given.
        configs: Of the kernel, the best first. The file has the first, or with `over` a triton.autotune over
            all.
        facts: What is known of the first.
        over: What the configs differ in: "blocks" is the tiles called BLOCK_*, "launch" num_warps and
            num_stages.

    Raises:
        ConfigError: scratch memory depends on a tile that they differ in.
    """
    best = configs[0]
    found = traced(kernel, problem, best)
    names = varied(kernel, over) if over else frozenset()
    for tile in sorted(names & outside_grids(kernel, found)):
        reason = "sets the scratch memory that is there before a config is chosen"
        raise ConfigError(tile, best.tiles[tile], reason, "tune over num_warps and num_stages")
    kind = kind_of(problem)
    tuning = Tuning(best, names | LAUNCH if over else names)
    used = in_order([launch.jit for launch in found.launches])
    functions = [
        [*(_autotune(found, kernel, configs, names) if over and jit is kernel.jit else []),
         *source_text(jit).splitlines()]
        for jit in used
    ]  # fmt: skip
    host = [
        by_torch(problem, kind),
        by_kernel(kernel, problem, kind, found, tuning),
        autograd_function(problem, kind),
        module(problem, kind),
    ]
    imports = ["import torch", "import torch.nn as nn", "import triton", "import triton.language as tl"]
    if any("math." in line for line in host[1]):
        imports[:0] = ["import math", ""]
    named = constants(used)
    imports += ["", *named] if named else []
    parts = [[*heading(kernel, problem, best, facts), "", *imports], *functions, *host]
    return "\n\n\n".join("\n".join(part) for part in parts) + "\n"


def _autotune(traced: Traced, kernel: Kernel, configs: Sequence[Config], names: frozenset[str]) -> list[str]:
    """Return the decorator that times the configs, anew for each shape.

    A config of triton.autotune has warps and stages too, so a launch that is tuned has neither.
    """
    main = next(launch for launch in traced.launches if launch.jit is kernel.jit)
    key: list[str] = []
    told: set[Any] = set()  # the sizes that the key has as they are; one in units of what divides it is not
    for name, value in main.keywords.items():
        of = {part.of for part in parts_of(value) if not part.operands} - {*X_STRIDES}
        if type(value_of(value)) is int and not of <= told:
            key.append(name)
            if not value.operands:
                told |= of
    quoted = [f'"{name}"' for name in key]
    lines = declared_with(f"{INDENT}key=[", quoted, "],")
    return [
        "@triton.autotune(",
        f"{INDENT}configs=[",
        *(f"{INDENT * 2}{_config(kernel, config, names)}," for config in configs),
        f"{INDENT}],",
        *lines,
        ")",
    ]


def _config(kernel: Kernel, config: Config, names: frozenset[str]) -> str:
    tiles = ", ".join(f'"{name}": {config.tiles[name]}' for name in kernel.tiles if name in names)
    return f"triton.Config({{{tiles}}}, num_warps={config.num_warps}, num_stages={config.num_stages})"
