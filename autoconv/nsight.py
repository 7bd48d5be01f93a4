"""Nsight Compute's names for what is predicted, what it measured, and what the figures say of a launch.

Its metrics are those of the profiles that kernels are tuned by: the throughput of the SMs, the grid, warps
active, DRAM, the L2's hit rate. A profile is what `ncu --csv` prints, of either page.
"""

from __future__ import annotations

import csv
import statistics
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass

from autoconv.config import Config
from autoconv.cost import explanation
from autoconv.cost.prediction import Prediction
from autoconv.device import Device
from autoconv.errors import FieldError
from autoconv.kernels.registry import kernel as kernel_called
from autoconv.problem import Problem

BUSY_PCT = 60.0
"""Throughput of the SMs above which the grid is let be: what profiles of such kernels are held to."""

SATURATED_PCT = 80.0
"""Of the DRAM's peak; beyond it more blocks wait for the same bytes. Copies reach 90 to 95 %."""

SAME_POINTS, SAME_SHARE = 5.0, 0.1
"""Percentages that are this many points apart count as the same, and so do other figures by this share."""


@dataclass(frozen=True)
class Metric:
    """One figure of a launch under Nsight Compute's name."""

    name: str
    label: str  # what its details page calls it
    ours: str  # what `explain` calls it
    unit: str  # of the value here: "%", "ns", "byte", or empty for a count
    of: Callable[[Prediction], float]
    higher: str  # what it says that more was measured than predicted
    lower: str  # that less was

    def same(self, predicted: float, measured: float) -> bool:
        """Return whether the two are no news."""
        if self.unit == "%":
            return abs(measured - predicted) <= SAME_POINTS
        return abs(measured - predicted) <= SAME_SHARE * max(predicted, 1.0)


_OTHER_LAUNCH = "another launch than this config's on this problem: no other figure compares"
_OTHER_COMPILER = "another compiler, or another config, made it: occupancy and time differ for that"
METRICS = (
    Metric("launch__grid_size", "Grid Size", "blocks", "", lambda p: p.blocks, _OTHER_LAUNCH, _OTHER_LAUNCH),
    Metric(
        "launch__registers_per_thread", "Registers Per Thread", "registers", "", lambda p: p.registers,
        _OTHER_COMPILER, _OTHER_COMPILER,
    ),
    Metric(
        "gpu__time_duration.sum", "Duration", "time", "ns", lambda p: p.seconds * 1e9,
        "the model leaves something out: the lines below say what", "the model charges too much",
    ),
    Metric(
        "sm__throughput.avg.pct_of_peak_sustained_elapsed", "Compute (SM) Throughput", "SM", "%",
        lambda p: p.sm_throughput_pct,
        "the SMs do more than the model counts, such as arithmetic on addresses",
        "the SMs wait for what the model thinks is there in time",
    ),
    Metric(
        "sm__warps_active.avg.pct_of_peak_sustained_active", "Achieved Occupancy", "warps active", "%",
        lambda p: p.warps_active_pct,
        "more blocks fit an SM than predicted", "blocks end unevenly, or fewer fit an SM than predicted",
    ),
    Metric(
        "dram__throughput.avg.pct_of_peak_sustained_elapsed", "DRAM Throughput", "DRAM", "%",
        lambda p: p.dram_throughput_pct,
        "DRAM is busier than predicted: it moves more, or the rest is faster",
        "DRAM waits for the SMs, or the caches keep more than predicted",
    ),
    Metric(
        "dram__bytes_read.sum", "", "DRAM read", "byte", lambda p: p.dram_read_bytes,
        "the L2 loses tiles before their next use, which are read again", "the L2 keeps more than predicted",
    ),
    Metric(
        "lts__t_sector_hit_rate.pct", "L2 Hit Rate", "L2 hits", "%", lambda p: p.l2_hit_pct,
        "neighbouring blocks share more in the L2 than predicted",
        "blocks that share tiles do not run at the same time",
    ),
)  # fmt: skip
"""In the order in which they are told: where the first differs, the others mean nothing."""

