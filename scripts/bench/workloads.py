"""Compile and check candidates for every layer of a workload file; print a table by kernel.

    python scripts/bench/workloads.py WORKLOADS.json [--device rtx4090] [--results FILE] [--limit N]

The file is a JSON list of layers, each with N, Cin, Cout, K, L, stride, padding, dilation, groups, bias,
transposed, output_padding, dtype and input_contiguous. For each distinct problem the best estimates are
compiled for the device until CANDIDATES of them compile without spills, of different kernels where there are
several, and each is checked in Triton's interpreter on the problem reduced. Results go to the file that
--results names, a JSON line a problem, and what it has already is not done again.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

from autoconv import device as devices
from autoconv import settings
from autoconv.config import Config
from autoconv.cost.predict import estimate, estimate_seconds
from autoconv.device import Device
from autoconv.kernels.registry import supporting
from autoconv.kernels.source import sources
from autoconv.problem import Problem
from autoconv.sweep.outcomes import Outcome
from autoconv.sweep.pool import Workers
from autoconv.sweep.tasks import Compile, Verify
from autoconv.sweep.verify import Verdict

CANDIDATES = 2
BASELINE = "im2col_rows"  # not a fitting kernel for anything
TRIED = 24  # configs of a kernel, best estimates first, before it counts as unable
WORKERS = 2


def main() -> None:
    """Work through the file and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("workloads", type=Path)
    parser.add_argument("--device", default="rtx4090")
    parser.add_argument("--results", type=Path, default=Path("build/workloads.jsonl"))
    parser.add_argument("--limit", type=int, default=None, help="problems to do at most")
    given = parser.parse_args()
    device = devices.find(given.device)
    layers = Counter(str(problem_of(layer)) for layer in json.loads(given.workloads.read_text()))
    known = {row["problem"]: row for row in _rows(given.results) if row["kernels"] == sources()}
    wanted = sorted(set(layers) - set(known))[: given.limit]
    given.results.parent.mkdir(parents=True, exist_ok=True)
    with (
        given.results.open("a") as results,
        Workers(WORKERS, limit=300) as compilers,
        Workers(WORKERS, limit=300, interpret=True) as interpreters,
    ):
        for done, text in enumerate(wanted, start=1):
            row = survey(Problem.parse(text), device, compilers, interpreters)
            known[text] = row
            results.write(json.dumps(row) + "\n")
            results.flush()
            print(f"{done}/{len(wanted)} {text}", file=sys.stderr)
    found = summary(layers, known, device)
    print(json.dumps(found))
    print(_table(found), file=sys.stderr)


def problem_of(layer: dict[str, Any]) -> Problem:
    """Return the problem that one layer of the file poses."""
    padding = layer["padding"]
    return Problem(
        layer["N"],
        layer["Cin"],
        layer["Cout"],
        layer["K"],
        layer["L"],
        stride=layer["stride"],
        dilation=layer["dilation"],
        padding=(padding[0], padding[1]) if isinstance(padding, list) else padding,
        groups=layer["groups"],
        bias=layer["bias"],
        op="conv_transpose" if layer["transposed"] else "conv",
        output_padding=layer["output_padding"],
        dtype=layer["dtype"],
        layout="ncl" if layer["input_contiguous"] else "nlc",
    )


def survey(problem: Problem, device: Device, compilers: Workers, interpreters: Workers) -> dict[str, Any]:
    """Return the candidates of one problem: config, registers, spills, and the verdict."""
    chosen = []
    failures: list[str] = []
    for config in _in_turn(problem, device):
        (resources,) = compilers.perform([Compile(problem, config, device, settings.load().cache)])
        if isinstance(resources, Outcome):
            failures.append(f"{config}: {resources.reason[:200]}")
            continue
        if resources.spills or resources.unrunnable(config, device):
            continue
        chosen.append((config, resources))
        if len(chosen) == CANDIDATES:
            break
    verdicts = interpreters.perform([Verify.fresh(problem, config, on_gpu=False) for config, _ in chosen])
    return {
        "problem": str(problem),
        "kernels": sources(),
        "candidates": [
            {"config": config.document(), "registers": resources.registers, "verdict": _fields(verdict)}
            for (config, resources), verdict in zip(chosen, verdicts, strict=True)
        ],
        "failures": failures,
    }


def summary(layers: Counter[str], known: dict[str, dict[str, Any]], device: Device) -> dict[str, Any]:
    """Return the table by kernel, and the problems that fall short."""
    rows: Counter[str] = Counter()
    candidates: Counter[str] = Counter()
    worst: dict[str, dict[str, float]] = defaultdict(dict)
    short, wrong = [], []
    for text, count in layers.items():
        row = known.get(text)
        if row is None:
            continue
        if len(row["candidates"]) < CANDIDATES:
            short.append(text)
        rows.update({candidate["config"]["kernel"]: count for candidate in row["candidates"]})
        for candidate in row["candidates"]:
            kernel, verdict = candidate["config"]["kernel"], candidate["verdict"]
            candidates[kernel] += 1
            if not verdict.get("ok"):
                wrong.append({"problem": text, **candidate})
                continue
            dtype = Problem.parse(text).dtype
            worst[kernel][dtype] = max(worst[kernel].get(dtype, 0.0), verdict["max_rel_err"])
    return {
        "device": device.name,
        "environment": {
            "python": platform.python_version(),
            "triton": version("triton"),
            "torch": version("torch"),
            "kernels": sources(),
        },
        "layers": sum(layers.values()),
        "problems": len(layers),
        "done": sum(text in known for text in layers),
        "kernels": {
            kernel: {"layers": rows[kernel], "candidates": candidates[kernel], "worst_error": worst[kernel]}
            for kernel in sorted(candidates)
        },
        "fewer_than_wanted": short,
        "wrong": wrong,
    }


def _table(found: dict[str, Any]) -> str:
    """Return the figures by kernel, a line each."""
    lines = [f"{'kernel':<20}{'layers':>8}{'candidates':>12}  worst error"]
    for kernel, of_it in found["kernels"].items():
        worst = ", ".join(f"{dtype} {error:.1e}" for dtype, error in of_it["worst_error"].items())
        lines.append(f"{kernel:<20}{of_it['layers']:>8}{of_it['candidates']:>12}  {worst}")
    return "\n".join(lines)


def _in_turn(problem: Problem, device: Device) -> Iterator[Config]:
    """Yield the configs to try: each kernel's best estimate, then each kernel's second, and so on."""
    ranked = []
    for kernel in supporting(problem):
        if kernel.name == BASELINE:
            continue
        configs = list(kernel.space(problem, device))
        seconds = dict(zip(configs, estimate_seconds(problem, configs, device).tolist(), strict=True))
        ranked.append(sorted(configs, key=lambda config: (seconds[config], str(config)))[:TRIED])
    ranked.sort(key=lambda configs: estimate(problem, configs[0], device).seconds if configs else 0.0)
    for turn in range(TRIED):
        yield from (configs[turn] for configs in ranked if turn < len(configs))


def _fields(verdict: Verdict | Outcome) -> dict[str, Any]:
    return {"error": verdict.reason} if isinstance(verdict, Outcome) else asdict(verdict)


def _rows(file: Path) -> Iterator[dict[str, Any]]:
    if file.exists():
        yield from map(json.loads, file.read_text().splitlines())


if __name__ == "__main__":
    main()
