"""Worker processes for a sweep: a crash or a hang costs one task, and a fresh worker goes on."""

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
from queue import SimpleQueue
from types import TracebackType
from typing import Any

from autoconv.settings import child_environment
from autoconv.sweep.tasks import Reply, Task

_ERROR_TAIL = 400  # characters of a dead worker's standard error that its trial keeps


class Worker:
    """One child process; started on its first task, and again after it died or was killed."""

    def __init__(self, *, interpret: bool, timeout: float) -> None:
        """Make a worker that interprets kernels or compiles them, with `timeout` seconds a task."""
        self._environment = child_environment(
            TRITON_INTERPRET="1" if interpret else "0",
            # The parent may have found this package by a path of its own.
            PYTHONPATH=os.pathsep.join(path for path in sys.path if path),
        )
        self._timeout = timeout
        self._errors: Any = None
        self._process: subprocess.Popen[str] | None = None

    def perform(self, task: Task) -> Reply:
        """Send one task and return its reply; a dead worker's reply has `outcome` "crash" or "timeout"."""
        process = self._started()
        assert process.stdin is not None and process.stdout is not None
        try:
            process.stdin.write(json.dumps(task) + "\n")
            process.stdin.flush()
        except BrokenPipeError:
            return self._died("crash")
        ready, _, _ = select.select([process.stdout], [], [], self._timeout)
        if not ready:
            return self._died("timeout")
        line = process.stdout.readline()
        if not line.endswith("\n"):
            return self._died("crash")
        reply: Reply = json.loads(line)
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

    def _started(self) -> subprocess.Popen[str]:
        if self._process is None or self._process.poll() is not None:
            self.close()
            self._errors = tempfile.TemporaryFile("w+", errors="replace")  # noqa: SIM115 - outlives the call
            self._process = subprocess.Popen(
                [sys.executable, "-m", "autoconv.sweep.worker"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._errors,
                env=self._environment,
                text=True,
            )
        return self._process

    def _died(self, outcome: str) -> Reply:
        assert self._process is not None
        if outcome == "timeout":
            error = f"no answer within {self._timeout:g} s"
        else:
            self._process.kill()
            error = f"worker ended with status {self._process.wait()}"
        self._errors.seek(0)
        said = self._errors.read()[-_ERROR_TAIL:].strip()
        self.close()
        return {"outcome": outcome, "error": f"{error}: {said}" if said else error}


class Pool:
    """Several workers of one kind, used as a context manager."""

    def __init__(
        self, count: int, *, interpret: bool = False, timeout: float = 120.0, deadline: float = float("inf")
    ) -> None:
        """Make a pool of `count` workers; none starts before it has a task.

        Args:
            count: Worker processes.
            interpret: Whether they interpret kernels instead of compiling them.
            timeout: Seconds that one task may take.
            deadline: Time of `time.monotonic` from which tasks are answered {"skipped": True} at once.
        """
        self._deadline = deadline
        self._workers: SimpleQueue[Worker] = SimpleQueue()
        self._all = [Worker(interpret=interpret, timeout=timeout) for _ in range(count)]
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

    def perform(self, tasks: Iterable[Task]) -> Iterator[Reply]:
        """Yield the reply of each task, in the order of the tasks, the workers working at once."""
        with ThreadPoolExecutor(max_workers=len(self._all)) as threads:
            yield from threads.map(self._on_a_worker, tasks)

    def _on_a_worker(self, task: Task) -> Reply:
        if time.monotonic() >= self._deadline:
            return {"skipped": True}
        worker = self._workers.get()
        try:
            return worker.perform(task)
        finally:
            self._workers.put(worker)
