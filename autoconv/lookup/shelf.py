"""Lookups answered from memory: a module shape is read once, and answers any size from then on."""

from __future__ import annotations

import time
from collections.abc import Collection, Hashable, Iterable
from typing import Any, NamedTuple, TypeVar

from autoconv.environment import Environment
from autoconv.lookup.buckets import module_shape
from autoconv.lookup.families import Family, load
from autoconv.lookup.found import Found, PredictorOf, records
from autoconv.problem import Problem
from tuning_db import Layers, Sibling, Trial
from tuning_db.siblings import MOST_SIBLINGS, sibling_of

MOST_FAMILIES = 1024
"""Kept at once, some 20 KiB each; the oldest goes."""

FRESH_SECONDS = 60.0
"""After which a family is read anew, so that what other processes tuned is seen."""

MISSED_SECONDS = 1.0
"""Likewise, where nothing in it serves: a read takes longer than all else of a miss, and a network at a new
size has several layers of one module shape, at lengths of their own."""


Key = TypeVar("Key", bound=Hashable)


class _Kept(NamedTuple):
    family: Family
    read: float  # time.monotonic()


class Shelf:
    """What was read of the layers so far. Safe to share between threads.

    There is no lock, which a fork could copy: a dictionary's single steps are atomic, and two threads that
    read the same at once do no harm.
    """

    def __init__(self, layers: Layers, predictor_of: PredictorOf) -> None:
        """Answer from `layers`; `predictor_of` says what predicts here."""
        self._layers = layers
        self._predictor_of = predictor_of
        self._kept: dict[Hashable, _Kept] = {}
        self._unwritten: dict[Hashable, dict[Problem, Sibling]] = {}
        self._changes = 0

    def find(self, problem: Problem, environment: Environment) -> Found | None:
        """Return what serves `problem`, as `lookup.find` does; where its shape is known, from memory.

        A miss is looked up in the layers again after MISSED_SECONDS: another process may have tuned the
        problem meanwhile.
        """
        kept = self._fresh(problem, environment)
        found = kept.family.find(problem) if kept else None
        served = found is not None and (found.hit or found.pinned)
        if kept and (served or time.monotonic() - kept.read < MISSED_SECONDS):
            return found
        return self._read(problem, environment).find(problem)

    def known(
        self,
        problem: Problem,
        environment: Environment,
        grades: Collection[str],
        provenances: Collection[str],
        *,
        finished: bool = True,
    ) -> Found | None:
        """Return the best entry of these grades and provenances in any layer; see `Family.known`."""
        kept = self._fresh(problem, environment)
        family = kept.family if kept else self._read(problem, environment)
        return family.known(problem, grades, provenances, finished=finished)

    def remember(self, problem: Problem, environment: Environment, trials: Iterable[Trial]) -> None:
        """Take what a sweep found and no database could: it answers before all layers, as layer "memory"."""
        problem_record, environment_record = records(problem, environment)
        sibling = sibling_of(environment_record, problem_record, trials)
        of_shape = self._unwritten.setdefault((module_shape(problem), environment), {})
        of_shape[problem] = sibling
        _forget_oldest(of_shape, MOST_SIBLINGS)
        _forget_oldest(self._unwritten, MOST_FAMILIES)
        self.forget()

    def forget(self) -> None:
        """Read the layers anew from now on: this process has recorded something."""
        self._changes += 1
        self._kept.clear()

    def _fresh(self, problem: Problem, environment: Environment) -> _Kept | None:
        """Return what was read of the problem's shape a short while ago, None if nothing was."""
        # Where a layer has more sizes of the shape than are read at a time, they are those near the problem.
        kept = self._kept.get((module_shape(problem), environment)) or self._kept.get((problem, environment))
        return kept if kept and time.monotonic() - kept.read < FRESH_SECONDS else None

    def _read(self, problem: Problem, environment: Environment) -> Family:
        """Read the problem's shape, and keep it."""
        shape, changes, read = (module_shape(problem), environment), self._changes, time.monotonic()
        before = [("memory", one) for one in list(self._unwritten.get(shape, {}).values())]
        family, most = load(self._layers, problem, environment, self._predictor_of, before)
        if changes == self._changes and not self._layers.in_trouble:
            key = shape if most < MOST_SIBLINGS else (problem, environment)
            self._kept[key] = _Kept(family, read)
            _forget_oldest(self._kept, MOST_FAMILIES)
        return family


def _forget_oldest(kept: dict[Key, Any], most: int) -> None:
    for oldest in list(kept)[:-most]:
        kept.pop(oldest, None)
