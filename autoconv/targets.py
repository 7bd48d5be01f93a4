"""The devices that tuning answers for: the GPU here, or one that is named, and all that goes with it.

Nothing here imports torch or Triton before a target is asked for, and `target_to_look_up` seldom does:
`autoconv --help` and a lookup do not wait for them.
"""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from autoconv import device as devices
from autoconv import lookup, settings
from autoconv.device import Device
from autoconv.environment import Environment
from autoconv.errors import DeviceError
from autoconv.settings import Settings

if TYPE_CHECKING:
    from autoconv.sweep.sweep import Job
    from autoconv.tuning.effort import Effort
    from autoconv.tuning.tuner import Tuner
    from tuning_db import Layers

WITHOUT_GPU = "rtx4090"
"""The device called "auto" where there is no GPU."""


@dataclass(frozen=True)
class Target:
    """A device to tune for, and all that goes with it."""

    device: Device
    environment: Environment
    on_gpu: bool  # the device is present
    settings: Settings
    warn: Callable[[str], None]  # hears of trouble with files

    @cached_property
    def layers(self) -> Layers:
        """Every layer of the tuning database, without torch."""
        return lookup.open_layers(self.settings, self.warn)

    @cached_property
    def tuner(self) -> Tuner:
        """What tunes and guesses. Imports torch."""
        from autoconv.tuning.tuner import Tuner

        return Tuner(self.settings, warn=self.warn)

    def job(self, seconds: float = float("inf"), effort: Effort | None = None) -> Job:
        """Return the sweep job for this target, of at most `seconds`."""
        from autoconv.sweep.sweep import SHORTLIST, Job

        shortlist = SHORTLIST if effort is None else effort.shortlist
        where = self.device, self.environment, self.settings.cache, self.on_gpu
        return Job(*where, seconds=seconds, shortlist=shortlist)


def target(name: str, warn: Callable[[str], None]) -> Target:
    """Return the target called `name`, "auto" included. Imports torch, which knows whether it is here.

    Args:
        name: A device's, or "auto": the GPU here, or WITHOUT_GPU.
        warn: Hears of trouble with files, then and later.

    Raises:
        DeviceError: no device has that name, the GPU here is older than sm_80, or Triton does not compile
            for it.
        SettingError: an AUTOCONV_ variable has an invalid value.
    """
    from autoconv import gpu

    now = settings.load()
    here = gpu.current(0) if gpu.present() else None
    if name == "auto" and gpu.present() and here is None:
        raise DeviceError("name", name, "is a GPU of an unknown architecture", "name a device")
    if name == "auto" and here is None:
        warn(f"no GPU here: answering for {WITHOUT_GPU} (choose with --device)")
    device = (here or devices.find(WITHOUT_GPU)) if name == "auto" else devices.find(name)
    _check_compilable(device)
    on_gpu = here is not None and here.name == device.name
    driver, power = gpu.driver_and_power(0) if on_gpu else (None, None)
    environment = Environment.current(device, cuda_driver=driver, power_limit_w=power)
    return Target(device, environment, on_gpu, now, warn)


def target_to_look_up(name: str, warn: Callable[[str], None]) -> Target:
    """Return the target called `name` without torch where it is a device that is certainly not here.

    Raises:
        DeviceError: as `target` does, and so is the next.
        SettingError: see there.
    """
    if name == "auto":
        return target(name, warn)
    device = devices.find(name)
    if {device.product, *device.other_products} & _products_here():
        return target(name, warn)  # it may be this one, whose driver and power limit are of the environment
    _check_compilable(device)
    return Target(device, Environment.current(device), on_gpu=False, settings=settings.load(), warn=warn)


def _products_here() -> set[str]:
    """Return what the driver calls the GPUs of this machine.

    None where there is no nvidia-smi: the driver's version and the power limit could not be told then either.
    """
    query = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]
    try:
        done = subprocess.run(query, capture_output=True, text=True, check=True, timeout=10)
    except (OSError, subprocess.SubprocessError):
        return set()
    return {line.strip() for line in done.stdout.splitlines()}


def _check_compilable(device: Device) -> None:
    from autoconv.compiler.targets import uncompilable

    reason = uncompilable(device.arch)
    if reason is not None:
        raise DeviceError("name", device.name, f"cannot be tuned for: {reason}", "install that Triton")
