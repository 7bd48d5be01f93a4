"""Many sizes of one layer: each is planned once, by a binding, and neither plans nor notes pile up."""

from __future__ import annotations

import gc
import threading
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
import torch

import autoconv
from autoconv import Config, lookup, serving, settings
from autoconv.dispatch import plans
from autoconv.lookup import Found
from autoconv.tuning import missed
from autoconv.tuning.tuner import Tuned, Tuner

DEVICE = "rtx4090"
SMALL = Config("dense", {"BLOCK_CO": 16, "BLOCK_L": 16, "BLOCK_R": 16}, num_warps=1, num_stages=2)
WEIGHT = torch.zeros(16, 16, 1)


def descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def call(sizes: range, launches: list[Any] | None = None) -> None:
    """Call at each size; a recorded launch holds its tensors until it is cleared, of 10,000 sizes 40 GB."""
    for length in sizes:
        autoconv.conv1d(torch.zeros(1, 16, length), WEIGHT)
        if launches is not None:
            launches.clear()


@pytest.fixture
def few_plans(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plans, "MOST_PLANS", 100)
    monkeypatch.setattr(missed, "MOST", 100)


@pytest.mark.parametrize("known", [True, pytest.param(False, marks=pytest.mark.long)])
def test_memory_and_descriptors_stay_flat(known, few_plans, monkeypatch, compiled_here, pytestconfig):
    found = Found(SMALL, "predicted", "bucket", "user", measured_us=None, predicted_us=5.0)
    monkeypatch.setattr(Tuner, "find", lambda *_: found if known else None)
    monkeypatch.setattr(Tuner, "tune", lambda *_, **__: Tuned(None, None))
    many = 10_000 if pytestconfig.getoption("--stress", default=False) else 200
    with autoconv.recorded(DEVICE) as launches:
        call(range(17, 17 + many), launches)
        assert autoconv.wait(120)
        launches.clear()
        gc.collect()
        before, threads = descriptors(), threading.active_count()
        tracemalloc.start()
        call(range(30_000, 30_000 + many), launches)
        assert autoconv.wait(120)
        launches.clear()
        gc.collect()
        grown, _ = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        counted = autoconv.stats()
    assert (counted.plans, counted.evicted) == (100, 2 * many - 100)
    assert grown < 2_000_000  # a hundred plans that took the place of a hundred
    assert descriptors() <= before + 4  # of a thread's own connection
    assert threading.active_count() <= threads + 1


def test_a_further_size_compiles_nothing(monkeypatch, compiled_here):
    found = Found(SMALL, "predicted", "bucket", "user", measured_us=None, predicted_us=5.0)
    monkeypatch.setattr(Tuner, "find", lambda *_: found)
    with autoconv.recorded(DEVICE) as launches:
        call(range(48, 49))
        assert autoconv.wait(60)
        asked = len(compiled_here)
        call(range(272, 512, 16))  # of which Triton is told the same
        assert len(compiled_here) == asked == 1
    assert len(launches) == 15
    assert len({launch.arguments[-3:] for launch in launches}) == 1


def test_an_evicted_plan_is_made_anew(few_plans, predicting, monkeypatch):
    monkeypatch.setattr(missed, "MOST", 101)  # all sizes below, however late the first of them are written
    with autoconv.recorded(DEVICE):
        call(range(16, 17))
        first = serving.current.plan(torch.zeros(1, 16, 16), WEIGHT, None, 1, 0, 1, 1)
        call(range(17, 17 + 100))
        again = serving.current.plan(torch.zeros(1, 16, 16), WEIGHT, None, 1, 0, 1, 1)
        assert again is not first
        assert sum(autoconv.stats().calls.values()) == 103
        autoconv.wait()
    with lookup.open_user(settings.load()) as database:
        assert sum(miss.calls for miss in database.misses()) == 103
