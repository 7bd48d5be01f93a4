"""Time: what each unit takes of it, what a block waits for, and how blocks that share an SM overlap."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from autoconv.cost.batch import Batch, Column, Slots
from autoconv.cost.constants import Constants
from autoconv.cost.memory import Memory
from autoconv.device import Device

SCHEDULERS = 4  # of an SM; each issues one warp instruction a cycle
COPY_BYTES = 4  # the least that an asynchronous copy moves; narrower loads go through registers
THROUGH_REGISTERS = 1.5  # of an asynchronous copy's issue slots: a load, a store, the unpacking between


class Timeline(NamedTuple):
    """Seconds of a launch, and of each unit as if it were alone."""

    seconds: Column
    terms: dict[str, Column]


class _Step(NamedTuple):
    """SM cycles of one main-loop step of one block, on each unit."""

    tensor: Column
    dispatch: Column  # of warp instructions, to the busiest pipe or one a scheduler and cycle
    l1: Column
    shared: Column
    port: Column  # from the L2 into the SM


def timeline(b: Batch, m: Memory, device: Device, k: Constants) -> Timeline:
    """Return the time of a launch.

    The blocks of the fullest SM pass through it `blocks_per_sm` at a time. Each keeps the SM's units busy for
    `work` cycles and waits for `wait` more; mean value analysis of that closed queue says how long a block
    takes when so many are resident. L2 and DRAM serve all SMs, in time of their own.
    """
    clock = device.boost_mhz * 1e6 * np.where(b.tensor_cores > 0, k.tensor_clock, 1.0)
    in_step = _slots_in_step(b, k)
    step = _step(b, m, in_step, device, k, clock)
    stores = m.l2_write_sectors * k.sector_bytes / k.port_bytes_per_cycle + b.write.lines
    stores = stores + b.scratch_bytes / k.shared_bytes_per_cycle
    once = _dispatch(b.once, b.warps)
    busy = _norm(step, k.units)
    work = b.steps * busy + stores + once
    # Prologue and epilogue are times of kernels as they are, so they hold their instructions already.
    ends = np.maximum(k.prologue + k.epilogue, once) + k.dram_latency * k.latency_factor + stores
    wait = np.maximum(0.0, ends + b.steps * _period(b, m, in_step, step, busy, k) - work)
    of_sm = np.ceil(b.blocks / device.sms)
    resident = np.minimum(of_sm, np.maximum(1, b.blocks_per_sm))
    sm = of_sm * _per_block(work, wait, resident)
    asked = m.l2_bytes + 2 * b.workspace_bytes + k.ragged_line * m.ragged_lines * k.sector_bytes
    l2 = asked / (k.l2_bytes_per_cycle * device.sms) * clock / (device.boost_mhz * 1e6)
    dram = m.dram_bytes / (device.dram_gbps * 1e9 * k.dram_efficiency) * clock
    on_clock = _norm((sm, l2), k.levels)
    # Under full load the tensor cores draw so much power that the clock of SMs and L2 falls.
    load = b.tensor_cores * b.steps * step.tensor * of_sm / _norm((on_clock, dram), k.levels)
    cycles = _norm((on_clock * (1 + k.throttle * load), dram), k.levels)
    launches = np.where(b.workspace_bytes > 0, 2, 1)
    seconds = np.where(b.blocks_per_sm > 0, cycles / clock + launches * k.launch_seconds, np.inf)
    of_units = {
        "tensor": step.tensor * b.steps,
        **_cycles_of_pipes(b, in_step),
        "l1": step.l1 * b.steps + b.write.lines,
        "shared": step.shared * b.steps,
    }
    terms = {name: cycles * of_sm / clock for name, cycles in of_units.items()}
    terms |= {"l2": l2 / clock, "dram": dram / clock, "latency": (work + wait) * of_sm / resident / clock}
    return Timeline(seconds, terms)


def _norm(parts: tuple[Column, ...], exponent: float) -> Column:
    """Join times that overlap: the largest where one dominates, more where several are alike."""
    most = np.maximum.reduce(parts)
    total = sum((part / most) ** exponent for part in parts)
    return np.asarray(most * total ** (1 / exponent))


def _slots_in_step(b: Batch, k: Constants) -> Slots:
    """Return the issue slots of a block and step: as compiled, or judged by what it copies and multiplies."""
    copies = sum(
        np.where(read.vector_bytes < COPY_BYTES, THROUGH_REGISTERS, 1.0) * k.load_instructions * read.requests
        for read in b.reads
    )
    matrix_loads = (1 - b.wgmma) * b.operand_bytes / 512  # ldmatrix.x4
    judged = b.products + matrix_loads + copies + b.warps * k.warp_instructions + b.address_instructions
    return b.loop._replace(issue=b.loop.issue + (1 - b.compiled) * judged)


def _dispatch(slots: Slots, warps: Column) -> Column:
    """Return the cycles to issue so much: the same instructions take a slot each and keep their pipe busy."""
    cycles: Column = np.maximum.reduce([slots.issue, slots.integer, slots.xu]) / np.minimum(SCHEDULERS, warps)
    return cycles


def _cycles_of_pipes(b: Batch, in_step: Slots) -> dict[str, Column]:
    """Return the cycles of a block that issue, and the pipes behind it, are each busy for."""
    partitions = np.minimum(SCHEDULERS, b.warps)
    return {
        name: (getattr(in_step, name) * b.steps + getattr(b.once, name)) / partitions
        for name in ("issue", "integer", "xu")
    }


def _step(b: Batch, m: Memory, slots: Slots, device: Device, k: Constants, clock: Column) -> _Step:
    local = (b.local.loaded + b.local.stored) / b.steps
    own = (b.tensor_cores > 0) & (b.wgmma == 0)  # instructions of one warp each
    through_shared = b.staged_bytes + b.operand_bytes
    from_l2 = m.l2_read_sectors * k.sector_bytes + m.l2_local_bytes / b.steps
    return _Step(
        tensor=b.flops * device.sms * clock / (b.flops_per_second * np.where(own, k.mma_rate, 1.0)),
        dispatch=_dispatch(slots, b.warps),
        # A warp's 4-byte words of local memory are one line.
        l1=sum(read.lines for read in b.reads) + local / k.line_bytes,
        shared=through_shared / k.shared_bytes_per_cycle + slots.shuffles,
        port=from_l2 / k.port_bytes_per_cycle,
    )


def _period(b: Batch, m: Memory, slots: Slots, step: _Step, busy: Column, k: Constants) -> Column:
    """Return the cycles from one step of a lone block to its next.

    The chain within a step is a barrier, a load from shared memory, then dependent products. The copy that
    feeds a step is issued num_stages - 1 steps ahead, once the step before it has left the buffer.
    """
    of_partitions = np.minimum(SCHEDULERS, b.warps) / SCHEDULERS
    products = _norm((step.tensor, step.dispatch * of_partitions, step.shared * of_partitions), k.units)
    chain = k.barrier + k.shared_latency + k.tensor_latency + b.slices * k.slice_cycles
    # A warp alone waits for its own results: what it issues in a step takes it longer than the scheduler.
    own = slots.issue / b.warps * k.issue_latency
    chain = b.tensor_cores * chain + np.maximum(products / of_partitions, own)
    # Blocks that run together march in step, and all wait for those whose part comes from DRAM.
    fetch = k.dram_latency * k.latency_factor + step.port
    ahead = np.maximum(1, b.stages - 1)
    copied = np.maximum(chain, (fetch + chain) / ahead)
    narrow = np.minimum.reduce([read.vector_bytes for read in b.reads]) < COPY_BYTES
    # Wgmma waits for what comes through registers, and the next step for wgmma.
    exposed = np.where(b.wgmma > 0, 1.0, k.exposed_latency)
    copied = np.where(narrow, np.maximum(copied, chain + exposed * fetch), copied)
    past_l1 = m.l2_read_sectors / sum(read.sectors for read in b.reads)
    near = k.shared_latency + past_l1 * (k.l2_latency * k.latency_factor + step.port)
    loaded = chain + near  # to registers, in the order of the program
    return np.asarray(np.maximum(busy, np.where(b.tensor_cores > 0, copied, loaded)))


def _per_block(work: Column, wait: Column, resident: Column) -> Column:
    """Return the cycles from one finished block of an SM to its next, with so many resident.

    Exact mean value analysis (Reiser and Lavenberg, 1980) of one server and a delay: an arriving block queues
    behind those it finds there. Alone it takes work + wait, in a crowd it takes work.
    """
    queue = np.zeros_like(work)
    result = work + wait
    for blocks in range(1, int(resident.max()) + 1):
        at_server = np.maximum(work * (1 + queue), blocks * work - wait)
        rate = blocks / (at_server + wait)
        queue = rate * at_server
        result = np.where(resident == blocks, 1 / rate, result)
    return result
