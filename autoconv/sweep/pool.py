"""Worker processes for sweeps: a crash or a hang costs one task, and a fresh worker goes on."""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from queue import LifoQueue
from types import TracebackType
from typing import Any

from autoconv.settings import child_environment
from autoconv.sweep.tasks import Reply, Task

_ERROR_TAIL = 400  # characters of a dead worker's standard error that its trial keeps
_MOST_WORKERS = 16  # of a kind; each is a process of some 300 MB, and a sweep has few more tasks at a time

START_SECONDS = 300.0  # for a process to start and import what its first task needs; cold disks are slow
COMPILE_SECONDS = 120.0  # for one candidate
CHECK_SECONDS = 60.0  # for one candidate in the interpreter
GPU_SECONDS = 120.0  # for checking or timing one candidate on the GPU


class Worker:
    """One child process; started on its first task, and again after it died or was killed."""

    def __init__(self, *, interpret: bool, timeout: float, fresh_after_error: bool) -> None:
        """Make a worker; see Pool for the arguments."""
        self._environment = child_environment(
            TRITON_INTERPRET="1" if interpret else "0",
            # The parent may have found this package by a path of its own. What else lies in the current
            # folder is no module of the worker's, unless it is one of the parent's ("" in sys.path).
            PYTHONPATH=os.pathsep.join(path or str(Path.cwd()) for path in sys.path),
            PYTHONSAFEPATH="1",
        )
        self._timeout = timeout
        self._fresh_after_error = fresh_after_error
        self._loaded: set[str] = set()  # kinds of tasks for which the process has imported what they need
        self._errors: Any = None
        self._process: subprocess.Popen[str] | None = None

    def perform(self, task: Task, deadline: float) -> Reply:
        """Do one task and return its reply; starting the process does not count as the task's time.

        A dead worker's reply has `outcome` "crash" or "timeout". A task that `deadline` (of time.monotonic)
        cuts off is no fault of its candidate: its reply is {"skipped": True}.
        """
        self._ensure_started()
        kind = str(task.get("what", task["do"]))
        if kind not in self._loaded:
            reply = self._ask({"do": "load", "what": kind}, START_SECONDS, deadline)
            if reply:
                return reply
            self._loaded.add(kind)
        return self._ask(task, self._timeout, deadline)

    def _ask(self, task: Task, timeout: float, deadline: float) -> Reply:
        process = self._process
        assert process is not None and process.stdin is not None and process.stdout is not None
        try:
            process.stdin.write(json.dumps(task) + "\n")
            process.stdin.flush()
        except BrokenPipeError:
            return self._crashed(process)
        left = deadline - time.monotonic()
        if not _readable(process.stdout, max(0.0, min(timeout, left))):
            if left > timeout:
                return self._died("timeout", f"no answer within {timeout:g} s")
            self.close()
            return {"skipped": True}
        line = process.stdout.readline()
        if not line.endswith("\n"):
            return self._crashed(process)
        reply: Reply = json.loads(line)
        if self._fresh_after_error and ("error" in reply or "unavailable" in reply):
            self.close()
        return reply

    def close(self) -> None:
        """End the process, if there is one."""
        process, self._process = self._process, None
        if process is None:
            return
        process.kill()
        process.wait()
        assert process.stdin is not None and process.stdout is not None
        for stream in (process.stdin, process.stdout, self._errors):
            with suppress(BrokenPipeError):  # unsent input of a process that is gone
                stream.close()

    def _ensure_started(self) -> None:
        if self._process is None or self._process.poll() is not None:
            self.close()
            self._loaded.clear()
            self._errors = tempfile.TemporaryFile("w+", errors="replace")  # noqa: SIM115 - outlives the call
            self._process = subprocess.Popen(
                [sys.executable, "-m", "autoconv.sweep.worker"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._errors,
                env=self._environment,
                text=True,
            )

    def _crashed(self, process: subprocess.Popen[str]) -> Reply:
        process.kill()
        return self._died("crash", f"worker ended with status {process.wait()}")

    def _died(self, outcome: str, error: str) -> Reply:
        self._errors.seek(0)
        said = self._errors.read()[-_ERROR_TAIL:].strip()
        self.close()
        return {"outcome": outcome, "error": f"{error}: {said}" if said else error}


def _readable(stream: Any, seconds: float) -> bool:
    """Wait for something to read, or the end; poll, unlike select, takes a descriptor of 1024 and above."""
    poll = select.poll()
    poll.register(stream, select.POLLIN)
    return bool(poll.poll(1000 * seconds))


class Pool:
    """Several workers of one kind, used as a context manager."""

    def __init__(
        self, count: int, *, timeout: float, interpret: bool = False, fresh_after_error: bool = False
    ) -> None:
        """Make a pool of `count` workers; none starts before it has a task.

        Args:
            count: Worker processes.
            timeout: Seconds that one task may take.
            interpret: Whether they interpret kernels instead of compiling and running them.
            fresh_after_error: Whether a task that failed is the last of its process.
        """
        self._workers: LifoQueue[Worker] = LifoQueue()  # a worker that runs already comes first
        self._all = [
            Worker(interpret=interpret, timeout=timeout, fresh_after_error=fresh_after_error)
            for _ in range(count)
        ]
        for worker in self._all:
            self._workers.put(worker)

    def __enter__(self) -> Pool:
        """Return the pool itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End every worker."""
        for worker in self._all:
            worker.close()

    def perform(self, tasks: Iterable[Task], deadline: float = float("inf")) -> Iterator[Reply]:
        """Yield the reply of each task, in the order of the tasks, the workers working at once.

        From `deadline`, a time of `time.monotonic`, every task is answered {"skipped": True}.
        """
        with ThreadPoolExecutor(max_workers=len(self._all)) as threads:
            yield from threads.map(lambda task: self._on_a_worker(task, deadline), tasks)

    def _on_a_worker(self, task: Task, deadline: float) -> Reply:
        if time.monotonic() >= deadline:
            return {"skipped": True}
        worker = self._workers.get()
        try:
            return worker.perform(task, deadline)
        finally:
            self._workers.put(worker)


class Crew:
    """All the workers that sweeps need, used as a context manager.

    A worker takes about 3 s to start, most of it torch's import, so sweeps in a row share a crew.

    Attributes:
        compilers: cross-compile candidates.
        interpreters: check candidates in Triton's interpreter.
        gpu: one process that checks and times candidates on the GPU. It does not survive an error: after an
            illegal access every later call of a CUDA process fails too.
    """

    def __init__(
        self,
        count: int | None = None,
        *,
        compile_seconds: float = COMPILE_SECONDS,
        check_seconds: float = CHECK_SECONDS,
    ) -> None:
        """Make a crew of `count` compilers and as many interpreters, by default one for each core."""
        count = count or min(_MOST_WORKERS, os.cpu_count() or 1)
        self.compilers = Pool(count, timeout=compile_seconds)
        self.interpreters = Pool(count, timeout=check_seconds, interpret=True)
        self.gpu = Pool(1, timeout=GPU_SECONDS, fresh_after_error=True)

    def __enter__(self) -> Crew:
        """Return the crew itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End every worker."""
        for pool in (self.compilers, self.interpreters, self.gpu):
            pool.__exit__(kind, error, trace)
