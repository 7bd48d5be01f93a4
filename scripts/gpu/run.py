"""Prove every kernel on the GPU here, measure what the model predicts, and bring the results home.

    python scripts/gpu/run.py DIR [--only STAGE ...]

Runs the stages below one after the other, each in a process of its own with a time limit, ten minutes in all.
What a stage leaves in DIR stays there whatever becomes of the next; `summary.md` and `summary.json` say what
passed, what was measured, and how far the model was off.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent
PYTEST = ("-m", "pytest", "-q", "-rfE", "-p", "no:cacheprovider", "--tb=short", "-W", "default")


@dataclass(frozen=True)
class Stage:
    """One step: a command for Python, in which {out} is the folder of results, and its time limit."""

    name: str
    command: Sequence[str]
    seconds: float


STAGES = (
    Stage("machine", ("scripts/gpu/machine.py", "{out}"), 40),
    Stage("numerics", (*PYTEST, "-n", "12", "tests/gpu/test_launches.py", "tests/gpu/test_numerics.py"), 140),
    Stage("stores", ("scripts/gpu/stores.py", "{out}"), 40),
    Stage("calls", ("scripts/gpu/calls.py", "{out}"), 40),
    Stage("layers", ("scripts/gpu/layers.py", "{out}"), 220),
    Stage("sweeps", (*PYTEST, "tests/gpu/test_tuning.py"), 85),
    Stage("profile", ("scripts/gpu/profile.py", "{out}"), 45),
    Stage("export", ("-m", "autoconv", "db", "export", "--output", "{out}/export.jsonl"), 20),
)


def main() -> int:
    """Run the stages; return 0 if all of them passed."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("out", type=Path)
    parser.add_argument("--only", nargs="+", choices=[stage.name for stage in STAGES])
    parser.add_argument("--seconds", type=float, help="limit of the stage of layers")
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    environment = {
        **os.environ,
        "AUTOCONV_DB": str(given.out / "tuning.db"),
        "AUTOCONV_CACHE": os.environ.get("AUTOCONV_CACHE", "/tmp/autoconv-gpu-cache"),
    }
    results = {}
    for stage in STAGES:
        if given.only and stage.name not in given.only:
            continue
        seconds = given.seconds if given.seconds and stage.name == "layers" else stage.seconds
        results[stage.name] = run(stage, given.out, seconds, environment)
        (given.out / "stages.json").write_text(json.dumps(results, indent=1) + "\n")
    return 0 if all(result["rc"] == 0 for result in results.values()) else 1


def run(stage: Stage, out: Path, seconds: float, environment: Mapping[str, str]) -> dict[str, object]:
    """Run one stage, its output to DIR/STAGE.log and its end to the terminal; return what became of it."""
    command = [sys.executable, *(word.format(out=out) for word in stage.command)]
    begun = time.monotonic()
    log = out / f"{stage.name}.log"
    with log.open("w") as written:
        process = subprocess.Popen(
            command,
            cwd=HERE.parents[1],
            stdout=written,
            stderr=subprocess.STDOUT,
            env=environment,
            start_new_session=True,
        )
        try:
            rc = process.wait(seconds)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, 15)
            try:
                rc = process.wait(5)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, 9)
                rc = process.wait()
    took = time.monotonic() - begun
    print(f"== {stage.name}: rc {rc}, {took:.0f} s", flush=True)
    print("\n".join(line[:260] for line in log.read_text(errors="replace").splitlines()[-40:]), flush=True)
    return {"rc": rc, "seconds": round(took, 1)}


if __name__ == "__main__":
    sys.exit(main())
