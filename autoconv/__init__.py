"""The fastest known Triton kernel for each 1-D convolution: tuned once, kept, shared as a file.

Importing this package loads neither Triton nor the database; the first convolution of a CUDA tensor does.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from autoconv.config import Config
from autoconv.device import Device
from autoconv.errors import (
    AutoconvError,
    ConfigError,
    DeviceError,
    FieldError,
    MissError,
    ProblemError,
    SettingError,
)
from autoconv.problem import Problem

if TYPE_CHECKING:
    from autoconv.cost.predict import estimate, predict
    from autoconv.cost.prediction import Prediction
    from autoconv.modules import ModelNew
    from autoconv.ops import conv1d
    from autoconv.simulation import interpreted, recorded

__all__ = [
    "AutoconvError",
    "Config",
    "ConfigError",
    "Device",
    "DeviceError",
    "FieldError",
    "MissError",
    "ModelNew",
    "Prediction",
    "Problem",
    "ProblemError",
    "SettingError",
    "conv1d",
    "estimate",
    "interpreted",
    "predict",
    "recorded",
]

# Loaded on first use: what needs torch, Triton or the database.
_LAZY = {
    "ModelNew": "autoconv.modules",
    "Prediction": "autoconv.cost.prediction",
    "conv1d": "autoconv.ops",
    "estimate": "autoconv.cost.predict",
    "interpreted": "autoconv.simulation",
    "predict": "autoconv.cost.predict",
    "recorded": "autoconv.simulation",
}


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_LAZY[name]), name)


def __dir__() -> list[str]:
    return __all__
