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
    __version__: str
    from autoconv.capturing import Capture, capture
    from autoconv.cost.predict import estimate, predict
    from autoconv.cost.prediction import Prediction
    from autoconv.model import tune
    from autoconv.modules import Conv1d, ConvTranspose1d, ModelNew
    from autoconv.ops import conv1d, conv_transpose1d
    from autoconv.serving import override, wait
    from autoconv.simulation import interpreted, recorded
    from autoconv.swap import accelerate, restore
    from autoconv.watching import stats

__all__ = [
    "AutoconvError",
    "Capture",
    "Config",
    "ConfigError",
    "Conv1d",
    "ConvTranspose1d",
    "Device",
    "DeviceError",
    "FieldError",
    "MissError",
    "ModelNew",
    "Prediction",
    "Problem",
    "ProblemError",
    "SettingError",
    "accelerate",
    "capture",
    "conv1d",
    "conv_transpose1d",
    "estimate",
    "interpreted",
    "override",
    "predict",
    "recorded",
    "restore",
    "stats",
    "tune",
    "wait",
]

# Loaded on first use: what needs torch, Triton or the database.
_LAZY = {
    "Capture": "autoconv.capturing",
    "Conv1d": "autoconv.modules",
    "ConvTranspose1d": "autoconv.modules",
    "accelerate": "autoconv.swap",
    "capture": "autoconv.capturing",
    "conv_transpose1d": "autoconv.ops",
    "ModelNew": "autoconv.modules",
    "Prediction": "autoconv.cost.prediction",
    "conv1d": "autoconv.ops",
    "estimate": "autoconv.cost.predict",
    "interpreted": "autoconv.simulation",
    "override": "autoconv.serving",
    "predict": "autoconv.cost.predict",
    "recorded": "autoconv.simulation",
    "restore": "autoconv.swap",
    "stats": "autoconv.watching",
    "tune": "autoconv.model",
    "wait": "autoconv.serving",
}


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version("autoconv")
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    globals()[name] = found = getattr(import_module(_LAZY[name]), name)  # the next access comes not here
    return found


def __dir__() -> list[str]:
    return __all__
