"""How far the best estimates are above the floor, over the layers of a workload file, as one JSON object.

    python scripts/bench/floor.py WORKLOADS.json [--devices rtx4090,...] [--page FILE] [--results FILE]

The floor of a layer is its roofline's: every tensor moved once at the peak bandwidth, or all FLOPs at the
peak rate. A ratio by time is the sum of the best estimates over the sum of the floors; medians and
percentiles are over the layers whose floor is above 20 us, since below that what a launch costs decides.
`Baseline` counts the layers that im2col_rows is ahead in. --page writes the tables as Markdown too, --results
the best estimate of every distinct problem as JSON lines, for scripts/bench/guesses.py to compile. All of it
is predicted.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

from workloads import BASELINE, problem_of

from autoconv.config import Config
from autoconv.cost.prediction import floor_seconds
from autoconv.device import Device, find
from autoconv.problem import Problem
from autoconv.sweep.candidates import best_guess

DEVICES = "rtx4090,l4,a100-80gb,h100-sxm"
ABOVE = 20e-6  # seconds of floor from which on a layer counts in medians and percentiles
SHORT = 1024  # outputs a sample, below which a batch of CROWD is a class of its own
CROWD = 8

PAGE = """\
# How far from the floor

Everything on this page is predicted: the best estimate of the cost model over the roofline's floor, for the
{layers} layers of a file of public models, {problems} distinct problems. `make bench-floor WORKLOADS=FILE`
prints it, `scripts/bench/floor.py` says what is summed. What was measured is on [its own page](measured.md).

"""


@dataclass(frozen=True)
class Row:
    """One layer of the file on one device."""

    problem: Problem
    config: Config  # of the best estimate
    seconds: float
    floor: float  # seconds

    @property
    def ratio(self) -> float:
        """Return the best estimate over the floor."""
        return self.seconds / self.floor


def main() -> None:
    """Estimate every layer on every device and print what was found."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("workloads", type=Path)
    parser.add_argument("--devices", default=DEVICES)
    parser.add_argument("--page", type=Path, help="write the tables there, as Markdown")
    parser.add_argument("--results", type=Path, default=Path("build/floor.jsonl"))
    given = parser.parse_args()
    layers = Counter(problem_of(layer) for layer in json.loads(given.workloads.read_text()))
    given.results.parent.mkdir(parents=True, exist_ok=True)
    found = {}
    with given.results.open("w") as results:
        for name in given.devices.split(","):
            rows = estimated(layers, find(name))
            results.writelines(json.dumps(line(row, name)) + "\n" for row in dict.fromkeys(rows))
            results.flush()
            found[name] = {"all": figures(rows), "classes": by_class(rows), "kernels": by_kernel(rows)}
    if given.page:
        counts = {"layers": layers.total(), "problems": len(layers)}
        given.page.write_text(PAGE.format(**counts) + "\n".join(map(markdown, found, found.values())))
    print(json.dumps({"benchmark": "floor", "triton": version("triton"), "devices": found}))


def estimated(layers: Counter[Problem], device: Device) -> list[Row]:
    """Return a row for each layer, those of one problem alike."""
    with ProcessPoolExecutor() as processes:
        rows = processes.map(partial(row_of, device=device), layers, chunksize=8)
        return [row for row, count in zip(rows, layers.values(), strict=True) for _ in range(count)]


def row_of(problem: Problem, device: Device) -> Row:
    """Return a problem's best estimate beside its floor."""
    config, seconds = best_guess(problem, device)
    return Row(problem, config, seconds, floor_seconds(problem, device))


def line(row: Row, device: str) -> dict[str, Any]:
    """Return what is written of a problem's best estimate."""
    return {
        "device": device,
        "problem": str(row.problem),
        "config": row.config.document(),
        "estimated_us": round(row.seconds * 1e6, 2),
        "floor_us": round(row.floor * 1e6, 2),
    }


def kind(problem: Problem) -> str:
    """Return the class of a problem: what decides which kernels can be near the floor."""
    of_channels = problem.groups == problem.Cin == problem.Cout
    shape = (
        "depthwise" if of_channels and problem.groups > 1 else "grouped" if problem.groups > 1 else "dense"
    )
    size = "fp32" if problem.dtype == "float32" else "half"
    last = ", channels last" if problem.layout == "nlc" else ""
    if problem.op == "conv_transpose":
        return f"transposed {shape}, {size}{last}"
    if shape != "dense":
        return f"{shape}, {size}{last}"
    if problem.K == 1 and problem.stride == 1:
        return f"pointwise, {size}{last}"
    if problem.N >= CROWD and problem.L_out < SHORT:
        return f"dense, short with a batch, {size}{last}"
    return f"dense, {'strided' if problem.stride > 1 else 'stride 1'}, {size}{last}"


def figures(rows: list[Row]) -> dict[str, Any]:
    """Return how far these rows are above their floors."""
    ratios = sorted(row.ratio for row in rows if row.floor > ABOVE)
    cuts = statistics.quantiles(ratios, n=20, method="inclusive") if len(ratios) > 1 else ratios * 19
    return {
        "rows": len(rows),
        "rows_above_20_us": len(ratios),
        "floor_ms": round(sum(row.floor for row in rows) * 1e3, 2),
        "ratio_by_time": round(sum(row.seconds for row in rows) / sum(row.floor for row in rows), 3),
        "median": round(cuts[9], 2) if cuts else None,
        "p90": round(cuts[17], 2) if cuts else None,
        "p95": round(cuts[18], 2) if cuts else None,
        "baseline_rows": sum(row.config.kernel == BASELINE for row in rows),
    }


def by_class(rows: list[Row]) -> dict[str, Any]:
    """Return the figures of each class, the most time above the floor first."""
    classes: dict[str, list[Row]] = {}
    for row in rows:
        classes.setdefault(kind(row.problem), []).append(row)
    lost = {name: sum(row.seconds - row.floor for row in of_class) for name, of_class in classes.items()}
    return {name: figures(classes[name]) for name in sorted(lost, key=lambda name: -lost[name])}


def by_kernel(rows: list[Row]) -> dict[str, int]:
    """Return how many rows each kernel is the best estimate of."""
    return dict(Counter(row.config.kernel for row in rows).most_common())


def markdown(device: str, found: dict[str, Any]) -> str:
    """Return the tables of one device."""
    head = ["rows", "floor, ms", "ratio by time", "rows over 20 us", "median", "p90", "p95", "baseline"]
    names = ["rows", "floor_ms", "ratio_by_time", "rows_above_20_us", "median", "p90", "p95", "baseline_rows"]
    lines = [f"## {device}", "", "| class | " + " | ".join(head) + " |", "| --- |" + " ---: |" * len(head)]
    for title, row in [("all", found["all"]), *found["classes"].items()]:
        cells = ["" if row[name] is None else str(row[name]) for name in names]
        lines.append(f"| {title} | " + " | ".join(cells) + " |")
    kernels = ", ".join(f"{name} {count}" for name, count in found["kernels"].items())
    return "\n".join([*lines, "", f"Best estimates by kernel: {kernels}.", ""])


if __name__ == "__main__":
    main()
