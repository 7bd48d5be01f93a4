"""The plans of a process by the signatures of their calls, and the lock under which they are made."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext
from typing import NamedTuple, TypeAlias

from autoconv.device import Device
from autoconv.dispatch.launchers import Launcher
from autoconv.environment import Environment
from autoconv.problem import Problem

Key: TypeAlias = tuple[object, ...]  # all of a call that its plan depends on


class Subject(NamedTuple):
    """What a plan is for: its config is chosen, swept and compiled for that."""

    problem: Problem
    device: Device
    environment: Environment


class Plans:
    """One plan for each call signature; whoever reads `by_key` alone needs no lock."""

    def __init__(self) -> None:
        """Start without any."""
        self.by_key: dict[Key, Launcher] = {}
        self._lock = threading.RLock()
        self._process = os.getpid()

    @property
    def forked(self) -> bool:
        """Whether this is a child of the process that the plans were made in."""
        return os.getpid() != self._process

    def alone(self) -> AbstractContextManager[object]:
        """Return the lock under which plans are made. A forked child's may be held by a thread it has not."""
        return nullcontext() if self.forked else self._lock

    def replace(self, key: Key, plan: Launcher, by: Launcher) -> bool:
        """Put `by` in the place of `plan`; return whether it was still there."""
        with self.alone():
            there = self.by_key.get(key) is plan
            if there:
                self.by_key[key] = by
        return there

    def drop(self, keys: Iterable[Key]) -> None:
        """Have the plans of these signatures made anew."""
        with self.alone():
            for key in keys:
                self.by_key.pop(key, None)
