"""How many blocks of a kernel an SM holds at once, by the hardware's allocation granularities."""

from __future__ import annotations

from dataclasses import dataclass

from autoconv.device import Architecture


@dataclass(frozen=True)
class Occupancy:
    """Blocks and warps resident on one SM, and what stops one block more."""

    blocks_per_sm: int
    warps_active_pct: float  # of the warps an SM can hold, while full
    limiter: str  # "registers", "shared memory", "warps" or "blocks"


def occupancy(registers: int, shared: int, num_warps: int, arch: Architecture) -> Occupancy:
    """Return how many blocks of `num_warps` warps fit on an SM of `arch`.

    The rules are those of NVIDIA's CUDA occupancy calculator: registers are handed out a warp at a time in
    units of `register_allocation_unit`, the register file serves a whole number of warps in each of the four
    partitions, and a block's shared memory, with the share the system keeps, is rounded up to
    `shared_allocation_unit`.

    Args:
        registers: Of one thread, as compiled.
        shared: Bytes of shared memory of one block.
        num_warps: Warps of one block.
        arch: The limits.

    >>> from autoconv.device import find
    >>> occupancy(184, 16384, 4, find("rtx4090").arch).blocks_per_sm
    2
    """
    unit = arch.register_allocation_unit
    registers_of_warp = _round_up(32 * max(1, registers), unit)
    warps_by_registers = arch.registers_per_sm // registers_of_warp
    warps_by_registers -= warps_by_registers % arch.warp_allocation_unit
    shared_of_block = _round_up(shared + arch.shared_reserved_per_block, arch.shared_allocation_unit)
    limits = {
        "registers": warps_by_registers // num_warps,
        "shared memory": arch.shared_per_sm // shared_of_block,
        "warps": arch.max_warps_per_sm // num_warps,
        "blocks": arch.max_blocks_per_sm,
    }
    limiter = min(limits, key=lambda name: limits[name])
    blocks = limits[limiter]
    return Occupancy(blocks, 100 * blocks * num_warps / arch.max_warps_per_sm, limiter)


def _round_up(value: int, unit: int) -> int:
    return -(-value // unit) * unit
