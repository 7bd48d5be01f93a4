"""One worker process and its life: started on a task, timed, ended with all that it started."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import ExitStack, suppress
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path
from typing import IO, Any

from autoconv.compiler.folders import triton_cache
from autoconv.settings import child_environment
from autoconv.sweep.memory import oom_kills
from autoconv.sweep.outcomes import Failed, Unavailable
from autoconv.sweep.tasks import Crashed, Ready, Task, TimedOut

START_SECONDS = 300.0  # for a process to start and import what its first task needs; cold disks are slow

_OUTPUT_TAIL = 400  # characters of what a dead worker printed that its outcome keeps

# Before it imports anything the worker gets the parent's own sys.path, by which that found this package. What
# lies in the current folder is no module of the worker's unless it is one of the parent's ("" in sys.path).
_WORKER = """
import sys
descriptor, parent, limit, niceness, *sys.path = sys.argv[1:]
from autoconv.sweep.worker import main
main(int(descriptor), int(parent), float(limit), int(niceness))
"""


class Cancelled(Exception):  # noqa: N818 - it is not an error
    """The workers were closed while tasks were at work: by another thread, or by the interpreter's exit."""


class Worker:
    """One child process; started on its first task, and again after it died or was ended.

    One thread at a time gives it tasks; any may close it.
    """

    def __init__(self, *, interpret: bool, limit: float, fresh_after_failure: bool, niceness: int) -> None:
        """Make a worker; see Workers for the arguments."""
        self._interpret = interpret
        self._limit = limit
        self._fresh_after_failure = fresh_after_failure
        self._niceness = niceness
        self._process: subprocess.Popen[bytes] | None = None
        self._closed = False
        self._lives = threading.Lock()  # held while the process starts or ends
        self._ready = False  # the task at work has begun
        self.until = 0.0  # of time.monotonic: when the task at work, or the start for it, has had its time
        self.pipe: Connection  # becomes readable when the worker has answered or died

    def begin(self, task: Task[Any]) -> None:
        """Give the process its next task; starting it, if need be, does not count as the task's time.

        Raises:
            Cancelled: the worker is closed.
            Unavailable: no process can be started.
        """
        if self._process is None or self._process.poll() is not None:
            self.end()
            self._start()
        else:
            self._output_before = os.fstat(self._output.fileno()).st_size
        self._ready = False
        self.until = time.monotonic() + START_SECONDS
        self._oom_kills = oom_kills()
        with suppress(BrokenPipeError):  # it died just now, which the pipe will tell
            self.pipe.send(task)

    def answer(self) -> Any:
        """Return the task's result or outcome, or None where there is none yet.

        Raises:
            Cancelled: the worker is closed.
            Unavailable: the machine is at fault, not the task.
        """
        if not self.pipe.poll():
            return self._late() if time.monotonic() >= self.until else None
        try:
            answer = self.pipe.recv()
        except (EOFError, OSError):
            return self._died()
        if isinstance(answer, Ready):
            self._ready = True
            self.until = time.monotonic() + self._limit
            return None
        if isinstance(answer, Unavailable):
            raise answer
        if self._fresh_after_failure and isinstance(answer, Failed):
            self.end()
        return answer

    def close(self) -> None:
        """End the process for good; one that waits for its answer finds it dead."""
        with self._lives:
            self._closed = True
            self._kill()

    def end(self) -> int | None:
        """End the process and all that it started; return its exit status, None where there is no process."""
        with self._lives:
            self._kill()
            process, self._process = self._process, None
            if process is None:
                return None
            self.pipe.close()
            status = process.wait()
            with self._output as output:
                output.seek(max(self._output_before, output.seek(0, os.SEEK_END) - _OUTPUT_TAIL))
                self._last_words = output.read().decode(errors="replace").strip()
            return status

    def _kill(self) -> None:
        # Until it is waited for, its id is its own, and its group's: that of the compiler it runs, too.
        if self._process is not None and self._process.returncode is None:
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)

    def _start(self) -> None:
        with self._lives, ExitStack() as on_failure:
            if self._closed:
                raise Cancelled
            try:
                self._output = on_failure.enter_context(_output_file())
                self._output_before = 0
                self.pipe, its_end = map(on_failure.enter_context, Pipe())
                self._process = self._started(its_end)
            except (OSError, ValueError) as error:  # ValueError: a null byte in sys.path
                raise Unavailable(f"no worker process can be started: {error}") from error
            on_failure.pop_all()
            its_end.close()

    def _started(self, its_end: Connection) -> subprocess.Popen[bytes]:
        # Imports take no account of what is not a string in sys.path, such as a Path.
        path = [entry for entry in sys.path if isinstance(entry, str)]
        numbers = map(str, (its_end.fileno(), os.getpid(), self._limit, self._niceness))
        return subprocess.Popen(
            [sys.executable, "-c", _WORKER, *numbers, *path],
            stdin=subprocess.DEVNULL,
            stdout=self._output,  # of whatever prints; the answers have a pipe of their own
            stderr=self._output,
            env=child_environment(
                TRITON_INTERPRET="1" if self._interpret else "0", TRITON_CACHE_DIR=str(triton_cache())
            ),
            pass_fds=[its_end.fileno()],
            start_new_session=True,  # a group of its own, which Ctrl-C at a terminal does not reach
        )

    def _late(self) -> TimedOut:
        self.end()
        if not self._ready:
            raise Unavailable(
                self._with_last_words(f"a worker process took over {START_SECONDS:g} s to start")
            )
        return TimedOut(self._with_last_words(f"no answer within {self._limit:g} s"))

    def _died(self) -> Crashed:
        ended = f"worker ended with status {self.end()}"
        if self._closed:
            raise Cancelled
        if not self._ready:
            raise Unavailable(self._with_last_words(f"no worker process can be started: {ended}"))
        if oom_kills() > self._oom_kills:
            raise Unavailable(self._with_last_words(f"the machine ran out of memory: {ended}"))
        return Crashed(self._with_last_words(ended))

    def _with_last_words(self, reason: str) -> str:
        return f"{reason}: {self._last_words}" if self._last_words else reason


def _output_file() -> IO[bytes]:
    """Return a file for what a worker prints; on a machine without temporary files it is not kept."""
    try:
        return tempfile.TemporaryFile(buffering=0)
    except OSError:
        return Path(os.devnull).open("r+b", buffering=0)
