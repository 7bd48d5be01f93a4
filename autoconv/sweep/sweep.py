"""Tune one problem: candidates, pruned by estimate, compiled, checked, timed where a GPU is, recorded.

On a GPU torch's own convolution is timed before anything else. What is the machine's fault, or the moment's,
ends the sweep and is written down against no candidate.
"""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from autoconv.compiler.resources import Resources
from autoconv.config import Config
from autoconv.cost.model import predict_compiled
from autoconv.cost.prediction import Prediction
from autoconv.device import Device
from autoconv.environment import Environment
from autoconv.lookup import records
from autoconv.problem import Problem
from autoconv.sweep.candidates import candidates, leaders
from autoconv.sweep.measure import Bench
from autoconv.sweep.outcomes import Unavailable
from autoconv.sweep.pool import Crew, Pool
from autoconv.sweep.tasks import Reply, Task, compile_task, load_task, verify_task
from autoconv.sweep.trials import Recorder, available, checked_trial, compiled_trial, failed_trial
from tuning_db import Trial, TuningDB, Winner
from tuning_db.rule import choose

LEADERS = 16  # candidates to compile
CHECKED = 4  # compiled candidates to check in the interpreter, best prediction first

Progress = Callable[[str, int, int], None]  # what is being done, how many are done, of how many


@dataclass(frozen=True)
class Job:
    """What a sweep is to do, and where."""

    device: Device
    environment: Environment
    cache: Path  # folder of compiled resources
    on_gpu: bool  # the device is present: check and time on it
    seconds: float = float("inf")  # after which no candidate is begun, and those in work are left
    leaders: int = LEADERS
    ordinal: int = 0  # of the device among this process's, where it is present


@dataclass(frozen=True)
class Swept:
    """What a sweep found."""

    winner: Winner | None  # None: no candidate passed its check
    trials: tuple[Trial, ...]
    candidates: int  # configs in the space
    compiled: int  # of them, compiled for the device
    seconds: float
    stopped: str | None = None  # why it ended early, where that was the machine's fault

    def why_none(self) -> str:
        """Say, in one line, why there is no winner."""
        if self.stopped is not None:
            return self.stopped
        failed = [trial for trial in self.trials if trial.error is not None]
        if not failed:
            return "no candidate was done in the time given"
        outcomes = Counter(trial.outcome for trial in self.trials)
        told = ", ".join(f"{count} {outcome}" for outcome, count in outcomes.items())
        return f"no candidate passed ({told}; the first: {' '.join(str(failed[0].error).split())})"


def sweep(
    problem: Problem,
    job: Job,
    database: TuningDB | None,
    crew: Crew,
    progress: Progress,
    priors: Sequence[Config] = (),
) -> Swept:
    """Sweep `problem` with the workers of `crew`, and record every trial in `database` as it ends.

    Where the database cannot be written, or is None, the trials are kept in the result alone. `priors` were
    best in another environment: those still in their kernel's space are compiled, and on a GPU measured,
    first. The trial of the least estimate, which would serve without a sweep, is marked as the default.

    The job's seconds do not run while worker processes start.

    Raises:
        ProblemError: no kernel runs this problem.
    """
    begun = time.monotonic()
    configs = candidates(problem, job.device)
    estimated = leaders(problem, configs, job.device, job.leaders)
    first = [config for config in priors if config in configs]
    chosen = list(dict.fromkeys([*first, *_each_kernel_first(estimated)]))
    recorder = Recorder(problem, job.environment, database, default=estimated[0])
    compiled: list[tuple[Config, Prediction]] = []
    bench = Bench(problem, job.device, job.ordinal, crew.gpu) if job.on_gpu else None
    stopped, deadline = None, begun + job.seconds
    try:
        if time.monotonic() < deadline:
            deadline += _start(crew, bench, len(chosen))
            recorder.baseline = bench.time_torch() if bench else None
        compiled = _compile(problem, chosen, job, recorder, crew.compilers, deadline, progress)
        if bench:
            compiled.sort(key=lambda pair: pair[0] not in first)  # stable: the others stay by prediction
            bench.measure(compiled, recorder, deadline, progress)
        else:
            _check(problem, compiled, recorder, crew.interpreters, deadline, progress)
        if time.monotonic() < deadline:
            recorder.settle()
    except Unavailable as unavailable:
        stopped = unavailable.reason
    problem_record, environment_record = records(problem, job.environment)
    return Swept(
        winner=choose(environment_record, problem_record, recorder.trials),
        trials=tuple(recorder.trials),
        candidates=len(configs),
        compiled=len(compiled),
        seconds=time.monotonic() - begun,
        stopped=stopped,
    )


