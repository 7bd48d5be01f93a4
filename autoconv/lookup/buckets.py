"""Buckets: the sizes of one module shape that a tuned problem's configs may serve, and which of them does.

A tuned problem serves others of its module shape whose L_out and N x L_out are each within a factor of two of
its own. Of several, the nearest by N x L_out serves, then by L_out, then the larger. Of its configs that
passed, the one with the least estimate at the size asked for does.
"""

from __future__ import annotations

from dataclasses import fields, replace
from functools import lru_cache
from typing import Any

from autoconv import device as devices
from autoconv.config import Config
from autoconv.environment import Environment
from autoconv.errors import ConfigError, ProblemError
from autoconv.kernels.soundness import check_runs, check_sound
from autoconv.problem import Problem

SIZES = ("N", "L", "output_padding")
"""What a module in a model leaves open: a problem without them is a module shape."""

FACTOR = 2

STEPS = 8
"""Sizes an octave at which estimates are made. With this and what a sweep tries, a layer of 512 channels
loses 0.6 % in the mean and 3.8 % at the 95th percentile of lengths at random, by the model
(scripts/bench/buckets.py). A lookup from memory takes 0.6 to 1.1 ms in the median, and more where the
estimates have yet to be made."""

ALIGNED = 16
"""Elements: 32 bytes of the smallest type, a sector of DRAM."""

Shape = tuple[object, ...]

_SHAPE = tuple(field.name for field in fields(Problem) if field.name not in SIZES)


def module_shape(problem: Problem) -> Shape:
    """Return all fields of the problem but its sizes."""
    return tuple(getattr(problem, name) for name in _SHAPE)


def serves(tuned: Problem, asked: Problem) -> bool:
    """Return whether `asked` lies in the bucket of `tuned`, a problem of the same module shape."""
    return bool(near(tuned.L_out, asked.L_out) and near(tuned.N * tuned.L_out, asked.N * asked.L_out))


def farness(tuned: Problem, asked: Problem) -> tuple[float, float, int, int, str]:
    """Return what orders tuned problems whose bucket holds `asked`: the least serves it."""
    columns, length = tuned.N * tuned.L_out, tuned.L_out
    of_columns, of_length = _ratio(columns, asked.N * asked.L_out), _ratio(length, asked.L_out)
    return of_columns, of_length, -columns, -length, tuned.key()


def near(one: Any, other: Any) -> Any:
    """Return whether two numbers, or those of two arrays, are within the factor of a bucket of each other."""
    return (one <= FACTOR * other) & (other <= FACTOR * one)


def _ratio(one: int, other: int) -> float:
    """Return the larger over the smaller, which orders as the distance of the logarithms does, exactly."""
    return max(one, other) / min(one, other)


def first_by_model(problem: Problem, configs: tuple[Config, ...], environment: Environment) -> Config | None:
    """Return the config with the least estimate for `problem` of those that may run, None if none may."""
    arch = devices.ARCHITECTURES.get(environment.arch)
    for config in _by_estimate(_rounded(problem), configs, environment):
        try:
            check_sound(problem, config, arch)
        except ConfigError:
            continue
        return config
    return None


@lru_cache(maxsize=4096)
def _by_estimate(
    problem: Problem, configs: tuple[Config, ...], environment: Environment
) -> tuple[Config, ...]:
    """Return those of the configs that run, the least estimate first; of equals, the better when tuned."""
    # Not above: the command line loads this package, and --help does not wait for Triton.
    from autoconv.cost.predict import estimate_seconds

    able = [config for config in configs if runs(problem, config)]
    device = devices.recalled(environment.device, environment.arch, environment.sms, environment.memory_gib)
    if device is not None and len(able) > 1:
        seconds = dict(zip(able, estimate_seconds(problem, able, device).tolist(), strict=True))
        able.sort(key=lambda config: seconds[config])
    return tuple(able)


def _rounded(problem: Problem) -> Problem:
    """Return the problem whose estimates stand for those of `problem`: of at most STEPS sizes an octave.

    A few estimates take some milliseconds, and with random lengths no two calls would share them. What the
    size is a multiple of stays, up to ALIGNED: it decides the width of loads.
    """
    length, step = problem.L, _step(problem.L)
    aligned = min(ALIGNED, length & -length)
    if aligned < step:
        length += aligned - length % step
    try:
        return replace(problem, N=problem.N - problem.N % _step(problem.N), L=length)
    except ProblemError:  # too short for one window
        return problem


def _step(size: int) -> int:
    """Return of what the sizes near `size` are multiples that make STEPS an octave.

    >>> [_step(size) for size in (13, 100, 1000, 1024)]
    [1, 8, 64, 128]
    """
    return 1 << max(0, size.bit_length() - STEPS.bit_length())


def runs(problem: Problem, config: Config) -> bool:
    """Return whether the config's kernel runs `problem` with its tiles."""
    try:
        check_runs(problem, config)
    except ConfigError:
        return False
    return True
