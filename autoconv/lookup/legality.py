"""Can today's kernels run a config of the database? An import and a check ask it of every trial."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from autoconv import device as devices
from autoconv.config import Config
from autoconv.device import ARCHITECTURES, Architecture, Device
from autoconv.errors import ConfigError, DeviceError, ProblemError
from autoconv.kernels.aten import ATEN
from autoconv.kernels.registry import kernel as kernel_called
from autoconv.kernels.soundness import check_sound
from autoconv.kernels.soundness import refusal as unsound
from autoconv.problem import Problem
from tuning_db import EnvironmentRecord, ProblemRecord, Trial

_HARD = {"arch", "triton"}


def runnable(document: Mapping[str, Any], problem: Problem, arch_name: object) -> Config:
    """Return the config that `document` tells, if it is sound for `problem` on that architecture.

    Raises:
        ConfigError: it does not describe a config, or `kernels.soundness` refuses it.
    """
    config = _config(tuple(document.items()), tuple(map(type, document.values())))
    check_sound(problem, config, _architecture(arch_name))
    return config


@lru_cache(maxsize=4096)  # a file has few configs, and each in many rows
def _config(document: tuple[tuple[str, Any], ...], _: tuple[type, ...]) -> Config:
    """Return the config of the document's items. Their types keep 1 and True apart."""
    return Config.from_document(dict(document))


def _architecture(name: object) -> Architecture | None:
    return ARCHITECTURES.get(name) if isinstance(name, str) else None


def in_space(config: Config, problem: Problem, device: Device) -> bool:
    """Return whether the config's kernel offers it for `problem` on `device`; torch's own always is."""
    if unsound(problem, config, device.arch) is not None:
        return False
    return config == ATEN or config in kernel_called(config.kernel).space(problem, device)


def refusal(environment: EnvironmentRecord, problem: ProblemRecord, trial: Trial) -> str | None:
    """Say why a trial is not one that today's package could make; None where it is.

    The key is derived anew from its own fields, the columns from the key, and the config must be sound for
    that problem on the environment's architecture, whether the catalogue has the device or not.
    """
    if set(environment.hard) != _HARD or not isinstance(environment.soft.get("device"), str):
        return "its environment is not as autoconv writes one; export it again"
    arch = environment.hard["arch"]
    device = _device(environment.soft["device"])
    if device is not None and device.arch_name != arch:
        return f"{device.name} is of {device.arch_name}, not of {arch}; export it again"
    try:
        parsed = _problem(problem.key)
        for name, value in problem.columns.items():
            if parsed.columns().get(name) != value:
                raise ProblemError(name, value, "is not what the key says", "export it again")
        runnable(trial.config, parsed, arch)
    except (ProblemError, ConfigError) as error:
        return str(error)
    return None


@lru_cache(maxsize=64)  # an export has all lines of a problem together
def _problem(key: str) -> Problem:
    return Problem.from_key(key)


@lru_cache(maxsize=64)
def _device(name: str) -> Device | None:
    """Return the device of that name, None for one that is not in the catalogue: nothing is known of it."""
    try:
        return devices.find(name)
    except DeviceError:
        return None
