"""What a process remembers of problems is bounded, however many come."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import autoconv
from autoconv import Problem, serving
from autoconv.compiler.specialisation import Form
from autoconv.config import Config
from autoconv.device import find
from autoconv.environment import Environment
from autoconv.kernels.source import source_of
from autoconv.lookup import Shelf, shelf
from autoconv.sweep.tasks import Specialise
from autoconv.tuning import background, recent
from autoconv.tuning.recent import Recent
from autoconv.tuning.waiting import Uncompiled
from tuning_db import Layers, Trial

DEVICE = find("rtx4090")
HERE = Environment.current(DEVICE)
SMALL = Config("dense", {"BLOCK_CO": 16, "BLOCK_L": 16, "BLOCK_R": 16}, num_warps=1, num_stages=2)
WEIGHT = torch.zeros(16, 16, 1)


def test_what_was_added_again_is_the_newest() -> None:
    kept: Recent[int] = Recent(most=3)
    for number in (1, 2, 3, 1, 4):
        kept.add(number)
    assert (list(kept), 2 in kept, kept.added) == ([3, 1, 4], False, 5)


def test_the_tuner_forgets_the_oldest(monkeypatch: pytest.MonkeyPatch, sweeps: Any) -> None:
    monkeypatch.setattr(recent.Recent.__init__, "__defaults__", (5,))
    monkeypatch.setattr(background, "QUIET_SECONDS", 0.0)
    with autoconv.recorded(DEVICE.name):
        assert serving.current is not None
        tuner = serving.current._planner.background
        for size in range(8):  # no two in one bucket
            autoconv.conv1d(torch.zeros(1, 16, int(16 * 2.2**size)), WEIGHT)
            assert autoconv.wait(60)
        assert tuner.sweeps == 8
        assert len(list(tuner._swept)) == 5


def test_unwritten_results_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shelf, "MOST_SIBLINGS", 3)
    monkeypatch.setattr(shelf, "MOST_FAMILIES", 4)
    kept = Shelf(Layers([], print), lambda _: "")
    trial = Trial(SMALL.document(), "ok", predicted_us=1.0, source=source_of("dense") or "")
    problems = [Problem(1, 16, width, 1, 16 * 5**size) for width in (16, 32, 48, 64, 80) for size in range(4)]
    for problem in problems:
        kept.remember(problem, HERE, [trial])
    served = [problem for problem in problems if kept.find(problem, HERE) is not None]
    assert served == [problem for problem in problems if problem.Cout > 16 and problem.L > 16]


def test_plans_that_wait_to_be_compiled_for_are_bounded(
    monkeypatch: pytest.MonkeyPatch, compiled_here: Any
) -> None:
    monkeypatch.setattr(background, "paused", lambda: True)  # as under deterministic algorithms
    asked: background.Background[Any] = background.Background(None, print, lambda: None)  # type: ignore[arg-type]
    for number in range(background.MOST_UNCOMPILED + 10):
        problem = Problem(1, 16, 16, 1, 16 + number)
        task = Specialise(problem, SMALL, DEVICE, None, Form((0, 0, 0)))  # type: ignore[arg-type]
        asked.compile(Uncompiled(str(number), task, None, ()))  # type: ignore[arg-type]
    assert len(asked._uncompiled) == background.MOST_UNCOMPILED
    asked._uncompiled.clear()
