"""Processes that are killed or interrupted, and clocks that are wrong."""

from __future__ import annotations

import datetime
import os
import random
import shutil
import signal
import sqlite3
import sys
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import sqlite_utils.migrations as applied
from common import COLUMNS, ENVIRONMENT, SHARED, forked, main, ok, opened, upgrading

from tuning_db import Trial, check, open_healed


def _sweep(path: str, acknowledge: int, trials: int) -> None:
    """Tune as a sweep does, skipping what is finished, and write the number of each committed trial."""
    with open_healed(path, columns=COLUMNS, warn=lambda text: print(text, file=sys.stderr)) as db:
        finished = {trial.config["number"] for trial in db.trials(SHARED.key) if trial.finished}
        run = db.start(ENVIRONMENT, origin="sweep")
        for number in range(trials):
            if number in finished:
                continue
            db.add(run, SHARED, Trial({"number": number}, "started"))
            db.add(run, SHARED, ok(number))
            os.write(acknowledge, f"{number}\n".encode())


def kills(path: str, times: int, seed: int, mode: str) -> dict[str, Any]:
    """Kill a sweep at random instants and take it up again each time, in a journal mode that stays."""
    rng = random.Random(seed)
    opened(path).close()
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute(f"PRAGMA journal_mode = {mode}")
    acknowledged: list[int] = []
    for _ in range(times):
        reading, writing = os.pipe()
        pid = forked(lambda writing=writing: _sweep(path, writing, 10**6))  # type: ignore[misc]
        os.close(writing)
        with os.fdopen(reading) as lines:
            # At any instant: from the opening on, and between and in the midst of any two commits.
            told = [lines.readline() for _ in range(rng.randrange(5))]
            time.sleep(rng.uniform(0, 0.02))
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            acknowledged += [int(line) for line in (*told, *lines) if line.endswith("\n")]
    with opened(path) as db:
        kept = {trial.config["number"] for trial in db.trials(SHARED.key) if trial.finished}
        with db.reading() as connection:
            (now,) = connection.execute("PRAGMA journal_mode").fetchone()
        return {
            "mode": now,
            "acknowledged": len(acknowledged),
            "twice": len(acknowledged) - len(set(acknowledged)),
            "lost": len(set(acknowledged) - kept),
            "sound": check(db).ok,
            "aside": len(list(Path(path).parent.glob("*.damaged-*"))),
        }


def upgrades_killed(folder: str, template: str, trials: int, times: int, seed: int) -> dict[str, int]:
    """Kill upgrades at random instants; whoever opens the file next finds every row."""
    upgrading()
    rng = random.Random(seed)
    half_done = lost = failed = 0
    begun = time.monotonic()
    path = f"{folder}/timed.db"
    shutil.copyfile(template, path)
    opened(path).close()
    whole = time.monotonic() - begun
    for number in range(times):
        path = f"{folder}/{number}.db"
        shutil.copyfile(template, path)
        pid = forked(lambda path=path: opened(path).close())  # type: ignore[misc]
        time.sleep(rng.uniform(0, whole))
        os.kill(pid, signal.SIGKILL)
        half_done += os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) != 0
        with opened(path) as db:
            lost += trials - db.info()["trials"]
            failed += not check(db).ok
    return {"half_done": half_done, "lost": lost, "failed": failed}


def interrupts(path: str, times: int, seed: int) -> dict[str, int]:
    """Interrupt a sweep with SIGINT; the same process goes on with the same database."""
    rng = random.Random(seed)
    acknowledged: set[int] = set()
    interrupted = 0
    with opened(path) as db:
        run = db.start(ENVIRONMENT, origin="sweep")
        number = 0
        while interrupted < times or not acknowledged:
            signal.signal(signal.SIGALRM, signal.default_int_handler)
            signal.setitimer(signal.ITIMER_REAL, rng.uniform(0.0005, 0.05))
            try:
                while True:
                    number += 1
                    db.add(run, SHARED, ok(number))
                    acknowledged.add(number)
            except KeyboardInterrupt:
                interrupted += 1
        kept = {trial.config["number"] for trial in db.trials(SHARED.key)}
        return {"lost": len(acknowledged - kept), "acknowledged": len(acknowledged), "sound": check(db).ok}


def wrong_clocks(path: str, years: list[int]) -> list[Any]:
    """Write with clocks that are years off, the first being right; return the winners on the way."""
    now = time.time()
    winners = []
    for number, off in enumerate([0, *years]):
        moment = now + off * 365.25 * 86400

        class Clock(datetime.datetime):
            @classmethod
            def now(cls, tz: datetime.tzinfo | None = None) -> Any:
                return cls.fromtimestamp(moment, tz)  # noqa: B023 - called in this turn only

        time.time = lambda moment=moment: moment  # type: ignore[assignment]
        applied.datetime.datetime = Clock  # type: ignore[misc]
        with opened(f"{path}.{number}") as alone, opened(path) as db:
            for one in (alone, db):
                one.record(ENVIRONMENT, SHARED, [ok(number + 1)], origin="x")
        os.utime(path, (moment, moment))
        with opened(path) as db:
            winners.append(db.winners(SHARED.key)[0].config["number"])
    return winners


if __name__ == "__main__":
    main(globals())
