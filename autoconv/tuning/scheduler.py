"""Many problems tuned, the most time first, several at once where no GPU times them.

How one problem is tuned is the caller's; here are the order, the workers of each, and the end of what is left
when the time is up.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Collection, Generator, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from queue import Empty, SimpleQueue

from autoconv import lookup
from autoconv.errors import ProblemError
from autoconv.problem import Problem
from autoconv.sweep.outcomes import Unavailable
from autoconv.sweep.pool import WorkerPool
from autoconv.sweep.sweep import Job, Progress
from autoconv.tuning.tuner import Tuned, no_progress

MOST_LANES = 16
"""Problems tuned at once, at most; each has a compiling and an interpreting process of some 300 MB."""

_COMPILED = 0.6  # of a sweep's time without a GPU is over, about, when its candidates are compiled


@dataclass(frozen=True, eq=False)
class Order:
    """One problem to tune for one device."""

    problem: Problem
    job: Job
    worth: float  # what its calls take, in seconds: the most comes first
    content: Collection[str] = lookup.OWN  # the grades of a known entry that will do


@dataclass(frozen=True, eq=False)
class Ended:
    """What came of an order."""

    order: Order
    tuned: Tuned | None = None
    error: ProblemError | Unavailable | None = None  # why it was not tuned: no kernel runs it, or the machine


TuneOne = Callable[[Order, WorkerPool, Progress], Tuned]
Show = Callable[[str, float, int], None]  # what is being done, how many are done, of how many


def tune_all(
    orders: Iterable[Order],
    tune_one: TuneOne,
    *,
    seconds: float = float("inf"),
    lanes: int | None = None,
    pool: Callable[[int], WorkerPool] = WorkerPool,
    show: Show = no_progress,
    stop: Callable[[], None] | None = None,
) -> Generator[Ended, None, None]:
    """Tune `orders`, that with the most time in it first, and yield each as it ends.

    Where nothing is timed on a GPU, problems are tuned side by side, each with one process to compile and
    one to check: so while the candidates of one are estimated, those of others are compiled. On a GPU they
    are tuned one after the other, each with all cores.

    Closing the iterator ends what is in work, and so does the end of the time: what a sweep has found so far
    is recorded, and a later one goes on from there.

    Args:
        orders: What to tune; those of one problem go one after the other.
        tune_one: Tunes one of them with the workers given, and tells its progress. Called in several threads.
        seconds: After which nothing more is yielded.
        lanes: How many to tune at once, by default one for each core, or one where a GPU is used.
        pool: Makes a pool of so many workers of a kind.
        show: Told of the progress of all.
        stop: Ends what `tune_one` has running elsewhere than in its workers; called at the end, however it
            comes.
    """
    groups = _by_problem(orders)
    cores = min(MOST_LANES, os.cpu_count() or 1)
    on_gpu = any(one.job.on_gpu for group in groups for one in group)
    lanes = min(lanes or (1 if on_gpu else cores), max(1, len(groups)))
    until, count = time.monotonic() + seconds, sum(map(len, groups))
    tally, results = _Tally(count, show), SimpleQueue[Ended | BaseException]()
    with ThreadPoolExecutor(lanes, "autoconv tune") as threads, ExitStack() as stack:
        pools = SimpleQueue[WorkerPool]()
        for _ in range(lanes):
            pools.put(stack.enter_context(pool(max(1, cores // lanes))))
        if stop is not None:
            stack.callback(stop)

        def work(group: Sequence[Order]) -> None:
            workers = pools.get()
            try:
                for order in group:
                    results.put(_ended(order, tune_one, workers, tally.of(order)))
                    tally.end(order)
            except BaseException as error:  # whatever it is, it is for the caller's thread
                results.put(error)
            finally:
                pools.put(workers)

        futures = [threads.submit(work, group) for group in groups]
        try:
            yield from _taken(results, count, until)
        finally:
            for future in futures:
                future.cancel()
            stack.close()  # whose tasks end with that, and so the threads


def _by_problem(orders: Iterable[Order]) -> list[list[Order]]:
    """Return the orders of each problem together, the problem with the most time first.

    They are for one device after the other: what was compiled for the architecture, and checked, serves the
    next.
    """
    groups: dict[Problem, list[Order]] = {}
    for order in orders:
        groups.setdefault(order.problem, []).append(order)
    return sorted(groups.values(), key=lambda group: -sum(one.worth for one in group))


def _ended(order: Order, tune_one: TuneOne, workers: WorkerPool, progress: Progress) -> Ended:
    try:
        return Ended(order, tune_one(order, workers, progress))
    except (ProblemError, Unavailable) as error:
        return Ended(order, error=error)


def _taken(results: SimpleQueue[Ended | BaseException], count: int, until: float) -> Iterator[Ended]:
    """Yield so many results as they come, until the time is up; raise what a thread raised."""
    while count:
        left = until - time.monotonic()
        try:
            result = results.get(timeout=max(0.0, min(1.0, left)))  # in slices: between them Ctrl-C is heeded
        except Empty:
            if left <= 0:
                return
            continue
        if isinstance(result, BaseException):
            raise result
        count -= 1
        yield result


class _Tally:
    """Adds up the progress of what is tuned side by side."""

    def __init__(self, count: int, show: Show) -> None:
        self._lock = threading.Lock()
        self._count = count
        self._show = show
        self._done = 0
        self._shares: dict[int, float] = {}  # of those in work, by id

    def of(self, order: Order) -> Progress:
        """Return what a sweep tells its progress."""

        def told(doing: str, done: int, of: int) -> None:
            share = done / max(1, of)
            compiled = doing == "compile"
            share = _COMPILED * share if compiled else _COMPILED + (1 - _COMPILED) * share
            with self._lock:
                self._shares[id(order)] = max(share, self._shares.get(id(order), 0.0))
                self._tell(f"{doing} {order.problem}")

        return told

    def end(self, order: Order) -> None:
        """Count it as done."""
        with self._lock:
            self._shares.pop(id(order), None)
            self._done += 1
            self._tell(str(order.problem))

    def _tell(self, doing: str) -> None:
        self._show(doing, self._done + sum(self._shares.values()), self._count)
