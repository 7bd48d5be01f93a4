"""Buckets: the sizes of one module shape that a tuned problem's configs may serve, and which of them does.

A tuned problem serves others of its module shape whose L_out and N x L_out are each within a factor of two of
its own. Of several, the nearest by N x L_out serves, then by L_out, then the larger. Of its configs that
passed, the one with the least estimate at the size asked for does.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from functools import lru_cache

from autoconv import device as devices
from autoconv.config import Config
from autoconv.cost.predict import estimate_seconds
from autoconv.device import Device
from autoconv.environment import Environment
from autoconv.errors import ConfigError
from autoconv.kernels.soundness import check_runs, check_sound
from autoconv.problem import Problem

SIZES = ("N", "L", "output_padding")
"""What a module in a model leaves open: a problem without them is a module shape."""

FACTOR = 2

Shape = tuple[object, ...]

_SHAPE = tuple(field.name for field in fields(Problem) if field.name not in SIZES)


def module_shape(problem: Problem) -> Shape:
    """Return all fields of the problem but its sizes."""
    return tuple(getattr(problem, name) for name in _SHAPE)


def serves(tuned: Problem, asked: Problem) -> bool:
    """Return whether `asked` lies in the bucket of `tuned`, a problem of the same module shape."""
    return _near(tuned.L_out, asked.L_out) and _near(tuned.N * tuned.L_out, asked.N * asked.L_out)


def farness(tuned: Problem, asked: Problem) -> tuple[float, float, int, int, str]:
    """Return what orders tuned problems whose bucket holds `asked`: the least serves it."""
    columns, length = tuned.N * tuned.L_out, tuned.L_out
    of_columns, of_length = _ratio(columns, asked.N * asked.L_out), _ratio(length, asked.L_out)
    return of_columns, of_length, -columns, -length, tuned.key()


def _near(one: int, other: int) -> bool:
    return one <= FACTOR * other and other <= FACTOR * one


def _ratio(one: int, other: int) -> float:
    """Return the larger over the smaller, which orders as the distance of the logarithms does, exactly."""
    return max(one, other) / min(one, other)


def first_by_model(problem: Problem, configs: Sequence[Config], environment: Environment) -> Config | None:
    """Return the config with the least estimate for `problem` of those that may run, None if none may."""
    runs = [config for config in configs if _runs(problem, config)]
    device = _device(environment.device, environment.arch, environment.sms, environment.memory_gib)
    if device is not None and len(runs) > 1:
        seconds = dict(zip(runs, estimate_seconds(problem, runs, device).tolist(), strict=True))
        runs.sort(key=lambda config: seconds[config])  # stable: of equals, what was better when tuned
    arch = devices.ARCHITECTURES.get(environment.arch)
    for config in runs:
        try:
            check_sound(problem, config, arch)
        except ConfigError:
            continue
        return config
    return None


def _runs(problem: Problem, config: Config) -> bool:
    try:
        check_runs(problem, config)
    except ConfigError:
        return False
    return True


@lru_cache(maxsize=16)
def _device(name: str, arch: str, sms: int, memory_gib: int) -> Device | None:
    """Return the device of an environment, for estimates; None where nothing is known of its architecture.

    One that is not in the catalogue is taken to be like its kin: the order of a few estimates rests on it.
    """
    known = devices.CATALOGUE.get(name)
    if known is not None and known.sms == sms:
        return known
    return devices.derived(
        name, capability=int(arch.removeprefix("sm_")), sms=sms, memory_bytes=memory_gib << 30,
        l2_bytes=0, boost_mhz=0, memory_mhz=0, memory_bus_bits=0,
    )  # fmt: skip
