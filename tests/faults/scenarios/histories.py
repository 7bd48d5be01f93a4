"""Histories of tuning: merged in every way, upgraded from every version, repeated with noise."""

from __future__ import annotations

import json
import random
import shutil
import sqlite3
import statistics
import subprocess
import sys
import threading
from collections.abc import Iterable
from contextlib import closing
from itertools import pairwise
from pathlib import Path
from subprocess import DEVNULL
from typing import Any

from common import COLUMNS, ENVIRONMENT, SHARED, failures, forked, main, ok, opened, own, upgrading

from tuning_db import EnvironmentRecord, Trial, TuningDB, check, export_lines, import_lines, merge
from tuning_db.schema import newest

ENVIRONMENTS = [ENVIRONMENT, EnvironmentRecord({"arch": "sm_90"}, {"device": "H100"})]
GOLDEN = Path(__file__).parents[2] / "tuning_db" / "golden"
OUTCOMES = ("ok", "ok", "ok", "wrong", "crash", "started")


def _donors(folder: Path, rng: random.Random) -> list[Path]:
    """Three databases with runs of their own and runs they share, wholly or in part."""
    paths = [folder / name for name in "abc"]
    databases = [opened(str(path)) for path in paths]
    for run in range(rng.randrange(6)):
        environment, problem = rng.choice(ENVIRONMENTS), own(rng.randrange(3))
        for number in rng.sample(range(4), rng.randrange(4)):
            outcome = rng.choice(OUTCOMES)
            trial = Trial({"number": number}, outcome, measured_us=rng.choice([None, 1.0, 2.0]))
            for database in rng.sample(databases, rng.randrange(1, 4)):
                database.record(environment, problem, [trial], origin="sweep", run_id=f"run {run}")
    for database in databases:
        database.close()
    return paths


def _said(path: Path, sources: Iterable[Path] = ()) -> tuple[list[str], list[Any]]:
    """All that a database says after merging others: its finished trials, and its winners."""
    with opened(str(path)) as db:
        for source in sources:
            merge(db, source)
        assert check(db).ok
        return list(export_lines(db)), [db.winners(own(number).key) for number in range(3)]


def merges(folder: str, times: int, seed: int) -> dict[str, int]:
    """Merge random histories in several orders and groupings, by file and by text."""
    rng = random.Random(seed)
    lost = broken = 0
    for number in range(times):
        home = Path(folder) / str(number)
        home.mkdir()
        a, b, c = donors = _donors(home, rng)
        each = {line for donor in donors for line in _said(donor)[0]}
        expected = _said(home / "abc", donors)
        lost += len(each - set(expected[0]))
        _said(home / "bc", [c, b])
        others = [
            _said(home / "cba", [c, b, a]),
            _said(home / "(bc)a", [home / "bc", a]),
            _said(home / "abc", [home / "cba", *donors]),
        ]
        with opened(str(home / "text")) as db:
            import_lines(db, rng.sample(expected[0], len(expected[0])))
        others.append(_said(home / "text"))
        broken += sum(other != expected for other in others)
        shutil.rmtree(home)
    return {"lost": lost, "broken": broken}


def versions(folder: str, times: int) -> dict[str, int]:
    """Open files as every release left them, and again; a newer one is left alone."""
    upgrading()
    lost = failed = 0
    for number in range(times):
        for version in range(1, newest()):
            path = Path(folder) / f"{number}-{version}.db"
            with closing(sqlite3.connect(path, isolation_level=None)) as connection:
                connection.executescript((GOLDEN / f"v{version}.sql").read_text(encoding="utf-8"))
                (trials,) = connection.execute("SELECT count(*) FROM trials").fetchone()
            for _ in range(2):
                with TuningDB.open(path, columns=COLUMNS) as db:
                    lost += trials - db.info()["trials"]
                    failed += not check(db).ok or db.info()["schema_version"] != newest()
    return {"lost": lost, "failed": failed}


def repeated(path: str, times: int, seed: int) -> dict[str, Any]:
    """Tune again and again with noisy clocks; how often the winner flips, and what a wrong one costs."""
    rng = random.Random(seed)
    true = [100.0 * (1 + share) for share in (0, 0.001, 0.005, 0.01, 0.02, 0.05, 0.2, 1.0)]
    default = 5  # 5 % slower than the best
    winners, slower = [], 0
    with opened(path) as db:
        for _ in range(times):
            trials = [
                Trial(
                    {"number": number},
                    "ok",
                    samples_us=tuple(rng.gauss(time, 0.01 * time) for _ in range(5)),
                    detail={"default": number == default},
                )
                for number, time in enumerate(true)
            ]
            db.record(ENVIRONMENT, SHARED, trials, origin="sweep")
            (winner,) = db.winners(SHARED.key)
            winners.append(winner.config["number"])
            slower += true[winners[-1]] > true[default]
            assert winner.measured_us is not None and winner.default_us is not None
            slower += winner.measured_us > winner.default_us
    regrets = [true[winner] / min(true) - 1 for winner in winners]
    flips = sum(one != other for one, other in pairwise(winners))
    return {"slower": slower, "flips": flips, "regret": max(regrets), "mean": statistics.fmean(regrets)}


def kin(path: str, rounds: int) -> dict[str, int]:
    """Threads, forked children and spawned processes write, all by one database or on one file."""
    failed = 0
    written = set()
    with opened(path) as db:

        def write(number: int) -> None:
            db.record(ENVIRONMENT, SHARED, [ok(number)], origin="kin")

        for step in range(rounds):
            numbers = range(10 * step, 10 * step + 10)
            written |= set(numbers)
            write(numbers[0])
            threads = [threading.Thread(target=write, args=(number,)) for number in numbers[1:4]]
            for thread in threads:
                thread.start()
            children = [forked(lambda number=number: write(number)) for number in numbers[4:8]]  # type: ignore[misc]
            spawned = [
                subprocess.Popen(
                    [sys.executable, __file__, "one", json.dumps([path, number])], stdout=DEVNULL
                )
                for number in numbers[8:]
            ]
            failed += failures(children) + sum(process.wait() != 0 for process in spawned)
            for thread in threads:
                thread.join()
        kept = {trial.config["number"] for trial in db.trials(SHARED.key)}
        return {"failed": failed + (not check(db).ok), "lost": len(written - kept)}


def one(path: str, number: int) -> None:
    """Write one trial, as a process that was spawned."""
    with opened(path) as db:
        db.record(ENVIRONMENT, SHARED, [ok(number)], origin="spawned")


if __name__ == "__main__":
    main(globals())
