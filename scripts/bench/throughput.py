"""How busy the cores are when many problems are tuned: against one process that compiles in a loop.

    python scripts/bench/throughput.py [--problems 8] [--rounds 3] [--device rtx4090] [--effort quick]

Compiled are the shortlists of problems of several module shapes, with caches that are empty every time. In
turns:

- `serial`: triton.compile of each candidate, by its JIT's warmup, one after the other in one process;
- `tuned`: `autoconv.tuning.scheduler`, with as many problems at once as there are cores: estimates,
  compilation, reading the cubins, checks in the interpreter, the database, and the start of the workers.

Both in candidates a second. A loaded machine gives neither all its cores: `cores` is what the processes of
`tuned` had of them, their CPU time over the wall time. Prints one JSON object.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from importlib.metadata import version

import torch

from autoconv import settings
from autoconv.compiler.folders import compiling
from autoconv.compiler.recording import recording
from autoconv.config import Config
from autoconv.kernels.registry import kernel as kernel_called
from autoconv.problem import Problem
from autoconv.sweep.candidates import candidates, shortlist
from autoconv.targets import Target, target
from autoconv.tuning.effort import EFFORTS
from autoconv.tuning.scheduler import Order, tune_all

TINY = {"BLOCK_CO": 16, "BLOCK_L": 16, "BLOCK_R": 16, "num_warps": 2, "num_stages": 2}
SHAPE = Problem(4, 64, 64, 3, 4096, padding=1)


def main() -> None:
    """Measure both in turns, and print medians and their ratio."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--problems", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--device", default="rtx4090")
    parser.add_argument("--effort", default="quick", choices=EFFORTS)
    parser.add_argument("--serial", action="store_true", help="measure that alone, once")
    given = parser.parse_args()
    problems = [
        replace(SHAPE, Cin=32 * n, Cout=32 * n, K=1 + 2 * (n % 4)) for n in range(1, given.problems + 1)
    ]
    if given.serial:
        with own_files(given.device) as at:
            print(json.dumps(compile_all(problems, at, EFFORTS[given.effort].shortlist)))
        return
    rounds = [one_round(problems, given.device, given.effort) for _ in range(given.rounds)]
    medians = {name: statistics.median(one[name] for one in rounds) for name in rounds[0]}
    print(
        json.dumps(
            {
                "benchmark": "throughput",
                "problems": len(problems),
                "device": given.device,
                "effort": given.effort,
                "cores_here": os.cpu_count(),
                "load": os.getloadavg(),
                "median": {name: round(value, 3) for name, value in medians.items()},
                "ratio": round(medians["tuned_per_s"] / medians["serial_per_s"], 3),
                "rounds": rounds,
                "environment": {name: version(name) for name in ("torch", "triton")}
                | {"python": platform.python_version()},
            }
        )
    )


def one_round(problems: Sequence[Problem], device: str, effort: str) -> dict[str, float]:
    """Return the figures of one turn of each, which compile the same candidates."""
    with own_files(device) as at:
        tuned = _tuned(problems, at, effort)
    return {**tuned, **_serial(problems, device, effort)}


@contextmanager
def own_files(device: str) -> Iterator[Target]:
    """Give a target whose database and caches are empty, and gone after the block."""
    with tempfile.TemporaryDirectory() as folder:
        files = {"AUTOCONV_DB": f"{folder}/tuning.db", "AUTOCONV_CACHE": f"{folder}/cache"}
        with settings.environment(**files):
            yield target(device, print)


def _tuned(problems: Sequence[Problem], at: Target, effort: str) -> dict[str, float]:
    job = at.job(effort=EFFORTS[effort])
    orders = [Order(problem, job, worth=1.0) for problem in problems]
    before, begun = _cpu_seconds(), time.monotonic()
    compiled = 0
    for ended in tune_all(orders, lambda order, pool, progress: at.tuner.tune(
        order.problem, order.job, again=True, pool=pool, progress=progress
    )):  # fmt: skip
        assert ended.tuned is not None and ended.tuned.swept is not None, ended.error
        compiled += ended.tuned.swept.compiled
    seconds = time.monotonic() - begun
    return {
        "tuned_per_s": compiled / seconds,
        "tuned_candidates": compiled,
        "tuned_s": seconds,
        "cores": (_cpu_seconds() - before) / seconds,
    }


def _cpu_seconds() -> float:
    """Return the CPU time of this process and of those it has waited for."""
    usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def _serial(problems: Sequence[Problem], device: str, effort: str) -> dict[str, float]:
    """Compile the same candidates in a process of its own, whose JIT has compiled none of them."""
    arguments = ["--serial", "--problems", str(len(problems)), "--device", device, "--effort", effort]
    done = subprocess.run([sys.executable, __file__, *arguments], capture_output=True, text=True, check=True)
    found: dict[str, float] = json.loads(done.stdout)
    return found


def compile_all(problems: Sequence[Problem], at: Target, count: int) -> dict[str, float]:
    """Compile the shortlists one after the other; the clock starts when all is imported and chosen."""
    chosen = [
        (problem, config)
        for problem in problems
        for config in shortlist(problem, candidates(problem, at.device), at.device, count)
    ]
    compile_alone(Problem(1, 16, 16, 1, 16), Config.from_json("dense", TINY), at)  # all that is loaded late
    begun = time.monotonic()
    failed = sum(not compile_alone(*pair, at) for pair in chosen)
    seconds = time.monotonic() - begun
    return {"serial_per_s": (len(chosen) - failed) / seconds, "serial_s": seconds}


def compile_alone(problem: Problem, config: Config, at: Target) -> bool:
    """Compile one candidate as Triton's own JIT does; return whether it compiles."""
    launch = kernel_called(config.kernel).main_launch(problem, config)
    dtype = getattr(torch, problem.dtype)
    tensors = {"x": dtype, "w": dtype, "b": None, "y": dtype, "partials": torch.float32}
    try:
        with recording(at.device), compiling():
            launch.jit.warmup(
                *(tensors[name] for name in launch.tensors), grid=launch.grid, **launch.keywords
            )
    except Exception:  # Triton and ptxas raise of every type on what they cannot compile
        return False
    return True


if __name__ == "__main__":
    main()
