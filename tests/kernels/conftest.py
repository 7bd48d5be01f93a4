"""Problems to draw from, and one interpreting worker that checks what is drawn."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest
from hypothesis import settings
from hypothesis import strategies as st

from autoconv.config import Config
from autoconv.device import find
from autoconv.kernels.base import Kernel
from autoconv.kernels.registry import kernel as kernel_called
from autoconv.problem import ACTIVATIONS, PRECISIONS, Problem
from autoconv.sweep.outcomes import Outcome
from autoconv.sweep.pool import Workers
from autoconv.sweep.tasks import Verify
from autoconv.sweep.verify import Verdict

# An example takes as long as the interpreter needs; CI draws the same examples every time.
settings.register_profile("kernels", deadline=None, derandomize="CI" in os.environ)
settings.load_profile("kernels")

ProblemsOf = Callable[[Kernel, bool], "st.SearchStrategy[Problem]"]
ConfigsOf = Callable[[str, Problem, int], list[Config]]
Verified = Callable[[Problem, Config, int], Verdict | Outcome]

FAMILIES = {
    # What decides whether a kernel runs a problem at all, with an example that it runs if it runs the family.
    "plain": Problem(1, 16, 4, 3, 64),
    "pointwise": Problem(1, 16, 16, 1, 64),
    "channels last": Problem(1, 16, 16, 3, 64, layout="nlc"),
    "grouped": Problem(1, 32, 32, 3, 64, groups=2),
    "grouped, channels last": Problem(1, 32, 32, 3, 64, groups=2, layout="nlc"),
    "depthwise": Problem(1, 8, 8, 3, 64, groups=8),
    "long depthwise": Problem(1, 8, 8, 31, 64, groups=8),
    "transposed": Problem(1, 16, 16, 4, 64, op="conv_transpose", stride=2, groups=2),
    "transposed depthwise": Problem(1, 8, 8, 4, 64, op="conv_transpose", stride=2, groups=8),
    "weight gradient": Problem(1, 16, 16, 3, 64, op="conv_weight"),
}


@st.composite
def _problems(draw: st.DrawFn, families: list[str], large: bool) -> Problem:
    """Any problem of one of the families: small ones cost the interpreter a fraction of a second."""
    family = draw(st.sampled_from(families))
    op = FAMILIES[family].op
    grouped = FAMILIES[family].groups > 1 or op != "conv"
    several = family == "grouped, channels last"  # of both: with fewer it is another family's
    groups = draw(st.integers(1 + several, 300 if large else 4)) if grouped else 1
    channels = st.integers(1, max(1, (2000 if large else 24) // groups))
    cin = 1 if "depthwise" in family else draw(channels) + 7 * several
    taps = {"pointwise": st.just(1), "long depthwise": st.integers(16, 33)}.get(
        family, st.integers(1, 300 if large else 5)
    )
    kernel, stride, dilation = draw(taps), draw(st.integers(1, 5)), draw(st.integers(1, 4))
    span = (kernel - 1) * dilation + 1
    pads = st.integers(0, span + 1)
    left, right = draw(st.just((0, 0)) | pads.map(lambda pad: (pad, pad)) | st.tuples(pads, pads))
    extra = draw(st.integers(0, max(stride, dilation) - 1)) if op == "conv_transpose" else 0
    lacking = left + right + 1 - span - extra if op == "conv_transpose" else span - left - right
    least = max(1, -(-lacking // stride) + 1 if op == "conv_transpose" else lacking)
    dtype = draw(st.sampled_from(sorted(PRECISIONS)))
    return Problem(
        N=draw(st.integers(1, 300 if large else 2)),
        Cin=groups * cin,
        Cout=groups * draw(channels),
        K=kernel,
        L=least + draw(st.integers(0, 10**6 if large else 50)),
        stride=stride,
        dilation=dilation,
        op=op,
        padding=(left, right),
        groups=groups,
        output_padding=extra,
        bias=op != "conv_weight" and draw(st.booleans()),
        activation="none" if op == "conv_weight" else draw(st.just("none") | st.sampled_from(ACTIVATIONS)),
        dtype=dtype,
        precision=draw(st.sampled_from(PRECISIONS[dtype])),
        layout="nlc" if "channels last" in family else draw(st.sampled_from(["ncl", "ncl", "nlc"])),
    )


@pytest.fixture(scope="session")
def problems_of() -> ProblemsOf:
    """The problems that a kernel runs, small or of any size; those of any size are not to be computed."""

    def problems(kernel: Kernel, large: bool) -> st.SearchStrategy[Problem]:
        families = [name for name, example in FAMILIES.items() if kernel.unsupported(example) is None]
        return _problems(families, large).filter(lambda problem: kernel.unsupported(problem) is None)

    return problems


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
        # Warps and stages make no difference to the interpreter.
        of_tiles = {tuple(config.tiles.items()): config for config in kernel.space(problem, find("rtx4090"))}
        works = {c: kernel.work(problem, c) for c in {*of_tiles.values(), *_small_tiles(name)}}
        unrolled = {c: 1 if work.tensor_cores else problem.K for c, work in works.items()}
        cost = {c: work.blocks * (max(work.steps, unrolled[c]) + 2) for c, work in works.items()}
        ranked = sorted(works, key=lambda config: (-works[config].blocks, str(config)))
        return [config for config in ranked if cost[config] <= steps] or sorted(ranked, key=cost.get)[:1]

    return configs


@pytest.fixture(scope="session")
def verified() -> Iterator[Verified]:
    """Checks a config on a problem in the interpreter; one process does all of them."""
    with Workers(1, limit=120, interpret=True) as workers:

        def verify(problem: Problem, config: Config, seed: int) -> Verdict | Outcome:
            task = replace(Verify.fresh(problem, config, on_gpu=False), seed=seed)
            (answer,) = workers.perform([task])
            return answer

        yield verify
