"""Disks that are full."""

from __future__ import annotations

import os
import random
import resource
import shutil
import signal
from functools import partial
from pathlib import Path

from common import (
    COLUMNS,
    ENVIRONMENT,
    SHARED,
    exit_code,
    failures,
    forked,
    main,
    ok,
    opened,
    own,
    upgrading,
)

from tuning_db import UnwritableError, check, open_healed

FULL = 7  # the exit status of a child that was told so


def _limited(size: int) -> None:
    """Let no file of this process grow beyond that many bytes: what a write finds on a full disk."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))


def full_disks(folder: str, times: int, seed: int) -> dict[str, int]:
    """Fill the disk, by file size and by SQLite's own page count, at random points of a sweep."""
    rng = random.Random(seed)
    lost = failed = acknowledged = 0
    for number in range(times):
        path = f"{folder}/{number}.db"
        opened(path).close()
        reading, writing = os.pipe()
        work = partial(_fill_up, path, writing, by_pages=number % 2 == 0, room=rng.randrange(200_000))
        pid = forked(work)
        os.close(writing)
        with os.fdopen(reading) as lines:
            *done, last = lines.read().split()
        failed += failures([pid]) + (last != "full")
        with opened(path) as db:
            kept = {trial.config["number"] for trial in db.trials(SHARED.key)}
            lost += len(set(map(int, done)) - kept)
            db.record(ENVIRONMENT, SHARED, [ok(2000)], origin="there is room again")
            failed += not check(db).ok
        acknowledged += len(done)
    return {"acknowledged": acknowledged, "lost": lost, "failed": failed, "full": times}


def _fill_up(path: str, acknowledge: int, *, by_pages: bool, room: int) -> None:
    """Add trials until there is no room, and write the number of each that was committed."""
    size = Path(path).stat().st_size
    rng = random.Random(room)
    with opened(path) as db:
        if by_pages:
            with db.reading() as connection:
                connection.execute(f"PRAGMA max_page_count = {(size + room) // 4096}")
        else:
            _limited(size // 2 + room)  # may be less than the file: then the journal finds no room
        try:
            run = db.start(ENVIRONMENT, origin="sweep")
            for step in range(1000):
                db.add(run, SHARED, ok(step, text="x" * rng.randrange(3000)))
                os.write(acknowledge, b"%d\n" % step)
        except UnwritableError:
            os.write(acknowledge, b"full\n")


def full_disk_at_upgrade(folder: str, template: str, trials: int, times: int) -> dict[str, int]:
    """Let an upgrade find no room: in its backup, in its journal, in the file."""
    upgrading()
    lost = failed = refused = 0
    size = Path(template).stat().st_size
    for number in range(times):
        path = f"{folder}/{number}.db"
        shutil.copyfile(template, path)

        def work(path: str = path, share: float = 2.0 * number / times) -> None:
            _limited(int(size * share))
            try:
                opened(path).close()
            except UnwritableError:
                os._exit(FULL)

        status = exit_code(work)
        refused += status == FULL
        failed += status not in (0, FULL)
        with opened(path) as db:
            lost += trials - db.info()["trials"]
            failed += not check(db).ok
    return {"lost": lost, "failed": failed, "refused": refused}


def full_disk_at_healing(path: str, trials: int) -> dict[str, int]:
    """Let a damaged file be met while the disk is full; once there is room, nothing is missing."""
    with opened(path) as db:
        for number in range(trials):
            db.record(ENVIRONMENT, own(number), [ok(number)], origin="x")

    def tear() -> None:
        with Path(path).open("r+b") as file:
            file.write(b"\xa5" * 100)

    assert failures([forked(tear)]) == 0

    def work() -> None:
        _limited(20_000)
        try:
            open_healed(path, columns=COLUMNS, warn=lambda _: None)
        except UnwritableError:
            os._exit(FULL)

    status = exit_code(work)
    with open_healed(path, columns=COLUMNS, warn=lambda _: None) as db:
        kept = sum(bool(db.winners(own(number).key)) for number in range(trials))
    return {"refused": status == FULL, "lost": trials - kept}


if __name__ == "__main__":
    main(globals())
