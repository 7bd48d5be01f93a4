"""A kernel of which most configs do harm; test_sweep puts it into a copy of the package.

It is dense, but for what the tile FAULT makes of the arguments. Only worker processes ask for those.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from typing import Any

from autoconv.config import Config
from autoconv.device import Device
from autoconv.kernels.dense import KERNEL as DENSE
from autoconv.kernels.dense import Dense
from autoconv.kernels.sizes import Strides
from autoconv.kernels.work import Work
from autoconv.problem import Problem

(
    BREAKS, KILLS, HANGS, TOO_LARGE, KILLS_INTERPRETER, WRONG, WRITES_NOTHING, BREAKS_INTERPRETER, RIGHT,
) = range(1, 10)  # fmt: skip


class Faulty(Dense):
    """See the module's docstring."""

    name = "faulty"
    tiles = ("BLOCK_CO", "BLOCK_L", "BLOCK_R", "FAULT")

    def space(self, problem: Problem, device: Device) -> Iterator[Config]:  # noqa: ARG002
        for fault in range(BREAKS, RIGHT + 1):
            size, stages = (128, 5) if fault == TOO_LARGE else (16, 2)
            tiles = {"BLOCK_CO": size, "BLOCK_L": size, "BLOCK_R": size, "FAULT": fault}
            yield Config("faulty", tiles, num_warps=4, num_stages=stages)

    def work(self, problem: Problem, config: Config) -> Work:
        return DENSE.work(problem, config)

    def keywords(self, problem: Problem, config: Config, x_strides: Strides | None = None) -> dict[str, Any]:
        keywords = super().keywords(problem, config, x_strides)
        fault = keywords.pop("FAULT")
        if os.environ["TRITON_INTERPRET"] == "1":
            if fault == KILLS_INTERPRETER:
                os.kill(os.getpid(), signal.SIGKILL)
            if fault == BREAKS_INTERPRETER:
                raise RuntimeError("no such instruction")
            if fault == WRONG:
                keywords["HAS_BIAS"] = False
            if fault == WRITES_NOTHING:
                keywords["COUT"] = 0
        else:
            if fault == KILLS:
                os.kill(os.getpid(), signal.SIGKILL)
            if fault == HANGS:
                time.sleep(3600)
            if fault == BREAKS:
                raise ValueError("no such tile")
        return keywords


KERNEL = Faulty()
