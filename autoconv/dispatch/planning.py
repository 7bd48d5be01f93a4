"""The first call of a signature: from its arguments to the plan that is kept for it."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

from autoconv.device import Device
from autoconv.dispatch.apart import raised_by_a_handler
from autoconv.dispatch.binding import Binder
from autoconv.dispatch.choosing import Chooser
from autoconv.dispatch.launchers import ByTorch, Launcher
from autoconv.dispatch.machines import Machine
from autoconv.dispatch.plans import Key, Plans, Subject
from autoconv.dispatch.signature import Call, plain_number, precision_of, precision_setting, problem_of
from autoconv.errors import MissError
from autoconv.kernels.registry import kernels, supporting
from autoconv.lookup import warn_once
from autoconv.problem import Problem
from autoconv.settings import Settings
from autoconv.sweep.outcomes import outcome_of
from autoconv.tuning.tuner import Tuner


class Planner:
    """Makes the plans of one machine, whatever fails: torch serves then."""

    def __init__(self, machine: Machine, settings: Settings, plans: Plans) -> None:
        """Make `plans`, with the files and the policy on misses that `settings` name."""
        kernels()  # imported now: a child forked while a thread imports would wait for that for ever
        tuner = Tuner(settings)
        self._machine = machine
        self._plans = plans
        self._binder = Binder(machine, settings, tuner)
        self.chooser = Chooser(machine, settings, tuner, plans)

    def planned(self, key: Key, call: Call) -> Launcher:
        """Make, keep and return the plan for calls of this signature.

        Raises:
            MissError: the policy is strict, and the database has no entry.
        """
        call = Call(*map(plain_number, call))
        try:
            return self._made(key, call)
        except MissError:
            raise
        except Exception as error:  # kernels, files, models: whatever it is, a convolution must not fail
            if raised_by_a_handler(error):
                raise
            shapes = f"x {tuple(call.x.shape)} and weight {tuple(call.weight.shape)}"
            warn_once(f"no plan could be made for {shapes}, torch serves it: {outcome_of(error).reason}")
            return self._left(key, call)

    def _made(self, key: Key, call: Call) -> Launcher:
        problem = problem_of(call, precision_of(precision_setting()))
        ordinal = call.x.get_device()
        device = self._machine.device(ordinal)
        if problem is None or device is None or not _offered(problem, device):
            return self._left(key, call)
        if self._machine.capturing():
            # Loading a kernel would end the capture (vllm#36587).
            warn_once(f"{problem} was first called in a CUDA graph's capture, so torch serves it there; "
                      "call it once before the capture")  # fmt: skip
            return ByTorch(*call[3:])
        plans = self._plans
        with plans.alone():
            if key not in plans.by_key:
                subject = Subject(problem, device, self._machine.environment(ordinal, device))
                found = self.chooser.choose(subject, key, ordinal)
                plans.by_key[key] = self._binder.bind(found, subject, call, partial(plans.replace, key))
            return plans.by_key[key]

    def _left(self, key: Key, call: Call) -> Launcher:
        """Leave calls of this signature to torch; the plan is kept once torch has served one."""
        by_torch = ByTorch(*call[3:])
        return replace(by_torch, served=lambda: self._plans.by_key.setdefault(key, by_torch))


def _offered(problem: Problem, device: Device) -> bool:
    """Return whether any kernel that can run `problem` has a config for it on `device`."""
    return any(True for kernel in supporting(problem) for _ in kernel.space(problem, device))
