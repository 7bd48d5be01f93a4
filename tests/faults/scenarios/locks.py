"""Filesystems that give no locks."""

from __future__ import annotations

import _sqlite3
import ctypes
import fcntl
from collections import Counter

from common import ENVIRONMENT, SHARED, main, ok, opened, own

from tuning_db import Layers, TuningDBError, check, connection


class _Locks:
    """Makes SQLite's fcntl fail for locks, by the door that SQLite has for its own tests."""

    def __init__(self) -> None:
        library = ctypes.CDLL(_sqlite3.__file__)
        library.sqlite3_vfs_find.restype = ctypes.c_void_p
        self._vfs = library.sqlite3_vfs_find(None)
        pointer, integer = ctypes.c_void_p, ctypes.c_int
        self._kind = ctypes.CFUNCTYPE(integer, integer, integer, pointer, use_errno=True)
        # sqlite3_vfs: three ints in two words, three pointers, then functions; xSetSystemCall is the 14th.
        words = ctypes.cast(self._vfs, ctypes.POINTER(pointer))
        set_call = ctypes.CFUNCTYPE(integer, pointer, ctypes.c_char_p, pointer)(words[2 + 3 + 13])
        self._set = set_call
        self.error = 0
        real = ctypes.CDLL(None, use_errno=True).fcntl
        real.argtypes = [integer, integer, pointer]

        def locking(descriptor: int, command: int, argument: int) -> int:
            if self.error and command in (fcntl.F_SETLK, fcntl.F_SETLKW):
                ctypes.set_errno(self.error)
                return -1
            return int(real(descriptor, command, argument))

        self._kept = self._kind(locking)
        assert self._set(self._vfs, b"fcntl", ctypes.cast(self._kept, pointer)) == 0


def lock_errors(path: str, codes: list[int], times: int) -> dict[str, int]:
    """Take the locks away under an open database, and give them back."""
    connection.READ_TIMEOUT_S = connection.WRITE_TIMEOUT_S = 0.05
    with opened(path) as db:
        db.record(ENVIRONMENT, own(3), [ok(3)], origin="x")
    try:
        locks = _Locks()
    except (AttributeError, OSError):
        return {"unsupported": 1}
    outcome: Counter[str] = Counter()
    written = []
    with opened(path) as db:
        for number in range(times):
            locks.error = codes[number % len(codes)]
            warnings: list[str] = []
            layers = Layers([("user", db)], warnings.append)
            outcome["wrong"] += layers.winners("own 3") != [] or len(warnings) != 1
            for attempt in (
                lambda: db.record(ENVIRONMENT, SHARED, [ok(5000)], origin="x"),
                lambda: opened(path),
            ):
                try:
                    attempt()
                except TuningDBError as error:
                    outcome["refused"] += 1
                    outcome["wrong"] += "\n" in str(error)
                else:
                    outcome["wrong"] += 1
            locks.error = 0
            outcome["wrong"] += len(layers.winners("own 3")) != 1
            db.record(ENVIRONMENT, SHARED, [ok(number)], origin="x")
            written.append(number)
        kept = {trial.config["number"] for trial in db.trials(SHARED.key)}
        outcome["lost"] += len(set(written) - kept)
        outcome["wrong"] += 5000 in kept or not check(db).ok
    return dict(outcome)


if __name__ == "__main__":
    main(globals())
