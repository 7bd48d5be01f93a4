"""Candidates: every config of every kernel that can run a problem, and the few worth compiling."""

from __future__ import annotations

from collections import Counter

from autoconv.config import Config
from autoconv.cost.predict import estimate, estimate_seconds, judged_lean
from autoconv.device import Device
from autoconv.errors import ProblemError
from autoconv.kernels.registry import supporting
from autoconv.kernels.sizes import beyond_reach
from autoconv.problem import Problem, largest_field

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
    seconds = dict(zip(configs, estimate_seconds(problem, configs, device).tolist(), strict=True))
    ranked = sorted(configs, key=lambda config: (seconds[config], str(config)))
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
