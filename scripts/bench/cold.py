"""What a fresh process pays before its convolutions are hits, beside torch's own; and what a plan takes.

Each column is a process of its own. The kernel is on record, as after `autoconv tune`; its cubin is in the
cache in one column, as after a first process, and not in the other. Launches are recorded, as for a GPU that
is not here, so what CUDA itself takes to start, to load a cubin and to launch comes on top, in both; torch's
column computes on the CPU, so only its import and its first call tell. Prints one JSON object.

    python scripts/bench/cold.py
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
import tracemalloc
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

CALLS = 1000
PLANS = 100


def main() -> None:
    """Measure in fresh processes, one after the other, and print what they took."""
    from dispatch import environment

    with tempfile.TemporaryDirectory() as folder:
        files = {"AUTOCONV_DB": f"{folder}/tuning.db", "AUTOCONV_CACHE": f"{folder}/cache"}
        found = {"torch": of_process("torch", {})}
        of_process("record", files)
        found["compiled in the call"] = of_process("autoconv", files)
        found["compiled before"] = of_process("autoconv", files)
        memory = of_process("memory", files)
    print(json.dumps({"benchmark": "cold", "environment": environment(), "ms": found, **memory}))


def of_process(what: str, files: dict[str, str]) -> dict[str, Any]:
    """Return what a fresh process prints that does `what`: one of `TASKS`."""
    command = [sys.executable, __file__, what]
    rest = {"AUTOCONV_ON_MISS": "predict", **files}
    done = subprocess.run(command, env={**os.environ, **rest}, capture_output=True, text=True, check=True)
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


def timed(work: Callable[[], object]) -> float:
    """Return how long `work` took, in milliseconds."""
    begun = time.perf_counter()
    work()
    return round(1e3 * (time.perf_counter() - begun), 3)


def starting(autoconv_s: bool) -> dict[str, float]:
    """Return the times of the imports and of the first calls."""
    took = {"import torch": timed(lambda: __import__("torch"))}
    if autoconv_s:
        took["import autoconv"] = timed(lambda: __import__("autoconv"))
    import torch

    conv1d: Callable[..., object] = torch.nn.functional.conv1d
    context: Any = nullcontext()
    if autoconv_s:
        import autoconv

        took["its functions"] = timed(lambda: autoconv.conv1d)
        conv1d = autoconv.conv1d
        took["Triton, kernels and the recording driver"] = timed(lambda: autoconv.recorded)
        context = autoconv.recorded("rtx4090")
    took["the dispatcher"] = timed(lambda: context.__enter__())
    x, weight = torch.zeros(2, 32, 128), torch.zeros(32, 32, 3)
    with torch.no_grad():
        calls = [timed(lambda: conv1d(x, weight, None, 1, 0, 2)) for _ in range(CALLS)]
    chosen = {"first call": 0, "second call": 1, "third call": 2, f"call {CALLS}": CALLS - 1}
    return took | {name: calls[place] for name, place in chosen.items()}


def record() -> dict[str, float]:
    """Put the kernel of `dispatch` on record, and import all once, so that no column is the first to."""
    import dispatch

    from autoconv.device import find
    from autoconv.environment import Environment

    target = find(dispatch.DEVICE)
    dispatch.remember(dispatch.PROBLEM, dispatch.CONFIG, Environment.current(target))
    return {}


def memory() -> dict[str, float]:
    """Return what plans hold of Python's memory, of calls that share their compiled kernels, in bytes."""
    import torch

    import autoconv

    weight = torch.zeros(32, 32, 3)
    # Lengths that the one on record serves as a bucket: a guess for each would take minutes.
    inputs = [torch.zeros(2, 32, length) for length in range(130, 150 + PLANS)]
    with torch.no_grad(), autoconv.recorded("rtx4090") as launches:

        def call(some: list[torch.Tensor]) -> None:
            for x in some * 2:
                autoconv.conv1d(x, weight, None, 1, 0, 2)
            launches.clear()

        call(inputs[:20])
        tracemalloc.start()
        call(inputs[20:])
        held, _ = tracemalloc.get_traced_memory()
    return {"bytes_of_a_plan": round(held / PLANS)}


TASKS: dict[str, Callable[[], dict[str, float]]] = {
    "torch": lambda: starting(False),
    "autoconv": lambda: starting(True),
    "record": record,
    "memory": memory,
}


if __name__ == "__main__":
    if len(sys.argv) > 1:
        print(json.dumps(TASKS[sys.argv[1]]()))
    else:
        main()
