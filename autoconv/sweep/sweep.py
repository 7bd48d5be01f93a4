"""Tune one problem: candidates, pruned by estimate, compiled, checked, timed where a GPU is, recorded."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from autoconv.compiler.resources import Resources
from autoconv.config import Config
from autoconv.cost.model import predict_compiled
from autoconv.cost.prediction import Prediction
from autoconv.cost.version import model_version
from autoconv.device import Device
from autoconv.environment import Environment
from autoconv.errors import ConfigError
from autoconv.kernels.aten import ATEN
from autoconv.kernels.source import source_of
from autoconv.lookup import records, tried
from autoconv.problem import Problem
from autoconv.sweep.candidates import candidates, leaders
from autoconv.sweep.pool import Crew, Pool
from autoconv.sweep.tasks import Reply, Task, compile_task, time_task, verify_task
from tuning_db import ContradictionError, Trial, TuningDB, TuningDBError, Winner
from tuning_db.rule import winners

LEADERS = 16  # candidates to compile
CHECKED = 4  # compiled candidates to check in the interpreter, best prediction first
TIMING_SECONDS = 0.5  # for the samples of one candidate

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


@dataclass(frozen=True)
class Swept:
    """What a sweep found."""

    winner: Winner | None  # None: no candidate passed its check
    trials: tuple[Trial, ...]  # those of earlier sweeps that were not made again among them
    recorded: bool  # the database has them, and knows that the sweep came to its end
    candidates: int  # configs in the space
    compiled: int  # of them, compiled for the device
    seconds: float


def sweep(
    problem: Problem,
    job: Job,
    database: TuningDB | None,
    crew: Crew,
    progress: Progress,
    priors: Sequence[Config] = (),
    *,
    again: bool = False,
) -> Swept:
    """Sweep `problem` with the workers of `crew`, and record every trial in `database` as it ends.

    Where the database cannot be written, or is None, the trials are kept in the result alone. `priors` were
    best in another environment: those still in their kernel's space are compiled, and on a GPU measured,
    first. Unless `again`, a config that the database has a result of, as it is tried here and with today's
    source, is not tried. The trial of the least estimate, which would serve without a sweep, is marked as the
    default.

    Raises:
        ProblemError: no kernel runs this problem.
    """
    begun = time.monotonic()
    configs = candidates(problem, job.device)
    estimated = leaders(problem, configs, job.device, job.leaders)
    first = [config for config in priors if config in configs]
    chosen = list(dict.fromkeys([*first, *_each_kernel_first(estimated)]))
    recorder = _Recorder(problem, job, database, default=estimated[0], again=again)
    chosen = [config for config in chosen if config not in recorder.done]
    deadline = begun + job.seconds
    compiled = _compile(problem, chosen, job, recorder, crew.compilers, deadline, progress)
    if job.on_gpu:
        compiled.sort(key=lambda pair: pair[0] not in first)  # stable: the others stay by prediction
        _measure(problem, compiled, recorder, crew.gpu, deadline, progress)
    else:
        _check(problem, compiled, recorder, crew.interpreters, deadline, progress)
    recorder.finish()
    return Swept(
        winner=recorder.winner(),
        trials=tuple(recorder.trials),
        recorded=recorder.recorded,
        candidates=len(configs),
        compiled=len(compiled),
        seconds=time.monotonic() - begun,
    )


def _each_kernel_first(configs: list[Config]) -> list[Config]:
    """Move the first config of each kernel to the front, so that a deadline leaves no kernel out."""
    first_of_kernels = {config.kernel: config for config in reversed(configs)}.values()
    return list(dict.fromkeys([*first_of_kernels, *configs]))


class _Recorder:
    """Keeps trials in memory and, as long as that works, in the database.

    A run of just such a sweep that did not come to its end is gone on with; else one is begun, and another
    where that run has a lesser result already of what is tried now, which never changes.
    """

    def __init__(
        self, problem: Problem, job: Job, database: TuningDB | None, *, default: Config, again: bool
    ) -> None:
        self.trials: list[Trial] = []
        self.done: dict[Config, Trial] = {}  # what an earlier sweep made of configs, and is not made again
        self._on_gpu = job.on_gpu
        self._default = default.document()
        self._problem, self._environment = records(problem, job.environment)
        self._info = tried(problem, model_version(), on_gpu=job.on_gpu)
        self._database = database
        self._run_ids: list[str] = []
        try:
            if database is not None:
                self._run_ids = [(None if again else self._resumed(database)) or self._begun(database)]
        except TuningDBError:
            self._database = None

    @property
    def recorded(self) -> bool:
        """Whether the database took everything so far."""
        return self._database is not None

    def _begun(self, database: TuningDB) -> str:
        return database.start(self._environment, origin="sweep", info=self._info)

    def _resumed(self, database: TuningDB) -> str | None:
        """Take over what counts of earlier sweeps; return the id of a run to go on with, if there is one."""
        for trial in filter(self._counts, database.trials(self._problem.key, self._environment.hash)):
            with suppress(ConfigError):
                self.done[Config.from_document(trial.config)] = trial
        self.trials = list(self.done.values())
        for run in database.runs(self._problem.key):
            if not run.finished and run.environment == self._environment and run.info == self._info:
                return run.id
        return None

    def _counts(self, trial: Trial) -> bool:
        """Whether a trial need not be made again: it is of today's source, and tells what one here would."""
        if trial.source != source_of(str(trial.config.get("kernel"))):
            return False
        if trial.outcome == "ok":
            own = not self._on_gpu and trial.predictor == model_version()
            return trial.measured_us is not None or own
        return trial.outcome not in ("started", "compiled")

    def add(self, trial: Trial) -> None:
        if trial.config == self._default:
            trial = replace(trial, detail={**trial.detail, "default": True})
        trial = replace(
            trial,
            source=source_of(str(trial.config["kernel"])) or "",
            predictor="" if trial.predicted_us is None else model_version(),
        )
        self.trials.append(trial)
        if self._database is not None:
            try:
                self._put(self._database, trial)
            except TuningDBError:
                self._database = None  # the sweep goes on: its result is still of use to this process

    def _put(self, database: TuningDB, trial: Trial) -> None:
        try:
            database.add(self._run_ids[-1], self._problem, trial)
        except ContradictionError:
            self._run_ids.append(self._begun(database))
            database.add(self._run_ids[-1], self._problem, trial)

    def finish(self) -> None:
        """Note that the sweep came to its end, by its deadline or because nothing is left to try."""
        if self._database is not None:
            try:
                for run_id in self._run_ids:
                    self._database.finish(run_id)
            except TuningDBError:
                self._database = None

    def winner(self) -> Winner | None:
        """Return the best of all sources; measured comes before predicted."""
        found = winners(self._environment, self._problem, self.trials)
        return min(found, key=_rank, default=None)

    @property
    def checked(self) -> int:
        """How many candidates were checked, those of earlier sweeps included."""
        return sum("check" in trial.detail or trial.outcome == "launch" for trial in self.trials)

    def settled(self, ahead: Prediction) -> bool:
        """Whether enough were checked, and one that passed is better than what is predicted so."""
        passed = [trial for trial in self.trials if trial.outcome == "ok"]
        best = min(
            (_order(trial.detail.get("spills", 0), trial.predicted_us) for trial in passed), default=None
        )
        return self.checked >= CHECKED and best is not None and best <= _order(ahead.spills, _us(ahead))


