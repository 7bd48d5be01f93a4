"""What the cost model says of one config on one device."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from autoconv.config import Config
from autoconv.device import Device
from autoconv.problem import Problem


@dataclass(frozen=True)
class Prediction:
    """A predicted time and the figures it rests on. Nothing in it was measured."""

    seconds: float  # infinite where the device cannot launch a block: blocks_per_sm is 0
    bound: str  # the largest term: "dram", "l2", "l1", "shared", "tensor", "issue", "integer", ...
    runner_up: str  # the next
    terms: dict[str, float]  # seconds each term alone would take
    grid: tuple[int, ...]
    blocks_per_sm: int
    limiter: str  # what stops one more block on an SM
    warps_active_pct: float  # Nsight Compute: sm__warps_active.avg.pct_of_peak_sustained_active
    registers: int
    spills: int  # bytes of a thread
    shared: int  # bytes of a block
    compiled: bool  # whether registers, spills and shared come from a cubin or from a guess
    dram_bytes: int  # read and written
    dram_read_bytes: int
    l2_bytes: int  # between the SMs and the L2, both ways
    l1_bytes: int  # sectors of all read requests, each by itself, and what local memory moves
    ideal_bytes: int  # every tensor moved once
    l2_hit_pct: float  # Nsight Compute: lts__t_sector_hit_rate.pct
    dram_throughput_pct: float
    sm_throughput_pct: float
    floor_seconds: float
    slots: dict[str, float]  # share of a warp's issue slots by kind of instruction; empty where not compiled

    @property
    def blocks(self) -> int:
        """The blocks of the launch."""
        product = 1
        for axis in self.grid:
            product *= axis
        return product

    def to_json(self, config: Config) -> dict[str, Any]:
        """Return the prediction under the names of `autoconv explain --json`; times in milliseconds.

        `predicted_ms` is None where the device cannot launch a block.
        """
        return {
            "kernel": config.kernel,
            "config": config.to_json(),
            "grid": list(self.grid),
            "blocks": self.blocks,
            "blocks_per_sm": self.blocks_per_sm,
            "limiter": self.limiter,
            "warps_active_pct": round(self.warps_active_pct, 2),
            "registers": self.registers,
            "spills": self.spills,
            "shared": self.shared,
            "compiled": self.compiled,
            "dram_bytes": self.dram_bytes,
            "dram_read_bytes": self.dram_read_bytes,
            "l2_bytes": self.l2_bytes,
            "l1_bytes": self.l1_bytes,
            "ideal_bytes": self.ideal_bytes,
            "l2_hit_pct": round(self.l2_hit_pct, 2),
            "dram_throughput_pct": round(self.dram_throughput_pct, 2),
            "sm_throughput_pct": round(self.sm_throughput_pct, 2),
            "predicted_ms": self.seconds * 1e3 if math.isfinite(self.seconds) else None,
            "floor_ms": self.floor_seconds * 1e3,
            "bound": self.bound,
            "runner_up": self.runner_up,
            "terms_ms": {
                name: seconds * 1e3 if math.isfinite(seconds) else None
                for name, seconds in self.terms.items()
            },
            "issue_slots": {name: round(share, 4) for name, share in self.slots.items()},
            "provenance": "predicted",
        }


def floor_seconds(problem: Problem, device: Device) -> float:
    """Return the roofline's floor: every tensor moved once at peak bandwidth, or all FLOPs at peak rate.

    The seed problem on an RTX 4090: 6.12 GB at 1008 GB/s is 6.08 ms, 235 GFLOP at 82.6 TFLOPS is 2.85 ms.
    """
    memory = problem.ideal_bytes / (device.dram_gbps * 1e9)
    return max(memory, problem.flops / device.tensor_rate(problem.dtype, problem.precision))