_OF_A_CALL = ("gpu__time_duration.sum", "dram__bytes_read.sum")
"""Predicted of all launches of a call together; the other metrics are those of the one that multiplies."""

_UNITS = {
    "": 1.0, "%": 1.0, "register/thread": 1.0,
    "ns": 1.0, "nsecond": 1.0, "us": 1e3, "usecond": 1e3, "ms": 1e6, "msecond": 1e6, "s": 1e9, "second": 1e9,
    "byte": 1.0, "Kbyte": 1e3, "Mbyte": 1e6, "Gbyte": 1e9, "Tbyte": 1e12,
}  # fmt: skip


def facts(config: Config, told: Prediction) -> dict[str, str]:
    """Return the lines of an explanation by their names; a grid of one axis is not told twice."""
    lines = explanation.rows(config, told)
    if len(told.grid) == 1:
        lines["grid"] = f"{told.blocks} blocks on one axis"
    return lines


def predicted(told: Prediction) -> dict[str, float]:
    """Return a prediction under Nsight Compute's names, in the units of METRICS."""
    return {metric.name: metric.of(told) for metric in METRICS}


def measured(text: str, problem: Problem, config: Config) -> dict[str, float]:
    """Return what a profile says of a config's launch: the median over its launches, by metric.

    Of a kernel that makes several launches a call, time and bytes are the sums over them, and left out where
    the profile lacks one.

    Args:
        text: What `ncu --csv` printed, its other lines included.
        problem: The problem that was profiled.
        config: The config, of whose kernel the launches are looked for by name.

    Raises:
        FieldError: it is no such text, or has no launch that can be told to be this one.
    """
    launches = list(_launches(text))
    kernel = kernel_called(config.kernel)
    name = kernel.main_launch(problem, config).jit.__name__
    names = sorted({one for one, _ in launches})
    if name not in names and len(names) != 1:
        found = ", ".join(names) or "no kernel"
        reason = f"has {found}, and not {name}"
        raise FieldError("profile", "kernel", name, reason, f"profile it alone: ncu --csv -k {name} ...")
    wanted = name if name in names else names[0]
    seen = _medians(wanted, launches)
    others = [launch.jit.__name__ for launch in kernel.launches(problem, config)]
    for other in filter(lambda one: one != name, others):
        more = _medians(other, launches)
        for metric in _OF_A_CALL:
            if metric in seen and metric in more:
                seen[metric] += more[metric]
            else:
                seen.pop(metric, None)
    if not seen:
        remedy = f"ask for them: ncu --csv --page raw --metrics {','.join(one.name for one in METRICS)} ..."
        raise FieldError("profile", "metrics", None, "it has none of those that are compared", remedy)
    return {metric.name: seen[metric.name] for metric in METRICS if metric.name in seen}


def _medians(kernel: str, launches: Iterable[tuple[str, Mapping[str, float]]]) -> dict[str, float]:
    """Return the median of each metric over the launches of a kernel."""
    taken: dict[str, list[float]] = {}
    for one, figures in launches:
        if one == kernel:
            for metric, value in figures.items():
                taken.setdefault(metric, []).append(value)
    return {metric: statistics.median(values) for metric, values in taken.items()}


def _launches(text: str) -> Iterator[tuple[str, dict[str, float]]]:
    """Yield the kernel's name and figures of each launch; the details page has a row for each figure."""
    table = csv.DictReader(line for line in text.splitlines() if line.startswith('"'))
    rows = [row for row in table if row.get("Kernel Name") is not None]  # a last one may be cut off
    columns = set(table.fieldnames or ())
    details = "Metric Name" in columns
    needed = {"Kernel Name", *(("ID", "Metric Value", "Metric Unit") if details else ())}
    if not rows or not needed <= columns:
        remedy = "give what `ncu --csv` prints on standard output"
        raise FieldError("profile", "text", None, "is not a table with the names of kernels", remedy)
    if details:
        yield from _of_details(rows)
    else:
        units, *launches = rows  # the raw page begins with a row of units
        for row in launches:
            read = {one.name: _value(row.get(one.name), units.get(one.name)) for one in METRICS}
            yield row["Kernel Name"], {name: value for name, value in read.items() if value is not None}


