"""Tune one problem: candidates, pruned by estimate, compiled, checked, timed where a GPU is, recorded.

On a GPU torch's own convolution is timed before anything else. What is the machine's fault, or the moment's,
ends the sweep and is written down against no candidate.
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from autoconv.config import Config
from autoconv.cost.predict import predict
from autoconv.cost.prediction import Prediction
from autoconv.device import Device
from autoconv.environment import Environment
from autoconv.kernels.aten import ATEN
from autoconv.problem import Problem
from autoconv.sweep.candidates import choice
from autoconv.sweep.ledger import Ledger
from autoconv.sweep.measure import Bench
from autoconv.sweep.outcomes import Failed, Unavailable
from autoconv.sweep.pool import WorkerPool, Workers
from autoconv.sweep.recorder import CHECKED, Recorder
from autoconv.sweep.revalidation import NOTHING_BEFORE, Before
from autoconv.sweep.tasks import Compile, Load, Skipped, Task, Verify
from autoconv.sweep.trials import checked_trial, compiled_trial, failed_trial
from tuning_db import Trial, Winner

SHORTLIST = 16  # candidates to compile

_log = logging.getLogger("autoconv")

Progress = Callable[[str, int, int], None]  # what is being done, how many are done, of how many
Result = TypeVar("Result")
Subject = TypeVar("Subject")


@dataclass(frozen=True)
class Job:
    """What a sweep is to do, and where."""

    device: Device
    environment: Environment
    cache: Path  # folder of compiled resources
    on_gpu: bool  # the device is present: check and time on it
    seconds: float = float("inf")  # then no candidate but the first is begun, and those in work are left
    shortlist: int = SHORTLIST
    ordinal: int = 0  # of the device among this process's, where it is present
    share: float = 1.0  # of the memory that is free there, the most that may be taken
    beside: Config | None = None  # what serves now, where the device is timed on beside other work
    aside: bool = False  # this process serves calls meanwhile, so a worker estimates the candidates
    why: str = "asked for"  # the sweep is made, in the log's words


@dataclass(frozen=True)
class Swept:
    """What a sweep found."""

    winner: Winner | None  # None: no candidate passed its check
    trials: tuple[Trial, ...]  # those of earlier sweeps that were not made again among them
    recorded: bool  # the database has them
    candidates: int  # configs in the space
    compiled: int  # of them, compiled for the device
    seconds: float
    stopped: str | None = None  # why it ended early, where that was the machine's fault
    held: bool = False  # what was best before an upgrade is so still, and nothing else was tried
    unrecorded: str | None = None  # why the database does not have them, where it is at fault

    def told(self) -> str:
        """Say, in one line, what was found."""
        if self.winner is None:
            return f"no winner, {self.why_none()}"
        held = ", as before" if self.held else ""
        return f"{Config.from_document(self.winner.config)}, {self.winner.provenance}{held}"

    def why_none(self) -> str:
        """Say, in one line, why there is no winner."""
        if self.stopped is not None:
            return self.stopped
        failed = [trial for trial in self.trials if trial.error is not None]
        if not failed:
            return "no candidate was left to try"
        outcomes = Counter(trial.outcome for trial in self.trials)
        told = ", ".join(f"{count} {outcome}" for outcome, count in outcomes.items())
        return f"no candidate passed ({told}; the first: {' '.join(str(failed[0].error).split())})"


def sweep(
    problem: Problem,
    job: Job,
    database: Ledger | None,
    pool: WorkerPool,
    progress: Progress,
    priors: Sequence[Config] = (),
    *,
    again: bool = False,
    old: Before = NOTHING_BEFORE,
) -> Swept:
    """Sweep `problem` with the workers of `pool`, and record every trial in `database` as it ends.

    Where the database cannot be written, or is None, the trials are kept in the result alone. `priors` were
    best in another environment: those still in their kernel's space are compiled, and on a GPU measured,
    first. Unless `again`, a config that the database has a result of, as it is tried here and with today's
    source, is not tried. The trial of the least estimate, which would serve without a sweep, is marked as the
    default. What was best before an upgrade, `old`, is tried first, and where it holds nothing else is.

    The job's seconds do not run while workers start or candidates are estimated. Whatever they are, the first
    candidate is compiled and checked: a prior, where there is one, or else the best by the estimate.

    Raises:
        Cancelled: the pool was closed meanwhile.
        ProblemError: no kernel runs this problem.
    """
    begun = time.monotonic()
    _log.info("sweep of %s for %s begins: %s", problem, job.device.name, job.why)
    asked = (*priors, *old.ours)
    given = problem, job.device, job.shortlist, asked
    space, estimated, offered = pool.compilers.call(choice, *given) if job.aside else choice(*given)
    deadline = time.monotonic() + job.seconds
    first = [config for config in priors if config in offered]
    chosen = list(dict.fromkeys([*first, estimated[0], *_each_kernel_first(list(estimated))]))
    recorder = Recorder(
        problem,
        job.environment,
        database,
        default=estimated[0],
        on_gpu=job.on_gpu,
        again=again,
        contended=job.beside is not None,
    )
    chosen = [config for config in chosen if config not in recorder.done]
    few = [config for config in old.ours if config in offered and config not in recorder.done]
    stages = [few, [config for config in chosen if config not in few]] if old.configs else [chosen]
    bench = None
    if job.on_gpu:
        bench = Bench(problem, job.device, job.ordinal, pool.gpu, job.share, job.beside)
    stopped = None
    compiled, held = 0, False
    try:
        deadline += _start(pool, bench, len(chosen))
        if bench and ATEN not in recorder.done:
            recorder.baseline = bench.time_torch()
        for stage in stages:
            ready = _compile(problem, stage, job, recorder, pool.compilers, deadline, progress)
            compiled += len(ready)
            if bench:
                ready.sort(key=lambda pair: pair[0] not in first)  # stable: the others stay by prediction
                bench.measure(ready, recorder, deadline, progress)
            else:
                _check(problem, ready, recorder, pool.interpreters, deadline, progress)
            held = old.holds(recorder.known())
            if held:
                break
        if time.monotonic() < deadline:
            recorder.keep_baseline()
        recorder.finish()
    except Unavailable as unavailable:
        stopped = unavailable.reason
    swept = Swept(
        winner=recorder.winner(),
        trials=tuple(recorder.trials),
        recorded=recorder.recorded,
        candidates=space,
        compiled=compiled,
        seconds=time.monotonic() - begun,
        stopped=stopped,
        held=held,
        unrecorded=recorder.unrecorded,
    )
    _log.info(
        "sweep of %s for %s ends after %.1f s: %s", problem, job.device.name, swept.seconds, swept.told()
    )
    return swept


def _each_kernel_first(configs: list[Config]) -> list[Config]:
    """Move the first config of each kernel to the front, so that a deadline leaves no kernel out."""
    first_of_kernels = {config.kernel: config for config in reversed(configs)}.values()
    return list(dict.fromkeys([*first_of_kernels, *configs]))


def _start(pool: WorkerPool, bench: Bench | None, count: int) -> float:
    """Have the workers started, for `count` candidates to compile; return the seconds that took.

    Raises:
        Unavailable: a worker lacks what it needs, or the GPU cannot be used.
    """
    begun = time.monotonic()
    with ThreadPoolExecutor(1) as beside:
        started = beside.submit(_load, pool.compilers, Compile.needs, count)
        if bench:
            bench.open()
        else:
            _load(pool.interpreters, Verify.needs, CHECKED)
        started.result()
    return time.monotonic() - begun


def _load(workers: Workers, module: str, count: int) -> None:
    for _ in workers.perform([Load(module)] * count):
        pass


def _compile(
    problem: Problem,
    configs: list[Config],
    job: Job,
    recorder: Recorder,
    workers: Workers,
    deadline: float,
    progress: Progress,
) -> list[tuple[Config, Prediction]]:
    """Compile `configs` and return those that can run, best prediction first, those that spill last."""
    tasks = [Compile(problem, config, job.device, job.cache) for config in configs]
    runnable = []
    for config, resources in _answers(workers, tasks, configs, "compile", deadline, progress, sure=1):
        if isinstance(resources, Skipped):
            continue
        if isinstance(resources, Failed):
            recorder.add(failed_trial(config, resources, "compile"))
            continue
        reason = resources.unrunnable(config, job.device)
        if reason is not None:
            detail = {"registers": resources.registers, "shared": resources.shared}
            recorder.add(Trial(config.document(), "resources", error=reason, detail=detail))
            continue
        runnable.append((config, predict(problem, config, job.device, resources)))
    return sorted(runnable, key=lambda pair: (pair[1].spills > 0, pair[1].seconds, str(pair[0])))


def _check(
    problem: Problem,
    compiled: list[tuple[Config, Prediction]],
    recorder: Recorder,
    workers: Workers,
    deadline: float,
    progress: Progress,
) -> None:
    """Check in the interpreter, best prediction first, until a batch has a config that passes.

    What passed for another device is not checked again. The candidates left over are recorded as compiled,
    which never wins.
    """
    left = list(compiled)
    while left and not recorder.settled(left[0][1]):
        sure = 0 if recorder.checked else 1
        size = CHECKED - recorder.checked % CHECKED  # of an interrupted sweep's batch, what is left of it
        batch, left = left[:size], left[size:]
        for config, prediction in batch:
            if config in recorder.passed:
                recorder.add(checked_trial(config, prediction, recorder.passed[config]))
        batch = [pair for pair in batch if pair[0] not in recorder.passed]
        tasks = [Verify.fresh(problem, config, on_gpu=False) for config, _ in batch]
        answers = _answers(workers, tasks, batch, "check", deadline, progress, sure=sure)
        for (config, prediction), verdict in answers:
            recorder.add(checked_trial(config, prediction, verdict))
    for config, prediction in left:
        recorder.add(compiled_trial(config, prediction))


def _answers(
    workers: Workers,
    tasks: Sequence[Task[Result]],
    subjects: Sequence[Subject],
    doing: str,
    deadline: float,
    progress: Progress,
    *,
    sure: int,
) -> Iterator[tuple[Subject, Result | Failed | Skipped]]:
    """Yield each subject with what came of its task, telling `progress`; `sure` as `perform` has it."""
    answers = workers.perform(tasks, deadline, sure=sure)
    for done, (subject, answer) in enumerate(zip(subjects, answers, strict=True), start=1):
        progress(doing, done, len(tasks))
        yield subject, answer
