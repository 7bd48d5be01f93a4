"""The two ways to ask the model: `estimate`, which compiles nothing, and `predict`, which does."""

from __future__ import annotations

from autoconv import device as devices
from autoconv import settings
from autoconv.compiler.candidate import compile_candidate
from autoconv.compiler.resources import Resources
from autoconv.config import Config
from autoconv.cost import model
from autoconv.cost.prediction import Prediction
from autoconv.device import Device
from autoconv.kernels.soundness import check_runs
from autoconv.problem import Problem


def estimate(problem: Problem, config: Config, device: Device | str) -> Prediction:
    """Predict without compiling, in about a millisecond; `model.estimate_seconds` prunes whole spaces.

    Raises:
        ConfigError: the kernel is unknown, cannot run the problem, or the tiles are not its own.
        DeviceError: no device has that name.
    """
    return model.estimate(*_checked(problem, config, device))


def predict(
    problem: Problem, config: Config, device: Device | str, resources: Resources | None = None
) -> Prediction:
    """Predict from the compiled candidate: cross-compiled for `device`, about a second, unless cached.

    Not to be called while another thread of the process launches Triton kernels: for the compilation,
    Triton's active driver is one that stands in for the device.

    Args:
        problem: The problem.
        config: A config of one of the kernels.
        device: A Device, or the name of one in the catalogue.
        resources: Taken instead of compiling, where given.

    Raises:
        ConfigError: the kernel is unknown, cannot run the problem, or the tiles are not its own.
        DeviceError: no device has that name.
    """
    problem, config, target = _checked(problem, config, device)
    if resources is None:
        resources = compiled_resources(problem, config, target)
    return model.predict_compiled(problem, config, target, resources)


def compiled_resources(problem: Problem, config: Config, device: Device) -> Resources:
    """Return what compiling `config` for `device` gives, from the cache where it is there."""
    return compile_candidate(problem, config, device, settings.load().cache)


def _checked(problem: Problem, config: Config, device: Device | str) -> tuple[Problem, Config, Device]:
    check_runs(problem, config)
    return problem, config, devices.find(device) if isinstance(device, str) else device