def _of_details(rows: Iterable[Mapping[str, str]]) -> Iterator[tuple[str, dict[str, float]]]:
    called = {key: one.name for one in METRICS for key in (one.name, one.label) if key}
    found: dict[tuple[str, str], dict[str, float]] = {}
    for row in rows:
        figures = found.setdefault((row["ID"], row["Kernel Name"]), {})
        name = called.get(row["Metric Name"])
        value = _value(row["Metric Value"], row["Metric Unit"])
        if name is not None and value is not None:
            figures[name] = value
    for (_, kernel), figures in found.items():
        yield kernel, figures


def _value(text: str | None, unit: str | None) -> float | None:
    """Return a figure in the base unit, None where there is none: "n/a", or an unknown unit."""
    try:
        return float((text or "").replace(",", "")) * _UNITS[(unit or "").strip()]
    except (ValueError, KeyError):
        return None


def differences(told: Mapping[str, float], seen: Mapping[str, float]) -> list[str]:
    """Return what it says that a profile differs from the prediction, a line a metric.

    Args:
        told: As `predicted` returns it.
        seen: As `measured` returns it.
    """
    lines = []
    for metric in METRICS:
        if metric.name not in seen or metric.same(told[metric.name], seen[metric.name]):
            continue
        higher = seen[metric.name] > told[metric.name]
        lines.append(
            f"{metric.name} is {'higher' if higher else 'lower'}: {metric.higher if higher else metric.lower}"
        )
        if metric.name == "launch__grid_size":
            break
    return lines


def advice(told: Prediction, seen: Mapping[str, float], device: Device) -> list[str]:
    """Return what to change for speed, if anything: what was measured goes before what was predicted.

    The grid is changed only where the SMs are clearly idle, and then batch, channels and groups give it
    blocks before tiles are made smaller: a smaller tile reads its operands more often.
    """
    if not told.blocks_per_sm:
        return [f"no block fits an SM, for want of {told.limiter}: smaller tiles or fewer stages"]
    figures = {name: (value, "predicted") for name, value in predicted(told).items()}
    figures |= {name: (value, "measured") for name, value in seen.items()}
    sm, how = figures["sm__throughput.avg.pct_of_peak_sustained_elapsed"]
    dram, dram_how = figures["dram__throughput.avg.pct_of_peak_sustained_elapsed"]
    blocks = figures["launch__grid_size"][0]
    places = device.sms * told.blocks_per_sm
    if sm > BUSY_PCT:
        return [f"the SMs are busy, {sm:.0f} % {how}: leave the grid as it is"]
    if dram > SATURATED_PCT:
        excess = told.dram_bytes / told.ideal_bytes
        busy = f"DRAM is busy, {dram:.0f} % {dram_how}, and not the SMs, {sm:.0f} % {how}"
        return [
            f"{busy}: a larger grid does not help, to move less does",
            f"{excess:.2f} times the least is moved, predicted",
        ]
    if blocks < places:
        return [
            f"{blocks:.0f} blocks leave places empty, of {places} on {device.sms} SMs: take more from batch,"
            " output channels and groups, or from the reduction (split_k), before smaller tiles"
        ]
    waves = blocks / places
    lines = [
        f"the SMs idle, {sm:.0f} % {how}, with {waves:.1f} waves of blocks: not for want of a grid; it is"
        f" {told.bound} first, and {told.limiter} bound the blocks of an SM to {told.blocks_per_sm}"
    ]
    if waves < 4 and waves % 1 and waves % 1 < 0.5:
        lines.append(
            f"the last wave is {100 * (waves % 1):.0f} % full: tiles of another size may even it out"
        )
    return lines
