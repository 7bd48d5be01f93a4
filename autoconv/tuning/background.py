"""The tuner of the background: one thread a process that works a queue, with one pool of worker processes.

A call never waits for it. First it has compiled what is known but not compiled yet, so that the plans that
wait only have to load it; then it sweeps what was missed, the problem with the most calls times the least
time of a call first; last it looks, of sizes that a neighbouring size's entry serves, whether the model knows
of something much better. It writes what was missed, under every policy.
"""

from __future__ import annotations

import atexit
import math
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any, Generic
from weakref import WeakSet

import torch

from autoconv.kernels.aten import ATEN
from autoconv.lookup import Found, warn_once
from autoconv.sweep.outcomes import Failed, outcome_of
from autoconv.sweep.pool import WorkerPool
from autoconv.sweep.process import Cancelled
from autoconv.sweep.sweep import Job
from autoconv.sweep.trials import failed_trial
from autoconv.tuning.hashes import hash_once
from autoconv.tuning.recent import Recent
from autoconv.tuning.tuner import Tuner
from autoconv.tuning.waiting import Key, P, Uncompiled, Wanted, uncompiled_for
from tuning_db.connection import without_waiting

IDLE_SECONDS = 5.0
"""After which the thread ends, and its workers with it, where nothing came. Starting them takes about 4 s."""

QUIET_SECONDS = 1.0
"""After the last request, before a sweep or a look begins, unless somebody waits for it: so a model's first
forward is over, and has asked for all its layers, when the first of them is picked."""

LONGEST_QUIET_SECONDS = 10.0  # after which one begins all the same

SHARE = 0.25  # of the device's free memory, the most that a sweep beside the process's own work may take

NICENESS = 10  # of its workers: compilers on all cores would slow the calls down that they are to speed up

MOST_WANTED = 1024  # problems that wait to be swept; what comes beyond is queued when planned anew

MOST_UNCOMPILED = 8192
"""Plans that wait to be compiled for; where the queue is not worked the oldest go, evicted by then as like as
not, and stay with what serves them."""

MOST_LOOKS = 64  # sizes that wait to be looked at; a look takes half a second of a core

MOST_TRIES = 3  # of one sweep or compilation, where the machine or the moment is at fault

RETRY_SECONDS = 5.0  # between a task that failed and the next: what it lacked may be there by then


