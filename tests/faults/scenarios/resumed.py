"""Sweeps that are killed or interrupted again and again, and gone on with until they are done."""

from __future__ import annotations

import os
import random
import signal
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from math import isclose
from pathlib import Path
from types import SimpleNamespace
from typing import Any, TypeAlias

from common import forked, main

from autoconv import settings
from autoconv.compiler.resources import Resources
from autoconv.config import Config
from autoconv.device import find
from autoconv.environment import Environment
from autoconv.kernels.aten import ATEN
from autoconv.lookup import open_user, records
from autoconv.problem import Problem
from autoconv.settings import Settings
from autoconv.sweep.outcomes import Failed
from autoconv.sweep.sweep import Job
from autoconv.sweep.tasks import Compile, Crashed, Laps, Task, Time, TimedOut, Verify
from autoconv.sweep.verify import Verdict
from autoconv.tuning.tuner import Tuned, Tuner
from tuning_db import Trial
from tuning_db.ranking import TIE_TOLERANCE

PROBLEM = Problem(2, 8, 16, 3, 40, padding=1, bias=True)
TASK_SECONDS = 0.0005
STOPS = 10  # of a sweep at most
INTERRUPTED = 130  # the exit status of what Ctrl-C ends

Outcome: TypeAlias = tuple[Config, dict[str, tuple[str, float | None, float | None]]]
Begun: TypeAlias = tuple[str, str]  # what a worker was given: the stage, and the hash of the config


@dataclass(frozen=True)
class Sweep:
    """A sweep with a database of its own; what becomes of each candidate follows from `seed` alone."""

    settings: Settings
    job: Job
    seed: int

    def tune(self, begun: int) -> Tuned:
        """Tune, with workers that write each task to the descriptor `begun` before they do it."""
        workers = Scripted(self, begun)
        pool: Any = SimpleNamespace(compilers=workers, interpreters=workers, gpu=workers)
        return Tuner(self.settings).tune(PROBLEM, self.job, pool=pool)

    def finished(self) -> dict[str, Trial]:
        """Return the trials that need not be made again, by the hash of their config."""
        record, environment = records(PROBLEM, self.job.environment)
        with open_user(self.settings) as database:
            trials = database.trials(record.key, environment.hash)
        return {one.config_hash: one for one in trials if one.outcome not in ("started", "compiled")}

    def answer(self, stage: str, config: str) -> Any:
        """Return what comes of the candidate in that stage; of ten candidates about three fail."""
        draw = random.Random(f"{self.seed} {stage} {config}")
        if draw.random() < 0.1:
            return draw.choice((Failed, Crashed, TimedOut))(f"made to fail in {stage}")
        if stage == "compile":
            return Resources(draw.randrange(32, 200), draw.choice((0, 0, 64)), draw.randrange(1 << 16))
        if stage == "verify":
            right = draw.random() < 0.9
            return Verdict(right, 1e-7 if right else 9.0, unwritten=0, overrun=0, seed=1, problem="")
        return draw.uniform(5, 9)

    def ends(self, stage: str, config: str) -> bool:
        """Return whether that stage is the candidate's last; where they are timed in turn the race is."""
        answer = self.answer(stage, config)
        last = stage == "verify" and not self.job.on_gpu
        return last or isinstance(answer, Failed) or getattr(answer, "ok", True) is False


class Scripted:
    """Does every task by itself, one after the other, in a moment."""

    def __init__(self, sweep: Sweep, begun: int) -> None:
        self._sweep = sweep
        self._begun = begun

    def perform(self, tasks: Iterable[Task[Any]], *_: Any, **__: Any) -> Iterator[Any]:
        return map(self._done, tasks)

    def _done(self, task: Task[Any]) -> Any:
        if not isinstance(task, (Compile, Verify, Time)):
            return 1 << 40  # bytes free, to the one that asks for them
        if not isinstance(task, Time):
            return self._answer(type(task).__name__.lower(), task.config)
        times = [7.0 if config == ATEN else self._answer("time", config) for config in task.configs]
        failed = [time for time in times if isinstance(time, Failed)]
        return failed[0] if failed else Laps((tuple(times),) * 3)

    def _answer(self, stage: str, config: Config) -> Any:
        named = Trial(config.document(), "started").config_hash
        os.write(self._begun, f"{stage} {named}\n".encode())
        time.sleep(TASK_SECONDS)
        return self._sweep.answer(stage, named)


