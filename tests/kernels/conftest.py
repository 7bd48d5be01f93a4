"""Problems to draw from, and one interpreting worker that checks what is drawn."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st

from autoconv.config import Config
from autoconv.device import find
from autoconv.kernels.registry import kernel as kernel_called
from autoconv.kernels.registry import supporting
from autoconv.problem import ACTIVATIONS, PRECISIONS, Problem
from autoconv.sweep.pool import Pool
from autoconv.sweep.tasks import verify_task

# An example takes as long as the interpreter needs; CI draws the same examples every time.
settings.register_profile("kernels", deadline=None, derandomize="CI" in os.environ)
settings.load_profile("kernels")

Verified = Callable[[Problem, Config, int], dict[str, Any]]
ConfigsOf = Callable[[str, Problem, int], list[Config]]


@st.composite
def _problems(draw: st.DrawFn, channels: int, kernel: int, length: int) -> Problem:
    """Any problem that some kernel runs, with up to `channels` channels, `kernel` taps, `length` outputs."""
    op = draw(st.sampled_from(["conv", "conv", "conv_transpose", "conv_weight"]))
    groups = draw(st.sampled_from([1, 1, 2, 3, 12]))
    each = st.integers(1, max(1, channels // groups)) | st.just(1)  # one a group: depthwise
    cin, cout = (groups * draw(each) for _ in range(2))
    taps, stride, dilation = draw(st.integers(1, kernel)), draw(st.integers(1, 5)), draw(st.integers(1, 4))
    span = (taps - 1) * dilation + 1
    pads = st.integers(0, span + 1)
    left, right = draw(st.tuples(pads, pads) | pads.map(lambda pad: (pad, pad)) | st.just((0, 0)))
    shortest = max(
        1, (span - left - right) if op != "conv_transpose" else -(-(left + right + 1 - span) // stride) + 1
    )
    dtype = draw(st.sampled_from(sorted(PRECISIONS)))
    return Problem(
        N=draw(st.integers(1, 3)),
        Cin=cin,
        Cout=cout,
        K=taps,
        L=shortest + draw(st.integers(0, length)),
        stride=stride,
        dilation=dilation,
        op=op,
        padding=(left, right),
        groups=groups,
        bias=draw(st.booleans()) and op != "conv_weight",
        activation=draw(st.sampled_from(ACTIVATIONS)) if op != "conv_weight" else "none",
        dtype=dtype,
        precision=draw(st.sampled_from(PRECISIONS[dtype])),
        layout=draw(st.sampled_from(["ncl", "ncl", "nlc"])),
    )


@pytest.fixture(scope="session")
def small_problems() -> st.SearchStrategy[Problem]:
    """Problems that the interpreter computes in a fraction of a second."""
    return _problems(channels=36, kernel=7, length=70).filter(supporting)


@pytest.fixture(scope="session")
def problems() -> st.SearchStrategy[Problem]:
    """Problems of any size; not to be computed."""
    return _problems(channels=2000, kernel=300, length=10**6).filter(supporting)


def _small_tiles(name: str) -> list[Config]:
    """Tiles below those of the kernel's space, so that the smallest problem has several of them."""
    if name not in ("dense", "im2col_rows"):
        return []  # what other kernels allow outside their space is their own
    tiles = dict.fromkeys(kernel_called(name).tiles, 16)
    return [Config(name, tiles, num_warps=1, num_stages=1)]


@pytest.fixture(scope="session")
def configs_of() -> ConfigsOf:
    """The configs of a kernel that make at most so many main-loop steps, or else the one that makes fewest.

    Those with most blocks come first. A block costs the interpreter as much as two steps, about 5 ms.
    """

    def configs(name: str, problem: Problem, steps: int) -> list[Config]:
        kernel = kernel_called(name)
        own = {c for device in ("rtx4090", "a100-80gb") for c in kernel.space(problem, find(device))}
        works = {config: kernel.work(problem, config) for config in {*own, *_small_tiles(name)}}
        cost = {config: work.blocks * (work.steps + 2) for config, work in works.items()}
        ranked = sorted(works, key=lambda config: (-works[config].blocks, str(config)))
        return [config for config in ranked if cost[config] <= steps] or [min(ranked, key=cost.__getitem__)]

    return configs


@pytest.fixture(scope="session")
def verified() -> Iterator[Verified]:
    """Checks a config on a problem in the interpreter; one process does all of them."""
    with Pool(1, timeout=120, interpret=True) as pool:

        def verify(problem: Problem, config: Config, seed: int) -> dict[str, Any]:
            task = {**verify_task(problem, config, on_gpu=False), "seed": seed}
            (reply,) = pool.perform([task])
            return reply

        yield verify
