"""Compile the first guess for the layers of a workload file on several devices; print what became of them.

    python scripts/bench/floor.py WORKLOADS.json --devices h100-sxm,h200,... --results ESTIMATES
    python scripts/bench/guesses.py ESTIMATES [--sample N] [--results FILE]

The first guess is the config with the least estimated time, which is what runs where nothing was measured and
the policy is to predict. Each is to compile, to load within the limits of its device and to spill nothing.
A sample is the same N distinct problems for every device and run: those whose text has the least hash.
Results go to the file that --results names, a JSON line each; the table goes to standard error.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any

from autoconv import settings
from autoconv.compiler.resources import Resources
from autoconv.config import Config
from autoconv.device import Device, find
from autoconv.problem import Problem
from autoconv.sweep.outcomes import Outcome
from autoconv.sweep.pool import Workers
from autoconv.sweep.tasks import Compile

WORKERS = 2
TOGETHER = 64  # compiled before the next results are written


def main() -> None:
    """Compile the guesses and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("estimates", type=Path)
    parser.add_argument("--sample", type=int, default=None, help="distinct problems of each device")
    parser.add_argument("--results", type=Path, default=Path("build/guesses.jsonl"))
    given = parser.parse_args()
    guesses = [json.loads(line) for line in given.estimates.read_text().splitlines()]
    kept = sample({guess["problem"] for guess in guesses}, given.sample)
    rows = []
    with given.results.open("w") as results, Workers(WORKERS, limit=300) as compilers:
        for row in compiled([guess for guess in guesses if guess["problem"] in kept], compilers):
            rows.append(row)
            results.write(json.dumps(row) + "\n")
            results.flush()
    print(table(rows), file=sys.stderr)


def sample(problems: set[str], count: int | None) -> set[str]:
    """Return that many of the problems, always the same."""
    return set(sorted(problems, key=lambda text: sha256(text.encode()).hexdigest())[:count])


def compiled(guesses: list[dict[str, Any]], compilers: Workers) -> Iterator[dict[str, Any]]:
    """Yield each guess with what is wrong with it, if anything."""
    cache = settings.load().cache
    for first in range(0, len(guesses), TOGETHER):
        batch = guesses[first : first + TOGETHER]
        tasks = [
            Compile(
                Problem.parse(guess["problem"]),
                Config.from_document(guess["config"]),
                find(guess["device"]),
                cache,
            )
            for guess in batch
        ]
        for guess, task, taken in zip(batch, tasks, compilers.perform(tasks), strict=True):
            yield {
                **guess,
                "trouble": trouble(task.config, task.device, taken),
                "spills": 0 if isinstance(taken, Outcome) else taken.spills,
            }


def trouble(config: Config, device: Device, taken: Resources | Outcome) -> str | None:
    """Return why a first guess does not run, or None."""
    return taken.reason if isinstance(taken, Outcome) else taken.unrunnable(config, device)


def table(rows: list[dict[str, Any]]) -> str:
    """Return the counts by device, then every guess that does not run or spills."""
    lines = [f"{'device':<12}{'problems':>10}{'do not run':>12}{'spill':>7}{'sound':>7}"]
    for name in dict.fromkeys(row["device"] for row in rows):
        of_device = [row for row in rows if row["device"] == name]
        broken = sum(row["trouble"] is not None for row in of_device)
        spilling = sum(row["trouble"] is None and row["spills"] > 0 for row in of_device)
        sound = len(of_device) - broken - spilling
        lines.append(f"{name:<12}{len(of_device):>10}{broken:>12}{spilling:>7}{sound:>7}")
    for row in rows:
        if row["trouble"] or row["spills"]:
            wrong = row["trouble"] or f"{row['spills']} bytes spilled"
            lines.append(
                f"{row['device']}: {wrong[:100]}: {Config.from_document(row['config'])} | {row['problem']}"
            )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
