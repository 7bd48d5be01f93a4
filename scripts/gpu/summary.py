"""Sum a run up: what passed, what was measured, and how far the model was off, by kernel.

    python -m scripts.gpu.summary DIR

Writes DIR/summary.json and DIR/summary.md, and prints the latter.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from autoconv.kernels.aten import ATEN

Row = Mapping[str, Any]


def main() -> None:
    """Read what the stages left, and write both forms."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("out", type=Path)
    out = parser.parse_args().out
    found = summed(out)
    (out / "summary.json").write_text(json.dumps(found, indent=1) + "\n")
    text = markdown(found)
    (out / "summary.md").write_text(text)
    print(text)


def summed(out: Path) -> dict[str, Any]:
    """Return the summary of the results in `out`, of which any may be missing."""
    machine = loaded(out / "machine.json")
    layers = rows(out / "layers.jsonl")
    return {
        "rehearsal": machine.get("rehearsal", False),
        "machine": machine,
        "stages": loaded(out / "stages.json"),
        "tests": {name: last_line(out / f"{name}.log") for name in ("numerics", "sweeps")},
        "calls": loaded(out / "calls.json").get("host_us", {}),
        "stores": loaded(out / "stores.json"),
        "layers": [layer(row) for row in layers],
        "models": [forward for row in rows(out / "models.jsonl") for forward in forwards(row)],
        "first_calls": loaded(out / "first.json"),
        "torch_over_ours": against_torch(layers),
        "model": by_kernel(layers),
    }


def loaded(path: Path) -> dict[str, Any]:
    """Return a JSON object of a file, empty where a stage did not come so far."""
    return dict(json.loads(path.read_text())) if path.exists() else {}


def rows(path: Path) -> list[dict[str, Any]]:
    """Return the lines of a JSON Lines file."""
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def last_line(log: Path) -> str | None:
    """Return the last line of a log, where pytest says how it went."""
    lines = log.read_text(errors="replace").split("\n") if log.exists() else []
    return next((line for line in reversed(lines) if line.strip()), None)


def layer(row: Row) -> dict[str, Any]:
    """Return what a table shows of a layer, times in microseconds."""
    best = row["best"] or {"us": None, "predicted_us": None, "config": {"kernel": None}}
    return {
        "layer": row["layer"],
        "problem": row["problem"],
        "kernel": best["config"]["kernel"],
        "measured_us": best["us"],
        "predicted_us": best["predicted_us"],
        "first_guess_us": row["first_us"],
        "torch_us": row["torch_us"],
        "torch_benchmark_us": row["torch_benchmark_us"],
        "floor_us": row["floor_us"],
        "outcomes": row["outcomes"],
    }


def forwards(row: Row) -> list[dict[str, Any]]:
    """Return what a table shows of a model at each size, times in microseconds."""
    return [
        {
            "model": row["model"],
            "swept": row["swept"],
            "unfinished": row["unfinished"],
            "size": forward["size"],
            "graph_us": forward["graph_us"],
            "eager_us": forward["eager_us"],
            "calls": forward["calls"],
            "by_torch": forward["by_torch"],
        }
        for forward in row["forwards"]
    ]


def by_kernel(layers: Iterable[Row]) -> dict[str, dict[str, float]]:
    """Return by kernel how predicted and measured times compare, over all configs that were timed."""
    ratios: dict[str, list[float]] = defaultdict(list)
    for row in layers:
        for trial in (*row["trials"], *row["sampled"]):
            if trial["us"] is not None and trial["config"]["kernel"] != ATEN.kernel:
                ratios[trial["config"]["kernel"]].append(trial["predicted_us"] / trial["us"])
    every = [ratio for of_kernel in ratios.values() for ratio in of_kernel]
    table = {**dict(sorted(ratios.items())), **({"all": every} if every else {})}
    return {name: compared(of_kernel) for name, of_kernel in table.items()}


def compared(ratios: list[float]) -> dict[str, float]:
    """Return count, median ratio, and the typical and the 90th percentile of the error in percent."""
    errors = sorted(100 * abs(ratio - 1) for ratio in ratios)
    return {
        "configs": len(ratios),
        "median_ratio": round(statistics.median(ratios), 3),
        "median_error_pct": round(statistics.median(errors), 1),
        "p90_error_pct": round(errors[min(len(errors) - 1, int(0.9 * len(errors)))], 1),
    }


def against_torch(layers: Iterable[Row]) -> dict[str, Any]:
    """Return how torch's better time compares with ours, and the layers that torch wins."""
    ratios = {
        row["layer"]: min(row["torch_us"], row["torch_benchmark_us"]) / row["best"]["us"]
        for row in layers
        if row["best"]
    }
    if not ratios:
        return {}
    return {
        "geometric_mean": round(statistics.geometric_mean(ratios.values()), 2),
        "median": round(statistics.median(ratios.values()), 2),
        "torch_wins": [name for name, ratio in ratios.items() if ratio < 1],
    }


