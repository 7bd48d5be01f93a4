"""Physical constants of the architectures, and the few of the model itself: see docs/cost_model.md.

What a device's data sheet gives (SMs, clocks, rates, bandwidth) is in `autoconv.device`; here is what data
sheets leave out. The same values serve every kernel, shape and config.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Constants:
    """What the cost model takes as given of one architecture.

    Attributes:
        l1_shared_bytes: storage of one SM that L1 and shared memory divide, bytes.
        l2_latency: SM cycles of a load served by the L2, unloaded.
        dram_latency: SM cycles of a load served by DRAM, unloaded.
        shared_latency: SM cycles of a load from shared memory.
        tensor_latency: SM cycles from a tensor-core instruction to one that needs its result.
        l2_bytes_per_cycle: what the L2 delivers to one SM in a cycle while all SMs ask, bytes.
        dram_efficiency: share of the peak bandwidth that streaming reaches.
        throttle: slow-down of the SM clock, as a share, under full tensor-core load: power limits.
        tensor_clock: share of the boost clock that the SMs run at while tensor cores are in use.
        mma_rate: share of the peak tensor rate that a warp's own instruction reaches, where warp groups have
            another.
        ragged_line: L2 time of a line that a store writes a part of a sector in, in sectors, besides its own.
        fills: 1.0 where DRAM takes whole sectors alone, so that the L2 fetches one that it must let go before
            all of it is written; 0.0 where DRAM takes single bytes.
        issue_latency: SM cycles from one instruction of a warp to its next, with no other warp in between.
        port_bytes_per_cycle: what one SM alone can take from the L2 in a cycle, bytes.
        shared_bytes_per_cycle: 32 banks of 4 bytes, of one SM.
        sector_bytes: the unit of traffic to the L2 and to DRAM.
        line_bytes: of L1 and L2, and what the L1 looks up in a cycle.
        latency_factor: latency under load as a multiple of the unloaded latency of a pointer chase.
        barrier: SM cycles of a main-loop step for its barrier and loop control.
        slice_cycles: SM cycles between dependent 32-byte slices of the reduction within a step.
        warp_instructions: of a warp and step besides loads, copies and products, where not compiled.
        load_instructions: issue slots of an asynchronous copy with its addresses and predicate, likewise.
        prologue: SM cycles from the start of a block to its first load.
        epilogue: SM cycles of a block's end besides its stores.
        launch_seconds: of one kernel in a stream.
        units: exponent of the norm that joins the units of one SM: how far they overlap.
        levels: exponent of the norm that joins SMs, L2 and DRAM.
        exposed_latency: share of a load's latency that stays exposed where no asynchronous copy can hide it.
    """

    l1_shared_bytes: int
    l2_latency: float
    dram_latency: float
    shared_latency: float
    tensor_latency: float
    l2_bytes_per_cycle: float
    dram_efficiency: float
    throttle: float = 0.06
    tensor_clock: float = 1.0
    mma_rate: float = 1.0
    ragged_line: float = 2.5
    fills: float = 0.0
    issue_latency: float = 1.0
    port_bytes_per_cycle: float = 64.0
    shared_bytes_per_cycle: float = 128.0
    sector_bytes: int = 32
    line_bytes: int = 128
    latency_factor: float = 1.8
    barrier: float = 58.0
    slice_cycles: float = 14.0
    warp_instructions: float = 58.0
    load_instructions: float = 6.0
    prologue: float = 600.0
    epilogue: float = 850.0
    launch_seconds: float = 5.3e-6
    units: float = 3.8
    levels: float = 3.3
    exposed_latency: float = 0.06


_KIB = 1024

_HOPPER: Mapping[str, Any] = {
    "throttle": 0.3,
    "tensor_clock": 0.924,
    "mma_rate": 0.63,
    "issue_latency": 2.7,
    "warp_instructions": 30.0,
    "launch_seconds": 3e-6,
    "ragged_line": 3.1,
    "fills": 1.0,
}

CONSTANTS: Mapping[int, Constants] = {
    #              L1 + shared  L2   DRAM  shared tensor  L2 bytes  DRAM
    #              bytes        lat.  lat.  lat.   lat.    a cycle   eff.
    80: Constants(192 * _KIB, 262.0, 466.0, 29.0, 33.0, 37.0, 0.86, fills=1.0),
    86: Constants(128 * _KIB, 260.0, 546.0, 30.0, 33.0, 20.0, 0.92),
    89: Constants(128 * _KIB, 273.0, 542.0, 30.0, 33.0, 18.0, 0.92),
    90: Constants(256 * _KIB, 262.0, 479.0, 29.0, 33.0, 26.0, 0.90, **_HOPPER),
    100: Constants(256 * _KIB, 262.0, 479.0, 29.0, 33.0, 30.0, 0.90, fills=1.0),
    120: Constants(128 * _KIB, 273.0, 542.0, 30.0, 33.0, 18.0, 0.92),
    # Taken to be like those of the nearest architecture.
    87: Constants(192 * _KIB, 260.0, 546.0, 30.0, 33.0, 20.0, 0.92),
    103: Constants(256 * _KIB, 262.0, 479.0, 29.0, 33.0, 30.0, 0.90, fills=1.0),
    110: Constants(256 * _KIB, 262.0, 479.0, 29.0, 33.0, 30.0, 0.90),
    121: Constants(128 * _KIB, 273.0, 542.0, 30.0, 33.0, 18.0, 0.92),
}
"""The constants by compute capability; their sources are in docs/cost_model.md."""
