"""The first model: occupancy, waves, and bounds by bytes, FLOPs, issue slots and latency.

Each bound is the time that one unit of the machine needs if nothing else held it up:

- dram: the bytes that launch order moves, at the bandwidth a streaming kernel reaches;
- tensor: the FLOPs of whole tiles at the peak rate, on the SM that gets the most blocks;
- issue: warp instructions, four a cycle and SM;
- l1: warp requests to memory, one 128-byte line a cycle and SM;
- shared: the operands that warps read from shared memory and the stages written to it, 128 bytes a cycle;
- l2: the bytes that blocks fetch and store past the L1;
- latency: the blocks of one SM slot one after the other, each with its first load, its main-loop steps (a
  step takes as long as its busiest unit, or as its loads when too few stages are in flight) and its stores;
  only other blocks resident on the SM hide it.

They overlap, but not wholly: the prediction is their 4-norm, which is the largest where one dominates and
up to 1.6 times it where all are equal, plus the cost of a launch.
"""

from __future__ import annotations

from dataclasses import dataclass

from autoconv.compiler.resources import Resources
from autoconv.config import Config
from autoconv.cost.occupancy import occupancy
from autoconv.cost.prediction import Prediction, floor_seconds
from autoconv.device import Device
from autoconv.kernels.registry import kernel as kernel_called
from autoconv.kernels.sizes import cdiv, powers_of_two
from autoconv.kernels.work import Access, Work
from autoconv.problem import Problem

DRAM_EFFICIENCY = 0.93
"""Share of the peak bandwidth that streaming reaches; Nsight Compute showed 94.85 % on an RTX 4090."""

DRAM_LATENCY_CYCLES = {80: 466, 86: 546, 89: 542, 90: 479, 100: 479, 120: 542}
"""SM cycles of a load served by DRAM: Luo et al., "Benchmarking and Dissecting the Nvidia Hopper GPU
Architecture" (2024), for A100, RTX 4090 and H100. sm_86 and sm_120 are taken as sm_89,
sm_100 as sm_90."""

STEP_CYCLES = 60
"""Cycles a main-loop step takes even with its data at hand: a barrier, a load from shared memory (about 30
cycles in the same paper) and a tensor-core instruction (about 30) in a chain."""

ISSUE_PER_CYCLE = 4  # warp instructions: one for each of an SM's four schedulers
LINE_BYTES = 128  # of an L1 line, and what the L1 serves in a cycle
SHARED_BYTES_PER_CYCLE = 128  # of an SM: 32 banks of 4 bytes
L2_BYTES_PER_CYCLE = 47
"""Of one SM: the A100 white paper gives 5120 bytes a cycle for 108 SMs; other GPUs are taken to be alike."""

LAUNCH_SECONDS = 3e-6  # of one kernel in a stream, from enqueued to running
TENSOR_FLOPS = {4: 2 * 16 * 8 * 8, 2: 2 * 16 * 8 * 16}
"""FLOPs of one warp's mma.m16n8k8 (TF32) and mma.m16n8k16 (16-bit), by the bytes of an element."""


_UNITS = ("tensor", "issue", "l1", "shared", "l2")


@dataclass(frozen=True)
class _Block:
    """What one block costs an SM, in cycles of the unit named."""

    tensor: float
    issue: float
    l1: float
    shared: float
    l2: float
    latency: float


def estimate(problem: Problem, config: Config, device: Device) -> Prediction:
    """Predict without compiling: registers and shared memory are guessed from the tile.

    Raises:
        ConfigError: the kernel is unknown or the tiles are not its own.
    """
    kernel = kernel_called(config.kernel)
    kernel.check(config)
    return _predict(problem, config, device, _guess(kernel.work(problem, config), config), compiled=False)


def predict_compiled(problem: Problem, config: Config, device: Device, resources: Resources) -> Prediction:
    """Predict with the resources and the instruction mix of the compiled candidate.

    Raises:
        ConfigError: the kernel is unknown or the tiles are not its own.
    """
    kernel_called(config.kernel).check(config)
    return _predict(problem, config, device, resources, compiled=True)


def _guess(work: Work, config: Config) -> Resources:
    # Compiled for sm_89 by Triton 3.7, tiles of 64 accumulators a thread take 128 to 168 registers.
    registers = min(255, int(work.accumulators / (32 * config.num_warps)) + 64)
    return Resources(registers, spills=0, shared=max(1, config.num_stages - 1) * work.stage_bytes)


