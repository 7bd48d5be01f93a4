"""Whole networks at many sizes under the default policy: what is counted, not what a clock says.

Sweeps are scripted, and what they choose is compiled in no worker and launched nowhere: it is noted as
compiled, and a launcher that computes nothing stands in. So everything else of a call is as it is.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from torch import nn

import autoconv
from autoconv import Config, Problem, settings
from autoconv.compiler.specialisation import Form, is_compiled, specialisation
from autoconv.device import Device, find
from autoconv.dispatch.machines import Recorded
from autoconv.kernels.base import Kernel
from autoconv.kernels.registry import supporting
from autoconv.tuning.tuner import Tuner
from autoconv.watching import Stats
from tests.networks import Encoder, Generator

DEVICE = find("rtx4090")


@dataclass
class Bound:
    """What was bound in calls."""

    cache: Any
    problems: list[Problem] = field(default_factory=list)
    uncompiled: list[Problem] = field(default_factory=list)  # of them, those that a call had to compile for

    def bind(self, kernel: Kernel, problem: Problem, config: Config, x: Any, w: Any, b: Any) -> Any:
        assert kernel.name == config.kernel
        self.problems.append(problem)
        if not is_compiled(self.cache, specialisation(problem, config, DEVICE, Form.of(x, w, b))):
            self.uncompiled.append(problem)
        return lambda x, *_: x.new_zeros(problem.y_shape)


@pytest.fixture
def bound(monkeypatch: pytest.MonkeyPatch) -> Bound:
    found = Bound(settings.load().cache)
    monkeypatch.setattr(Recorded, "bind", lambda _, *given: found.bind(*given))
    return found


@pytest.fixture
def swept_by(sweeps: Any, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the threads that swept. A sweep chooses the first config there is: none is estimated."""
    threads: list[str] = []

    def choose(problem: Problem, device: Device) -> Config:
        threads.append(threading.current_thread().name)
        return next(config for kernel in supporting(problem) for config in kernel.space(problem, device))

    sweeps.choose = choose
    monkeypatch.setattr(Tuner, "ahead", lambda *_: False)
    return threads


def forward(model: nn.Module, shape: tuple[int, ...]) -> Stats:
    with torch.no_grad(), autoconv.stats() as seen:
        model(torch.zeros(shape))
    return seen


def grades(seen: Stats) -> dict[str, int]:
    found: dict[str, int] = {}
    for (grade, _), calls in seen.calls.items():
        found[grade] = found.get(grade, 0) + calls
    return found


UNTUNED, UNCOMPILED = "nothing is tuned for it", "its kernel is not compiled yet"

LENGTHS = [(1, 80, frames) for frames in (8, 9, 10, 11, 12, 13, 14, 15, 16, 40)]
BATCHES = [(batch, 80, 48) for batch in range(1, 11)]


@pytest.mark.parametrize(
    ("network", "convolutions", "shapes", "in_buckets"),
    [(Generator, 78, LENGTHS, 8), (Encoder, 2, BATCHES, 1)],
    ids=["generator at lengths", "encoder at batch sizes"],
)
def test_a_network_at_ten_sizes(
    network: type[nn.Module],
    convolutions: int,
    shapes: list[tuple[int, ...]],
    in_buckets: int,
    bound: Bound,
    swept_by: list[str],
    sweeps: Any,
) -> None:
    """`in_buckets` of the further sizes lie within a factor of two of the first."""
    model = network()
    autoconv.accelerate(model)
    with autoconv.recorded(DEVICE.name):
        first = forward(model, shapes[0])
        assert first.by_torch == {UNTUNED: convolutions} and not first.calls
        assert bound.problems == [], "the first forward binds, compiles and sweeps nothing"

        assert autoconv.wait(120)
        distinct = len(sweeps.problems)
        assert distinct == len(set(sweeps.problems)) <= convolutions
        assert grades(forward(model, shapes[0])) == {"exact": convolutions}
        assert len(bound.problems) == distinct

        for shape in shapes[1 : 1 + in_buckets]:
            seen = forward(model, shape)
            waiting = sum(seen.by_torch.values())
            assert set(seen.by_torch) <= {UNCOMPILED}, "a tuned size of its module shape is there"
            assert grades(seen).get("bucket", 0) == convolutions - waiting
        for shape in shapes[1 + in_buckets :]:
            assert set(forward(model, shape).by_torch) <= {UNTUNED, UNCOMPILED}

        assert autoconv.wait(120)
        for shape in shapes:  # what waited is loaded
            forward(model, shape)
        assert autoconv.wait(120)
        loaded, plans = len(bound.problems), autoconv.stats().plans
        for shape in shapes:
            seen = forward(model, shape)
            assert set(grades(seen)) <= {"exact", "bucket"} and sum(grades(seen).values()) == convolutions
            assert not seen.by_torch and not seen.misses
        counted = autoconv.stats()
        assert autoconv.wait(120)  # what was missed is written before the folder goes
    assert (len(bound.problems), counted.plans) == (loaded, plans), "a size seen before is hits alone"
    assert bound.uncompiled == [], "no call compiled"
    assert set(swept_by) == {"autoconv tuner"}, "no call swept"
    assert len(swept_by) == counted.sweeps <= (2 if network is Generator else 4) * distinct