class Background(Generic[P]):
    """The queue, and the thread that works it as long as there is something to do.

    Attributes:
        sweeps: how many were made.
    """

    def __init__(
        self, tuner: Tuner, release: Callable[[Sequence[P]], None], flush: Callable[[], None]
    ) -> None:
        """Work for `tuner`.

        `release` is told of plans for which there is now something better that only has to be loaded; `flush`
        writes what was missed.
        """
        self._tuner = tuner
        self._release = release
        self._flush = flush
        self._changed = threading.Condition()
        self._uncompiled: deque[Uncompiled[P]] = deque(maxlen=MOST_UNCOMPILED)
        self._wanted: dict[Key, Wanted[P]] = {}
        self._looks: deque[Wanted[P]] = deque()
        self._swept: Recent[Key] = Recent()
        self._looked: Recent[tuple[object, ...]] = Recent()
        self._thread: threading.Thread | None = None
        self._busy = False
        self._free = 0.0  # of time.monotonic: when the thread was free for its next task
        self._asleep = -math.inf  # likewise: until when it sleeps, unless it is woken
        self._asked = 0.0  # likewise: the last request
        self._waiting = 0  # callers of wait
        self._process = os.getpid()
        self.sweeps = 0
        _open.add(self)

    @property
    def here(self) -> bool:
        """Whether this is the process whose queue it is; in a forked child nothing is ever done."""
        return os.getpid() == self._process

    def sweep(self, wanted: Wanted[P]) -> bool:
        """Have `wanted` swept beside, once a process; where very many wait already, another process may.

        Return whether its plans wait now: not where it was swept, which may have been a moment ago.
        """
        with self._changed:
            if wanted.key in self._wanted:
                self._wanted[wanted.key].join(wanted.plans)
            elif wanted.key not in self._swept and len(self._wanted) < MOST_WANTED:
                self._wanted[wanted.key] = wanted
            self._wake()
            return wanted.key in self._wanted

    def join(self, wanted: Wanted[P]) -> None:
        """Have its plans wait too, where it waits to be swept already."""
        with self._changed:
            if wanted.key in self._wanted:
                self._wanted[wanted.key].join(wanted.plans)

    def compile(self, uncompiled: Uncompiled[P]) -> None:
        """Have a config compiled beside, and its plans released then."""
        with self._changed:
            self._uncompiled.append(uncompiled)
            self._wake()

    def look(self, wanted: Wanted[P]) -> None:
        """Have it looked at some time whether what serves is far behind the best that the model knows."""
        problem = wanted.problem
        # What serves does not change with every size: one look does for sizes within a fourth of an octave.
        near = (*wanted.shape, round(4 * math.log2(problem.N * problem.L_out)))
        with self._changed:
            if near not in self._looked and len(self._looks) < MOST_LOOKS:
                self._looked.add(near)
                self._looks.append(wanted)
                self._wake()

    def wake(self) -> None:
        """Have what was missed written soon."""
        if self.here:  # a child's lock may be held by a thread it has not
            with self._changed:
                self._wake()

    def wait(self, timeout: float | None) -> bool:
        """Wait until the queue is done, and what was missed is written; return whether the queue is done.

        Under torch's deterministic algorithms it is not worked, and so there is nothing to wait for; nor is
        there where the thread cannot be started, or died.
        """
        if not self.here:
            return True
        with self._changed:
            self._waiting += 1
            if self._anything():
                self._wake()
            try:
                self._changed.wait_for(lambda: self._done() or paused() or self._thread is None, timeout)
            finally:
                self._waiting -= 1
            done = self._done()
        self._flush()
        return done

    def flush_at_exit(self) -> None:
        """Write what was missed, unless the database is busy: nobody's exit waits for others."""
        if self.here:
            with without_waiting():
                self._flush()

    # --- the thread ---------------------------------------------------------------------------------

    def _anything(self) -> bool:
        return bool(self._uncompiled or self._wanted or self._looks)

    def _done(self) -> bool:
        return not (self._anything() or self._busy)

    def _wake(self) -> None:
        """Start the thread, or wake it if it has to do something sooner; to be called with the lock."""
        self._asked = time.monotonic()
        if self._thread is None and self.here:
            thread = threading.Thread(target=self._run, name="autoconv tuner", daemon=True)
            try:
                thread.start()
            except RuntimeError as error:  # too many are there; the next request tries again
                _warn(f"the background tuner cannot be started now: {error}")
            else:
                self._thread = thread
        elif self._due() < self._asleep:  # else it would take the interpreter from a call, once a layer
            self._changed.notify_all()

    def _run(self) -> None:
        try:
            with suppress(Cancelled):  # by the interpreter's exit
                self._work()
        finally:
            with self._changed:
                # Where it ended because nothing came, that is told, and another may have been started.
                if self._thread is threading.current_thread():
                    self._thread, self._busy = None, False
                    self._changed.notify_all()

    def _work(self) -> None:
        _tried(hash_once)  # now, so that no call has to wait for that
        with WorkerPool(niceness=NICENESS) as pool:  # no worker starts before it has a task
            rest = 0.0
            while (work := self._next(rest)) is not None:
                rest = 0.0 if _tried(work, pool) and _tried(self._flush) else RETRY_SECONDS

    def _next(self, rest: float) -> Callable[[WorkerPool], None] | None:
        """Return what to do after `rest` seconds; None, and the thread is to end, where nothing came."""
        with self._changed:
            self._free = time.monotonic() + rest
            self._busy = False
            self._changed.notify_all()
            while (left := self._due() - time.monotonic()) > 0:
                self._asleep = self._due()
                self._changed.wait(left)
            self._asleep = -math.inf
            if self._workable():
                self._busy = True
                return self._taken()
        _tried(self._flush)
        with self._changed:
            self._thread = None
            if self._workable():  # came meanwhile
                self._wake()
        return None

    def _workable(self) -> bool:
        return self._anything() and not paused()

    def _due(self) -> float:
        """Return when the thread has to do something: to take the next task, or to end."""
        if not self._workable():
            return self._free + IDLE_SECONDS
        if self._uncompiled or self._waiting:
            return self._free
        return max(self._free, min(self._asked + QUIET_SECONDS, self._free + LONGEST_QUIET_SECONDS))

    def _taken(self) -> Callable[[WorkerPool], None]:
        """Return the next task; to be called with the lock. A call may want it: nothing is weighed here."""
        if self._uncompiled:
            batch = list(self._uncompiled)
            self._uncompiled.clear()
            return lambda pool: self._compile(batch, pool)
        if self._wanted:
            # It stays in the queue meanwhile, for more plans to wait for it.
            waiting = list(self._wanted.values())
            return lambda pool: self._tune(max(waiting, key=lambda one: one.worth), pool)
        look = self._looks.popleft()
        return lambda pool: self._look_at(look, pool)

    # --- its tasks ----------------------------------------------------------------------------------

    def _compile(self, batch: list[Uncompiled[P]], pool: WorkerPool) -> None:
        """Compile each specialisation once, and release the plans of those that do.

        What has no answer, as where no worker can be started, goes back into the queue.
        """
        alike: dict[str, list[Uncompiled[P]]] = {}
        for one in batch:
            alike.setdefault(one.name, []).append(one)
        tasks = {name: ones[0].task for name, ones in alike.items()}
        try:
            for name, answer in zip(tasks, pool.compilers.perform(tasks.values()), strict=True):
                self._compiled(alike.pop(name), answer)
        finally:
            left = [one for ones in alike.values() for one in ones if one.tries + 1 < MOST_TRIES]
            with self._changed:
                self._uncompiled.extend(replace(one, tries=one.tries + 1) for one in left)

    def _compiled(self, alike: list[Uncompiled[P]], answer: object) -> None:
        """See to those that wait for one specialisation."""
        if answer is True:
            for one in alike:
                self._release(one.plans)
        elif isinstance(answer, Failed):
            task, job = alike[0].task, alike[0].job
            trial = failed_trial(task.config, answer, "compile")
            self._tuner.record(task.problem, job.environment, trial, origin="background")
            does_not = f"{task.config} does not compile for {job.device.name}"
            _warn(f"{does_not} ({answer.reason}); torch serves {task.problem}")

    def _tune(self, wanted: Wanted[P], pool: WorkerPool) -> None:
        """Sweep, unless something serves by now; then see to the plans that wait, of other sizes too."""
        again = False
        try:
            if self._known(wanted) is None and wanted.key not in self._swept:
                self.sweeps += 1
                wanted.tries += 1
                again = wanted.tries < MOST_TRIES  # where it raises
                self._tuner.tune(wanted.problem, self._beside(wanted), wait=2 * wanted.job.seconds, pool=pool)
                again = False
                self._tuner.forget()  # whoever swept it
        finally:
            if wanted.tries and not again:
                self._swept.add(wanted.key)
            if not (again or paused()):  # else it stays, and is seen to later
                self._take_out(wanted)
        with self._changed:
            alike = [one for one in self._wanted.values() if one.shape == wanted.shape]
        for one in alike:
            if not paused() and self._known(one) is not None:
                self._take_out(one)

    def _beside(self, wanted: Wanted[P]) -> Job:
        """Return the sweep of it as it is made here: on a GPU in pairs with what serves now."""
        job = replace(wanted.job, aside=True)
        if not job.on_gpu:
            return job
        found = self._tuner.find(*wanted.key)
        return replace(job, beside=ATEN if found is None else found.config)

    def _take_out(self, wanted: Wanted[P]) -> None:
        """Take it out of the queue, and give its plans what serves by now."""
        with self._changed:
            self._wanted.pop(wanted.key, None)
        found = self._known(wanted)
        if found is None:
            return
        for plan in wanted.plans:
            uncompiled = uncompiled_for(found, wanted.problem, wanted.job, plan)
            if uncompiled is None:
                self._release([plan])
            else:
                self.compile(uncompiled)

    def _known(self, wanted: Wanted[P]) -> Found | None:
        """Return what serves without another sweep, if anything does."""
        found = self._tuner.find(*wanted.key)
        if found is None or found.grade == "carried" or (wanted.exactly and found.grade == "bucket"):
            return None
        return None if wanted.job.on_gpu and found.provenance == "predicted" else found

    def _look_at(self, wanted: Wanted[P], pool: WorkerPool) -> None:
        """Have it swept where what serves is far behind."""
        found, device = self._tuner.find(*wanted.key), wanted.job.device
        if found is not None and self._tuner.ahead(wanted.problem, found, device, pool.compilers):
            for plan in wanted.plans:
                plan.missed = True
            wanted.exactly = True
            self.sweep(wanted)


def _tried(task: Callable[..., object], *given: object) -> bool:
    """Do a task of the thread's; return whether it went well. What fails is a warning: no call depends on it.

    Raises:
        Cancelled: by the interpreter's exit.
    """
    try:
        task(*given)
    except Cancelled:
        raise
    except Exception as error:  # processes, files, compilers
        _warn(f"the background tuner gave up a task: {outcome_of(error).reason}")
        return False
    return True


def _warn(message: str) -> None:
    """Warn, once a text; a filter that makes errors of warnings ends neither a call nor the thread."""
    with suppress(RuntimeWarning):
        warn_once(message)


def paused() -> bool:
    """Return whether the user wants the same numbers from every call: then nothing is tuned or swapped."""
    return torch.are_deterministic_algorithms_enabled()


_open: WeakSet[Background[Any]] = WeakSet()


@atexit.register
def _flush_all() -> None:
    for background in list(_open):
        background.flush_at_exit()
