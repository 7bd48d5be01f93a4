"""How far predictions have been from measurements, by kernel: data, with its source.

It stands beside the model, not in it: what was learnt of the model's errors changes no prediction, and so no
predictor (`autoconv.cost.version`).
"""

from __future__ import annotations

from autoconv.config import Config
from autoconv.cost.prediction import Prediction
from autoconv.kernels.aten import ATEN

TYPICAL_ERROR_PCT = {
    "channels_last": 26.0,  # of 4 configs alone
    "dense": 14.7,
    "depthwise": 26.7,
    "depthwise_banded": 6.0,
    "grouped": 9.1,
    "im2col_rows": 11.8,
    "narrow": 16.1,
    "pointwise": 14.4,
    "split_k": 13.6,
    "tap_major": 13.0,
    "transposed_joined": 9.3,
    "transposed_phases": 16.1,
    "transposed_rows": 19.6,
    "weight_gradient": 21.4,
}
"""The median of |predicted / measured - 1| over the timed configs of each kernel, in percent, on an H200:
docs/measured_h200.md, "The model against it"; by the H100's page it is 13 % over all kernels, some of which
have changed since."""

OVER_ALL_PCT = 14.4
"""That median over all 525 configs: what stands for a kernel that was never measured."""


def model_error_pct(config: Config) -> float | None:
    """Return how far off a prediction of such a config typically is, in percent; None for torch's own.

    >>> model_error_pct(Config("dense", {}, num_warps=4, num_stages=2))
    14.7
    """
    return None if config == ATEN else TYPICAL_ERROR_PCT.get(config.kernel, OVER_ALL_PCT)


def within_error(one: tuple[Config, Prediction], other: tuple[Config, Prediction]) -> float | None:
    """Return the larger of two configs' errors, in percent, if the predictions differ by less; else None."""
    times = sorted(prediction.seconds for _, prediction in (one, other))
    error = max(TYPICAL_ERROR_PCT.get(config.kernel, OVER_ALL_PCT) for config, _ in (one, other))
    return error if times[1] < times[0] * (1 + error / 100) else None
