"""The cost model's two questions: `estimate`, which compiles nothing, and `predict`, which does.

How a time comes about is told in docs/cost_model.md: `kernels.work` says what a block asks for, `traffic`
counts its sectors, `memory` follows them to DRAM, `timeline` adds up the time; `batch` turns many candidates
into columns, so that all of this is arithmetic on arrays.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from autoconv import settings
from autoconv.compiler.candidate import compile_candidate
from autoconv.compiler.resolve import Candidate, resolve
from autoconv.compiler.resources import Resources
from autoconv.config import Config
from autoconv.cost.batch import Batch, Column, batch
from autoconv.cost.constants import CONSTANTS, Constants
from autoconv.cost.guess import guess
from autoconv.cost.instructions import split
from autoconv.cost.memory import memory
from autoconv.cost.occupancy import occupancy
from autoconv.cost.prediction import Prediction, floor_seconds
from autoconv.cost.timeline import timeline
from autoconv.device import Device
from autoconv.kernels.work import Work
from autoconv.problem import Problem

SM_UNITS = ("tensor", "issue", "integer", "xu", "l1", "shared")  # whose use sm__throughput shows


def estimate(problem: Problem, config: Config, device: Device | str) -> Prediction:
    """Predict without compiling, in about a millisecond: the tile tells registers and shared memory.

    Raises:
        ConfigError: the kernel is unknown, cannot run the problem, or the tiles are not its own.
        DeviceError: no device has that name.
    """
    candidate = resolve(problem, config, device)
    work = candidate.kernel.work(problem, config)
    return _prediction(candidate, work, guess(config, work, candidate.device.arch), compiled=False)


def estimate_seconds(problem: Problem, configs: Sequence[Config], device: Device) -> Column:
    """Return the seconds that `estimate` gives each config; thousands of them take a fraction of a second.

    Raises:
        ConfigError: a kernel is unknown, cannot run the problem, or the tiles are not its own.
    """
    if not configs:
        return np.empty(0)
    works = _works(problem, configs, device)
    taken = [guess(config, work, device.arch) for config, work in zip(configs, works, strict=True)]
    constants = CONSTANTS[device.arch.capability]
    columns = batch(problem, configs, works, taken, device)
    seconds = timeline(columns, memory(columns, device, constants), device, constants).seconds
    return np.maximum(seconds, floor_seconds(problem, device))


def judged_lean(problem: Problem, configs: Sequence[Config], device: Device) -> list[Config]:
    """Return the configs that are judged, by the tile alone, to spill nothing.

    Raises:
        ConfigError: a kernel is unknown, cannot run the problem, or the tiles are not its own.
    """
    works = _works(problem, configs, device)
    pairs = zip(configs, works, strict=True)
    return [config for config, work in pairs if not guess(config, work, device.arch).spills]


def _works(problem: Problem, configs: Sequence[Config], device: Device) -> list[Work]:
    """Return the work of each config, made once for each tile: warps and stages change nothing of it."""
    of_tile: dict[tuple[str, tuple[int, ...]], Work] = {}
    works = []
    for config in configs:
        tile = (config.kernel, tuple(config.tiles.values()))
        if tile not in of_tile:
            of_tile[tile] = resolve(problem, config, device).kernel.work(problem, config)
        works.append(of_tile[tile])
    return works


def predict(
    problem: Problem, config: Config, device: Device | str, resources: Resources | None = None
) -> Prediction:
    """Predict from the compiled candidate: cross-compiled for `device`, about a second, unless cached.

    Not to be called while another thread of the process launches Triton kernels: for the compilation,
    Triton's active driver is one that stands in for the device.

    Args:
        problem: The problem.
        config: A config of one of the kernels.
        device: A Device, or the name of one in the catalogue.
        resources: Taken instead of compiling, where given.

    Raises:
        ConfigError: the kernel is unknown, cannot run the problem, or the tiles are not its own.
        DeviceError: no device has that name.
    """
    candidate = resolve(problem, config, device)
    taken = compiled_resources(problem, config, candidate.device) if resources is None else resources
    return _prediction(candidate, candidate.kernel.work(problem, config), taken, compiled=True)


def compiled_resources(problem: Problem, config: Config, device: Device) -> Resources:
    """Return what compiling `config` for `device` gives, from the cache where it is there."""
    return compile_candidate(problem, config, device, settings.load().cache)


def _prediction(candidate: Candidate, work: Work, taken: Resources, *, compiled: bool) -> Prediction:
    kernel, problem, config, device = candidate
    constants = CONSTANTS[device.arch.capability]
    columns = batch(problem, [config], [work], [taken], device)
    moved = memory(columns, device, constants)
    time = timeline(columns, moved, device, constants)
    floor = floor_seconds(problem, device)
    seconds = max(float(time.seconds[0]), floor)
    terms = {name: float(term[0]) for name, term in time.terms.items()}
    room = occupancy(taken.registers, taken.shared, config.num_warps, device.arch)
    ranked = sorted(terms, key=lambda name: -terms[name])
    dram_bytes = int(moved.dram_bytes[0])
    return Prediction(
        seconds=seconds,
        bound=ranked[0],
        runner_up=ranked[1],
        terms=terms,
        grid=kernel.grid(problem)(config.meta),
        blocks_per_sm=room.blocks_per_sm,
        limiter=room.limiter,
        warps_active_pct=room.warps_active_pct,
        registers=taken.registers,
        spills=taken.spills,
        shared=taken.shared,
        compiled=compiled,
        dram_bytes=dram_bytes,
        dram_read_bytes=int(moved.dram_read_bytes[0]),
        l2_bytes=int(moved.l2_bytes[0]),
        l1_bytes=_l1_bytes(columns, constants),
        ideal_bytes=problem.ideal_bytes,
        l2_hit_pct=100 * float(moved.l2_hit_share[0]),
        dram_throughput_pct=min(100.0, 100 * dram_bytes / (device.dram_gbps * 1e9) / seconds),
        sm_throughput_pct=min(100.0, 100 * max(terms[name] for name in SM_UNITS) / seconds),
        floor_seconds=floor,
        slots=_slots(taken, columns),
    )


def _l1_bytes(columns: Batch, constants: Constants) -> int:
    """Return the bytes asked of the L1s: sectors of read requests, and local memory both ways."""
    in_step = sum(read.sectors[0] for read in columns.reads) * constants.sector_bytes
    local = columns.local.loaded[0] + columns.local.stored[0]
    return int(columns.blocks[0] * (columns.steps[0] * in_step + local))


KINDS = {
    "products": ("HMMA", "IMMA", "FFMA", "HFMA2", "FMUL", "FADD"),
    "loads and stores": ("LDG", "STG", "LDGSTS", "LD", "ST"),
    "local memory": ("LDL", "STL"),
    "shared memory": ("LDS", "LDSM", "STS", "SHFL"),
    "conversions and reciprocals": ("MUFU", "I2F", "F2I"),
    "waiting": ("BAR", "DEPBAR", "LDGDEPBAR", "WARPSYNC"),
}


def _slots(taken: Resources, columns: Batch) -> dict[str, float]:
    """Return the share of a warp's instructions by kind; what has no kind is arithmetic on addresses."""
    issued: dict[str, float] = {}
    in_step, outside = split(taken, float(columns.issued_flops[0]), int(columns.warps[0]))
    steps = float(columns.steps[0])
    for opcode, once in outside.items():
        base = opcode.split(".")[0]
        kind = next((kind for kind, names in KINDS.items() if base in names), "addresses and masks")
        issued[kind] = issued.get(kind, 0) + once + steps * in_step.get(opcode, 0)
    total = sum(issued.values())
    return {kind: count / total for kind, count in sorted(issued.items(), key=lambda one: -one[1])}
