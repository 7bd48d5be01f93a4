"""Can today's kernels run a config of the database? An import and a check ask it of every trial."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from autoconv import device as devices
from autoconv.config import Config
from autoconv.device import Device
from autoconv.errors import ConfigError, DeviceError, ProblemError
from autoconv.kernels.aten import ATEN
from autoconv.kernels.registry import kernel as kernel_called
from autoconv.kernels.work import fits
from autoconv.problem import Problem
from tuning_db import EnvironmentRecord, ProblemRecord, Trial

LARGEST_TILE = 2**20
"""Elements of one Triton tensor at most (`TRITON_MAX_TENSOR_NUMEL`), so of one side of a tile too."""

_HARD = {"arch", "triton"}


def runnable(document: Mapping[str, Any], problem: Problem) -> Config:
    """Return the config that `document` tells, which today's kernels can run on `problem`.

    Raises:
        ConfigError: it is none, its kernel or a tile is unknown, or the kernel does not run such problems.
    """
    config = _config(tuple(document.items()), tuple(map(type, document.values())))
    reason = None if config == ATEN else kernel_called(config.kernel).unsupported(problem)
    if reason is not None:
        raise ConfigError("kernel", config.kernel, f"cannot run {problem}: {reason}", "use another kernel")
    return config


@lru_cache(maxsize=4096)  # a file has few configs, and each in many rows
def _config(document: tuple[tuple[str, Any], ...], _: tuple[type, ...]) -> Config:
    """Return the config of the document's items. Their types keep 1 and True apart."""
    config = Config.from_document(dict(document))
    if config != ATEN:
        kernel_called(config.kernel).check(config)
    for tile, size in config.meta.items():
        if size > LARGEST_TILE:
            raise ConfigError(tile, size, f"is more than {LARGEST_TILE}", "give a smaller tile")
    return config


def in_space(config: Config, problem: Problem, device: Device) -> bool:
    """Return whether the config's kernel offers it for `problem` on `device`; torch's own always is."""
    return config == ATEN or config in kernel_called(config.kernel).space(problem, device)


def refusal(environment: EnvironmentRecord, problem: ProblemRecord, trial: Trial) -> str | None:
    """Say why a trial is none of today's; None where it is.

    The key is derived anew from its own fields, the columns from the key, and the config must be one that its
    kernel can run on that problem, and within the bounds that every kernel's space has on that device.
    """
    if set(environment.hard) != _HARD or not isinstance(environment.soft.get("device"), str):
        return "its environment is not as autoconv writes one; export it again"
    try:
        parsed = _problem(problem.key)
        for name, value in problem.columns.items():
            if parsed.columns().get(name) != value:
                raise ProblemError(name, value, "is not what the key says", "export it again")
        config = runnable(trial.config, parsed)
    except (ProblemError, ConfigError) as error:
        return str(error)
    device = _device(environment.soft["device"])
    if config == ATEN or device is None:
        return None
    if device.arch_name != environment.hard["arch"]:
        return f"{device.name} is of {device.arch_name}, not of {environment.hard['arch']}; export it again"
    if not fits(kernel_called(config.kernel).work(parsed, config), config, device):
        return f"{config} is too large or too small a tile for {device.name}; tune the problem anew"
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
