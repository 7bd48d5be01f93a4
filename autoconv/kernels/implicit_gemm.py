"""The implicit GEMM that nearly every kernel is: output channels by output positions over (channel, tap).

A kernel says how it views a problem (`View`), which tile sizes it offers and along which grid axes its tiles
are launched (`raster`); grid, space, steps, FLOPs, stage bytes and the addresses of a block follow from that
here, once. What is really different in a kernel it overrides.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import product
from typing import ClassVar, TypeAlias, TypeVar

import triton

from autoconv.config import Config
from autoconv.device import Device
from autoconv.kernels.base import Grid, Kernel
from autoconv.kernels.sizes import alignment, cdiv, is_power_of_two, x_strides_of
from autoconv.kernels.space import LEAST_DOT, depths, pipelines, tile_sizes
from autoconv.kernels.work import Access, AddressMap, Axis, Work, fits, plain
from autoconv.problem import Problem

T = TypeVar("T")
Meta: TypeAlias = Mapping[str, int]  # the tiles by name, as Triton's grids receive them

GRID_LIMIT = 65535  # blocks along y and z; CUDA C++ Programming Guide, technical specifications


@dataclass(frozen=True)
class View:
    """A problem as the blocks of a kernel see it.

    Column c and tap t of channel k read input position c * column_step + t * tap_step + a constant.
    """

    rows: int  # output channels of a group
    columns: int  # output positions; of one phase, where there are phases
    channels: int  # input channels of a group
    taps: int  # of each channel
    column_step: int  # input positions from a column to the next
    tap_step: int  # input positions from a tap to the next
    groups: int  # launched side by side
    phases: int = 1  # launched side by side
    idle_phases: int = 0  # of them, those that no tap meets
    row_repeat: int = 1  # accumulator rows of one output channel
    run: int = 1  # neighbouring outputs that one column makes of those rows
    out_step: int = 1  # output positions from one column to the next, apart from a run
    samples: int = 1  # that the columns run through, one after the other
    tap_outermost: bool = False  # for kernels that say so of a problem and not of all

    @property
    def reduction(self) -> int:
        """Products that make one output."""
        return self.channels * self.taps

    def of_sample(self, columns: int, run: int = 1) -> int:
        """Return how many of a tile's columns, or of the runs that they make, lie in one sample."""
        return min(columns, self.columns // self.samples * run) if self.samples > 1 else columns

    def along(self, columns: int, step: int, sample: int, run: int = 1) -> Axis:
        """Return a tile's columns in a tensor: a step apart, and in the next sample further on."""
        together = self.columns // self.samples * run
        return Axis(columns, together, step, sample) if self.samples > 1 else plain(columns, step)

    def beyond(self, columns: int, step: int, sample: int, run: int = 1) -> int:
        """Return how much further on the next tile lies, by whole samples where it has some."""
        together = self.of_sample(columns, run)
        return columns // together * sample if together < columns else columns * step


class ImplicitGemm(Kernel):
    """A kernel whose tile is BLOCK_CO by BLOCK_L, its main loop running over BLOCK_R of (channel, tap)."""

    tiles: ClassVar[tuple[str, ...]] = ("BLOCK_CO", "BLOCK_L", "BLOCK_R")
    raster: ClassVar[tuple[tuple[str, ...], ...]] = (("co", "l", "n"),)
    """For each grid axis what its blocks run over, the fastest first: keys of `extents`."""
    most_rows: ClassVar[int] = 256
    most_columns: ClassVar[int] = 256
    tensor_cores: ClassVar[bool] = True  # and so the operands of a step wait in shared memory
    w_in_rows: ClassVar[bool] = True  # a row of w is read by neighbouring elements, as wide as they allow
    tap_outermost: ClassVar[bool] = False  # a step covers channels of one tap, not neighbouring taps
    address_instructions: ClassVar[float] = 2.0
    """Integer instructions for each element of x read. In the SASS of dense 128x128x16 for sm_89 about 70
    a thread and step for 8 elements, the weight's share included."""
    division_instructions: ClassVar[float] = 18.0
    """More of them where the taps are no power of two: channel and tap then come of divisions, anew in each
    step. In the SASS of 200 loops for sm_90 14 to 20 an element in all, whatever the taps."""

    # --- what a kernel says of itself ---------------------------------------------------------------

    def refusal(self, problem: Problem) -> str | None:
        """Return what else than the grid's limits keeps this kernel from running `problem`."""
        if problem.op != "conv":
            return f"it runs op=conv, not op={problem.op}"
        if problem.groups != 1 and not any("group" in axis for axis in self.raster):
            return f"it runs groups=1, not groups={problem.groups}"
        return None

    def view(self, problem: Problem, meta: Meta) -> View:  # noqa: ARG002 - for kernels with `choices`
        """Return the problem as this kernel's blocks see it."""
        return View(
            rows=problem.Cout_per_group,
            columns=problem.L_out,
            channels=problem.Cin_per_group,
            taps=problem.K,
            column_step=problem.stride,
            tap_step=problem.dilation,
            groups=problem.groups,
        )

    def choices(self, problem: Problem) -> Iterator[dict[str, int]]:  # noqa: ARG002
        """Yield the values of the tiles other than BLOCK_CO, BLOCK_L and BLOCK_R."""
        yield {}

    def worthwhile(self, problem: Problem, meta: Meta, device: Device) -> bool:  # noqa: ARG002
        """Return whether these tiles are worth a look, as far as only this kernel knows."""
        return True

    def vectors(self, problem: Problem) -> tuple[int, int, int]:
        """Return the bytes that a thread moves in one instruction of x, of w and of y."""
        size = problem.dtype_bytes
        if "L_out_units" not in self.jit.arg_names:
            return size, size, size  # nothing is known of a row's length but that 16 may divide it
        w = min(16, alignment(problem.reduction) * size) if self.w_in_rows else size
        return x_vector_bytes(problem), w, min(16, alignment(problem.L_out) * size)

    def w_strides(self, problem: Problem, view: View) -> tuple[int, int, int, int]:
        """Return the elements of w from a group, a row, a channel and a tap to the next."""
        return view.rows * problem.reduction, problem.reduction, problem.K, 1

    def w_rows(self, problem: Problem, meta: Meta) -> Axis:
        """Return how the rows of a tile lie in w, in elements."""
        _, row, _, _ = self.w_strides(problem, self.view(problem, meta))
        return plain(meta["BLOCK_CO"], row)

    # --- what follows from it -----------------------------------------------------------------------

    def unsupported(self, problem: Problem) -> str | None:
        return self.refusal(problem) or self._beyond_grid(problem)

    def _beyond_grid(self, problem: Problem) -> str | None:
        _, *further = self.grid(problem)(dict.fromkeys(self.tiles, LEAST_DOT))
        for letter, names, extent in zip("yz", self.raster[1:], further, strict=False):
            if extent > GRID_LIMIT:
                return f"its grid puts {', '.join(names)} on axis {letter}, which stops at {GRID_LIMIT}"
        return None

    def space(self, problem: Problem, device: Device) -> Iterator[Config]:
        for meta in self.tilings(problem, device):
            work = self.work(problem, Config(self.name, meta, num_warps=1, num_stages=1))
            for num_warps, num_stages in self.pipelines(work):
                config = Config(self.name, meta, num_warps=num_warps, num_stages=num_stages)
                if self.fits(work, config, device):
                    yield config

    def tilings(self, problem: Problem, device: Device) -> Iterator[dict[str, int]]:
        """Yield the tiles worth considering."""
        for choice in self.choices(problem):
            view = self.view(problem, choice)
            rows = tile_sizes(view.rows, self.most_rows)
            columns = tile_sizes(view.columns, self.most_columns)
            deep = depths(problem, view.channels if self.by_tap(view) else view.reduction)
            for block_co, block_l, block_r in product(rows, columns, deep):
                meta = {"BLOCK_CO": block_co, "BLOCK_L": block_l, "BLOCK_R": block_r, **choice}
                if self.worthwhile(problem, meta, device):
                    yield meta

    def pipelines(self, work: Work) -> Iterator[tuple[int, int]]:
        """Yield (num_warps, num_stages)."""
        return pipelines(work.steps)

    def fits(self, work: Work, config: Config, device: Device) -> bool:
        """Return whether a config has room on `device`, and work for its warps."""
        return fits(work, config, device)

    def grid(self, problem: Problem) -> Grid:
        def grid_of(meta: Meta) -> tuple[int, ...]:
            extents = self.extents(problem, meta)
            return tuple(math.prod(extents[name] for name in axis) for axis in self.raster)

        return grid_of

    def extents(self, problem: Problem, meta: Meta) -> dict[str, int]:
        """Return how many blocks lie along each axis that `raster` may name."""
        view = self.view(problem, meta)
        return {
            "co": cdiv(view.rows, meta["BLOCK_CO"]),
            "l": cdiv(view.columns, meta["BLOCK_L"]),
            "n": problem.N,
            "group": view.groups,
            "phase": view.phases,
            "part": meta.get("SPLIT", 1),
        }

    def launch_axes(self, problem: Problem, meta: Meta) -> tuple[tuple[str, float], ...]:
        """Return the launch axes and their extents, the fastest first."""
        extents = self.extents(problem, meta)
        return tuple((name, extents[name]) for axis in self.raster for name in axis)

    def block(self, problem: Problem, meta: Meta) -> tuple[int, int, int]:
        """Return a block's accumulators, rows by columns, and the products that a step adds to each."""
        return meta["BLOCK_CO"] * self.view(problem, meta).row_repeat, meta["BLOCK_L"], meta["BLOCK_R"]

    def passes(self, problem: Problem) -> int:  # noqa: ARG002
        """Return how many main loops a block runs one after the other, each for accumulators of its own."""
        return 1

    def steps_of(self, problem: Problem, meta: Meta) -> int:
        """Return the iterations of a block's main loops."""
        view, (_, _, depth) = self.view(problem, meta), self.block(problem, meta)
        if self.by_tap(view):
            return view.taps * cdiv(view.channels, depth)
        return self.passes(problem) * cdiv(view.reduction, depth * meta.get("SPLIT", 1))

    def work(self, problem: Problem, config: Config) -> Work:
        meta = config.meta
        rows, columns, depth = self.block(problem, meta)
        steps, size, view = self.steps_of(problem, meta), problem.dtype_bytes, self.view(problem, meta)
        staged = size * self.tensor_cores
        return Work(
            raster=self.launch_axes(problem, meta),
            steps=steps,
            flops=2.0 * rows * columns * depth * steps,
            reads=(self.read_x(problem, meta), self.read_w(problem, meta)),
            write=self.write_y(problem, meta),
            tile=(rows, columns),
            stage_bytes_by_operand=(rows * depth * staged, columns * depth * staged),
            address_instructions=self.address_instructions + self.divides(view) * self.division_instructions,
            tensor_cores=self.tensor_cores,
            precision=problem.precision,
            workspace_bytes=4 * self.workspace(problem, config),
            idle=view.idle_phases / view.phases,
        )

    def read_x(self, problem: Problem, meta: Meta) -> Access:
        """Return a block's reads of x: its columns by the reduction."""
        view, (_, _, depth) = self.view(problem, meta), self.block(problem, meta)
        batch, channel, position = x_strides_of(problem)
        columns, steps = meta["BLOCK_L"], self.steps_of(problem, meta)
        together = view.of_sample(columns)
        reach = (together - 1) * view.column_step + (view.taps - 1) * abs(view.tap_step) + 1
        channels = cdiv(view.channels, meta.get("SPLIT", 1))
        further = view.beyond(columns, view.column_step * position, batch)
        return self.access(
            problem,
            meta,
            "x",
            columns=view.along(columns, view.column_step * position, batch),
            reduction=self.along_reduction(view, depth, channel, view.tap_step * position),
            lanes=self.lanes_of_x(view, channel, position),
            moves={
                "l": further,
                "band": meta.get("GROUP_L", 1) * further,
                "n": batch,
                "group": view.channels * channel,
                "part": steps * depth // view.taps * channel,
            },
            elements=columns * depth * steps,
            distinct=min(reach, problem.L) * min(channels, problem.Cin) * cdiv(columns, together),
            overlap=max(0.0, 1 - columns * view.column_step / reach),
        )

    def read_w(self, problem: Problem, meta: Meta) -> Access:
        """Return a block's reads of w: its rows by the reduction."""
        view, (rows, _, depth) = self.view(problem, meta), self.block(problem, meta)
        group, row, channel, tap = self.w_strides(problem, view)
        block_co, steps = meta["BLOCK_CO"], self.steps_of(problem, meta)
        of_row = min(view.reduction, problem.reduction) * view.row_repeat  # elements of one output channel
        return self.access(
            problem,
            meta,
            "w",
            columns=self.w_rows(problem, meta),
            reduction=self.along_reduction(view, depth, channel, tap),
            lanes=self.lanes_of_w(view, channel, tap),
            # A phase has taps of its own; how far on they lie makes no difference.
            moves={"co": block_co * row, "group": group, "part": steps * depth, "phase": 0},
            elements=rows * depth * steps,
            distinct=min(block_co, view.rows) * cdiv(of_row, meta.get("SPLIT", 1)),
        )

    def by_tap(self, view: View) -> bool:
        """Return whether a step covers channels of one tap."""
        return self.tap_outermost or view.tap_outermost

    def divides(self, view: View) -> bool:
        """Return whether a step divides its part of the reduction into channels and taps, not by shifts."""
        return not self.by_tap(view) and not is_power_of_two(view.taps)

    def lanes_of_x(self, view: View, channel: int, position: int) -> str:
        """Return which axis of the tile of x neighbouring lanes lie along: the contiguous one, if any is."""
        if self.by_tap(view) and channel == 1:
            return "reduction"
        return "columns" if position == 1 else neighbours("reduction", "columns")

    def lanes_of_w(self, view: View, channel: int, tap: int) -> str:
        """Return the same of w."""
        if view.row_repeat > 1:
            return "columns"
        contiguous = channel == 1 if self.by_tap(view) else tap == 1 and channel == view.taps
        return "reduction" if contiguous else neighbours("columns", "reduction")

    def along_reduction(self, view: View, depth: int, channel: int, tap: int) -> Axis:
        """Return the axis of a tensor in which channels and taps lie so far apart."""
        if self.by_tap(view):
            return Axis(depth, cdiv(view.channels, depth) * depth, channel, tap)
        return Axis(depth, view.taps, tap, channel)

    def write_y(self, problem: Problem, meta: Meta) -> Access:
        """Return a block's writes of y: its channels by the outputs of its columns."""
        view, rows = self.view(problem, meta), meta["BLOCK_CO"]
        columns, sample = meta["BLOCK_L"] * view.run, problem.Cout * problem.L_out
        further = view.beyond(columns, view.out_step, sample, view.run)
        return self.access(
            problem,
            meta,
            "y",
            columns=view.along(columns, view.out_step, sample, view.run),
            reduction=plain(rows, problem.L_out),
            lanes="columns" if view.out_step == 1 else neighbours("reduction", "columns"),
            moves={
                "l": further,
                "band": meta.get("GROUP_L", 1) * further,
                "co": rows * problem.L_out,
                "n": sample,
                "group": view.rows * problem.L_out,
                "phase": 1,
                "part": 0,  # each has scratch memory of its own
            },
            elements=rows * columns,
            distinct=rows * columns,
        )

    def access(
        self,
        problem: Problem,
        meta: Meta,
        tensor: str,
        *,
        columns: Axis,
        reduction: Axis,
        lanes: str,
        moves: Mapping[str, int],
        elements: int,
        distinct: int,
        overlap: float = 0.0,
    ) -> Access:
        """Return one tensor's accesses, from figures in elements.

        Args:
            problem: The problem.
            meta: The tiles.
            tensor: "x", "w" or "y".
            columns: The tile's axis that no step moves; for w that of its rows, for y along L.
            reduction: The axis along which the main loop advances; for y, which it does not, its rows.
            lanes: Which of the two neighbouring lanes of a warp lie along: "columns" or "reduction".
            moves: By launch axis, how much further on the next block's tile lies. The tensor does not vary
                along an axis that is not named; axes that this kernel does not launch along are ignored.
            elements: Requested by a block over its life.
            distinct: Of the tensor that a block touches.
            overlap: Share of them that the next block along L touches too.
        """
        number, size = "xwy".index(tensor), problem.dtype_bytes
        tensor_bytes = math.prod((problem.x_shape, problem.w_shape, problem.y_shape)[number]) * size
        near, far = (columns, reduction) if lanes == "columns" else (reduction, columns)
        advancing = "" if tensor == "y" else ("rows" if lanes == "columns" else "lanes")
        shifts = [(axis, moves[axis]) for axis, _ in self.launch_axes(problem, meta) if axis in moves]
        return Access(
            tensor,
            elements,
            size,
            self.vectors(problem)[number],
            min(distinct * size, tensor_bytes),
            tensor_bytes,
            AddressMap(
                near.scaled(size),
                far.scaled(size),
                tuple((axis, shift * size) for axis, shift in shifts),
                advancing,
            ),
            overlap,
        )


def neighbours(first: T, last: T) -> T:
    """Return which of the axes of a tile, neither known to be contiguous, Triton's lanes lie along.

    From Triton 3.7 on it is the last, before the first: seen in the layouts of copies and stores, and in the
    sectors that an H200 counted.
    """
    return last if tuple(map(int, triton.__version__.split(".")[:2])) >= (3, 7) else first


def x_vector_bytes(problem: Problem) -> int:
    """Return the widest load of x along its positions, in bytes, that every tap of the problem allows."""
    if problem.layout == "nlc" or problem.stride > 1:
        return problem.dtype_bytes
    tap_offset = problem.dilation if problem.K > 1 else 16
    aligned = alignment(problem.L, problem.Cin * problem.L, tap_offset, problem.pad_left)
    return min(16, aligned * problem.dtype_bytes)
