"""Which configs are worth compiling."""

from __future__ import annotations

import random
from collections import Counter

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from autoconv.config import Config
from autoconv.cost.predict import estimate
from autoconv.device import find
from autoconv.errors import ProblemError
from autoconv.kernels.registry import kernels, supporting
from autoconv.problem import Problem
from autoconv.sweep.candidates import VARIANTS, best_guess, candidates, shortlist

RTX4090 = find("rtx4090")
SEED = Problem(64, 64, 128, 3, 224280, stride=3, dilation=4)


def tile_of(config: Config) -> tuple[object, ...]:
    return config.kernel, *config.tiles.items()


def seconds(config: Config) -> float:
    return estimate(SEED, config, RTX4090).seconds


def test_candidates_are_all_kernels_spaces() -> None:
    found = candidates(SEED, RTX4090)
    spaces = {name: list(kernel.space(SEED, RTX4090)) for name, kernel in kernels().items()}
    for name, kernel in kernels().items():
        offered = [config for config in found if config.kernel == name]
        assert offered == (spaces[name] if kernel in supporting(SEED) else [])
    assert len(set(found)) == len(found) > 100


def test_no_kernel_is_an_error_that_says_so() -> None:
    problem = Problem(1, 70000, 70000, 1, 10, op="conv_weight", groups=70000)
    if supporting(problem):
        pytest.skip("there is a kernel for this by now")
    with pytest.raises(ProblemError, match="op=conv_weight: no kernel runs this"):
        candidates(problem, RTX4090)


@pytest.mark.parametrize("count", [0, 1, 5, 16])
def test_leaders_are_the_best_estimates(count: int) -> None:
    configs = candidates(SEED, RTX4090)
    chosen = shortlist(SEED, configs, RTX4090, count)
    kernels = {config.kernel for config in configs}
    assert len(set(chosen)) == len(chosen)
    assert max(count, len(kernels)) <= len(chosen) <= count + len(kernels)
    assert max(Counter(map(tile_of, chosen)).values()) <= VARIANTS

    # Whatever is faster than the slowest of them has two better variants of its tile among them.
    head = chosen[:count]
    slowest = max(map(seconds, head), default=0.0)
    for config in set(configs) - set(chosen):
        assert seconds(config) >= slowest or sum(tile_of(one) == tile_of(config) for one in head) == VARIANTS


def test_the_best_of_every_kernel_leads() -> None:
    configs = candidates(SEED, RTX4090)
    chosen = shortlist(SEED, configs, RTX4090, 1)
    best: dict[str, float] = {}
    for config in configs:
        best[config.kernel] = min(seconds(config), best.get(config.kernel, float("inf")))
    assert len(best) >= 2
    assert {config.kernel: seconds(config) for config in chosen} == best


@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.randoms(use_true_random=False))
def test_leaders_do_not_depend_on_order(shuffle: random.Random) -> None:
    configs = candidates(SEED, RTX4090)[::7]
    shuffled = list(configs)
    shuffle.shuffle(shuffled)
    assert shortlist(SEED, shuffled, RTX4090, 8) == shortlist(SEED, configs, RTX4090, 8)


def test_the_best_guess_is_the_least_estimate() -> None:
    config, guessed = best_guess(SEED, RTX4090)
    assert guessed == seconds(config) == min(map(seconds, candidates(SEED, RTX4090)))
