"""The memory system: what of the requests reaches the L2, and what of that reaches DRAM."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from autoconv.cost.batch import Batch, Column, Touch
from autoconv.cost.constants import Constants
from autoconv.cost.traffic import SECTOR
from autoconv.device import Device

FITS, SPILLS = 0.7, 1.3  # of the L2: below, a working set stays; above, nothing of it is found again


class Memory(NamedTuple):
    """Bytes at each level of the memory system."""

    l2_read_sectors: Column  # of a block and step, past the L1; of its reads, local memory left out
    l2_write_sectors: Column  # of a block, likewise
    l2_local_bytes: Column  # of a block's local memory, both ways, past the L1
    l2_bytes: Column  # of the launch, both ways
    ragged_lines: Column  # of a launch, each time that a store writes a part of a sector in one
    dram_read_bytes: Column
    dram_write_bytes: Column
    l2_hit_share: Column

    @property
    def dram_bytes(self) -> Column:
        """All that passes between L2 and DRAM."""
        return self.dram_read_bytes + self.dram_write_bytes


def memory(b: Batch, device: Device, constants: Constants) -> Memory:
    """Follow the bytes of a launch from the SMs down to DRAM."""
    sector = constants.sector_bytes
    l1_bytes = constants.l1_shared_bytes - device.arch.shared_per_sm
    from_l1 = [_past_l1(read, l1_bytes, sector) for read in b.reads]
    read_sectors: Column = np.sum(from_l1, axis=0)
    together = np.minimum(b.blocks, device.sms * np.maximum(1, b.blocks_per_sm))
    fetched = [
        np.minimum(
            read.tensor_bytes * visits(read, b, together, device.l2_bytes), past * sector * b.steps * b.blocks
        )
        for read, past in zip(b.reads, from_l1, strict=True)
    ]
    read_bytes: Column = np.sum(fetched, axis=0)
    passes = _passes(b, together, device)
    writes = b.write.tensor_bytes * passes + _beyond_l2(2 * b.workspace_bytes, device)
    # What is let go half written was fetched first, to be completed.
    read_bytes += constants.fills * b.write.tensor_bytes * np.where(passes > 1, passes, 0.0)
    write_sectors = b.write.sectors
    past_l1, past_l2 = _local_misses(b, constants.l1_shared_bytes, device)
    local_bytes = past_l1 * (b.local.loaded + b.local.stored)
    lookups: Column = b.blocks * (b.steps * read_sectors + write_sectors + local_bytes / sector)
    read_bytes += b.blocks * past_l2 * b.local.loaded
    writes += b.blocks * past_l2 * b.local.stored
    # A store is taken in by the L2 at once, byte for byte, and counts as a hit.
    return Memory(
        l2_read_sectors=read_sectors,
        l2_write_sectors=write_sectors,
        l2_local_bytes=local_bytes,
        l2_bytes=lookups * sector,
        ragged_lines=b.blocks * b.write.ragged_lines,
        dram_read_bytes=read_bytes,
        dram_write_bytes=writes,
        l2_hit_share=np.clip(1 - read_bytes / sector / lookups, 0, 1),
    )


def _past_l1(read: Touch, l1_bytes: int, sector: int) -> Column:
    """Return the sectors of a step that a block asks of the L2.

    Copies of 16 bytes bypass the L1 (cp.async.cg). All others go through it, and it serves what a step
    touches again, as far as the step fits in the part of the L1 that shared memory can never take. Blocks
    issue the loads of a step in a burst, so those of one block count, not of all residents.
    """
    wanted = read.unique_sectors * sector
    kept = np.where(read.vector_bytes < 16, np.minimum(1, l1_bytes / wanted), 0.0)
    unique = np.minimum(read.unique_sectors, read.sectors)
    past: Column = read.sectors - kept * (read.sectors - unique)
    return past


def _passes(b: Batch, together: Column, device: Device) -> Column:
    """Return how often each sector of the output is written to DRAM.

    It is once, but where each pass leaves a part of a sector to a later one, and the L2 cannot wait for it.
    """
    covered = 32 * b.write.requests * b.write.vector_bytes / (SECTOR * b.write.unique_sectors)
    passes: Column = np.minimum(visits(b.write, b, together, device.l2_bytes), np.maximum(1, 1 / covered))
    return passes


def _local_misses(b: Batch, l1_shared_bytes: int, device: Device) -> tuple[Column, Column]:
    """Return the shares of the traffic of local memory that the L1 and the L2 pass on.

    The L1 keeps stores to local memory and writes them back when it needs the room. What all resident blocks
    spill is used again and again, so of it the L1 serves the part that fits beside their shared memory.
    """
    resident = np.maximum(1, b.blocks_per_sm)
    wanted = resident * b.local_bytes
    room = l1_shared_bytes - np.minimum(device.arch.shared_per_sm, resident * b.shared_bytes)
    past_l1 = 1 - room / np.maximum(wanted, room)
    return past_l1, past_l1 * _lost(wanted * device.sms, device.l2_bytes)


def _lost(distance: Column, l2_bytes: float) -> Column:
    """Return the share of what was touched so many bytes ago that the L2 no longer has."""
    return np.clip((distance / l2_bytes - FITS) / (SPILLS - FITS), 0, 1)


def footprint(access: Touch, b: Batch, blocks: Column) -> Column:
    """Return the bytes of a tensor that so many blocks, one after the other in launch order, touch."""
    tiles = np.ones_like(blocks)
    before = np.ones_like(blocks)
    for extent, varies in zip(b.extents, access.varies, strict=True):
        covered = np.clip(blocks / before, 1, extent)
        tiles = tiles * np.where(varies > 0, covered, 1.0)
        before = before * extent
    return np.minimum(access.tensor_bytes, access.distinct_bytes * (1 + (1 - access.overlap) * (tiles - 1)))


def visits(access: Touch, b: Batch, together: Column, l2_bytes: float) -> Column:
    """Return how often each byte of a tensor comes from DRAM, or each sector of an output goes there.

    Along a launch axis that a tensor does not vary with, the same bytes are asked for again. Blocks that run
    together share one fetch. Those that run later find the bytes in the L2 if all that is touched in between
    fits in it, which is the reuse distance of a least-recently-used cache.
    """
    times: Column = np.ones_like(together)
    before = np.ones_like(together)
    for extent, varies in zip(b.extents, access.varies, strict=True):
        shared = np.clip(together / before, 1, extent)
        between = np.maximum(together, before)
        distance = sum(footprint(one, b, between) for one in (*b.reads, b.write))
        again = 1 + (extent / shared - 1) * _lost(np.asarray(distance), l2_bytes)
        times = times * np.where(varies > 0, 1.0, again)
        before = before * extent
    return times


def _beyond_l2(size: Column, device: Device) -> Column:
    return size * _lost(size, device.l2_bytes)
