"""A worker process: reads one task a line on standard input, answers one line each on standard output.

`python -m autoconv.sweep.worker` is started by `pool`. A process either interprets kernels
(TRITON_INTERPRET=1, decided by its parent before Triton is imported) or compiles and runs them, and
whatever a candidate does to it, up to killing it, costs the parent one task.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from dataclasses import asdict
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from autoconv.config import Config
from autoconv.device import Device
from autoconv.problem import Problem
from autoconv.sweep.outcomes import Unavailable, outcome_of

if TYPE_CHECKING:
    from autoconv.sweep.tasks import Reply, Task


def _compile(problem: Problem, config: Config, task: Task) -> Reply:
    """Cross-compile for the device given; the reply is the candidate's Resources."""
    from autoconv.compiler.candidate import compile_candidate

    device = Device.from_json(task["device"])
    return asdict(compile_candidate(problem, config, device, Path(task["cache"])))


def _verify(problem: Problem, config: Config, task: Task) -> Reply:
    """Check the candidate's output on `task["where"]`, cpu or cuda:N; the reply is a Verdict."""
    from autoconv.gpu import using
    from autoconv.sweep.verify import verify

    with using(task["where"]):
        return asdict(verify(problem, config, where=task["where"], seed=task["seed"]))


def _time(problem: Problem, config: Config, task: Task) -> Reply:
    """Time the candidate on the GPU; the reply holds its samples in microseconds."""
    from autoconv.gpu import using
    from autoconv.sweep.timing import time_candidate

    where = task["where"]
    with using(where):
        return {"samples_us": time_candidate(problem, config, where=where, seconds=task["seconds"])}


def _open(task: Task) -> Reply:
    """Be ready for tasks on a GPU; the reply holds the bytes free on it."""
    from autoconv.sweep import timing, verify  # noqa: F401 - imported now, while no clock runs
    from autoconv.sweep.preflight import open_device

    return {"free_bytes": open_device(task["ordinal"], task["device"])}


# Imported when first needed: torch alone takes seconds, which are not the candidate's.
_NEEDED = {
    "open": "autoconv.sweep.preflight",
    "compile": "autoconv.compiler.candidate",
    "verify": "autoconv.sweep.verify",
    "time": "autoconv.sweep.timing",
}

_TASKS: dict[str, Callable[[Problem, Config, Task], Reply]] = {
    "compile": _compile,
    "verify": _verify,
    "time": _time,
}


def perform(task: Task) -> Reply:
    """Do one task; what fails is the reply's `error` or, no fault of the candidate's, `unavailable`."""
    try:
        if task["do"] == "load":
            import_module(_NEEDED[task["what"]])
            return {}
        if task["do"] == "open":
            return _open(task)
        problem = Problem.parse(task["problem"])
        config = Config.from_document(task["config"])
        return _TASKS[task["do"]](problem, config, task)
    except (
        Exception
    ) as error:  # Triton, ptxas and CUDA raise of every type: `outcome_of` tells whose fault it is
        outcome = outcome_of(error)
        return {"unavailable" if isinstance(outcome, Unavailable) else "error": outcome.reason}


def main() -> None:
    """Serve tasks until standard input ends, as it does when the parent dies."""
    # Compilers print: what they print goes to standard error, the answers alone to the parent.
    with os.fdopen(os.dup(1), "w", buffering=1) as answers:
        os.dup2(2, 1)
        for line in sys.stdin:
            answers.write(json.dumps(perform(json.loads(line))) + "\n")


if __name__ == "__main__":
    main()
