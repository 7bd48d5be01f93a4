"""Emitted files as modules, and what their launches are given."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

from autoconv.config import Config
from autoconv.cost.predict import estimate
from autoconv.device import find
from autoconv.emit import Facts, Over, emit
from autoconv.kernels.base import Kernel
from autoconv.problem import Problem

DEVICE = find("rtx4090")
TENSORS = ("x", "w", "b", "y")


def emitted(kernel: Kernel, problem: Problem, configs: Sequence[Config], over: Over | None = None) -> str:
    """The file's text, its figures estimated."""
    prediction = estimate(problem, configs[0], DEVICE)
    facts = Facts(DEVICE, prediction, prediction.seconds * 1e3, False, "autoconv")
    return emit(kernel, problem, configs, facts, over)


def load(text: str, path: Path) -> ModuleType:
    """Import a file; Triton reads the source of its jit functions from there.

    Not by an importer, which keeps bytecode: it took another text of the same second and length for this one.
    """
    path.write_text(text, encoding="utf-8")
    module = ModuleType(path.stem)
    module.__file__ = str(path)
    exec(compile(text, path, "exec"), vars(module))
    return module


def wrapper(module: ModuleType, problem: Problem, by: str = "triton") -> Callable[..., Any]:
    name = {"conv": "conv1d", "conv_transpose": "conv_transpose1d", "conv_weight": "conv1d_weight"}[
        problem.op
    ]
    return getattr(module, f"{name}_{by}")


def window(problem: Problem, like: Problem | None = None) -> dict[str, Any]:
    """The keywords of the wrapper emitted for `like`, with the values of `problem`."""
    kind = like or problem
    given: dict[str, Any] = {"stride": problem.stride, "dilation": problem.dilation}
    if kind.op == "conv_transpose":
        given["output_padding"] = problem.output_padding
    if kind.op == "conv_weight":
        given["kernel_size"] = problem.K
    if kind.padding != 0 or kind.op == "conv_transpose":
        given["padding"] = problem.padding
    if kind.groups > 1:
        given["groups"] = problem.groups
    if kind.activation != "none":
        given["activation"] = problem.activation
    return given


def tensors(problem: Problem, device: str = "cpu", dtype: str | None = None) -> dict[str, Any]:
    """x, w and b of `problem`, x in its layout."""
    made = {"device": device, "dtype": getattr(torch, dtype or problem.dtype)}
    draw = torch.empty if device == "meta" else torch.randn
    n, channels, length = problem.x_shape
    x = draw((n, length, channels), **made).mT if problem.layout == "nlc" else draw(problem.x_shape, **made)
    b = draw((problem.Cout,), **made) if problem.bias else None
    return {"x": x, "w": draw(problem.w_shape, **made), "b": b}


def operands(problem: Problem, given: dict[str, Any]) -> list[Any]:
    return [given["x"], given["w"], *([given["b"]] if problem.op != "conv_weight" else [])]


def full(grid: tuple[int, ...]) -> tuple[int, ...]:
    return (*grid, 1, 1)[:3]


@dataclass
class Spy:
    """In the place of a jit function: keeps what it is launched with, and launches `jit` if there is one."""

    name: str
    launches: list[tuple[str, tuple[int, ...], list[Any], dict[str, Any]]]
    jit: Any = None
    cubins: list[bytes] = field(default_factory=list)

    def __getitem__(self, grid: Callable[[dict[str, Any]], tuple[int, ...]]) -> Callable[..., None]:
        def launch(*arguments: Any, **keywords: Any) -> None:
            self.launches.append((self.name, full(grid(keywords)), list(arguments), keywords))
            if self.jit is not None:
                compiled = self.jit.warmup(*arguments, grid=full(grid(keywords)), **keywords)
                self.cubins.append(compiled.asm["cubin"])
                self.jit[grid](*arguments, **keywords)

        return launch
