"""The plan cache, and what happens on a miss."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import torch

from autoconv.config import Config
from autoconv.device import Device
from autoconv.dispatch.apart import begun, raised_by_a_handler
from autoconv.dispatch.launchers import ByTorch, Launcher, as_kernels_read, fitted
from autoconv.dispatch.machines import Machine
from autoconv.dispatch.signature import (
    NO_MEMORY,
    Call,
    Numbers,
    Padding,
    Sides,
    plain_number,
    precision_of,
    precision_setting,
    problem_of,
)
from autoconv.environment import Environment
from autoconv.errors import MissError
from autoconv.kernels.aten import ATEN
from autoconv.kernels.registry import kernel as kernel_called
from autoconv.kernels.registry import kernels, supporting
from autoconv.lookup import Found, warn_once
from autoconv.problem import Problem
from autoconv.settings import Settings
from autoconv.sweep.ahead import compiled_ahead
from autoconv.sweep.candidates import candidates, leaders
from autoconv.sweep.outcomes import Unavailable, outcome_of
from autoconv.sweep.pool import WorkerPool
from autoconv.sweep.process import Cancelled
from autoconv.sweep.sweep import Job
from autoconv.sweep.tuner import FLIGHT_SECONDS, Tuner
from tuning_db import Trial

Key: TypeAlias = tuple[object, ...]  # all of a call that its plan depends on
Subject: TypeAlias = tuple[Problem, Environment]  # of a sweep

FALLBACKS = 3  # further configs to try where one does not compile or load, before torch serves

_FLOAT32 = torch.float32  # one lookup less in every call


@dataclass(frozen=True)
class Choice:
    """A config, and what it was chosen for."""

    config: Config
    problem: Problem
    device: Device
    environment: Environment


class Dispatcher:
    """Serves convolutions on one kind of machine; keeps one plan for each call signature seen."""

    def __init__(self, machine: Machine, settings: Settings) -> None:
        """Serve what `machine` serves, with the files and the policy on misses that `settings` name."""
        self.machine = machine
        self.serves = machine.serves
        self._settings = settings
        kernels()  # imported now: a child forked while a thread imports would wait for that for ever
        self._tuner = Tuner(settings)
        self._plans: dict[Key, Launcher] = {}
        self._building = threading.RLock()
        self._process = os.getpid()
        self._swept: set[Subject] = set()  # what this process sweeps or has swept; never a second time
        self._provisional: dict[Subject, set[Key]] = {}  # the plans to drop when the sweep beside them ends

    def plan(
        self,
        x: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        stride: Numbers,
        padding: Padding,
        dilation: Numbers,
        groups: int,
        *kind: Any,
    ) -> Launcher:
        """Return what computes this call and every later one of its signature.

        The arguments are the fields of Call, as the caller gave them; `kind` is those from `op` on. On a hit
        this reads a dictionary: it takes no lock, does no I/O and allocates no memory of the device.

        Raises:
            MissError: the policy is strict, and the database has no entry.
        """
        dtype = x.dtype
        try:
            x_at, weight_at = x.data_ptr(), weight.data_ptr()
            key = (
                # Strides matter to a kernel only where x is not packed; no kernel reads an unpacked weight.
                x.shape, x.is_contiguous() or (x.stride(), x.is_neg()), dtype, x.get_device(),
                weight.shape, weight.is_contiguous(), weight.dtype, weight.get_device(),
                # The compiler was told which pointers are multiples of 16.
                x_at % 16 if x_at > NO_MEMORY else None, weight_at % 16 if weight_at > NO_MEMORY else None,
                bias is not None and (
                    bias.shape, bias.is_contiguous(), bias.dtype, bias.get_device(),
                    bias_at % 16 if (bias_at := bias.data_ptr()) > NO_MEMORY else None,
                ),
                # 1 == 1.0 == True, of which torch takes the first alone, itself or alone in a tuple.
                stride, type(stride) is int or type(stride[0]),  # type: ignore[index]
                padding, type(padding) is int or type(padding) is Sides or type(padding[0]),  # type: ignore[index]
                dilation, type(dilation) is int or type(dilation[0]),  # type: ignore[index]
                groups, type(groups) is int or type(groups[0]),  # type: ignore[index]
                kind, kind and (type(kind[1]) is int or type(kind[1][0])),
                dtype is _FLOAT32 and precision_setting(),
            )  # fmt: skip
            plan = self._plans.get(key)
        except (RuntimeError, TypeError, IndexError):
            return self._unkeyed(Call(x, weight, bias, stride, padding, dilation, groups, *kind))
        if plan is None:
            plan = self._planned(key, Call(x, weight, bias, stride, padding, dilation, groups, *kind))
        return plan

    def _unkeyed(self, call: Call) -> Launcher:
        """Plan a call without a key: with numbers of other types, or tensors without memory, as in vmap."""
        plain = Call(*map(plain_number, call))
        if any(one is not given for one, given in zip(plain, call, strict=True)):
            return self.plan(*plain)
        return ByTorch(*call[3:])

    def _planned(self, key: Key, call: Call) -> Launcher:
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
            warn_once(f"no plan could be made for {shapes}, torch serves it: {_reason(error)}")
            return self._left(key, call)

    def _made(self, key: Key, call: Call) -> Launcher:
        problem = problem_of(call, precision_of(precision_setting()))
        ordinal = call.x.get_device()
        device = self.machine.device(ordinal)
        if problem is None or device is None or not _offered(problem, device):
            return self._left(key, call)
        if self.machine.capturing():
            # Loading a kernel would end the capture (vllm#36587).
            warn_once(f"{problem} was first called in a CUDA graph's capture, so torch serves it there; "
                      "call it once before the capture")  # fmt: skip
            return ByTorch(*call[3:])
        with self._alone():
            if key not in self._plans:
                environment = self.machine.environment(ordinal, device)
                config = self._config(problem, device, environment, key, ordinal)
                choice = Choice(config, problem, device, environment)
                bound = None if config == ATEN else self._bound(choice, key, call)
                self._plans[key] = bound or ByTorch(*call[3:])
            return self._plans[key]

    def _left(self, key: Key, call: Call) -> Launcher:
        """Leave calls of this signature to torch; the plan is kept once torch has served one."""
        by_torch = ByTorch(*call[3:])
        return replace(by_torch, served=lambda: self._plans.setdefault(key, by_torch))

    def _alone(self) -> AbstractContextManager[object]:
        """Return the lock under which plans are made. A forked child's may be held by a thread it has not."""
        return nullcontext() if self._forked() else self._building

    def _forked(self) -> bool:
        return os.getpid() != self._process

    # --- the config ---------------------------------------------------------------------------------

    def _config(
        self, problem: Problem, device: Device, environment: Environment, key: Key, ordinal: int
    ) -> Config:
        """Return the config to use, by lookup or by the policy for misses.

        Raises:
            MissError: the policy is strict, and the database has no entry.
        """
        found = self._tuner.find(problem, environment)
        policy = self._settings.on_miss
        if found is None and policy == "strict":
            raise MissError(str(problem), self._tuner.why_missing(problem, environment))
        if found is None and policy in ("sweep", "background") and not self._forked():
            seconds, on_gpu = self._settings.sweep_seconds, self.machine.on_gpu
            job = Job(device, environment, self._settings.cache, on_gpu, seconds, ordinal=ordinal)
            found = self._swept_for(problem, job, key)
        found = found or self._tuner.provisional(problem, environment, device)
        return self._vetted(found, problem, device, environment)

    def _vetted(self, found: Found, problem: Problem, device: Device, environment: Environment) -> Config:
        """Return the config, or torch's own where one out of somebody else's file does not compile."""
        failed = compiled_ahead(found, problem, device, self._settings)
        if failed is None:
            return found.config
        warn_once(f"{found.config} of layer {found.layer!r} does not compile for {device.name} "
                  f"({failed.error}); torch serves {problem}")  # fmt: skip
        self._tuner.record(problem, environment, failed, origin="call")
        return ATEN

    def _swept_for(self, problem: Problem, job: Job, key: Key) -> Found | None:
        """Sweep now or in a thread, as the policy says; None where a guess has to serve, if only for now."""
        subject = problem, job.environment
        if subject in self._provisional:
            self._provisional[subject].add(key)
            return None
        if subject in self._swept:
            return None
        self._swept.add(subject)
        if self._settings.on_miss == "sweep":
            found = self._tune(problem, job, FLIGHT_SECONDS)
            if found is None or found.hit:
                return found
            # Another process is at it, and takes longer than a call should wait.
        self._provisional[subject] = {key}
        threading.Thread(
            target=self._sweep_beside, args=(problem, job), name="autoconv tuner", daemon=True
        ).start()
        return None

    def _sweep_beside(self, problem: Problem, job: Job) -> None:
        """Sweep, or wait for the process that does; then drop the provisional plans, to be made anew."""
        try:
            self._tune(problem, job, wait=2 * job.seconds)
        finally:
            with self._building:
                for key in self._provisional.pop((problem, job.environment)):
                    self._plans.pop(key, None)

    def _tune(self, problem: Problem, job: Job, wait: float) -> Found | None:
        with WorkerPool() as pool:  # ended at once where a signal's handler raises below
            sweep = begun(lambda: self._tuner.tune(problem, job, wait=wait, pool=pool), "autoconv sweep")
            error = sweep.exception()
        if error is None:
            return sweep.result().found
        if not isinstance(error, Cancelled):  # by the interpreter's exit
            # Processes, files, compilers: whatever a sweep fails of, a convolution must not fail.
            warn_once(f"the sweep of {problem} failed, a prediction serves: {_reason(error)}")
        return None

    # --- the launch ---------------------------------------------------------------------------------

    def _bound(self, choice: Choice, key: Key, call: Call) -> Launcher | None:
        """Compile the config, or else the best estimates; return the first that loads, None if none does.

        What fails is recorded, and told in one warning.
        """
        tensors = as_kernels_read(call.x, call.weight, call.bias)
        failed: list[str] = []
        for candidate in _with_fallbacks(choice):
            kernel, config = kernel_called(candidate.config.kernel), candidate.config
            try:
                launch = self.machine.bind(kernel, choice.problem, config, *tensors)
            except Exception as error:  # compilers and drivers raise of every type
                if raised_by_a_handler(error):
                    raise
                failed.append(self._failed(candidate, error))
                continue
            if failed:
                warn_once(f"{failed[0]}; {config} serves in its place")
            return self._guarded(fitted(launch, call), candidate, key, call)
        warn_once(f"{failed[0]}, nor do {len(failed) - 1} others; torch serves {choice.problem}")
        return None

    def _guarded(self, launch: Launcher, choice: Choice, key: Key, call: Call) -> Launcher:
        """Return a launcher that lets torch compute where `launch` fails, and puts torch in its place."""
        by_torch = ByTorch(*call[3:])

        def guarded(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
            try:
                return launch(x, weight, bias)
            except Exception as error:  # drivers and allocators raise of every type
                if raised_by_a_handler(error):
                    raise
                failure = error
            # First the result. Where torch fails as well, as for want of memory for y, no config is at fault.
            y = by_torch(x, weight, bias)
            with self._alone():
                first = self._plans.get(key) is guarded
                if first:
                    self._plans[key] = by_torch
            if first:
                warn_once(f"{self._failed(choice, failure)}; torch serves {choice.problem} from now on")
            return y

        return guarded

    def _failed(self, choice: Choice, error: Exception) -> str:
        """Say that a config did not load or launch, and record it where that is its own fault."""
        if not isinstance(outcome_of(error), Unavailable):
            trial = Trial(choice.config.document(), "launch", error=_reason(error))
            self._tuner.record(choice.problem, choice.environment, trial, origin="call")
        return f"{choice.config} does not run on {choice.device.name} ({_reason(error)})"


def _offered(problem: Problem, device: Device) -> bool:
    """Return whether any kernel that can run `problem` has a config for it on `device`."""
    return any(True for kernel in supporting(problem) for _ in kernel.space(problem, device))


def _with_fallbacks(choice: Choice) -> Iterator[Choice]:
    """Yield `choice`, then the best estimates, found only if they are asked for: it takes some 0.1 s."""
    yield choice
    problem, device = choice.problem, choice.device
    best = leaders(problem, candidates(problem, device), device, FALLBACKS + 1)
    yield from [replace(choice, config=other) for other in best if other != choice.config][:FALLBACKS]


def _reason(error: BaseException) -> str:
    """Return an error in one line that is fit for a warning."""
    text = " ".join(f"{type(error).__name__}: {error}".split())
    return text if len(text) <= 300 else f"{text[:297]}..."
