"""The first call of a signature: from its arguments to the plan that is kept for it, and its renewal."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial

import torch

from autoconv.compiler.specialisation import Form, load_compiler
from autoconv.device import Device
from autoconv.dispatch.apart import raised_by_a_handler
from autoconv.dispatch.binding import Binder
from autoconv.dispatch.choosing import Chooser
from autoconv.dispatch.figures import Served
from autoconv.dispatch.launchers import ByTorch, Launcher, canonical_inputs
from autoconv.dispatch.machines import Machine
from autoconv.dispatch.plans import Key, Plan, Plans, Subject
from autoconv.dispatch.signature import Call, plain_number, precision_of, precision_setting, problem_of
from autoconv.environment import Environment
from autoconv.errors import MissError
from autoconv.kernels.base import Kernel
from autoconv.kernels.registry import kernels
from autoconv.kernels.sizes import beyond_reach
from autoconv.lookup import Found, warn_once
from autoconv.lookup.buckets import Shape, module_shape
from autoconv.problem import Problem
from autoconv.settings import Settings
from autoconv.sweep.outcomes import outcome_of
from autoconv.tuning.background import Background, paused
from autoconv.tuning.missed import Missed, now
from autoconv.tuning.recent import Recent
from autoconv.tuning.tuner import Tuner
from autoconv.tuning.waiting import uncompiled_for

_log = logging.getLogger("autoconv")

NO_KERNEL = Served(why="no kernel runs it")
CAPTURED = Served(why="it was first called in a graph's capture")
NOTHING = Served(why="nothing is tuned for it")


class Planner:
    """Makes the plans of one machine, whatever fails: torch serves then."""

    def __init__(self, machine: Machine, settings: Settings) -> None:
        """Make plans with the files and the policy on misses that `settings` name."""
        # Imported now: a child forked while a thread imports would wait for that for ever.
        kernels()
        load_compiler()
        tuner = Tuner(settings)
        self._machine = machine
        self._missed = Missed(tuner.layers)
        self.plans = Plans(self._missed)
        self.background: Background[Plan] = Background(tuner, self._released, self._flush)
        self._binder = Binder(machine, settings, tuner, self.plans)
        self.chooser = Chooser(machine, settings, tuner, self.plans, self.background)
        self._environments: dict[int, Environment] = {}
        self._shapes: Recent[tuple[Shape, Device]] = Recent()  # which kernels offer configs for

    def planned(self, key: Key, call: Call) -> Plan:
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
            reason = outcome_of(error).reason
            shapes = f"x {tuple(call.x.shape)} and weight {tuple(call.weight.shape)}"
            warn_once(f"no plan could be made for {shapes}, torch serves it: {reason}")
            return self._left(key, call, Served(why="no plan could be made"))

    def _made(self, key: Key, call: Call) -> Plan:
        problem = problem_of(call, precision_of(precision_setting()))
        ordinal = call.x.get_device()
        device = self._machine.device(ordinal)
        if problem is None or device is None:
            return self._left(key, call, NO_KERNEL)
        if self._machine.capturing():
            # Loading a kernel would end the capture (vllm#36587).
            warn_once(f"{problem} was first called in a CUDA graph's capture, so torch serves it there; "
                      "call it once before the capture")  # fmt: skip
            return self.passing(call, CAPTURED)
        with self.plans.alone():
            plan = self.plans.by_key.get(key)
            if plan is None:
                subject = Subject(problem, device, self._environment(ordinal, device))
                form = Form.of(*canonical_inputs(call.x, call.weight, call.bias))
                plan = Plan(ByTorch(*call[3:]), NOTHING, subject, ordinal, form, call[3:], since=now())
                if not self._serve(plan, call):
                    return self._left(key, call, NO_KERNEL)
                plan = self.plans.keep(key, plan)
                if plan.missed:
                    self.plans.misses += 1
                    self.background.wake()
            return plan

    def _serve(self, plan: Plan, call: Call) -> bool:
        """Have the best that is there serve the calls of `plan`; return False where no kernel runs them."""
        assert plan.subject is not None
        problem, device, _ = plan.subject
        found = self.chooser.choose(plan)
        if found is None and not self._offered(problem, device):
            return False
        by_torch = ByTorch(*call[3:])
        if found is None:
            self.plans.serve(plan, by_torch, NOTHING)
        elif self._waits(found, plan):
            why = "its kernel is not compiled yet"
            self.plans.serve(plan, by_torch, Served(found.grade, found.layer, why))
        else:
            launch, why = self._binder.bind(found, plan, call)
            self.plans.serve(plan, launch, Served(found.grade, found.layer, why))
        return True

    def _offered(self, problem: Problem, device: Device) -> bool:
        """Return whether any kernel has a config for `problem` on `device`.

        Where a module shape has one at some size, it is taken to have them at all that a kernel can run: to
        find the first takes longer than all else of a miss together.
        """
        shape = module_shape(problem), device
        if shape in self._shapes:
            return any(True for _ in _able(problem))
        offered = any(True for kernel in _able(problem) for _ in kernel.space(problem, device))
        if offered:
            self._shapes.add(shape)
        return offered

    def _waits(self, found: Found, plan: Plan) -> bool:
        """Have a config compiled beside that another size's or another toolchain's entry names, if need be.

        What was tuned for this very problem is compiled in the call, once: so a call before the capture of a
        graph is enough to have the tuned kernel captured.
        """
        background = self.chooser.policy == "background" and self._machine.compiles
        if found.grade in ("exact", "soft") or not background:
            return False
        assert plan.subject is not None
        job = self.chooser.job(plan, "")
        uncompiled = uncompiled_for(found, plan.subject.problem, job, plan)
        if uncompiled is not None and self.background.here:  # in a forked child torch serves on
            self.background.compile(uncompiled)
        return uncompiled is not None

    # --- renewal ------------------------------------------------------------------------------------

    def _released(self, plans: Sequence[Plan]) -> None:
        """Have the next call of each of these plans look for what is better: loading it belongs to a call."""
        for plan in plans:
            with self.plans.alone():
                renew: Launcher = partial(self._renewed, plan, plan.launch, time.monotonic())
                plan.launch = renew

    def _renewed(
        self,
        plan: Plan,
        before: Launcher,
        since: float,
        x: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
    ) -> torch.Tensor:
        """Compute a call by what is best now, and have that serve from now on."""
        if not (paused() or self._machine.capturing()):
            with self.plans.alone():
                if isinstance(plan.launch, partial):  # no other thread came first
                    self._renew(plan, before, since, Call(x, weight, bias, *plan.numbers))
        launch = before if isinstance(plan.launch, partial) else plan.launch
        return launch(x, weight, bias)

    def _renew(self, plan: Plan, before: Launcher, since: float, call: Call) -> None:
        assert plan.subject is not None
        was = plan.served
        plan.calls -= 1  # this one, which is not served by what was
        try:
            self._serve(plan, call)
        except Exception as error:  # as when the plan was first made
            if raised_by_a_handler(error):
                raise
            self.plans.serve(plan, before, was)
            warn_once(f"{plan.subject.problem} is served as before: {outcome_of(error).reason}")
            return
        finally:
            plan.calls += 1
        _log.info(
            "%s: %s of layer %s serves from now on, in place of %s, %.1f s after it was ready",
            plan.subject.problem, plan.served.by, plan.served.layer, was.by, time.monotonic() - since,
        )  # fmt: skip

    # --- what is torch's ----------------------------------------------------------------------------

    def _left(self, key: Key, call: Call, served: Served) -> Plan:
        """Leave calls of this signature to torch; the plan is kept once torch has served one."""
        by_torch = ByTorch(*call[3:])
        plan = Plan(by_torch, served)

        def keep() -> None:
            plan.launch = by_torch
            self.plans.keep(key, plan)

        plan.launch = replace(by_torch, served=keep)
        return plan

    def passing(self, call: Call, served: Served) -> Plan:
        """Return a plan for this call alone, which torch serves."""
        self.plans.once(served)
        return Plan(ByTorch(*call[3:]), served)

    def _environment(self, ordinal: int, device: Device) -> Environment:
        """Return the environment of a device, read once: the versions in it take a millisecond to read."""
        if ordinal not in self._environments:
            self._environments[ordinal] = self._machine.environment(ordinal, device)
        return self._environments[ordinal]

    def _flush(self) -> None:
        """Write what was missed."""
        self.plans.counts()
        self._missed.flush()


def _able(problem: Problem) -> Iterator[Kernel]:
    """Yield the kernels that can run `problem`, as `supporting` does, each asked only when it is needed."""
    if beyond_reach(problem) is None:
        yield from (kernel for kernel in kernels().values() if kernel.unsupported(problem) is None)
