"""Prove every kernel on the GPU here, measure what the model predicts, and bring the results home.

    python -m scripts.gpu.run DIR [--only STAGE ...] [--rehearse DEVICE]

Runs the stages below one after the other, each in a process of its own with a time limit, ten minutes in all.
What a stage leaves in DIR stays there whatever becomes of the next; `summary.md` and `summary.json` say what
passed, what was measured, and how far the model was off. `python -m scripts.gpu.adopt DIR` takes it into the
project. The stage "models" takes nine minutes more: it runs where it is named.

--rehearse goes through all of it without a GPU, as far as its touch: candidates are compiled, times are
scripted, and nothing of it can be adopted.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from autoconv import device as devices
from autoconv import gpu
from scripts.gpu.summary import loaded

ROOT = Path(__file__).resolve().parents[2]
PYTEST = ("pytest", "-q", "-rfEs", "-p", "no:cacheprovider", "--tb=short", "-W", "default")
GRACE_SECONDS = 5.0  # from a stage's request to end to its kill
PARALLEL = ("-n", str(min(12, os.cpu_count() or 1)))  # each with a worker of its own on the GPU
TAIL = 40  # lines of a stage's log that the terminal gets


@dataclass(frozen=True)
class Stage:
    """One step: a module and its arguments, in which {out} is the folder of results, and its time limit."""

    name: str
    command: Sequence[str]
    seconds: float
    rehearsed: bool = True  # whether something of it runs without a GPU
    usual: bool = True  # whether it runs without being named


STAGES = (
    Stage("machine", ("scripts.gpu.machine", "{out}"), 25),
    Stage("numerics", (*PYTEST, *PARALLEL, "tests/gpu/test_launches.py", "tests/gpu/test_numerics.py"), 100),
    Stage("layers", ("scripts.gpu.layers", "{out}"), 310),
    Stage("sweeps", (*PYTEST, "tests/gpu/test_tuning.py"), 80),
    Stage("calls", ("scripts.gpu.calls", "{out}"), 20, rehearsed=False),
    Stage("stores", ("scripts.gpu.stores", "{out}"), 20, rehearsed=False),
    Stage("counters", ("scripts.gpu.counters", "{out}"), 30, rehearsed=False),
    Stage("models", ("scripts.gpu.models", "{out}"), 540, rehearsed=False, usual=False),
    Stage("export", ("autoconv", "db", "export", "--output", "{out}/export.jsonl"), 15),
)


def main() -> int:
    """Run the stages and sum them up; return 0 if all of them passed, 2 where there is no GPU."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("out", type=Path)
    parser.add_argument("--only", nargs="+", choices=[stage.name for stage in STAGES])
    parser.add_argument("--rehearse", metavar="DEVICE", choices=devices.names())
    given = parser.parse_args()
    if not given.rehearse and not gpu.present():
        print("no CUDA device here: nothing was run (--rehearse DEVICE goes as far as its touch)")
        return 2
    out = given.out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    stages = [stage for stage in STAGES if (stage.name in given.only if given.only else stage.usual)]
    results = loaded(out / "stages.json")  # of the stages that ran before, by --only
    for stage in stages:
        results[stage.name] = run(stage, out, given.rehearse)
        (out / "stages.json").write_text(json.dumps(results, indent=1) + "\n")
    summed = subprocess.run([sys.executable, "-m", "scripts.gpu.summary", str(out)], cwd=ROOT)
    return max(summed.returncode, *(int(results[stage.name]["rc"] != 0) for stage in stages))


def run(stage: Stage, out: Path, rehearse: str | None) -> dict[str, Any]:
    """Run one stage, its output to DIR/STAGE.log and its end to the terminal; return what became of it."""
    if rehearse and not stage.rehearsed:
        return {"rc": 0, "seconds": 0.0, "skipped": "needs the GPU itself"}
    command = [sys.executable, "-m", *(word.format(out=out) for word in stage.command)]
    if rehearse and stage.command[0].startswith("scripts."):
        command += ["--rehearse", rehearse]
    begun = time.monotonic()
    log = out / f"{stage.name}.log"
    with log.open("w") as written:
        rc = _finished(command, written, stage.seconds, _environment(out))
    took = time.monotonic() - begun
    print(f"== {stage.name}: exit {rc}, {took:.0f} s", flush=True)
    print("\n".join(log.read_text(errors="replace").splitlines()[-TAIL:]), flush=True)
    return {"rc": rc, "seconds": round(took, 1)}


def _environment(out: Path) -> Mapping[str, str]:
    """Return the environment of a stage: its database and caches lie in DIR, and nobody else's count."""
    return {
        **os.environ,
        "AUTOCONV_DB": str(out / "tuning.db"),
        "AUTOCONV_CACHE": str(out / "cache"),
        "PYTHONUNBUFFERED": "1",
    }


def _finished(command: Sequence[str], log: Any, seconds: float, environment: Mapping[str, str]) -> int:
    """Return the exit status of `command`, which is ended, and all that it started, after `seconds`."""
    process = subprocess.Popen(
        command, cwd=ROOT, stdout=log, stderr=subprocess.STDOUT, env=environment, start_new_session=True
    )
    for patience, how in ((seconds, signal.SIGTERM), (GRACE_SECONDS, signal.SIGKILL)):
        try:
            return process.wait(patience)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, how)
    return process.wait()


if __name__ == "__main__":
    sys.exit(main())
