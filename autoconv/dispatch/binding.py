"""From a config to a launcher, and what a config means that fails on the way or in a launch.

It is told in one warning and recorded where the fault is its own, and torch serves. In place of a guess that
does not load the next best estimates are tried first: nobody has checked the one more than the others.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch

from autoconv.compiler.specialisation import Form, note_compiled, specialisation
from autoconv.config import Config
from autoconv.dispatch.apart import raised_by_a_handler
from autoconv.dispatch.launchers import ByTorch, Launcher, canonical_inputs, fitted
from autoconv.dispatch.machines import Machine
from autoconv.dispatch.plans import Plan, Plans, Subject
from autoconv.dispatch.signature import Call
from autoconv.kernels.aten import ATEN
from autoconv.kernels.registry import kernel as kernel_called
from autoconv.lookup import Found, warn_once
from autoconv.settings import Settings
from autoconv.sweep.candidates import candidates, shortlist
from autoconv.sweep.outcomes import Unavailable, outcome_of
from autoconv.tuning.ahead import compiled_ahead
from autoconv.tuning.tuner import Tuner
from tuning_db import Trial

TORCH_WON = "torch's own is the fastest"
IN_VAIN = "nothing that was tried is right"
FAILS = "the config found does not run"

FALLBACKS = 3  # further guesses to try where one does not compile or load, before torch serves


class Binder:
    """Binds configs to calls on one machine."""

    def __init__(self, machine: Machine, settings: Settings, tuner: Tuner, plans: Plans) -> None:
        """Bind for `plans` on `machine`; `tuner` records what fails."""
        self._machine = machine
        self._settings = settings
        self._tuner = tuner
        self._plans = plans

    def bind(self, found: Found, plan: Plan, call: Call) -> tuple[Launcher, str]:
        """Return the launcher of `found`, or of what serves in its place: never one that fails in a launch.

        Args:
            found: The config.
            plan: What it is for.
            call: The first of the calls to come.

        Returns:
            The launcher, and why it is torch's, "" where it is a kernel's.
        """
        subject, by_torch = plan.subject, ByTorch(*call[3:])
        assert subject is not None
        if found.config == ATEN:
            return by_torch, TORCH_WON if found.provenance != "default" else IN_VAIN
        if self._fails_ahead(found, subject, plan.form):
            return by_torch, FAILS
        loaded = self._loaded(found, subject, call)
        if loaded is None:
            return by_torch, FAILS
        config, launch = loaded
        if self._machine.compiles:
            name = specialisation(subject.problem, config, subject.device, plan.form)
            note_compiled(self._settings.cache, name)

        def guarded(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
            try:
                return launch(x, weight, bias)
            except Exception as error:  # drivers and allocators raise of every type
                if raised_by_a_handler(error):
                    raise
                failure = error
            # First the result. Where torch fails as well, as for want of memory for y, no config is at fault.
            y = by_torch(x, weight, bias)
            with self._plans.alone():
                first = plan.launch is guarded
                if first:
                    self._plans.serve(plan, by_torch, plan.served._replace(why=FAILS))
            if first:
                failed = self._failed(config, subject, failure)
                warn_once(f"{failed}; torch serves {subject.problem} from now on")
            return y

        return guarded, ""

    def _fails_ahead(self, found: Found, subject: Subject, form: Form) -> bool:
        """Return whether a config out of somebody else's file does not compile, which a worker process tries.

        Raises:
            Unavailable: the machine is at fault, not the config.
        """
        trial = compiled_ahead(found, subject.problem, subject.device, form, self._settings)
        if trial is None:
            return False
        self._record(subject, trial)
        failed = f"{found.config} of layer {found.layer!r} does not compile for {subject.device.name}"
        warn_once(f"{failed} ({trial.error}); torch serves {subject.problem}")
        return True

    def _loaded(self, found: Found, subject: Subject, call: Call) -> tuple[Config, Launcher] | None:
        """Compile the config, or of guesses the next best; return the first that loads, None if none does."""
        tensors = canonical_inputs(call.x, call.weight, call.bias)
        failed: list[str] = []
        guessed = found.layer == "none"
        for one in _guesses(found.config, subject) if guessed else [found.config]:
            try:
                launch = self._machine.bind(kernel_called(one.kernel), subject.problem, one, *tensors)
            except Exception as error:  # compilers and drivers raise of every type
                if raised_by_a_handler(error):
                    raise
                failed.append(self._failed(one, subject, error))
                continue
            if failed:
                warn_once(f"{failed[0]}; {one} serves in its place")
            return one, fitted(launch, call)
        others = f", nor do {len(failed) - 1} others" if guessed else ""
        warn_once(f"{failed[0]}{others}; torch serves {subject.problem}")
        return None

    def _failed(self, config: Config, subject: Subject, error: Exception) -> str:
        """Say that a config did not load or launch, and record it where that is its own fault."""
        outcome = outcome_of(error)
        if not isinstance(outcome, Unavailable):
            self._record(subject, Trial(config.document(), "launch", error=outcome.reason))
        return f"{config} does not run on {subject.device.name} ({outcome.reason})"

    def _record(self, subject: Subject, trial: Trial) -> None:
        self._tuner.record(subject.problem, subject.environment, trial, origin="call")


def _guesses(config: Config, subject: Subject) -> Iterator[Config]:
    """Yield `config`, then the best estimates, found only if they are asked for: it takes some 0.1 s."""
    yield config
    problem, device, _ = subject
    best = shortlist(problem, candidates(problem, device), device, FALLBACKS + 1)
    yield from [other for other in best if other != config][:FALLBACKS]
