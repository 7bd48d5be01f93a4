"""A worker process: does the tasks that come over a descriptor of its own, one by one, and answers each.

`process` starts it. It either interprets kernels (TRITON_INTERPRET=1, decided by its parent before Triton is
imported) or compiles and runs them, and whatever a candidate does to it, up to killing it, costs the parent
one task. What is printed here, by compilers or by the user's own start-up files, is no answer.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from importlib import import_module
from multiprocessing.connection import Connection
from typing import Any

from autoconv.compiler.folders import trouble
from autoconv.sweep.memory import oom_kills
from autoconv.sweep.outcomes import Outcome, Unavailable, outcome_of
from autoconv.sweep.tasks import Ready, Task

_LOOK_SECONDS = 0.2  # between two looks whether the parent still lives
_GRACE = 2  # times its limit after which a task ends its own process, if its parent has not


def main(descriptor: int, parent: int, limit: float, niceness: int) -> None:
    """Serve tasks until the parent closes its end.

    Args:
        descriptor: Of the connection to the parent.
        parent: Its process id.
        limit: Seconds that one task may take.
        niceness: Added to the parent's own, as nice(1) has it.
    """
    os.nice(niceness)
    os.set_inheritable(descriptor, False)  # Triton starts ptxas with every descriptor that may be inherited
    signal.signal(signal.SIGALRM, signal.SIG_DFL)  # the parent's program may ignore it
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
    with Connection(descriptor) as parent_end:
        while True:
            try:
                task = parent_end.recv()
            except EOFError:
                return
            parent_end.send(_served(task, parent_end, limit))


def _served(task: Task[Any], parent_end: Connection, limit: float) -> object:
    """Return the result of `task`, or the outcome that says why there is none."""
    try:
        import_module(task.needs)
    except Exception as error:  # whatever an import here fails of, no candidate has had a part in it yet
        return Unavailable(f"{type(error).__name__}: {error}")
    parent_end.send(Ready())
    killed_before = oom_kills()
    # The thread below cannot run while native code hangs with the interpreter's lock; the kernel's alarm can.
    signal.setitimer(signal.ITIMER_REAL, _GRACE * limit)
    try:
        return task.perform()
    except Exception as error:  # Triton, ptxas and CUDA raise of every type: each is one candidate's result
        return _blamed(error, killed_before)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


def _blamed(error: Exception, killed_before: int) -> Outcome:
    """Return whose fault `error` is: the machine's too where it looks like the candidate's.

    A compiler that found no room for its output, or was killed for memory, may say so in any words.
    """
    found = outcome_of(error)
    why = trouble() or ("the machine ran out of memory" if oom_kills() > killed_before else None)
    return Unavailable(f"{why} ({found.reason})") if why else found


def _end_with(parent: int) -> None:
    """End this process and all that it started once `parent` is gone, in the midst of a task too.

    PR_SET_PDEATHSIG would not do: it goes by the thread that started a process, not by the whole parent, and
    ptxas does not inherit it. The end of the connection is not seen while a fork of the parent's holds it.
    """
    while os.getppid() == parent:
        time.sleep(_LOOK_SECONDS)
    os.killpg(0, signal.SIGKILL)
