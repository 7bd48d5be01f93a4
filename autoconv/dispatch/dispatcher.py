"""The plan cache, and what happens on a miss."""

from __future__ import annotations

import os
import threading
from typing import TypeAlias

import torch
from torch.nn import functional

from autoconv.config import Config
from autoconv.device import Device
from autoconv.dispatch.machines import Launcher, Machine
from autoconv.dispatch.signature import Padding, float32_precision, problem_of
from autoconv.environment import Environment
from autoconv.errors import MissError
from autoconv.kernels.registry import kernel as kernel_called
from autoconv.kernels.registry import supporting
from autoconv.lookup import warn_once
from autoconv.problem import Problem
from autoconv.settings import Settings
from autoconv.sweep.candidates import candidates, leaders
from autoconv.sweep.sweep import Job
from autoconv.sweep.tuner import Tuner
from tuning_db import Trial

Key: TypeAlias = tuple[object, ...]  # all of a call that its plan depends on

FALLBACKS = 3  # further configs to try where one does not compile or load, before torch serves


class Dispatcher:
    """Serves convolutions on one kind of machine; keeps one plan for each call signature seen."""

    def __init__(self, machine: Machine, settings: Settings) -> None:
        """Serve what `machine` serves, with the files and the policy on misses that `settings` name."""
        self.machine = machine
        self._settings = settings
        self._tuner = Tuner(settings)
        self._plans: dict[Key, Launcher] = {}
        self._building = threading.RLock()
        self._process = os.getpid()
        self._sweeping: dict[Problem, set[Key]] = {}  # the plans to drop when a sweep ends

    def conv1d(
        self,
        x: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        stride: int,
        padding: Padding,
        dilation: int,
        groups: int,
    ) -> torch.Tensor:
        """Convolve as torch.nn.functional.conv1d does: x (N, Cin, L), weight (Cout, Cin / groups, K).

        On a hit this reads a dictionary, allocates the output and launches; it takes no lock, does no I/O.
        """
        key = (
            x.shape, x.stride(), x.dtype, weight.shape, weight.stride(), weight.dtype,
            None if bias is None else (bias.shape, bias.stride(), bias.dtype),
            stride, padding, dilation, groups, x.get_device(), weight.get_device(), float32_precision(),
            # The compiler was told which pointers are multiples of 16.
            x.data_ptr() % 16, weight.data_ptr() % 16, bias is not None and bias.data_ptr() % 16,
        )  # fmt: skip
        plan = self._plans.get(key)
        if plan is None:
            plan = self._plan(key, x, weight, bias, stride, padding, dilation, groups)
        return plan(x, weight, bias)

    def _plan(
        self,
        key: Key,
        x: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        stride: int,
        padding: Padding,
        dilation: int,
        groups: int,
    ) -> Launcher:
        """Make, keep and return the plan for calls of this signature."""
        problem = problem_of(x, weight, bias, stride, padding, dilation, groups, float32_precision())
        device = self.machine.device(x.get_device())
        if problem is None or device is None or not supporting(problem):
            return self._plans.setdefault(key, torch_launcher(stride, padding, dilation, groups))
        capturing = self.machine.capturing()
        with self._building:
            if key in self._plans:
                return self._plans[key]
            environment = self.machine.environment(x.get_device(), device)
            config = self._config(problem, device, environment, key, may_sweep=not capturing)
            bound = self._bound(problem, config, device, environment, x, weight, bias)
            plan = bound or torch_launcher(stride, padding, dilation, groups)
            if not capturing:  # a capture gets what is at hand; the next call outside one may tune
                self._plans[key] = plan
        return plan

    def _config(
        self, problem: Problem, device: Device, environment: Environment, key: Key, *, may_sweep: bool
    ) -> Config:
        """Return the config to use, by lookup or by the policy for misses.

        Raises:
            MissError: the policy is strict, and the database has no entry.
        """
        found = self._tuner.find(problem, environment)
        policy = self._settings.on_miss
        if found is not None:
            return found.config
        if policy == "strict":
            raise MissError(str(problem), self._tuner.why_missing(problem, environment))
        guess = self._tuner.guess(problem, device)
        forked = os.getpid() != self._process
        if policy == "predict" or not may_sweep or forked:
            return guess.config
        job = Job(
            device, environment, self._settings.cache, self.machine.on_gpu, self._settings.sweep_seconds
        )
        if policy == "sweep":
            tuned = self._tuner.tune(problem, job)
            return tuned.found.config if tuned.found else guess.config
        self._sweep_beside(problem, job, key)
        return guess.config

    def _sweep_beside(self, problem: Problem, job: Job, key: Key) -> None:
        """Sweep in a thread, and drop the provisional plans when it ends: the next call looks up anew."""
        waiting = self._sweeping.setdefault(problem, set())
        waiting.add(key)
        if len(waiting) > 1:
            return

        def tune() -> None:
            self._tuner.tune(problem, job)
            with self._building:
                for provisional in self._sweeping.pop(problem):
                    self._plans.pop(provisional, None)

        threading.Thread(target=tune, name="autoconv sweep", daemon=True).start()

    def _bound(
        self,
        problem: Problem,
        config: Config,
        device: Device,
        environment: Environment,
        x: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
    ) -> Launcher | None:
        """Compile `config`, else the best estimates, and return the first that loads; None if none does."""
        others = leaders(problem, candidates(problem, device), device, FALLBACKS)
        for candidate in dict.fromkeys([config, *others]):
            kernel = kernel_called(candidate.kernel)
            try:
                return self._packed(
                    weight, self.machine.bind(kernel, problem, candidate, x, weight.contiguous(), bias)
                )
            except (
                Exception
            ) as error:  # compilers and drivers raise of every type; a convolution must not fail
                reason = f"{type(error).__name__}: {error}"
                warn_once(f"{candidate} does not run on {device.name}, a slower config serves: {reason}")
                trial = Trial(candidate.document(), "launch", error=reason)
                self._tuner.record(problem, environment, trial, origin="call")
        return None

    @staticmethod
    def _packed(weight: torch.Tensor, launch: Launcher) -> Launcher:
        """Have a weight that is not contiguous copied before each launch; the kernels read a packed one."""
        if weight.is_contiguous():
            return launch
        return lambda x, weight, bias: launch(x, weight.contiguous(), bias)


def torch_launcher(stride: int, padding: Padding, dilation: int, groups: int) -> Launcher:
    """Return a launcher that leaves the call to torch: what no kernel runs, and what torch must refuse."""

    def launch(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        if isinstance(padding, tuple):
            return functional.conv1d(functional.pad(x, padding), weight, bias, stride, 0, dilation, groups)
        return functional.conv1d(x, weight, bias, stride, padding, dilation, groups)

    return launch
