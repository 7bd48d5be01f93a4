"""Which configs are worth compiling."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from autoconv.config import Config
from autoconv.cost.predict import estimate, estimate_seconds
from autoconv.device import find
from autoconv.errors import ProblemError
from autoconv.kernels.registry import kernels, supporting
from autoconv.problem import Problem
from autoconv.sweep.candidates import VARIANTS, best_guess, candidates, shortlist, to_compile

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


def test_what_serves_other_sizes_of_the_bucket_is_compiled_too() -> None:
    """With 512 channels a split of the reduction fills waves that a tuned length's best leaves half empty."""
    problem = Problem(1, 512, 512, 3, 1008, padding=1, bias=True)
    configs = candidates(problem, RTX4090)
    own, tried = shortlist(problem, configs, RTX4090, 16), to_compile(problem, configs, RTX4090, 16)
    assert tried[: len(own)] == own and len(own) < len(tried) <= len(own) + 4 and set(tried) <= set(configs)
    for length in (720, 1216, 1424):
        other = replace(problem, L=length)
        best = estimate_seconds(other, candidates(other, RTX4090), RTX4090).min()
        lost = [estimate_seconds(other, chosen, RTX4090).min() / best - 1 for chosen in (own, tried)]
        assert lost[1] <= lost[0] and lost[1] < 0.03


def test_at_the_shortest_length_only_what_has_a_window_is_looked_at() -> None:
    problem = Problem(1, 16, 16, 16, 16)
    configs = candidates(problem, RTX4090)
    assert set(to_compile(problem, configs, RTX4090, 16)) <= set(configs)


def test_the_best_guess_is_the_least_estimate() -> None:
    config, guessed = best_guess(SEED, RTX4090)
    assert guessed == seconds(config) == min(map(seconds, candidates(SEED, RTX4090)))
