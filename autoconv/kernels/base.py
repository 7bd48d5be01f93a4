"""What every kernel states about itself: where it applies, its configs, its grid, its arguments, its work."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, TypeAlias

from autoconv.config import Config
from autoconv.device import Device
from autoconv.errors import ConfigError
from autoconv.kernels.bindings import Scalar, bindings
from autoconv.kernels.sizes import Strides, x_strides_of
from autoconv.kernels.work import Work
from autoconv.problem import Problem

Grid: TypeAlias = Callable[[Mapping[str, int]], tuple[int, ...]]

TENSORS = ("x", "w", "b", "y")

OPTIONS = {"enable_fp_fusion": True}
"""Compiler options of every launch. Fused multiply-adds are asked for by name: their default changes with
Triton 3.10, and 3.9 warns of it."""


@dataclass(frozen=True)
class Launch:
    """One launch of a jit function; most kernels make one, those that split the reduction make two."""

    jit: Any
    tensors: tuple[str, ...]  # the signature's tensors in order: "x", "w", "b", "y", "partials"
    grid: tuple[int, int, int]
    keywords: Mapping[str, Any]  # all other arguments, and the compiler's options

    def constants(self) -> tuple[Any, ...]:
        """Return the arguments after the tensors, in the order of the signature."""
        return tuple(self.keywords[name] for name in self.jit.arg_names[len(self.tensors) :])


class Kernel(ABC):
    """One @triton.jit function together with all that decides how it is launched.

    The jit function's signature is `tensors`, then names that `bindings` or `constants` know, then the tiles,
    in the order of `tiles`.
    """

    name: ClassVar[str]
    tensors: ClassVar[tuple[str, ...]] = TENSORS  # of "x", "w", "b", "y" and "partials"
    tiles: ClassVar[tuple[str, ...]]
    jit: ClassVar[Any]

    @abstractmethod
    def unsupported(self, problem: Problem) -> str | None:
        """Return why this kernel cannot run `problem`, or None where it can."""

    @abstractmethod
    def space(self, problem: Problem, device: Device) -> Iterator[Config]:
        """Yield the configs worth considering for `problem` on `device`."""

    @abstractmethod
    def grid(self, problem: Problem) -> Grid:
        """Return the launch grid as a function of the tiles (Triton's META): at most three axes."""

    def constants(self, problem: Problem) -> dict[str, Scalar]:  # noqa: ARG002
        """Return the values of parameters that `bindings` does not know, or gives another meaning."""
        return {}

    def arguments(self, problem: Problem, x_strides: Strides) -> dict[str, Scalar]:
        """Return the arguments between the tensors and the tiles, in the order of the jit signature."""
        names = [name for name in self.jit.arg_names[len(self.tensors) :] if name not in self.tiles]
        values = {**bindings(problem, x_strides, names), **self.constants(problem)}
        return {name: values[name] for name in names}

    @abstractmethod
    def work(self, problem: Problem, config: Config) -> Work:
        """Return what one launch of `config` asks of the machine."""

    def workspace(self, problem: Problem, config: Config) -> int:  # noqa: ARG002 - for kernels with partials
        """Return how many float32 elements of scratch memory (`partials`) a call's launches share."""
        return 0

    def launches(
        self, problem: Problem, config: Config, x_strides: Strides | None = None
    ) -> tuple[Launch, ...]:
        """Return the launches of a call, in their order.

        Args:
            problem: The problem.
            config: A config of this kernel.
            x_strides: Of x, in elements; those of a packed x by default.
        """
        return (self.main_launch(problem, config, x_strides),)

    def main_launch(self, problem: Problem, config: Config, x_strides: Strides | None = None) -> Launch:
        """Return the launch of `jit`, the one that config's tiles are of."""
        axes = (*self.grid(problem)(config.meta), 1, 1)
        grid = axes[0], axes[1], axes[2]
        return Launch(self.jit, self.tensors, grid, self.keywords(problem, config, x_strides))

    def keywords(self, problem: Problem, config: Config, x_strides: Strides | None = None) -> dict[str, Any]:
        """Return every keyword of a call of the jit function: arguments, tiles and compiler options."""
        arguments = self.arguments(problem, x_strides or x_strides_of(problem))
        return {**arguments, **config.to_json(), **OPTIONS}

    def check(self, config: Config) -> None:
        """Raise ConfigError unless `config` names this kernel's tiles and no others."""
        if config.kernel != self.name:
            reason = f"is not {self.name!r}"
            raise ConfigError("kernel", config.kernel, reason, "use the kernel the config was made for")
        for tile in self.tiles:
            if tile not in config.meta:
                raise ConfigError(tile, None, f"is missing from a config of {self.name}", f"give {tile}")
        for tile, size in config.meta.items():
            if tile not in self.tiles:
                remedy = f"use {', '.join(self.tiles)}"
                raise ConfigError(tile, size, f"is not a tile of {self.name}", remedy)

    def launch(self, problem: Problem, config: Config, x: Any, w: Any, bias: Any, y: Any) -> None:
        """Launch through Triton's own JIT path: what checks numerics, under the interpreter or on a GPU.

        Args:
            problem: The problem that the tensors make.
            config: A config of this kernel.
            x: Of shape `problem.x_shape`, any strides.
            w: Of shape `problem.w_shape`, contiguous.
            bias: (Cout,) or None.
            y: Of shape `problem.y_shape`, contiguous; overwritten.
        """
        partials = scratch(x, self.workspace(problem, config))
        tensors = {"x": x, "w": w, "b": bias, "y": y, "partials": partials}
        for one in self.launches(problem, config, x.stride()):
            one.jit[one.grid](*(tensors[name] for name in one.tensors), **one.keywords)


def scratch(x: Any, elements: int) -> Any:
    """Return uninitialised float32 memory on x's device, or None for no elements."""
    import torch  # not above: the command line's help can do without

    return x.new_empty(elements, dtype=torch.float32) if elements else None