def resumed(folder: str, times: int, seed: int, on_gpu: bool) -> dict[str, int]:
    """Kill and interrupt sweeps at random instants, that many times in all, and let each come to its end."""
    rng = random.Random(seed)
    device = find("rtx4090")
    job = Job(device, Environment.current(device), Path(folder), on_gpu=on_gpu)
    total: Counter[str] = Counter(sweeps=0, stopped=0, again=0, lost=0, other=0)
    while total["stopped"] < times:
        number = total["sweeps"]
        alone, stopped = (
            Sweep(replace(settings.load(), database=Path(folder) / f"{number}-{name}.db"), job, number)
            for name in ("alone", "stopped")
        )
        tasks, _ = _attempt(alone)
        total.update(_stopped_again_and_again(stopped, tasks, rng))
        total.update(sweeps=1, other=not _alike(_outcome(alone), _outcome(stopped)))
    return total


def _stopped_again_and_again(sweep: Sweep, tasks: list[Begun], rng: random.Random) -> dict[str, int]:
    """Stop a sweep, of such tasks, at random instants and let it end; count what was made again, and lost."""
    stopped = again = lost = 0
    before: dict[str, Trial] = {}
    status = -1
    while status:
        by = (signal.SIGKILL, signal.SIGINT)[stopped % 2] if stopped < STOPS else None
        left = sum(config not in before for _, config in tasks)
        begun, status = _attempt(sweep, by, rng.randrange(left + 1), rng.uniform(0, 0.04))
        after = sweep.finished()
        again += len({config for _, config in begun} & before.keys())
        # What was begun before the last was answered and written down.
        ended = {config for stage, config in begun[:-1] if sweep.ends(stage, config)}
        lost += len(ended - after.keys()) + sum(after.get(config) != before[config] for config in before)
        stopped += status != 0
        before = after
    return {"stopped": stopped, "again": again, "lost": lost}


def _attempt(
    sweep: Sweep, by: signal.Signals | None = None, tasks: int = 0, seconds: float = 0.0
) -> tuple[list[Begun], int]:
    """Tune in a process, and stop it `by` that signal, if any, so long after it has begun so many tasks.

    Return the tasks it began, and its status.
    """
    reading, writing = os.pipe()
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})  # until the child is ready for it
    pid = forked(partial(_tune, sweep, writing))
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    os.close(writing)
    with os.fdopen(reading) as lines:
        told = [lines.readline() for _ in range(tasks)]
        if by is not None:
            time.sleep(seconds)
            os.kill(pid, by)
        told += lines
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    assert status in (0, -signal.SIGKILL, INTERRUPTED), status
    begun = [line.split() for line in told if line]
    return [(stage, config) for stage, config in begun], status


def _tune(sweep: Sweep, begun: int) -> None:
    try:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
        sweep.tune(begun)
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    except KeyboardInterrupt:
        os._exit(INTERRUPTED)


def _alike(alone: Outcome, stopped: Outcome) -> bool:
    """Return whether two sweeps came to the same: of each candidate, and as good a winner.

    Of measured times that are ties the winner may be another: what was timed before a stop was not timed in
    turn with the rest, and then more counts as a tie.
    """
    (winner, trials), (other, others) = alone, stopped
    if trials.keys() != others.keys():
        return False
    for config, (outcome, measured, predicted) in trials.items():
        if others[config][::2] != (outcome, predicted) or (measured is None) != (others[config][1] is None):
            return False
        if measured is not None and not isclose(measured, others[config][1] or 0.0, rel_tol=1e-6):
            return False
    best, found = (trials[Trial(one.document(), "started").config_hash][1] for one in (winner, other))
    return winner == other or (
        best is not None and found is not None and abs(found / best - 1) <= TIE_TOLERANCE["measured"]
    )


def _outcome(sweep: Sweep) -> Outcome:
    """Return the winner, for which nothing is tried any more, and what came of every candidate."""
    tuned = sweep.tune(-1)  # no descriptor: a task would fail
    assert tuned.swept is None and tuned.found is not None
    trials = sweep.finished().items()
    return tuned.found.config, {
        config: (trial.outcome, trial.measured_us, trial.predicted_us) for config, trial in trials
    }


if __name__ == "__main__":
    main(globals())
