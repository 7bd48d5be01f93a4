"""Compile what another machine chose in a process of its own, before the process of the call compiles it."""

from __future__ import annotations

from autoconv.compiler.specialisation import Form, is_compiled, specialisation
from autoconv.device import Device
from autoconv.kernels.aten import ATEN
from autoconv.lookup import Found
from autoconv.problem import Problem
from autoconv.settings import Settings
from autoconv.sweep.outcomes import Failed
from autoconv.sweep.pool import Workers
from autoconv.sweep.tasks import Specialise
from autoconv.sweep.trials import failed_trial
from tuning_db import Trial

SECONDS = 30.0
"""For a worker that has started to compile one config, which takes about one. To start takes about 4 s."""

TRUSTED = ("user", "memory", "prebuilt", "none")
"""Layers whose configs this machine, or the package's maker, compiled with these kernels; "none" is a guess
out of a kernel's own space."""


def compiled_ahead(
    found: Found, problem: Problem, device: Device, form: Form, settings: Settings, seconds: float = SECONDS
) -> Trial | None:
    """Compile a config out of somebody else's file in a worker process, unless this machine did before.

    A compiler that crashes, hangs or takes all memory does so there. The cubins are left in Triton's cache.
    Where the background's tuner was asked to compile it before it serves, it has done so, and nothing is left
    to wait for here.

    Args:
        found: What the lookup gave.
        problem: The problem it is for.
        device: The device it is for.
        form: How the tensors of its calls lie.
        settings: Name the folder of compiled resources.
        seconds: That the worker may compile for; while it starts they do not run.

    Returns:
        None where the config may be compiled in this process, else the trial that says why not.

    Raises:
        Unavailable: the machine is at fault, not the config, as where no worker starts.
    """
    config = found.config
    if found.layer in TRUSTED or config == ATEN:
        return None
    if is_compiled(settings.cache, specialisation(problem, config, device, form)):
        return None
    task = Specialise(problem, config, device, settings.cache, form)
    with Workers(1, limit=seconds) as workers:
        (answer,) = workers.perform([task])
    return failed_trial(config, answer, "compile") if isinstance(answer, Failed) else None
