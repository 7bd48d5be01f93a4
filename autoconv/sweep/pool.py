"""Worker processes for sweeps: a crash or a hang costs one task, and a fresh worker goes on."""

from __future__ import annotations

import atexit
import os
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from multiprocessing.connection import wait
from types import TracebackType
from typing import Any, TypeVar
from weakref import WeakSet

from autoconv.sweep.outcomes import Failed, Outcome, Unavailable
from autoconv.sweep.process import Cancelled, Worker
from autoconv.sweep.tasks import Apply, Skipped, Task

_MOST_WORKERS = 16  # of a kind; each is a process of some 300 MB, and a sweep has few more tasks at a time

COMPILE_SECONDS = 120.0  # for one candidate
CHECK_SECONDS = 60.0  # for one candidate in the interpreter
GPU_SECONDS = 120.0  # for checking or timing one candidate on the GPU

Result = TypeVar("Result")


class Workers:
    """Several worker processes of one kind, used as a context manager, by one caller at a time."""

    def __init__(
        self,
        count: int,
        *,
        limit: float,
        interpret: bool = False,
        fresh_after_failure: bool = False,
        niceness: int = 0,
    ) -> None:
        """Make `count` workers; none starts before it has a task.

        Args:
            count: Worker processes.
            limit: Seconds that one task may take.
            interpret: Whether they interpret kernels instead of compiling and running them.
            fresh_after_failure: Whether a task that failed is the last of its process.
            niceness: Of the processes, above this one's: from 1 on they yield the cores to it.
        """
        self._all = [
            Worker(
                interpret=interpret, limit=limit, fresh_after_failure=fresh_after_failure, niceness=niceness
            )
            for _ in range(count)
        ]
        self._idle = deque(self._all)  # one that runs already is at the right
        self._closed = False
        self._owner = os.getpid()
        _open.add(self)

    def __enter__(self) -> Workers:
        """Return the workers themselves."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End every worker."""
        self.close()

    def close(self) -> None:
        """End every worker for good, in mid-task too; whoever waits for its answer gets Cancelled."""
        if os.getpid() != self._owner:
            return  # a forked child's end is not its parent's
        self._closed = True
        for worker in self._all:
            worker.close()
        self._end_idle()

    def perform(
        self, tasks: Iterable[Task[Result]], deadline: float = float("inf"), *, sure: int = 0
    ) -> Iterator[Result | Failed | Skipped]:
        """Yield what came of each task, in the order of the tasks, the workers working at once.

        From `deadline`, a time of `time.monotonic`, every task but the first `sure` ones is skipped.

        Raises:
            Cancelled: the workers were closed, or the interpreter exits.
            Unavailable: the machine is at fault, whatever the task; no further one is tried.
        """
        queue = deque(enumerate(tasks))
        busy: dict[Worker, int] = {}
        answers: dict[int, Any] = {}
        try:
            for number in range(len(queue)):
                until = deadline if number >= sure else float("inf")
                while number not in answers and time.monotonic() < until:
                    self._hand_out(queue, busy)
                    self._collect(busy, answers, until)
                yield answers.pop(number, Skipped("the deadline came first"))
        finally:
            for worker in busy:
                worker.end()
                self._idle.appendleft(worker)
            if self._closed:
                self._end_idle()

    def call(self, function: Callable[..., Result], *arguments: Any) -> Result:
        """Return what a function of some module returns, called in a worker.

        A thread that computes in Python for long delays the calls of others: each time one lets go of the
        interpreter, as every operator of torch does, it may wait 5 ms for it. Where no worker can answer, the
        function is called here, and raises here.

        Raises:
            Cancelled: the workers were closed, or the interpreter exits.
        """
        with suppress(Unavailable):
            (answer,) = self.perform([Apply(function, arguments)])
            if not isinstance(answer, Outcome):
                return answer
        return function(*arguments)

    def _hand_out(self, queue: deque[tuple[int, Task[Any]]], busy: dict[Worker, int]) -> None:
        while queue and (worker := self._taken()):
            busy[worker], task = queue.popleft()
            worker.begin(task)
        if self._closed:
            raise Cancelled

    def _collect(self, busy: dict[Worker, int], answers: dict[int, Any], deadline: float) -> None:
        until = min(deadline, *(worker.until for worker in busy), float("inf"))
        wait([worker.pipe for worker in busy], max(0.0, until - time.monotonic()))
        for worker in list(busy):
            answer = worker.answer()
            if answer is not None:
                answers[busy.pop(worker)] = answer
                self._idle.append(worker)

    def _taken(self) -> Worker | None:
        try:
            return self._idle.pop()
        except IndexError:  # all are at work, or were ended by another thread
            return None

    def _end_idle(self) -> None:
        while worker := self._taken():
            worker.end()


class WorkerPool:
    """All the workers that sweeps need, used as a context manager.

    A worker takes about 3 s to start, most of it torch's import, so sweeps in a row share a pool.

    Attributes:
        compilers: cross-compile candidates.
        interpreters: check candidates in Triton's interpreter.
        gpu: one process that checks and times candidates on the GPU. It does not survive a failure: after an
            illegal access every later call of a CUDA process fails too.
    """

    def __init__(
        self,
        count: int | None = None,
        *,
        compile_seconds: float = COMPILE_SECONDS,
        check_seconds: float = CHECK_SECONDS,
        niceness: int = 0,
    ) -> None:
        """Make a pool of `count` compilers and as many interpreters, by default one for each core.

        Processes of a `niceness` above 0 yield the cores to others, this one above all.
        """
        count = count or min(_MOST_WORKERS, os.cpu_count() or 1)
        self.compilers = Workers(count, limit=compile_seconds, niceness=niceness)
        self.interpreters = Workers(count, limit=check_seconds, interpret=True, niceness=niceness)
        self.gpu = Workers(1, limit=GPU_SECONDS, fresh_after_failure=True, niceness=niceness)

    def __enter__(self) -> WorkerPool:
        """Return the pool itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End every worker, in mid-task too."""
        for workers in (self.compilers, self.interpreters, self.gpu):
            workers.close()


_open: WeakSet[Workers] = WeakSet()  # to be ended when the interpreter exits, which waits for no sweep


@atexit.register
def _end_all() -> None:
    for workers in list(_open):
        workers.close()
