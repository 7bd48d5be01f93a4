"""Sweeps by the real code with workers that keep a script; a cluster's nodes find it by way of sys.path."""

from __future__ import annotations

import random
import time
from collections.abc import Iterable, Iterator
from typing import Any

from autoconv.compiler.resources import Resources
from autoconv.sweep.outcomes import Failed
from autoconv.sweep.sweep import Swept, sweep
from autoconv.sweep.tasks import Compile, Task, Verify
from autoconv.sweep.verify import Verdict

TASK_SECONDS = 0.05
KILL_SECONDS = 2.0  # in which a test has killed the node that it was told of


class Scripted:
    """Answers every task by what it is for, after a moment; of ten candidates about one fails."""

    def perform(self, tasks: Iterable[Task[Any]], *_: Any, **__: Any) -> Iterator[Any]:
        return map(self._answer, tasks)

    def _answer(self, task: Task[Any]) -> Any:
        if not isinstance(task, (Compile, Verify)):
            return True
        time.sleep(TASK_SECONDS)
        draw = random.Random(f"{type(task).__name__} {task.problem} {task.config}")
        if draw.random() < 0.1:
            return Failed("made to fail")
        if isinstance(task, Compile):
            return Resources(draw.randrange(32, 200), spills=0, shared=draw.randrange(1 << 14))
        return Verdict(True, 1e-7, unwritten=0, overrun=0, seed=0, problem="")


class ScriptedPool:
    def __init__(self) -> None:
        self.compilers = self.interpreters = self.gpu = Scripted()


def scripted(
    problem: Any, job: Any, database: Any, _pool: Any, progress: Any, priors: Any, **how: Any
) -> Swept:
    import ray

    progress(f"on {ray.get_runtime_context().get_node_id()}", 0, 1)  # which a test may kill now
    return sweep(problem, job, database, ScriptedPool(), progress, priors, **how)  # type: ignore[arg-type]


def halfway(
    problem: Any, job: Any, database: Any, _pool: Any, progress: Any, priors: Any, **how: Any
) -> Swept:
    """Say which node it is, which a test may kill then, once the first trials have been told of."""
    import ray

    here = f"on {ray.get_runtime_context().get_node_id()}"

    def told(doing: str, done: int, of: int) -> None:
        halfway = (doing, done) == ("check", 3)
        progress(here if halfway else doing, done, of)
        time.sleep(KILL_SECONDS * halfway)

    return sweep(problem, job, database, ScriptedPool(), told, priors, **how)  # type: ignore[arg-type]