def _predict(
    problem: Problem, config: Config, device: Device, resources: Resources, *, compiled: bool
) -> Prediction:
    kernel = kernel_called(config.kernel)
    work = kernel.work(problem, config)
    room = occupancy(resources.registers, resources.shared, config.num_warps, device.arch)
    clock = device.boost_mhz * 1e6
    dram_bytes = _dram_bytes(work, device)
    block = _block(problem, config, device, resources, work, compiled=compiled)
    blocks_of_sm = cdiv(work.blocks, device.sms)  # the fullest SM's, which ends last
    turns = cdiv(blocks_of_sm, max(1, room.blocks_per_sm))
    terms = {
        "dram": dram_bytes / (device.dram_gbps * 1e9 * DRAM_EFFICIENCY),
        **{unit: blocks_of_sm * getattr(block, unit) / clock for unit in _UNITS},
        "latency": turns * block.latency / clock,
    }
    seconds = sum(term**4 for term in terms.values()) ** 0.25 + LAUNCH_SECONDS
    if not room.blocks_per_sm:
        seconds = float("inf")
    busy = max(terms[unit] for unit in _UNITS)
    return Prediction(
        seconds=seconds,
        bound=max(terms, key=lambda name: terms[name]),
        terms=terms,
        grid=kernel.grid(problem)(config.meta),
        blocks_per_sm=room.blocks_per_sm,
        limiter=room.limiter,
        warps_active_pct=room.warps_active_pct,
        registers=resources.registers,
        spills=resources.spills,
        shared=resources.shared,
        compiled=compiled,
        dram_bytes=dram_bytes,
        ideal_bytes=problem.ideal_bytes,
        l2_hit_pct=None,
        dram_throughput_pct=100 * dram_bytes / (device.dram_gbps * 1e9) / seconds,
        sm_throughput_pct=100 * busy / seconds,
        floor_seconds=floor_seconds(problem, device),
    )


def _block(
    problem: Problem, config: Config, device: Device, resources: Resources, work: Work, *, compiled: bool
) -> _Block:
    clock = device.boost_mhz * 1e6
    flops_per_cycle = device.tensor_rate(problem.dtype, problem.precision) / (device.sms * clock)
    accesses = (*work.reads, work.write)
    units = {
        "tensor": work.flops / flops_per_cycle,
        "issue": _warp_instructions(problem, config, resources, work, compiled=compiled) / ISSUE_PER_CYCLE,
        "l1": sum(_requests(access) * _lines(access) for access in accesses),
        "shared": work.steps * _shared_bytes_of_step(config, work) / SHARED_BYTES_PER_CYCLE,
        "l2": sum(access.distinct_bytes for access in accesses) / L2_BYTES_PER_CYCLE,
    }
    dram_latency = DRAM_LATENCY_CYCLES[device.arch.capability]
    step = max(max(units.values()) / work.steps + STEP_CYCLES, dram_latency / max(1, config.num_stages - 1))
    return _Block(**units, latency=dram_latency + work.steps * step + dram_latency)


def _shared_bytes_of_step(config: Config, work: Work) -> float:
    """Return the bytes written to and read from shared memory in one main-loop step of a block.

    Warps tile the output in a rectangle; each reads the rows and the columns of its own part, so the rows
    are read once for each column of warps, and the columns once for each row of warps. Triton picks the
    rectangle; the cheapest one is assumed.
    """
    rows, columns = work.stage_bytes_by_operand
    shapes = [(m, config.num_warps // m) for m in powers_of_two(1, config.num_warps)]
    return rows + columns + min(rows * across + columns * down for down, across in shapes)


def _warp_instructions(
    problem: Problem, config: Config, resources: Resources, work: Work, *, compiled: bool
) -> float:
    if compiled:
        once = sum(resources.instructions.values()) - sum(resources.loop.values())
        return config.num_warps * (once + work.steps * sum(resources.loop.values()))
    multiplies = work.flops / TENSOR_FLOPS[problem.dtype_bytes]
    if problem.precision == "ieee" and problem.dtype == "float32":
        multiplies = work.flops / (2 * 32)  # a warp's FFMA
    requests = sum(_requests(access) for access in (*work.reads, work.write))
    return multiplies + requests + work.address_instructions * work.reads[0].elements / 32


def _requests(access: Access) -> float:
    """Return the warp-wide memory instructions of a block."""
    per_request = 32 * access.vector_bytes
    return access.elements * access.element_bytes / per_request


def _lines(access: Access) -> float:
    """Return the 128-byte lines that one request of 32 threads touches: the cycles it takes in the L1."""
    return min(32.0, max(1.0, 32 * max(access.vector_bytes, access.lane_stride_bytes) / LINE_BYTES))


def _dram_bytes(work: Work, device: Device) -> int:
    total = 0
    for access in (*work.reads, work.write):
        passes = access.passes if access.tensor_bytes > device.l2_bytes else 1
        total += access.tensor_bytes * passes
    return total
