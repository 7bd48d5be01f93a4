"""A child forked while a thread of its parent makes its first call computes convolutions too."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from autoconv import lookup, serving, settings
from autoconv.dispatch.machines import Cuda
from autoconv.settings import child_environment

FIRST_CALL = """
import os, signal, sqlite3, threading
import torch
import autoconv
from tuning_db.connection import Gate

x, weight = torch.ones(1, 16, 64), torch.ones(16, 16, 3)
within, enter = threading.Event(), Gate.__enter__

def enter_and_tell(gate):
    enter(gate)
    within.set()

holder = sqlite3.connect(os.environ["AUTOCONV_DB"], isolation_level=None)
with autoconv.recorded("rtx4090"):
    holder.execute("BEGIN EXCLUSIVE")  # so the thread waits in its first lookup
    thread = threading.Thread(target=autoconv.conv1d, args=(x, weight))
    Gate.__enter__ = enter_and_tell
    thread.start()
    within.wait()
    child = os.fork()
    if child == 0:
        signal.alarm(60)
        os._exit(0 if autoconv.conv1d(x, weight).shape == (1, 16, 62) else 1)
    holder.execute("ROLLBACK")
    thread.join()
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


def test_a_child_forked_during_the_first_lookup_of_a_thread_does_not_hang() -> None:
    lookup.open_user(settings.load()).close()
    done = subprocess.run(
        [sys.executable, "-c", FIRST_CALL],
        env=child_environment(AUTOCONV_ON_MISS="predict"),
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout == "0\n", done.stderr


@pytest.mark.parametrize(("waits", "served"), [(30.0, True), (0.0, False)], ids=["in time", "too long"])
def test_a_fork_waits_for_the_thread_that_makes_the_dispatcher(
    monkeypatch: pytest.MonkeyPatch, waits: float, served: bool
) -> None:
    """It imports, and modules that are half imported are locked for ever in the child; torch serves there."""
    monkeypatch.setattr(serving, "current", None)
    monkeypatch.setattr(serving, "FORK_SECONDS", waits)
    x: Any = SimpleNamespace(is_cuda=True)
    within, forking = threading.Event(), threading.Event()
    real = Cuda.__init__

    def slow(machine: Cuda) -> None:
        within.set()
        forking.wait(0.5)  # the fork is asked for meanwhile
        real(machine)

    monkeypatch.setattr(Cuda, "__init__", slow)
    thread = threading.Thread(target=serving.made_for, args=(x,))
    thread.start()
    assert within.wait(60)
    child = os.fork()
    if child == 0:
        signal.alarm(30)
        os._exit(0 if (serving.made_for(x) is not None) == served else 1)
    forking.set()
    thread.join()
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert serving.current is not None
