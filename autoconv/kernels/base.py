"""What every kernel states about itself: where it applies, its configs, its grid, its arguments, its work."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, TypeAlias

from autoconv.config import Config
from autoconv.device import Device
from autoconv.errors import ConfigError
from autoconv.problem import Problem

Scalar: TypeAlias = int | bool | str
Strides: TypeAlias = tuple[int, int, int]  # of x over (sample, channel, position), in elements
Grid: TypeAlias = Callable[[Mapping[str, int]], tuple[int, ...]]

MAX_INT32 = 2**31 - 1


@dataclass(frozen=True)
class Access:
    """One tensor as one block reads or writes it, over the block's whole life."""

    tensor: str  # "x", "w" or "y"
    elements: int  # requested by the block, those outside the tensor included
    element_bytes: int
    vector_bytes: int  # moved by one thread in one instruction
    lane_stride_bytes: int  # between the addresses of neighbouring threads
    distinct_bytes: int  # of the tensor that the block touches
    tensor_bytes: int
    passes: int  # times that the launch order walks the tensor end to end: what an L2 too small for it pays


@dataclass(frozen=True)
class Work:
    """What a launch asks of the machine, as the cost model needs it."""

    blocks: int
    steps: int  # main-loop iterations of a block
    flops: float  # per block, tiles counted whole
    reads: tuple[Access, ...]
    write: Access
    accumulators: int  # fp32 values a block keeps in registers
    stage_bytes_by_operand: tuple[int, int]  # shared memory of one pipeline stage: rows' operand, columns'
    address_instructions: float  # integer instructions per element of x that is read

    @property
    def stage_bytes(self) -> int:
        """Shared memory of one pipeline stage."""
        return sum(self.stage_bytes_by_operand)


class Kernel(ABC):
    """One @triton.jit function together with all that decides how it is launched.

    The jit function's signature is (x_ptr, w_ptr, b_ptr, y_ptr), then what `arguments` returns, in its
    order, then the tiles, in the order of `tiles`.
    """

    name: ClassVar[str]
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

    @abstractmethod
    def arguments(self, problem: Problem, x_strides: Strides) -> dict[str, Scalar]:
        """Return the arguments between the tensors and the tiles, in the order of the jit signature."""

    @abstractmethod
    def work(self, problem: Problem, config: Config) -> Work:
        """Return what one launch of `config` asks of the machine."""

    def check(self, config: Config) -> None:
        """Raise ConfigError unless `config` names this kernel's tiles and no others."""
        if config.kernel != self.name:
            raise ConfigError(
                "kernel", config.kernel, f"is not {self.name!r}", "use the kernel the config was made for"
            )
        for tile in self.tiles:
            if tile not in config.meta:
                raise ConfigError(tile, None, f"is missing from a config of {self.name}", f"give {tile}")
        for tile in config.meta:
            if tile not in self.tiles:
                raise ConfigError(
                    tile, config.meta[tile], f"is no tile of {self.name}", f"use {', '.join(self.tiles)}"
                )

    def keywords(self, problem: Problem, config: Config, x_strides: Strides | None = None) -> dict[str, Any]:
        """Return every keyword of a call of the jit function: arguments, tiles and compiler options.

        Fused multiply-adds are asked for by name: their default changes with Triton 3.10, and 3.9 warns of it.
        """
        arguments = self.arguments(problem, x_strides or x_strides_of(problem))
        return {**arguments, **config.to_json(), "enable_fp_fusion": True}

    def launch(self, problem: Problem, config: Config, x: Any, w: Any, bias: Any, y: Any) -> None:
        """Launch through Triton's own JIT path: what checks numerics, under the interpreter or on a GPU.

        Args:
            problem: The problem that the tensors make.
            config: A config of this kernel.
            x: (N, Cin, L), any strides.
            w: (Cout, Cin / groups, K), contiguous.
            bias: (Cout,) or None.
            y: (N, Cout, L_out), contiguous; overwritten.
        """
        self.jit[self.grid(problem)](x, w, bias, y, **self.keywords(problem, config, x.stride()))


def x_strides_of(problem: Problem) -> Strides:
    """Return the strides, in elements, of a densely packed x in the problem's layout."""
    if problem.layout == "nlc":
        return problem.Cin * problem.L, 1, problem.Cin
    return problem.Cin * problem.L, problem.L, 1


def alignment(*counts: int, most: int = 16) -> int:
    """Return the largest power of two, up to `most`, that divides every count.

    >>> alignment(224280, 64)
    8
    """
    unit = most
    while any(count % unit for count in counts):
        unit //= 2
    return unit


def powers_of_two(least: int, most: int) -> list[int]:
    """Return the powers of two from `least` to `most`, both inclusive; `least` must be one.

    >>> powers_of_two(16, 100)
    [16, 32, 64]
    """
    return [1 << e for e in range(least.bit_length() - 1, most.bit_length())]


def cdiv(a: int, b: int) -> int:
    """Return a / b rounded up."""
    return -(-a // b)


def next_power_of_two(n: int) -> int:
    """Return the least power of two that is at least n.

    >>> next_power_of_two(65)
    128
    """
    return 1 << (n - 1).bit_length()


def largest_sample(problem: Problem) -> int:
    """Return the elements of one sample of x or y, whichever is more, the last tile's overshoot included."""
    overshoot = 512 * problem.stride + problem.K * problem.dilation
    return max(problem.Cin * (problem.L + overshoot), problem.Cout * (problem.L_out + overshoot))


def dense_only(problem: Problem) -> str | None:
    """Return why a kernel for plain dense convolutions cannot run `problem`, or None where it can."""
    if problem.op != "conv":
        return f"it runs op=conv, not op={problem.op}"
    if problem.groups != 1:
        return f"it runs groups=1, not groups={problem.groups}"
    return None


def fits(work: Work, config: Config, device: Device) -> bool:
    """Return whether a config is worth compiling: room for its accumulators, its stages, work for its warps.

    Beyond 128 accumulators a thread the tile spills (255 registers hold operands and addresses too); under 4
    most lanes of a tensor-core instruction hold padding. Triton keeps num_stages - 1 stages in flight on
    sm_80 and later.
    """
    accumulators = work.accumulators / (32 * config.num_warps)
    in_flight = max(1, config.num_stages - 1) * work.stage_bytes
    return 4 <= accumulators <= 128 and in_flight <= device.arch.shared_per_block_max
