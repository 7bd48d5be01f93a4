"""`autoconv tune FILE` killed again and again, and begun anew, until it comes to its end."""

from __future__ import annotations

import json
import os
import random
import signal
import time
import traceback
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

from common import forked, main

from autoconv import settings
from autoconv.cli import cli
from autoconv.compiler.resources import Resources
from autoconv.device import find
from autoconv.environment import Environment
from autoconv.lookup import open_user, records
from autoconv.problem import Problem
from autoconv.sweep.candidates import best_guess
from autoconv.sweep.outcomes import Failed
from autoconv.sweep.pool import Workers
from autoconv.sweep.tasks import Compile, Crashed, Task, TimedOut, Verify
from autoconv.sweep.verify import Verdict
from autoconv.targets import target
from autoconv.tuning import asked, effort, scheduler
from tuning_db import Trial

DEVICES = ("rtx4090", "l4")
LOADED = asked, effort, scheduler  # by the command when it runs; here now
SMALL = Problem(2, 8, 16, 3, 40, padding=1, bias=True)
KINDS = (  # such as are no priors of each other's, so that the order in which they end changes no sweep
    SMALL,
    replace(SMALL, dtype="float16", precision=""),
    replace(SMALL, op="conv_transpose"),
    replace(SMALL, precision="ieee"),
    replace(SMALL, layout="nlc"),
    replace(SMALL, dtype="bfloat16", precision=""),
)
TASK_SECONDS = 0.002
BROKEN = 70  # the exit status where an exception came out of the command
WITHOUT_WINNER = 1  # the exit status where all candidates of some problem were made to fail

Key: TypeAlias = tuple[str, str, str]  # problem, device, hash of the config


def killed(folder: str, problems: int, times: int, seed: int) -> dict[str, int]:
    """Kill the tuning of files that many times in all, at random instants; count what is lost."""
    rng = random.Random(seed)
    for name in DEVICES:  # so that no child has to import what these do
        best_guess(SMALL, target(name, print).device)
    total: Counter[str] = Counter(files=0, killed=0, again=0, lost=0, other=0)
    while total["killed"] < times:
        number = total["files"]
        file = Path(folder) / f"{number}.txt"
        file.write_text("".join(f"{one}\n" for one in KINDS[:problems]), encoding="utf-8")
        alone, stopped = (
            Tuning(Path(folder) / f"{number}-{name}.db", file, KINDS[:problems], number)
            for name in ("alone", "stopped")
        )
        begun = time.monotonic()
        assert alone.run()[0] != -signal.SIGKILL
        total.update(_until_done(stopped, rng, time.monotonic() - begun))
        total.update(files=1, other=alone.finished() != stopped.finished())
    return total


def _until_done(tuning: Tuning, rng: random.Random, whole: float) -> dict[str, int]:
    """Kill it at random instants of the time that it takes, until one comes to its end."""
    kills = again = lost = 0
    before: dict[Key, Any] = {}
    status = -signal.SIGKILL
    while status == -signal.SIGKILL:
        status, compiled = tuning.run(rng.uniform(0, whole))
        after = tuning.finished()
        kills += status == -signal.SIGKILL
        again += len(compiled & before.keys())
        lost += sum(after.get(key) != trial for key, trial in before.items())
        before = after
    return {"killed": kills, "again": again, "lost": lost}


@dataclass(frozen=True)
class Tuning:
    """The command with a database of its own; what becomes of a candidate follows from `seed` alone."""

    database: Path
    file: Path
    asked: tuple[Problem, ...]
    seed: int

    def run(self, seconds: float | None = None) -> tuple[int, set[Key]]:
        """Run it in a process, killed after `seconds`; return its status and what it had compiled."""
        reading, writing = os.pipe()
        pid = forked(partial(self._tune, writing))
        os.close(writing)
        if seconds is not None:
            time.sleep(seconds)
            os.kill(pid, signal.SIGKILL)
        with os.fdopen(reading) as lines:
            compiled = {tuple(json.loads(line)) for line in lines}
        status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        assert status in (0, WITHOUT_WINNER, -signal.SIGKILL), status
        return status, compiled

    def finished(self) -> dict[Key, tuple[str, float | None]]:
        """Return what came of the candidates that need not be tried again."""
        found = {}
        with open_user(replace(settings.load(), database=self.database)) as database:
            for problem in self.asked:
                for device in DEVICES:
                    record, environment = records(problem, Environment.current(find(device)))
                    for trial in database.trials(record.key, environment.hash):
                        if trial.outcome not in ("started", "compiled"):
                            key = str(problem), device, trial.config_hash
                            found[key] = trial.outcome, trial.predicted_us
        return found

    def _tune(self, writing: int) -> None:
        silent = os.open(os.devnull, os.O_WRONLY)
        os.dup2(silent, 1)
        os.environ["AUTOCONV_DB"] = str(self.database)
        Workers.perform = partial(self._perform, writing)  # type: ignore[method-assign]
        devices = [part for name in DEVICES for part in ("--device", name)]
        try:
            cli(["tune", str(self.file), *devices, "--json"], prog_name="autoconv")
        except SystemExit as ended:
            os._exit(ended.code if isinstance(ended.code, int) else 0)
        except BaseException:  # whatever it is, it is not that there is no winner
            traceback.print_exc()
            os._exit(BROKEN)

    def _perform(self, writing: int, tasks: Iterable[Task[Any]], *_: Any, **__: Any) -> Iterator[Any]:
        """Stand in for worker processes."""
        for task in tasks:
            if isinstance(task, Compile):
                key = (
                    str(task.problem),
                    task.device.name,
                    Trial(task.config.document(), "started").config_hash,
                )
                os.write(writing, f"{json.dumps(key)}\n".encode())
            time.sleep(TASK_SECONDS)
            yield self._answer(task)

    def _answer(self, task: Task[Any]) -> Any:
        """Return what comes of a task: of ten candidates about three fail."""
        if not isinstance(task, (Compile, Verify)):
            return True
        draw = random.Random(f"{self.seed} {type(task).__name__} {task.config}")
        if draw.random() < 0.1:
            return draw.choice((Failed, Crashed, TimedOut))("made to fail")
        if isinstance(task, Compile):
            return Resources(draw.randrange(32, 200), draw.choice((0, 0, 64)), draw.randrange(1 << 16))
        right = draw.random() < 0.9
        return Verdict(right, 1e-7 if right else 9.0, unwritten=0, overrun=0, seed=1, problem="")


if __name__ == "__main__":
    main(globals())
