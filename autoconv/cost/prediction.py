"""What the cost model says of one config on one device."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from autoconv.config import Config
from autoconv.device import Device
from autoconv.problem import Problem


@dataclass(frozen=True)
class Prediction:
    """A predicted time and the figures it rests on. Nothing in it was measured."""

    seconds: float  # infinite where the device cannot launch a block: blocks_per_sm is 0
    bound: str  # the largest of the terms, by name
    terms: dict[str, float]  # seconds each term alone would take
    grid: tuple[int, ...]
    blocks_per_sm: int
    limiter: str  # what stops one more block on an SM
    warps_active_pct: float  # Nsight Compute: sm__warps_active.avg.pct_of_peak_sustained_active
    registers: int
    spills: int  # bytes of a thread
    shared: int  # bytes of a block
    compiled: bool  # whether registers, spills and shared come from a cubin or from a guess
    dram_bytes: int
    ideal_bytes: int  # every tensor moved once
    l2_hit_pct: float | None  # None: this model does not follow lines through the L2
    dram_throughput_pct: float
    sm_throughput_pct: float
    floor_seconds: float

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
            "ideal_bytes": self.ideal_bytes,
            "l2_hit_pct": self.l2_hit_pct,
            "dram_throughput_pct": round(self.dram_throughput_pct, 2),
            "sm_throughput_pct": round(self.sm_throughput_pct, 2),
            "predicted_ms": self.seconds * 1e3 if self.blocks_per_sm else None,
            "floor_ms": self.floor_seconds * 1e3,
            "bound": self.bound,
            "terms_ms": {name: seconds * 1e3 for name, seconds in self.terms.items()},
            "provenance": "predicted",
        }


def floor_seconds(problem: Problem, device: Device) -> float:
    """Return the roofline's floor: every tensor moved once at peak bandwidth, or all FLOPs at peak rate.

    The seed problem on an RTX 4090: 6.12 GB at 1008 GB/s is 6.08 ms, 235 GFLOP at 82.6 TFLOPS is 2.85 ms.
    """
    memory = problem.ideal_bytes / (device.dram_gbps * 1e9)
    return max(memory, problem.flops / device.tensor_rate(problem.dtype, problem.precision))
