"""The devices that tuning answers for: the GPU here, or one that is named, and all that goes with it.

Nothing here imports torch or Triton before a target is asked for: `autoconv --help` does not wait for them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from autoconv import device as devices
from autoconv import settings
from autoconv.device import Device
from autoconv.environment import Environment
from autoconv.errors import DeviceError
from autoconv.settings import Settings

if TYPE_CHECKING:
    from autoconv.sweep.sweep import Job
    from autoconv.tuning.effort import Effort
    from autoconv.tuning.tuner import Tuner

WITHOUT_GPU = "rtx4090"
"""The device called "auto" where there is no GPU."""


@dataclass(frozen=True)
class Target:
    """A device to tune for, and all that goes with it."""

    device: Device
    environment: Environment
    on_gpu: bool  # the device is present
    settings: Settings
    tuner: Tuner

    def job(self, seconds: float = float("inf"), effort: Effort | None = None) -> Job:
        """Return the sweep job for this target, of at most `seconds`."""
        from autoconv.sweep.sweep import SHORTLIST, Job

        shortlist = SHORTLIST if effort is None else effort.shortlist
        where = self.device, self.environment, self.settings.cache, self.on_gpu
        return Job(*where, seconds=seconds, shortlist=shortlist)


def target(name: str, warn: Callable[[str], None]) -> Target:
    """Return the target called `name`, "auto" included; trouble with files, then and later, goes to `warn`.

    Raises:
        DeviceError: no device has that name, the GPU here is older than sm_80, or Triton does not compile
            for it.
        SettingError: an AUTOCONV_ variable has an invalid value.
    """
    from autoconv import gpu
    from autoconv.compiler.targets import uncompilable
    from autoconv.tuning.tuner import Tuner

    now = settings.load()
    here = gpu.current(0) if gpu.present() else None
    if name == "auto" and gpu.present() and here is None:
        raise DeviceError("name", name, "is a GPU of an unknown architecture", "name a device")
    if name == "auto" and here is None:
        warn(f"no GPU here: answering for {WITHOUT_GPU} (choose with --device)")
    device = (here or devices.find(WITHOUT_GPU)) if name == "auto" else devices.find(name)
    reason = uncompilable(device.arch)
    if reason is not None:
        raise DeviceError("name", device.name, f"cannot be tuned for: {reason}", "install that Triton")
    on_gpu = here is not None and here.name == device.name
    driver, power = gpu.driver_and_power(0) if on_gpu else (None, None)
    environment = Environment.current(device, cuda_driver=driver, power_limit_w=power)
    return Target(device, environment, on_gpu, now, Tuner(now, warn=warn))
