"""A fork, while other threads do whatever they do, gives a child that neither hangs nor harms."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tuning_db import (
    BusyError,
    EnvironmentRecord,
    Layers,
    ProblemRecord,
    Trial,
    TuningDB,
    connection,
    records,
)

ENVIRONMENT = EnvironmentRecord({"arch": "sm_89"}, {})


def status_of_child(work: Callable[[], object]) -> int:
    """How a forked child ends that does this work: 0, or 1 after an error, or -SIGALRM if it hangs."""
    pid = os.fork()
    if pid == 0:
        signal.alarm(30)
        status = 1
        try:
            work()
            status = 0
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


@contextmanager
def thread_in(work: Callable[[Callable[[], None]], object]) -> Iterator[None]:
    """Have a thread at some point of its work, where it calls what it is given, during the block."""
    there, go_on = threading.Event(), threading.Event()

    def stay() -> None:
        there.set()
        go_on.wait(60)

    thread = threading.Thread(target=work, args=(stay,))
    thread.start()
    assert there.wait(60)
    try:
        yield
    finally:
        go_on.set()
        thread.join()


def test_no_value_that_is_computed_once_is_locked_in_a_child(monkeypatch: pytest.MonkeyPatch) -> None:
    """`functools.cached_property` holds, before Python 3.12, a lock for all instances while one computes."""
    with monkeypatch.context() as patch:

        def compute(stay: Callable[[], None]) -> None:
            patch.setattr(records, "digest", lambda _: stay() or "x")
            EnvironmentRecord({"arch": "sm_90"}, {}).hash  # noqa: B018 - the thread stays in there

        with thread_in(compute):
            patch.undo()
            assert status_of_child(lambda: EnvironmentRecord({"arch": "sm_80"}, {}).hash) == 0


def test_a_child_forked_while_a_thread_stays_in_sqlite_does_without(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SQLite's mutexes may be locked in it, by nobody; the parent goes on."""
    monkeypatch.setattr(connection, "FORK_TIMEOUT_S", 0.1)
    with TuningDB.open(path, columns={}) as db:
        db.record(ENVIRONMENT, ProblemRecord("p"), [Trial({}, "ok", predicted_us=1.0)], origin="x")

        def write(stay: Callable[[], None]) -> None:
            with db.writing() as connection:
                connection.execute("INSERT INTO meta VALUES ('thread', 'wrote')")
                stay()

        def refused() -> None:
            with pytest.raises(BusyError, match="forked while another thread"):
                db.winners("p")
            warnings: list[str] = []
            assert Layers([("user", db)], warnings.append).winners("p") == [] and len(warnings) == 1
            db.close()

        with thread_in(write):
            assert status_of_child(refused) == 0
            assert db.winners("p")
        assert status_of_child(lambda: db.winners("p")[0]) == 0  # nobody is inside now


@pytest.mark.parametrize(
    ("owner", "name"),
    [(connection, "patience"), (connection.Gate, "__enter__")],
    ids=["the pool's lock is held", "its only connection is lent"],
)
def test_a_child_has_connections_whatever_its_parent_s_threads_do(
    owner: Any, name: str, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The pool of connections is begun anew: those lent in the parent come back to nobody in the child."""
    monkeypatch.setattr(connection, "MOST_CONNECTIONS", 1)
    with TuningDB.open(path, columns={}) as db, monkeypatch.context() as patch:

        def look(stay: Callable[[], None]) -> None:
            called = getattr(owner, name)

            def stay_first(argument: Any) -> Any:
                patch.undo()
                stay()
                return called(argument)

            patch.setattr(owner, name, stay_first)
            db.info()

        with thread_in(look):
            assert status_of_child(db.info) == 0
