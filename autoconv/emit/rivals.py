"""The configs that a file may choose among where it runs."""

from __future__ import annotations

from typing import Literal, TypeAlias

from autoconv.config import Config
from autoconv.cost.predict import estimate_seconds
from autoconv.device import Device
from autoconv.kernels.base import Kernel
from autoconv.problem import Problem

Over: TypeAlias = Literal["blocks", "launch"]

LAUNCH = frozenset({"num_warps", "num_stages"})


def varied(kernel: Kernel, over: Over) -> frozenset[str]:
    """Return the names of the numbers in which configs may differ that are tuned over blocks, or the launch.

    Never both: a kernel's best warps and stages follow from its tiles, so trying all pairs mostly times what
    is known to be slow. Tiles that are no BLOCK_*, such as SPLIT, are the grid's and stay as they are.
    """
    return (
        LAUNCH if over == "launch" else frozenset(tile for tile in kernel.tiles if tile.startswith("BLOCK_"))
    )


def rivals(
    kernel: Kernel, problem: Problem, best: Config, device: Device, over: Over, count: int
) -> list[Config]:
    """Return `best` and the fastest by estimate that differ from it in `over` alone, `count` in all."""
    names = varied(kernel, over)

    def fixed(config: Config) -> dict[str, int]:
        return {name: size for name, size in config.to_json().items() if name not in names}

    alike = [one for one in kernel.space(problem, device) if fixed(one) == fixed(best) and one != best]
    seconds = estimate_seconds(problem, alike, device).tolist() if alike else []
    ranked = sorted(zip(seconds, map(str, alike), alike, strict=True))
    return [best, *(config for _, _, config in ranked[: count - 1])]
