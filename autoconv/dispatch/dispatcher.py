"""The plan cache, and what happens on a miss."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Any, TypeAlias

import torch

from autoconv.config import Config
from autoconv.device import Device
from autoconv.dispatch.apart import begun
from autoconv.dispatch.launchers import ByTorch, Launcher, as_kernels_read, fitted
from autoconv.dispatch.machines import Machine
from autoconv.dispatch.signature import Call, Numbers, Padding, precision_of, precision_setting, problem_of
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
            key = (
                # Strides matter to a kernel only where x is not packed; no kernel reads an unpacked weight.
                x.shape, x.is_contiguous() or (x.stride(), x.is_neg()), dtype, x.get_device(),
                weight.shape, weight.is_contiguous(), weight.dtype, weight.get_device(),
                bias is not None and (bias.shape, bias.is_contiguous(), bias.dtype, bias.get_device()),
                stride, padding, dilation, groups, kind,
                # The compiler was told which pointers are multiples of 16.
                x.data_ptr() % 16, weight.data_ptr() % 16, bias is not None and bias.data_ptr() % 16,
                dtype is torch.float32 and precision_setting(),
            )  # fmt: skip
            plan = self._plans.get(key)
        except (RuntimeError, TypeError):
            return self._unkeyed(Call(x, weight, bias, stride, padding, dilation, groups, *kind))
        if plan is None:
            plan = self._planned(key, Call(x, weight, bias, stride, padding, dilation, groups, *kind))
        return plan

    def _unkeyed(self, call: Call) -> Launcher:
        """Plan a call without a key: with a list for a number, or tensors without memory, as under vmap."""
        if any(isinstance(argument, list) for argument in call):
            hashable: Iterator[Any] = (tuple(one) if isinstance(one, list) else one for one in call)
            return self.plan(*hashable)
        return ByTorch(*call[3:])

    def _planned(self, key: Key, call: Call) -> Launcher:
        """Make, keep and return the plan for calls of this signature."""
        by_torch = ByTorch(*call[3:])
        problem = problem_of(call, precision_of(precision_setting()))
        ordinal = call.x.get_device()
        device = self.machine.device(ordinal)
        if problem is None or device is None or not supporting(problem):
            return self._plans.setdefault(key, by_torch)
        if self.machine.capturing():
            # Loading a kernel would end the capture (vllm#36587).
            warn_once(f"{problem} was first called in a CUDA graph's capture, so torch serves it there; "
                      "call it once before the capture")  # fmt: skip
            return by_torch
        with self._alone():
            if key not in self._plans:
                environment = self.machine.environment(ordinal, device)
                config = self._config(problem, device, environment, key, ordinal)
                bound = None if config == ATEN else self._bound(problem, config, device, environment, call)
                self._plans[key] = bound or by_torch
            return self._plans[key]

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

    def _bound(
        self, problem: Problem, config: Config, device: Device, environment: Environment, call: Call
    ) -> Launcher | None:
        """Compile `config`, or else the best estimates; return the first that loads, None if none does.

        What fails is recorded, and told in one warning.
        """
        tensors = as_kernels_read(call.x, call.weight, call.bias)
        failed: list[str] = []
        for candidate in _with_fallbacks(config, problem, device):
            try:
                launch = self.machine.bind(kernel_called(candidate.kernel), problem, candidate, *tensors)
            except Exception as error:  # compilers and drivers raise of every type
                failed.append(f"{candidate} does not run on {device.name} ({_reason(error)})")
                if not isinstance(outcome_of(error), Unavailable):
                    trial = Trial(candidate.document(), "launch", error=_reason(error))
                    self._tuner.record(problem, environment, trial, origin="call")
                continue
            if failed:
                warn_once(f"{failed[0]}; {candidate} serves in its place")
            return fitted(launch, call)
        warn_once(f"{failed[0]}, nor do {len(failed) - 1} others; torch serves {problem}")
        return None


def _with_fallbacks(config: Config, problem: Problem, device: Device) -> Iterator[Config]:
    """Yield `config`, then the best estimates, found only if they are asked for: it takes some 0.1 s."""
    yield config
    best = leaders(problem, candidates(problem, device), device, FALLBACKS + 1)
    yield from [other for other in best if other != config][:FALLBACKS]


def _reason(error: BaseException) -> str:
    """Return an error in one line that is fit for a warning."""
    text = " ".join(f"{type(error).__name__}: {error}".split())
    return text if len(text) <= 300 else f"{text[:297]}..."
