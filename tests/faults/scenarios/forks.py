"""Forks, and locks that others hold, at the first lookup of a process."""

from __future__ import annotations

import os
import random
import signal
import sqlite3
import sys
import threading
import time
from collections import Counter
from contextlib import closing
from functools import partial

from common import ENVIRONMENT, SHARED, exit_code, failures, forked, main, ok, opened

from tuning_db import EnvironmentRecord, Layers, connection

OTHER = EnvironmentRecord({"arch": "sm_90"}, {"device": "H100"})


def _layers(path: str) -> Layers:
    return Layers([("user", lambda: opened(path))], lambda text: print(text, file=sys.stderr))


def first_lookups(path: str, times: int, seed: int) -> dict[str, int]:
    """Fork at random instants of a thread's first lookup; each child looks up too, or says it cannot."""
    rng = random.Random(seed)
    with opened(path) as db:
        db.record(ENVIRONMENT, SHARED, [ok(1)], origin="x")
    outcome: Counter[str] = Counter(hung=0, failed=0)
    for _ in range(times):
        status = exit_code(partial(_fork_at_first_lookup, path, rng.uniform(0, 0.01)))
        outcome["hung"] += status == -signal.SIGALRM
        outcome["failed"] += status not in (0, -signal.SIGALRM)
    return dict(outcome)


def _fork_at_first_lookup(path: str, after: float) -> None:
    layers = _layers(path)
    found: list[int] = []

    def look() -> None:
        EnvironmentRecord({"arch": "sm_80"}, {}).hash  # noqa: B018 - computed once, under no lock
        found.append(len(layers.winners(SHARED.key)))

    thread = threading.Thread(target=look)
    thread.start()
    time.sleep(after)
    pid = os.fork()
    if pid == 0:
        signal.alarm(20)
        assert OTHER.hash and len(layers.winners(SHARED.key)) == 1
        os._exit(0)
    signal.alarm(60)
    thread.join()
    (_, status) = os.waitpid(pid, 0)
    if os.WIFSIGNALED(status):
        os.kill(os.getpid(), signal.SIGALRM)
    assert found == [1] and status == 0


def busy_at_first(path: str, times: int) -> dict[str, int]:
    """Hold the file locked during a process's first lookup; it finds the entry as soon as it is free."""
    with opened(path) as db:
        db.record(ENVIRONMENT, SHARED, [ok(1)], origin="x")
    missed = early = 0
    for _ in range(times):
        reading, writing = os.pipe()
        holder = forked(partial(_hold, path, writing))
        assert os.read(reading, 1) == b"!"
        pid = forked(partial(_look_until_found, path, writing))
        early += os.read(reading, 1) != b"0"
        os.kill(holder, signal.SIGKILL)
        os.waitpid(holder, 0)
        missed += failures([pid])
        os.close(reading)
        os.close(writing)
    return {"missed": missed, "early": early}


def _hold(path: str, told: int) -> None:
    with closing(sqlite3.connect(path, isolation_level=None)) as holder:
        holder.execute("BEGIN EXCLUSIVE")
        os.write(told, b"!")
        time.sleep(60)


def _look_until_found(path: str, told: int) -> None:
    connection.READ_TIMEOUT_S = 0.02
    layers = _layers(path)
    os.write(told, b"%d" % len(layers.winners(SHARED.key)))
    signal.alarm(20)
    while not layers.winners(SHARED.key):
        time.sleep(0.001)


if __name__ == "__main__":
    main(globals())
