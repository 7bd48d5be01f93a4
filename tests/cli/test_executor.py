"""`autoconv tune --executor ray`, with a cluster that keeps a script."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest
from click.testing import Result

from autoconv.sweep.executor import Request
from autoconv.sweep.sweep import Swept
from autoconv.tuning import scheduler

PROBLEMS = [f"N=1,Cin=16,Cout=16,K=1,L={length}" for length in (16, 512, 16384)]

Run = Callable[..., Result]


class Scripted:
    """Stands in for a cluster: its sweeps find nothing."""

    lanes = 2
    made: ClassVar[list[Scripted]] = []

    def __init__(self, address: str | None) -> None:
        if address == "nowhere:1":
            raise ConnectionError("nobody answers")
        self.address = address
        self.requests: list[Request] = []
        self.said: list[str] = []
        self.made.append(self)

    def __enter__(self) -> Scripted:
        return self

    def __exit__(self, *_: object) -> None:
        self.said.append("left")

    def close(self) -> None:
        self.said.append("closed")

    def sweep(self, request: Request, _database: Any, _progress: Any) -> Swept:
        self.requests.append(request)
        return Swept(None, (), recorded=True, candidates=3, compiled=0, seconds=0.0)


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[Scripted]:
    monkeypatch.setattr(Scripted, "made", [])
    monkeypatch.setitem(sys.modules, "autoconv.sweep.cluster", SimpleNamespace(Cluster=Scripted))
    return Scripted.made


def test_every_problem_is_swept_on_the_cluster_and_as_many_at_once_as_it_can(
    run: Run, made: list[Scripted], monkeypatch: pytest.MonkeyPatch
) -> None:
    lanes: list[Any] = []
    tune_all = scheduler.tune_all
    monkeypatch.setattr(
        scheduler, "tune_all", lambda *a, **options: lanes.append(options["lanes"]) or tune_all(*a, **options)
    )
    arguments = ("--device", "l4", "--executor", "ray", "--address", "head:6379", "--json")
    shown = run("tune", *PROBLEMS, *arguments)
    assert shown.exit_code == 1, "nothing was found"
    assert {json.loads(line)["problem"] for line in shown.stdout.splitlines()} == set(PROBLEMS)
    (cluster,) = made
    assert (cluster.address, lanes) == ("head:6379", [2])
    assert {str(request.problem) for request in cluster.requests} == set(PROBLEMS)
    assert cluster.said == ["closed", "left"], "what runs there ends before its threads are waited for"


def test_a_cluster_that_is_not_there_is_named(run: Run, made: list[Scripted]) -> None:
    shown = run("tune", PROBLEMS[0], "--device", "l4", "--executor", "ray", "--address", "nowhere:1")
    assert (shown.exit_code, shown.stdout) == (2, "")
    assert "--address=nowhere:1: no Ray cluster there (nobody answers)" in shown.stderr


def test_where_ray_is_not_installed_it_is_said_how_to(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "autoconv.sweep.cluster", raising=False)
    monkeypatch.setitem(sys.modules, "ray", None)
    shown = run("tune", PROBLEMS[0], "--device", "l4", "--executor", "ray")
    assert (shown.exit_code, shown.stdout) == (2, "") and "pip install 'autoconv[ray]'" in shown.stderr


def test_an_address_is_of_a_cluster(run: Run) -> None:
    shown = run("tune", PROBLEMS[0], "--device", "l4", "--address", "head:6379")
    assert (shown.exit_code, shown.stdout) == (2, "") and "give --executor ray with it" in shown.stderr