def _each_kernel_first(configs: list[Config]) -> list[Config]:
    """Move the first config of each kernel to the front, so that a deadline leaves no kernel out."""
    first_of_kernels = {config.kernel: config for config in reversed(configs)}.values()
    return list(dict.fromkeys([*first_of_kernels, *configs]))


def _start(crew: Crew, bench: Bench | None, count: int) -> float:
    """Have the workers started, for `count` candidates to compile; return the seconds that took.

    Raises:
        Unavailable: a worker lacks what it needs, or the GPU cannot be used.
    """
    begun = time.monotonic()
    with ThreadPoolExecutor(1) as beside:
        started = beside.submit(_load, crew.compilers, "compile", count)
        if bench:
            bench.open()
        else:
            _load(crew.interpreters, "verify", CHECKED)
        started.result()
    return time.monotonic() - begun


def _load(pool: Pool, what: str, count: int) -> None:
    for reply in pool.perform([load_task(what)] * count, math.inf):
        available(reply)


def _compile(
    problem: Problem,
    configs: list[Config],
    job: Job,
    recorder: Recorder,
    pool: Pool,
    deadline: float,
    progress: Progress,
) -> list[tuple[Config, Prediction]]:
    """Compile `configs` and return those that can run, best prediction first, those that spill last."""
    tasks = [compile_task(problem, config, job.device, job.cache) for config in configs]
    runnable = []
    for config, reply in _replies(pool, tasks, configs, "compile", deadline, progress):
        if reply.get("skipped"):
            continue
        if "error" in reply:
            recorder.add(failed_trial(config, reply, "compile"))
            continue
        resources = Resources(**reply)
        reason = resources.unrunnable(config, job.device)
        if reason is not None:
            detail = {"registers": resources.registers, "shared": resources.shared}
            recorder.add(Trial(config.document(), "resources", error=reason, detail=detail))
            continue
        runnable.append((config, predict_compiled(problem, config, job.device, resources)))
    return sorted(runnable, key=lambda pair: (pair[1].spills > 0, pair[1].seconds, str(pair[0])))


def _check(
    problem: Problem,
    compiled: list[tuple[Config, Prediction]],
    recorder: Recorder,
    pool: Pool,
    deadline: float,
    progress: Progress,
) -> None:
    """Check in the interpreter, best prediction first, until a batch has a config that passes.

    The candidates left over are recorded as compiled, which never wins.
    """
    left = list(compiled)
    passed = False
    while left and not passed:
        batch, left = left[:CHECKED], left[CHECKED:]
        tasks = [verify_task(problem, config, on_gpu=False) for config, _ in batch]
        for (config, prediction), reply in _replies(pool, tasks, batch, "check", deadline, progress):
            trial = checked_trial(config, prediction, reply)
            passed = passed or trial.outcome == "ok"
            recorder.add(trial)
    for config, prediction in left:
        recorder.add(compiled_trial(config, prediction))


def _replies(
    pool: Pool, tasks: list[Task], subjects: list[Any], doing: str, deadline: float, progress: Progress
) -> Iterator[tuple[Any, Reply]]:
    """Yield each subject with its task's reply, telling `progress` of each."""
    replies = pool.perform(tasks, deadline)
    for done, (subject, reply) in enumerate(zip(subjects, replies, strict=True), start=1):
        progress(doing, done, len(tasks))
        yield subject, available(reply)
