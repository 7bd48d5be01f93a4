"""Tune one problem: candidates, pruned by estimate, compiled, checked, timed where a GPU is, recorded."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from autoconv.config import Config
from autoconv.cost.model import predict_compiled
from autoconv.cost.prediction import Prediction
from autoconv.device import Device
from autoconv.environment import Environment
from autoconv.kernels.aten import ATEN
from autoconv.lookup import records
from autoconv.problem import Problem
from autoconv.sweep.candidates import candidates, leaders
from autoconv.sweep.outcomes import Failed
from autoconv.sweep.pool import WorkerPool, Workers
from autoconv.sweep.tasks import Compile, Crashed, Samples, Skipped, Task, Time, TimedOut, Verify
from tuning_db import Trial, TuningDB, TuningDBError, Winner
from tuning_db.rule import choose

if TYPE_CHECKING:
    from autoconv.sweep.verify import Verdict

LEADERS = 16  # candidates to compile
CHECKED = 4  # compiled candidates to check in the interpreter, best prediction first
TIMING_SECONDS = 0.5  # for the samples of one candidate

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
    seconds: float = float("inf")  # after which no candidate is begun, and those in work are left
    leaders: int = LEADERS


@dataclass(frozen=True)
class Swept:
    """What a sweep found."""

    winner: Winner | None  # None: no candidate passed its check
    trials: tuple[Trial, ...]
    candidates: int  # configs in the space
    compiled: int  # of them, compiled for the device
    seconds: float


def sweep(
    problem: Problem,
    job: Job,
    database: TuningDB | None,
    pool: WorkerPool,
    progress: Progress,
    priors: Sequence[Config] = (),
) -> Swept:
    """Sweep `problem` with the workers of `pool`, and record every trial in `database` as it ends.

    Where the database cannot be written, or is None, the trials are kept in the result alone. `priors` were
    best in another environment: those still in their kernel's space are compiled, and on a GPU measured,
    first. The trial of the least estimate, which would serve without a sweep, is marked as the default.

    Raises:
        Cancelled: the pool was closed meanwhile.
        ProblemError: no kernel runs this problem.
        Unavailable: the machine is at fault; what was finished is recorded.
    """
    begun = time.monotonic()
    configs = candidates(problem, job.device)
    estimated = leaders(problem, configs, job.device, job.leaders)
    first = [config for config in priors if config in configs]
    chosen = list(dict.fromkeys([*first, *_each_kernel_first(estimated)]))
    recorder = _Recorder(problem, job.environment, database, default=estimated[0])
    deadline = begun + job.seconds
    compiled = _compile(problem, chosen, job, recorder, pool.compilers, deadline, progress)
    if job.on_gpu:
        compiled.sort(key=lambda pair: pair[0] not in first)  # stable: the others stay by prediction
        _measure(problem, compiled, recorder, pool.gpu, deadline, progress)
    else:
        _check(problem, compiled, recorder, pool.interpreters, deadline, progress)
    problem_record, environment_record = records(problem, job.environment)
    return Swept(
        winner=choose(environment_record, problem_record, recorder.trials),
        trials=tuple(recorder.trials),
        candidates=len(configs),
        compiled=len(compiled),
        seconds=time.monotonic() - begun,
    )


def _each_kernel_first(configs: list[Config]) -> list[Config]:
    """Move the first config of each kernel to the front, so that a deadline leaves no kernel out."""
    first_of_kernels = {config.kernel: config for config in reversed(configs)}.values()
    return list(dict.fromkeys([*first_of_kernels, *configs]))


class _Recorder:
    """Keeps trials in memory and, as long as that works, in the database."""

    def __init__(
        self, problem: Problem, environment: Environment, database: TuningDB | None, default: Config
    ) -> None:
        self.trials: list[Trial] = []
        self._default = default.document()
        self._problem, environment_record = records(problem, environment)
        self._database = database
        self._run_id = ""
        if database is not None:
            try:
                self._run_id = database.start(environment_record, origin="sweep")
            except TuningDBError:
                self._database = None

    def add(self, trial: Trial) -> None:
        if trial.config == self._default:
            trial = replace(trial, detail={**trial.detail, "default": True})
        self.trials.append(trial)
        if self._database is not None:
            try:
                self._database.add(self._run_id, self._problem, trial)
            except TuningDBError:
                self._database = None  # the sweep goes on: its result is still of use to this process


def _compile(
    problem: Problem,
    configs: list[Config],
    job: Job,
    recorder: _Recorder,
    workers: Workers,
    deadline: float,
    progress: Progress,
) -> list[tuple[Config, Prediction]]:
    """Compile `configs` and return those that can run, best prediction first, those that spill last."""
    tasks = [Compile(problem, config, job.device, job.cache) for config in configs]
    runnable = []
    for config, resources in _answers(workers, tasks, configs, "compile", deadline, progress):
        if isinstance(resources, Skipped):
            continue
        if isinstance(resources, Failed):
            recorder.add(_failed(config, resources, Compile.failure))
            continue
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
    recorder: _Recorder,
    workers: Workers,
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
        tasks = [Verify.fresh(problem, config, on_gpu=False) for config, _ in batch]
        for (config, prediction), verdict in _answers(workers, tasks, batch, "check", deadline, progress):
            trial = _checked(config, prediction, verdict)
            passed = passed or trial.outcome == "ok"
            recorder.add(trial)
    for config, prediction in left:
        recorder.add(_unchecked(config, prediction))


def _measure(
    problem: Problem,
    compiled: list[tuple[Config, Prediction]],
    recorder: _Recorder,
    workers: Workers,
    deadline: float,
    progress: Progress,
) -> None:
    """Check and time the candidates on the GPU, best prediction first, and torch's own convolution.

    One at a time, in the single worker: two candidates timed at once would time each other.
    """
    for done, (config, prediction) in enumerate(compiled):
        progress("measure", done, len(compiled))
        (verdict,) = workers.perform([Verify.fresh(problem, config, on_gpu=True)], deadline)
        trial = _checked(config, prediction, verdict)
        if trial.outcome == "ok":
            (timed,) = workers.perform([Time(problem, config, TIMING_SECONDS)], deadline)
            trial = _timed(trial, timed)
        recorder.add(trial)
    # Its result needs no check here: a problem that torch wins is left to torch altogether.
    (timed,) = workers.perform([Time(problem, ATEN, TIMING_SECONDS)], deadline)
    if not isinstance(timed, Skipped):
        recorder.add(_timed(Trial(ATEN.document(), "ok"), timed))
    progress("measure", len(compiled), len(compiled))


def _answers(
    workers: Workers,
    tasks: Sequence[Task[Result]],
    subjects: Sequence[Subject],
    doing: str,
    deadline: float,
    progress: Progress,
) -> Iterator[tuple[Subject, Result | Failed | Skipped]]:
    """Yield each subject with what came of its task, telling `progress` of each."""
    answers = workers.perform(tasks, deadline)
    for done, (subject, answer) in enumerate(zip(subjects, answers, strict=True), start=1):
        progress(doing, done, len(tasks))
        yield subject, answer


def _checked(config: Config, prediction: Prediction, verdict: Verdict | Failed | Skipped) -> Trial:
    if isinstance(verdict, Skipped):
        return _unchecked(config, prediction)
    if isinstance(verdict, Failed):
        return _failed(config, verdict, Verify.failure)
    error = verdict.max_rel_err  # infinite where nothing was written, which no JSON can hold
    check = {**asdict(verdict), "max_rel_err": error if math.isfinite(error) else None}
    trial = Trial(
        config.document(),
        "ok",
        _us(prediction),
        max_err=error,
        detail={**_detail(prediction), "check": check},
    )
    if verdict.ok:
        return trial
    found = f"error {error:.2g}, {verdict.unwritten} unwritten, {verdict.overrun} overrun"
    return replace(trial, outcome="wrong", error=found)


def _unchecked(config: Config, prediction: Prediction) -> Trial:
    return Trial(config.document(), "compiled", _us(prediction), detail=_detail(prediction))


def _timed(trial: Trial, timed: Samples | Failed | Skipped) -> Trial:
    if isinstance(timed, Skipped):
        return trial  # verified, and predicted
    if isinstance(timed, Failed):
        return Trial(trial.config, _outcome(timed, Time.failure), error=timed.reason, detail=trial.detail)
    return replace(trial, samples_us=timed.us)


def _failed(config: Config, failed: Failed, outcome: str) -> Trial:
    return Trial(config.document(), _outcome(failed, outcome), error=failed.reason)


def _outcome(failed: Failed, otherwise: str) -> str:
    """Return how the trial ended: its process died, hung, or lived to say what is wrong."""
    return {Crashed: "crash", TimedOut: "timeout"}.get(type(failed), otherwise)


def _us(prediction: Prediction) -> float:
    return prediction.seconds * 1e6


def _detail(prediction: Prediction) -> dict[str, Any]:
    return {
        "registers": prediction.registers,
        "spills": prediction.spills,
        "shared": prediction.shared,
        "blocks_per_sm": prediction.blocks_per_sm,
        "grid": list(prediction.grid),
        "bound": prediction.bound,
    }
