"""Many processes at once."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

from common import ENVIRONMENT, SHARED, forked, gate, main, ok, opened, own, together, upgrading

from tuning_db import check, connection, single_flight
from tuning_db.files import backup_path
from tuning_db.schema import newest


def crowd(path: str, processes: int, rounds: int) -> dict[str, int]:
    """Many processes, all on one key and each on its own, with the patience that their number asks for.

    SQLite gives no turns: of many that wait, one may wait for as long as all the others write.
    """
    connection.WRITE_TIMEOUT_S = connection.READ_TIMEOUT_S = 600.0

    def work(index: int) -> None:
        with opened(path) as db:
            run = db.start(ENVIRONMENT, origin=f"process {index}")
            for step in range(rounds):
                trial = ok(index * rounds + step)
                db.add(run, SHARED, trial)
                db.add(run, own(index), trial)
                assert db.winners(SHARED.key)[0].config["number"] <= trial.config["number"]

    failed = together(processes, work)
    with opened(path) as db:
        shared = {trial.config["number"] for trial in db.trials(SHARED.key)}
        lost = len(set(range(processes * rounds)) - shared)
        lost += sum(rounds - len(db.trials(own(index).key)) for index in range(processes))
        sound = check(db).ok and db.winners(SHARED.key)[0].config == {"number": 0}
        return {"failed": failed, "lost": lost, "sound": sound, "written": 2 * processes * rounds}


def one_flight(path: str, processes: int, keys: int) -> list[int]:
    """Processes that miss on the same keys, one after the other; return how often each was tuned."""

    def miss(_: int) -> None:
        with opened(path) as db:
            for key in range(keys):
                with single_flight(path, own(key).key, timeout=60) as held:
                    assert held
                    if not db.winners(own(key).key):
                        time.sleep(0.02)  # the sweep
                        db.record(ENVIRONMENT, own(key), [ok(1)], origin="sweep")

    assert together(processes, miss) == 0
    with opened(path) as db:
        return [len(db.trials(own(key).key)) for key in range(keys)]


def killed_holders(path: str, times: int) -> int:
    """Kill the one that tunes, and return how often the next could, without waiting."""
    held_at_once = 0
    for number in range(times):
        with gate() as wait:

            def hold(number: int = number, wait: Callable[[], None] = wait) -> None:
                with single_flight(path, f"key {number}", timeout=5) as held:
                    assert held
                    wait()
                    time.sleep(60)

            pid = forked(hold)
            while True:  # until the child holds it
                with single_flight(path, f"key {number}", timeout=0) as mine:
                    if not mine:
                        break
                time.sleep(0.005)
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        with single_flight(path, f"key {number}", timeout=0) as held:
            held_at_once += held
    return held_at_once


def first_opening(folder: str, times: int, processes: int) -> dict[str, int]:
    """Many processes open a file that is not there yet, and write."""
    failed = lost = 0
    for number in range(times):
        path = f"{folder}/{number}/new.db"

        def work(index: int, path: str = path) -> None:
            with opened(path) as db:
                db.record(ENVIRONMENT, own(index), [ok(index)], origin="x")

        failed += together(processes, work)
        with opened(path) as db:
            lost += processes - sum(bool(db.winners(own(index).key)) for index in range(processes))
            failed += not check(db).ok
    return {"failed": failed, "lost": lost}


def upgrades_raced(folder: str, template: str, trials: int, times: int, processes: int) -> dict[str, int]:
    """Many processes open an older file at once; return what is missing then."""
    upgrading()
    failed = lost = 0
    for number in range(times):
        path = f"{folder}/{number}.db"
        Path(path).write_bytes(Path(template).read_bytes())

        def work(_: int, path: str = path) -> None:
            with opened(path) as db:
                assert db.info()["schema_version"] == newest() and db.info()["trials"] == trials

        failed += together(processes, work)
        with opened(path) as db:
            lost += trials - db.info()["trials"]
            failed += not check(db).ok
        failed += backup_path(Path(path), 1).read_bytes()[:16] != b"SQLite format 3\0"
    return {"failed": failed, "lost": lost}


if __name__ == "__main__":
    main(globals())