def _rank(winner: Winner) -> tuple[float, float, str]:
    return winner.measured_us or math.inf, winner.predicted_us or math.inf, winner.config_hash


def _order(spills: int, predicted_us: float | None) -> tuple[bool, float]:
    """Rank what can run: best prediction first, what spills last."""
    return spills > 0, math.inf if predicted_us is None else predicted_us


def _compile(
    problem: Problem,
    configs: list[Config],
    job: Job,
    recorder: _Recorder,
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
            recorder.add(_failed(config, reply, "compile"))
            continue
        resources = Resources(**reply)
        reason = resources.unrunnable(config, job.device)
        if reason is not None:
            detail = {"registers": resources.registers, "shared": resources.shared}
            recorder.add(Trial(config.document(), "resources", error=reason, detail=detail))
            continue
        runnable.append((config, predict_compiled(problem, config, job.device, resources)))
    return sorted(runnable, key=lambda pair: (*_order(pair[1].spills, _us(pair[1])), str(pair[0])))


def _check(
    problem: Problem,
    compiled: list[tuple[Config, Prediction]],
    recorder: _Recorder,
    pool: Pool,
    deadline: float,
    progress: Progress,
) -> None:
    """Check in the interpreter, best prediction first, until one has passed that is better than those left.

    The candidates left over are recorded as compiled, which never wins.
    """
    left = list(compiled)
    while left and not recorder.settled(left[0][1]):
        size = CHECKED - recorder.checked % CHECKED  # of an interrupted sweep's batch, what is left of it
        batch, left = left[:size], left[size:]
        tasks = [verify_task(problem, config, on_gpu=False) for config, _ in batch]
        for (config, prediction), reply in _replies(pool, tasks, batch, "check", deadline, progress):
            recorder.add(_checked(config, prediction, reply))
    for config, prediction in left:
        recorder.add(_unchecked(config, prediction))


def _measure(
    problem: Problem,
    compiled: list[tuple[Config, Prediction]],
    recorder: _Recorder,
    pool: Pool,
    deadline: float,
    progress: Progress,
) -> None:
    """Check and time the candidates on the GPU, best prediction first, and torch's own convolution.

    One at a time, in the pool's single worker: two candidates timed at once would time each other.
    """
    for done, (config, prediction) in enumerate(compiled):
        progress("measure", done, len(compiled))
        (checked,) = pool.perform([verify_task(problem, config, on_gpu=True)], deadline)
        trial = _checked(config, prediction, checked)
        if trial.outcome == "ok":
            (timed,) = pool.perform([time_task(problem, config, TIMING_SECONDS)], deadline)
            trial = _timed(trial, timed)
        recorder.add(trial)
    # Its result needs no check here: a problem that torch wins is left to torch altogether.
    if ATEN not in recorder.done:
        (timed,) = pool.perform([time_task(problem, ATEN, TIMING_SECONDS)], deadline)
        if not timed.get("skipped"):
            recorder.add(_timed(Trial(ATEN.document(), "ok"), timed))
    progress("measure", len(compiled), len(compiled))


def _replies(
    pool: Pool, tasks: list[Task], subjects: list[Any], doing: str, deadline: float, progress: Progress
) -> Iterator[tuple[Any, Reply]]:
    """Yield each subject with its task's reply, telling `progress` of each."""
    replies = pool.perform(tasks, deadline)
    for done, (subject, reply) in enumerate(zip(subjects, replies, strict=True), start=1):
        progress(doing, done, len(tasks))
        yield subject, reply


def _checked(config: Config, prediction: Prediction, reply: Reply) -> Trial:
    if reply.get("skipped"):
        return _unchecked(config, prediction)
    if "error" in reply:
        return _failed(config, reply, "launch")
    error = reply["max_rel_err"]  # infinite where nothing was written, which no JSON can hold
    check = {**reply, "max_rel_err": error if math.isfinite(error) else None}
    trial = Trial(
        config.document(),
        "ok",
        _us(prediction),
        max_err=error,
        detail={**_detail(prediction), "check": check},
    )
    if reply["ok"]:
        return trial
    found = f"error {error:.2g}, {reply['unwritten']} unwritten, {reply['overrun']} overrun"
    return replace(trial, outcome="wrong", error=found)


def _unchecked(config: Config, prediction: Prediction) -> Trial:
    return Trial(config.document(), "compiled", _us(prediction), detail=_detail(prediction))


def _timed(trial: Trial, reply: Reply) -> Trial:
    if reply.get("skipped"):
        return trial  # verified, and predicted
    if "error" in reply:
        return Trial(trial.config, reply.get("outcome", "launch"), error=reply["error"], detail=trial.detail)
    return replace(trial, samples_us=tuple(reply["samples_us"]))


def _failed(config: Config, reply: Reply, outcome: str) -> Trial:
    return Trial(config.document(), reply.get("outcome", outcome), error=reply["error"])


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
