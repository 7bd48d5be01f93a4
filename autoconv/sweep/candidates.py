"""Candidates: every config of every kernel that can run a problem, and the few worth compiling."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from contextlib import suppress
from dataclasses import replace
from typing import NamedTuple

from autoconv.config import Config
from autoconv.cost.predict import estimate, estimate_seconds, judged_lean
from autoconv.device import Device
from autoconv.errors import ProblemError
from autoconv.kernels.registry import supporting
from autoconv.kernels.sizes import beyond_reach
from autoconv.lookup.buckets import ALIGNED, FACTOR, runs
from autoconv.problem import Problem, largest_field

POOL = 256  # configs that are estimated at other lengths: all of some two thousand would take seconds
VARIANTS = 2  # configs of one tile among the shortlist: warps and stages matter less than the tile


def candidates(problem: Problem, device: Device) -> list[Config]:
    """Return every config that the kernels offer for `problem` on `device`.

    Raises:
        ProblemError: no kernel runs this problem, or none has a grid that covers it.
    """
    found = [config for kernel in supporting(problem) for config in kernel.space(problem, device)]
    if not found:
        raise _unserved(problem)
    return found


def _unserved(problem: Problem) -> ProblemError:
    reason = beyond_reach(problem)
    if reason is None and supporting(problem):
        reason = "makes the output larger than any grid of blocks covers"
    if reason is None:
        field, reason = "op", "no kernel runs this combination of fields"
    else:
        field = largest_field(problem)
    return ProblemError(field, getattr(problem, field), reason, "leave it to torch.nn.functional")


def shortlist(problem: Problem, configs: list[Config], device: Device, count: int) -> list[Config]:
    """Return the `count` configs with the least estimated time, at most VARIANTS of any one tile.

    The best config of each kernel is among them, so that no kernel loses to an estimate alone.
    """
    return _first(_by_estimate(problem, configs, device), count)


def to_compile(problem: Problem, configs: list[Config], device: Device, count: int) -> list[Config]:
    """Return the shortlist of `count`, and what a tuned problem needs to serve other sizes of its bucket.

    There waves of blocks end elsewhere, so other tiles are ahead, or a split of the reduction: of `count` / 4
    lengths all over the bucket the one with the least estimate is added, of the best POOL at this length.
    """
    ranked = _by_estimate(problem, configs, device)
    chosen = dict.fromkeys(_first(ranked, count))
    for other in _lengths(problem, count // 4):
        able = [config for config in ranked[:POOL] if runs(other, config)]
        chosen |= dict.fromkeys(_by_estimate(other, able, device)[:1])
    return list(chosen)


class Choice(NamedTuple):
    """What a sweep has to choose from, and what of it is worth compiling."""

    candidates: int  # configs in the space
    to_compile: tuple[Config, ...]  # the least estimate first
    offered: frozenset[Config]  # of those asked for, the ones in the space


def choice(problem: Problem, device: Device, count: int, asked: Collection[Config]) -> Choice:
    """Return the candidates of a sweep in short, which takes half a second or more.

    Args:
        problem: The problem.
        device: What it is tuned for.
        count: Of the shortlist; see `to_compile`.
        asked: Configs of which the sweep wants to know whether they are candidates.

    Raises:
        ProblemError: no kernel runs this problem, or none has a grid that covers it.
    """
    configs = candidates(problem, device)
    chosen = to_compile(problem, configs, device, count)
    return Choice(len(configs), tuple(chosen), frozenset(asked) & frozenset(configs))


def _lengths(problem: Problem, count: int) -> list[Problem]:
    """Return the problem at lengths from half to twice its own, even by their logarithms, its own left out.

    What the length is a multiple of stays, up to ALIGNED: it decides the width of loads.
    """
    aligned = min(ALIGNED, problem.L & -problem.L)
    found = []
    for step in range(count):
        octaves = -1 + 2 * step / max(1, count - 1)
        length = int(problem.L * FACTOR**octaves)
        with suppress(ProblemError):  # too short for one window
            found.append(replace(problem, L=length - length % aligned))
    return [other for other in found if other.L != problem.L]


def _by_estimate(problem: Problem, configs: list[Config], device: Device) -> list[Config]:
    seconds = dict(zip(configs, estimate_seconds(problem, configs, device).tolist(), strict=True))
    return sorted(configs, key=lambda config: (seconds[config], str(config)))


def _first(ranked: list[Config], count: int) -> list[Config]:
    of_tile: Counter[Config] = Counter()
    chosen: list[Config] = []
    for config in ranked:
        tile = Config(config.kernel, config.tiles, num_warps=1, num_stages=1)
        of_tile[tile] += 1
        if of_tile[tile] <= VARIANTS:
            chosen.append(config)
    best_of_kernels = list({config.kernel: config for config in reversed(ranked)}.values())
    head = chosen[:count]
    return head + [config for config in best_of_kernels if config not in head]


def best_guess(problem: Problem, device: Device) -> tuple[Config, float]:
    """Return the config with the least estimated time, and that time in seconds; nothing is compiled.

    As nobody looks at its registers before it runs, it is one that is judged to spill nothing, if any is.

    Raises:
        ProblemError: no kernel runs this problem.
    """
    found = candidates(problem, device)
    config = shortlist(problem, judged_lean(problem, found, device) or found, device, count=1)[0]
    return config, estimate(problem, config, device).seconds


def lead(problem: Problem, config: Config, device: Device) -> float:
    """Return the estimated time of `config` over that of the best guess: 1, or more where one is better.

    Raises:
        ProblemError: no kernel runs this problem.
    """
    return estimate(problem, config, device).seconds / best_guess(problem, device)[1]
