"""What a sweep for one device saves the next one: the checks, which know no device."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from autoconv import settings
from autoconv.compiler.resources import Resources
from autoconv.config import Config
from autoconv.device import find
from autoconv.environment import Environment
from autoconv.problem import Problem
from autoconv.sweep.sweep import Job
from autoconv.sweep.tasks import Compile, Task, Verify
from autoconv.sweep.verify import Verdict
from autoconv.tuning.tuner import Tuned, Tuner

PROBLEM = Problem(2, 8, 16, 3, 40, padding=1, bias=True)


class Workers:
    """Stands in for worker processes, where all checks pass, or none."""

    def __init__(self, *, right: bool = True) -> None:
        self.checked: list[Config] = []
        self._right = right

    def perform(self, tasks: Iterable[Task[Any]], *_: Any, **__: Any) -> Iterator[Any]:
        return map(self._answer, tasks)

    def _answer(self, task: Task[Any]) -> Any:
        if isinstance(task, Compile):
            return Resources(64, 0, 1024)
        if not isinstance(task, Verify):
            return True
        self.checked.append(task.config)
        return Verdict(
            self._right, 1e-7, unwritten=0, overrun=0, seed=len(self.checked), problem=str(task.problem)
        )


def tuned(workers: Workers, device: str, *, again: bool = False, **environment: Any) -> Tuned:
    at = replace(Environment.current(find(device)), **environment)
    pool: Any = SimpleNamespace(compilers=workers, interpreters=workers, gpu=workers)
    job = Job(find(device), at, Path("/nowhere"), on_gpu=False, shortlist=64)
    return Tuner(settings.load()).tune(PROBLEM, job, pool=pool, again=again)


def checks(swept: Tuned) -> dict[str, Any]:
    assert swept.swept is not None
    return {one.config_hash: one.detail["check"] for one in swept.swept.trials if "check" in one.detail}


@pytest.mark.parametrize("device", ["l4", "a100-80gb"])
def test_what_passed_for_one_device_is_not_checked_for_another(device: str) -> None:
    first, second = Workers(), Workers()
    before = checks(tuned(first, "rtx4090"))
    after = checks(tuned(second, device))
    assert first.checked and not set(first.checked) & set(second.checked)
    shared = before.keys() & after.keys()
    assert shared and all(after[config] == before[config] for config in shared)
    assert len(second.checked) == len(after) - len(shared)


def test_what_failed_is_checked_again() -> None:
    first, second = Workers(right=False), Workers()
    with pytest.warns(RuntimeWarning, match="found no winner"):
        assert tuned(first, "rtx4090").found is None
    assert tuned(second, "l4").found is not None
    assert set(first.checked) & set(second.checked)


def test_where_all_is_made_anew_so_are_the_checks() -> None:
    first, second = Workers(), Workers()
    tuned(first, "rtx4090")
    tuned(second, "l4", again=True)
    assert set(first.checked) & set(second.checked)


@pytest.mark.parametrize("changed", ["source", "triton"])
def test_neither_another_source_nor_another_triton_counts(
    changed: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = Workers(), Workers()
    tuned(first, "rtx4090", **({"triton": "3.0", "triton_patch": "3.0.0"} if changed == "triton" else {}))
    if changed == "source":
        monkeypatch.setattr("autoconv.sweep.shared.source_of", lambda _: "another")
    tuned(second, "l4")
    assert set(first.checked) & set(second.checked)
