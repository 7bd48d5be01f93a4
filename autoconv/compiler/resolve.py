"""A config with the kernel, the problem and the device it is for: checked once, here."""

from __future__ import annotations

from typing import NamedTuple

from autoconv import device as devices
from autoconv.config import Config
from autoconv.device import Device
from autoconv.kernels.base import Kernel
from autoconv.kernels.soundness import check_runs
from autoconv.problem import Problem


class Candidate(NamedTuple):
    """A config whose kernel runs the problem; `resolve` makes one."""

    kernel: Kernel
    problem: Problem
    config: Config
    device: Device


def resolve(problem: Problem, config: Config, device: Device | str) -> Candidate:
    """Return the candidate that `config` is for `problem` on `device`.

    Args:
        problem: The problem.
        config: A config of one of the kernels.
        device: A Device, or the name of one in the catalogue.

    Raises:
        ConfigError: the kernel is unknown or cannot run the problem, or a tile is missing, unknown or larger
            than any tensor of Triton's.
        DeviceError: no device has that name.
    """
    kernel = check_runs(problem, config)
    return Candidate(kernel, problem, config, devices.find(device) if isinstance(device, str) else device)
