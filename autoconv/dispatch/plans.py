"""The plans of a process by the signatures of their calls, the lock they are made under, and the counts."""

from __future__ import annotations

import os
import threading
from collections import Counter
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias

from autoconv.compiler.specialisation import Form
from autoconv.device import Device
from autoconv.dispatch.figures import Served
from autoconv.dispatch.launchers import Launcher
from autoconv.environment import Environment
from autoconv.problem import Problem
from autoconv.tuning.missed import Missed, now

Key: TypeAlias = tuple[object, ...]  # all of a call that its plan depends on

MOST_PLANS = 8192
"""Plans kept, of some 4 KB each; the oldest go. To make one anew takes less than a millisecond."""


_NO_FORM = Form((0, 0, 0))


class Subject(NamedTuple):
    """What a plan is for: its config is chosen, swept and compiled for that."""

    problem: Problem
    device: Device
    environment: Environment


@dataclass(eq=False, slots=True)
class Plan:
    """How the calls of one signature are served.

    Attributes:
        launch: computes a call; replaced when something better is there.
        served: what `launch` is.
        subject: None of what no kernel runs.
        ordinal: of the device.
        form: how the tensors lie.
        numbers: the call's arguments after its tensors.
        missed: whether its calls are noted as ones of a problem that is to be tuned.
        calls: since they were last counted up.
        counted: those before.
        since: when it was made.
    """

    launch: Launcher
    served: Served
    subject: Subject | None = None
    ordinal: int = -1
    form: Form = _NO_FORM
    numbers: tuple[Any, ...] = ()
    missed: bool = False
    calls: int = 0
    counted: int = 0
    since: str = ""

    @property
    def total(self) -> int:
        """Return how often it was called."""
        return self.calls + self.counted


class Plans:
    """One plan for each call signature, the newest MOST_PLANS; whoever reads `by_key` alone needs no lock.

    Attributes:
        by_key: the plans.
        evicted: how many had to go.
        on_eviction: called where one has gone.
        misses: how many found no entry when they were made.
    """

    def __init__(self, missed: Missed) -> None:
        """Start without any; calls of what was not tuned are noted in `missed`."""
        self.by_key: dict[Key, Plan] = {}
        self.evicted = 0
        self.on_eviction: Callable[[], None] = lambda: None
        self.misses = 0
        self._missed = missed
        self._calls: Counter[Served] = Counter()
        self._lock = threading.RLock()
        self._process = os.getpid()

    @property
    def forked(self) -> bool:
        """Whether this is a child of the process that the plans were made in."""
        return os.getpid() != self._process

    def alone(self) -> AbstractContextManager[object]:
        """Return the lock under which plans are made. A forked child's may be held by a thread it has not."""
        return nullcontext() if self.forked else self._lock

    def keep(self, key: Key, plan: Plan) -> Plan:
        """Keep `plan`, unless there is one for this key, which is returned then; the oldest goes for it."""
        with self.alone():
            kept = self.by_key.setdefault(key, plan)
            if len(self.by_key) > MOST_PLANS:
                oldest = next(iter(self.by_key))
                self._count_up(self.by_key.pop(oldest))
                self.evicted += 1
                self.on_eviction()
            return kept

    def serve(self, plan: Plan, launch: Launcher, served: Served) -> None:
        """Have `launch` serve the calls of `plan` from now on."""
        with self.alone():
            self._count_up(plan)
            plan.launch, plan.served = launch, served

    def note(self, subject: Subject, served: str) -> None:
        """Note a call of what was not tuned, of which no plan is kept."""
        if not self.forked:  # where nobody writes it
            self._missed.add(subject.problem, subject.environment, 1, served, now())

    def once(self, served: Served) -> None:
        """Count a call of which no plan is kept."""
        with self.alone():
            self._calls[served] += 1

    def counts(self) -> Counter[Served]:
        """Return how many calls were served by what. Of calls that threads make at once, some may lack."""
        for plan in list(self.by_key.values()):
            with self.alone():  # for each: to count thousands up takes longer than a call may wait
                self._count_up(plan)
        with self.alone():
            return Counter(self._calls)

    def _count_up(self, plan: Plan) -> None:
        # Below 0 where a call was taken back that was counted up already; the next one makes up for it.
        if plan.calls <= 0:
            return
        calls, plan.calls = plan.calls, 0
        plan.counted += calls
        self._calls[plan.served] += calls
        if plan.missed and plan.subject is not None and not self.forked:
            problem, _, environment = plan.subject
            self._missed.add(problem, environment, calls, plan.served.by, plan.since)
