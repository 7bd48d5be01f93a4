"""`autoconv tune --executor ray`, with a cluster that keeps a script."""

from __future__ import annotations

import _thread
import json
import sys
import threading
from collections.abc import Callable, Collection
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest
from click.testing import Result

from autoconv.sweep.executor import Request
from autoconv.sweep.outcomes import GivenUp, Outcome, Unavailable
from autoconv.sweep.process import Cancelled
from autoconv.sweep.sweep import Swept
from autoconv.tuning import scheduler

PROBLEMS = [f"N=1,Cin=16,Cout=16,K=1,L={length}" for length in (16, 512, 16384)]

Run = Callable[..., Result]


class Scripted:
    """Stands in for a cluster: its sweeps find nothing."""

    lanes = 2
    devices: ClassVar[Collection[str]] = frozenset({"h200"})
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


def stand_in(monkeypatch: pytest.MonkeyPatch, cluster: type[Scripted]) -> None:
    monkeypatch.setitem(sys.modules, "autoconv.sweep.cluster", SimpleNamespace(Cluster=cluster))


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[Scripted]:
    monkeypatch.setattr(Scripted, "made", [])
    stand_in(monkeypatch, Scripted)
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


class Endless(Scripted):
    """Its sweeps end when it is closed, and no sooner."""

    begun: ClassVar[Callable[[], None]]

    def __init__(self, address: str | None) -> None:
        super().__init__(address)
        self.closed = threading.Event()

    def close(self) -> None:
        super().close()
        self.closed.set()

    def sweep(self, request: Request, _database: Any, _progress: Any) -> Swept:
        self.requests.append(request)
        type(self).begun()
        assert self.closed.wait(60), "nobody closed it"
        raise Cancelled


@pytest.mark.parametrize(
    ("begun", "options", "status", "told"),
    [
        (lambda: None, ("--budget", "1s"), 1, "the budget left 3 of 3 over"),
        (_thread.interrupt_main, (), 130, "0 of 3 ended and are recorded; the same command goes on"),
    ],
    ids=["the end of the budget", "ctrl-c"],
)
def test_sweeps_on_a_cluster_are_ended_by(
    run: Run, made: list[Scripted], monkeypatch: pytest.MonkeyPatch,
    begun: Callable[[], None], options: tuple[str, ...], status: int, told: str,
) -> None:  # fmt: skip
    monkeypatch.setattr(Endless, "begun", begun, raising=False)
    stand_in(monkeypatch, Endless)
    shown = run("tune", *PROBLEMS, "--device", "l4", "--executor", "ray", *options)
    assert shown.exit_code == status and told in shown.stderr
    assert made[0].said == ["closed", "left"] and made[0].requests


def failing(error: Outcome) -> type[Scripted]:
    """Return one whose sweeps of the middle problem end so."""

    class Failing(Scripted):
        def sweep(self, request: Request, database: Any, progress: Any) -> Swept:
            swept = super().sweep(request, database, progress)
            if str(request.problem) == PROBLEMS[1]:
                raise error
            return swept

    return Failing


def test_a_problem_that_kills_nodes_is_given_up_and_the_others_are_swept(
    run: Run, made: list[Scripted], monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster = failing(GivenUp("3 nodes were lost"))
    stand_in(monkeypatch, cluster)
    shown = run("tune", *PROBLEMS, "--device", "l4", "--executor", "ray", "--json")
    assert shown.exit_code == 1 and f"{PROBLEMS[1]} is given up: 3 nodes were lost" in shown.stderr
    assert {str(request.problem) for request in made[0].requests} == set(PROBLEMS)
    rows = {json.loads(line)["problem"] for line in shown.stdout.splitlines()}
    assert rows == {PROBLEMS[0], PROBLEMS[2]}
    assert "3 of 3 ended, 1 of them not recorded" in shown.stderr


def test_where_no_machine_is_left_it_says_so_and_what_is_done(
    run: Run, made: list[Scripted], monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster = failing(Unavailable("no node is left"))
    monkeypatch.setattr(cluster, "lanes", 1)
    stand_in(monkeypatch, cluster)
    shown = run("tune", *PROBLEMS, "--device", "l4", "--executor", "ray", "--json")
    assert shown.exit_code == 1 and "Error: no node is left" in shown.stderr
    assert "1 of 3 ended and are recorded; the same command goes on from there" in shown.stderr


PREDICTED = "N=1,Cin=1,Cout=1,K=3,L=400,stride=2,padding=1,bias=1"  # of the packaged rows of rtx4090


@pytest.mark.parametrize(("device", "asked"), [("rtx4090", [PREDICTED]), ("h200", [])])
def test_what_is_predicted_is_asked_of_nodes_that_can_measure_it(
    run: Run, made: list[Scripted], monkeypatch: pytest.MonkeyPatch, device: str, asked: list[str]
) -> None:
    monkeypatch.setattr(Scripted, "devices", frozenset({device}))
    shown = run("tune", PREDICTED, "--device", "rtx4090", "--executor", "ray", "--json")
    assert [str(request.problem) for request in made[0].requests] == asked
    assert shown.exit_code == len(asked), "the stand-in finds nothing"


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
