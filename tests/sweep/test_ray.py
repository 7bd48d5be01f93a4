"""Sweeps on a Ray cluster of several node processes, one of which is killed in the midst of them."""

from __future__ import annotations

import logging
import os
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import cast

import pytest

from autoconv.errors import ProblemError
from autoconv.lookup import open_user
from autoconv.problem import Problem
from autoconv.settings import Settings
from autoconv.sweep.pool import WorkerPool
from autoconv.sweep.process import Cancelled
from autoconv.sweep.sweep import Job
from autoconv.tuning.tuner import Tuner

ray = pytest.importorskip("ray", reason="Ray is not installed: make test-ray")
PATHS = [
    str(Path(__file__).parent),
    str(Path(__file__).parents[2]),
]  # of the scripted sweeps, and of the package
sys.path.insert(0, PATHS[0])

from probe_scripted import ScriptedPool, scripted  # noqa: E402
from ray.cluster_utils import Cluster as Nodes  # noqa: E402

from autoconv.sweep.cluster import Cluster, Known, Sender  # noqa: E402
from scripts.bench.cluster import Killer, nodes_here, trials_of  # noqa: E402

NODES = 4
# More than four doublings apart: none is near enough to another for its result to be tried first there, so
# the order in which they end makes no difference.
PROBLEMS = [
    Problem(batch, channels, 16, 3, length)
    for batch in (1, 64)
    for channels in (8, 256)
    for length in (32, 1024, 1 << 15)
]
SettingsFor = Callable[[Path], Settings]


@pytest.fixture(scope="module")
def nodes() -> Iterator[Nodes]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join([*PATHS, os.environ.get("PYTHONPATH", "")]))
        with nodes_here(NODES) as nodes:
            yield nodes


@pytest.fixture(scope="module")
def cluster(nodes: Nodes) -> Iterator[Cluster]:
    with Cluster(nodes.address, sweeper=scripted) as cluster:
        yield cluster


def content(settings: Settings) -> dict[str, list[str]]:
    with open_user(settings) as database:
        return trials_of(database)


def test_what_a_node_raises_is_raised_here(
    cluster: Cluster, job: Job, settings_for: SettingsFor, tmp_path: Path
) -> None:
    tuner = Tuner(settings_for(tmp_path / "tuning.db"))
    unserved = Problem(1, 1 << 14, 1 << 14, 3, 1 << 20)
    with pytest.raises(ProblemError):
        tuner.tune(replace(unserved, N=1 << 20), job, executor=cluster)


def test_a_node_killed_in_the_midst_costs_nothing_but_time(
    nodes: Nodes, cluster: Cluster, job: Job, settings_for: SettingsFor, tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    assert cluster.lanes == NODES
    local, remote = settings_for(tmp_path / "local.db"), settings_for(tmp_path / "ray.db")
    pool = cast(WorkerPool, ScriptedPool())
    for problem in PROBLEMS:
        Tuner(local).tune(problem, job, pool=pool)

    killer, tuner = Killer(nodes), Tuner(remote)

    def tune(problem: Problem) -> None:
        tuned = tuner.tune(problem, job, executor=cluster, progress=killer.told)
        assert tuned.found is not None and tuned.swept is not None and tuned.swept.recorded
        killer.ended += 1

    with (
        caplog.at_level(logging.WARNING, logger="autoconv"),
        ThreadPoolExecutor(cluster.lanes) as lanes,
    ):
        list(lanes.map(tune, PROBLEMS))
    assert killer.killed and sum("is lost" in record.message for record in caplog.records) >= 1
    assert content(remote) == content(local)
    with open_user(remote) as database:
        runs = [run for problem in PROBLEMS for run in database.runs(problem.key())]
    assert len(runs) == len(PROBLEMS) and all(run.finished for run in runs), "a lost run is gone on with"


def test_who_waits_when_the_cluster_is_closed_is_told(
    nodes: Nodes, job: Job, settings_for: SettingsFor, tmp_path: Path
) -> None:
    closing, begun = Cluster(nodes.address, sweeper=scripted), threading.Event()
    tuner = Tuner(settings_for(tmp_path / "tuning.db"))
    with ThreadPoolExecutor(1) as thread:
        waits = thread.submit(
            tuner.tune, PROBLEMS[-1], job, executor=closing, progress=lambda *_: begun.set()
        )
        assert begun.wait(100)
        closing.close()
        assert isinstance(waits.exception(100), Cancelled)


def test_nothing_that_is_on_file_is_tried_on_a_node(job: Job) -> None:
    """A node asks its stand-in for the database, which knows what the writer had of its environment."""
    from queue import SimpleQueue

    from tuning_db import Trial

    trial = Trial({"kernel": "dense"}, "ok", predicted_us=1.0)
    sender = Sender([Known("here", trial), Known("there", Trial({"kernel": "x"}, "ok"))], SimpleQueue())
    assert sender.trials("any", "here") == [trial]