def told_against_torch(found: Mapping[str, Any]) -> str:
    """Return `against_torch` in words."""
    ratio = found["torch_over_ours"]
    if not ratio:
        return ""
    wins = ", ".join(ratio["torch_wins"]) or "none"
    return (
        f"Torch's better time over ours: {ratio['median']} in the median, {ratio['geometric_mean']} as a "
        f"geometric mean. Torch wins, and so serves: {wins}."
    )


def markdown(found: Mapping[str, Any]) -> str:
    """Return the summary as text of at most 100 lines."""
    parts = []
    if found["rehearsal"]:
        parts.append("**A rehearsal: no GPU was touched, and no time here is measured.**")
    environment = found["machine"].get("environment") or {}
    versions = {**found["machine"].get("versions", {}), **environment}
    told = ("device", "cuda_driver", "triton_patch", "torch", "power_limit_w")
    parts.append(", ".join(f"{name} {versions[name]}" for name in told if versions.get(name) is not None))
    parts.append(stages(found))
    parts.append(pairs("The machine reaches, GB/s", found["machine"].get("gbps", {})))
    parts.append(
        pairs("and, TFLOP/s by torch's products of large matrices", found["machine"].get("tflops", {}))
    )
    parts.append(pairs("A call costs the host, us", found["calls"]))
    parts.append(pairs("Stores, us", {name: row["us"] for name, row in found["stores"].items()}))
    parts.append(layer_table(found["layers"], "scripted" if found["rehearsal"] else "measured"))
    parts.append(told_against_torch(found))
    parts.append(forward_table(found["models"]))
    if not found["rehearsal"]:
        parts.append(model_table(found["model"]))
    return "\n\n".join(part for part in parts if part) + "\n"


def stages(found: Mapping[str, Any]) -> str:
    """Return a table of the stages."""
    lines = ["| stage | exit | seconds | |", "| --- | --- | --- | --- |"]
    for name, row in found["stages"].items():
        said = row.get("skipped") or found["tests"].get(name) or ""
        lines.append(f"| {name} | {row['rc']} | {row['seconds']} | {said} |")
    return "\n".join(lines)


def pairs(title: str, values: Mapping[str, Any]) -> str:
    """Return values by name in one line, or nothing of none."""
    return f"{title}: " + "; ".join(f"{name} {value}" for name, value in values.items()) if values else ""


def layer_table(layers: Iterable[Row], provenance: str = "measured") -> str:
    """Return a table of layers, in microseconds; measured and predicted in columns of their own."""
    names = (provenance, "first guess", "torch", "with benchmark", "predicted", "floor")
    lines = [f"| layer | kernel | {' | '.join(names)} |", "| --- " * (2 + len(names)) + "|"]
    for row in layers:
        times = (
            row["measured_us"], row["first_guess_us"], row["torch_us"], row["torch_benchmark_us"],
            row["predicted_us"], row["floor_us"],
        )  # fmt: skip
        shown = " | ".join("-" if us is None else f"{us:.1f}" for us in times)
        lines.append(f"| {row['layer']} | {row['kernel'] or '-'} | {shown} |")
    return "\n".join(lines) if len(lines) > 2 else ""


def forward_table(models: Iterable[Row]) -> str:
    """Return a table of whole models' forwards, in microseconds: as a captured graph, and eager."""
    lines = [
        "| model | batch, length | torch | with benchmark | autoconv | torch, eager | ours, eager | served |",
        "| --- " * 8 + "|",
    ]
    for row in models:
        graph, eager = row["graph_us"], row["eager_us"]
        times = (*graph.values(), eager["torch"], eager["autoconv"])
        served = {**row["calls"], **{f"torch: {why}": calls for why, calls in row["by_torch"].items()}}
        told = ", ".join(f"{calls} {how}" for how, calls in served.items())
        shown = " | ".join(f"{us:.0f}" for us in times)
        lines.append(f"| {row['model']} | {', '.join(map(str, row['size']))} | {shown} | {told} |")
    return "\n".join(lines) if len(lines) > 2 else ""


def model_table(model: Mapping[str, Row]) -> str:
    """Return a table of the model's error."""
    if not model:
        return ""
    lines = ["| kernel | configs | predicted / measured | error, % | 90th percentile, % |"]
    lines.append("| --- | --- | --- | --- | --- |")
    for name, row in model.items():
        figures = (row["configs"], row["median_ratio"], row["median_error_pct"], row["p90_error_pct"])
        lines.append(f"| {name} | {' | '.join(map(str, figures))} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
