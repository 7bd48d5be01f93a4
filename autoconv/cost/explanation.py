"""A prediction in words: what bounds it, where its bytes and issue slots go, what sets two of them apart."""

from __future__ import annotations

from autoconv.config import Config
from autoconv.cost.prediction import Prediction

_LIMITS = {
    "dram": "DRAM bandwidth",
    "l2": "L2 bandwidth",
    "l1": "look-ups in the L1",
    "shared": "shared-memory bandwidth",
    "tensor": "multiplications",
    "issue": "instruction issue",
    "integer": "integer arithmetic",
    "xu": "conversions and reciprocals, as of divisions",
    "latency": "latency that too few blocks and stages hide",
}


def rows(config: Config, p: Prediction) -> dict[str, str]:
    """Return the lines of an explanation by their names."""
    if p.blocks_per_sm:
        bound = f"{_term(p, p.bound)}, then {_term(p, p.runner_up)}"
        time = f"{_ms(p.seconds)}; floor {_ms(p.floor_seconds)} ({p.seconds / p.floor_seconds:.2f} x)"
    else:
        bound, time = "none", f"none: no block fits an SM, for want of {p.limiter}"
    return {
        "config": str(config),
        "time": time,
        "bound": bound,
        "units": ", ".join(
            f"{name} {_ms(p.terms[name])}" for name in sorted(p.terms, key=lambda n: -p.terms[n])
        ),
        "grid": f"{' x '.join(str(axis) for axis in p.grid)} = {p.blocks} blocks",
        "occupancy": f"{p.blocks_per_sm} blocks an SM, {p.warps_active_pct:.1f} % of its warps; "
        f"limited by {p.limiter}",
        "resources": f"{p.registers} registers a thread, {p.spills} bytes spilled, {p.shared} bytes of "
        f"shared memory a block ({'given or compiled' if p.compiled else 'judged from the tile'})",
        "L1": f"{_gb(p.l1_bytes)} in sectors of the requests",
        "L2": f"{_gb(p.l2_bytes)} both ways, {p.l2_hit_pct:.1f} % hits",
        "DRAM": f"{_gb(p.dram_bytes)}; ideal {_gb(p.ideal_bytes)}: read {_gb(p.dram_read_bytes)}; "
        f"{p.dram_throughput_pct:.1f} % of the peak",
        "SM": f"{p.sm_throughput_pct:.1f} % of the peak of its busiest unit",
        "issue slots": ", ".join(f"{100 * share:.0f} % {name}" for name, share in p.slots.items())
        or "unknown",
    }


def difference(one: Prediction, other: Prediction) -> str:
    """Return in one sentence which of two is faster, and which unit's time sets them apart."""
    if not (one.blocks_per_sm and other.blocks_per_sm):
        return "One of them cannot be launched."
    fast, slow = sorted((one, other), key=lambda p: p.seconds)
    which = "first" if fast is one else "second"
    apart = max(fast.terms, key=lambda name: slow.terms[name] - fast.terms[name])
    sentence = (
        f"The {which} is faster by {slow.seconds / fast.seconds:.2f} x. Most of it is {_LIMITS[apart]}: "
        f"{_ms(fast.terms[apart])} against {_ms(slow.terms[apart])}."
    )
    moved = slow.dram_bytes - fast.dram_bytes
    return sentence + (f" The slower moves {_gb(moved)} more through DRAM." if moved > 0 else "")


def _term(p: Prediction, name: str) -> str:
    return f"{_LIMITS[name]} ({_ms(p.terms[name])})"


def _ms(seconds: float) -> str:
    return f"{seconds * 1e3:.4g} ms"


def _gb(size: int) -> str:
    return f"{size / 1e9:.4g} GB"
