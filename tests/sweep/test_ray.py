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
from queue import SimpleQueue
from typing import Any, cast

import pytest

from autoconv.errors import ProblemError
from autoconv.lookup import open_user, records
from autoconv.problem import Problem
from autoconv.settings import Settings
from autoconv.sweep.executor import Request
from autoconv.sweep.outcomes import Unavailable
from autoconv.sweep.pool import WorkerPool
from autoconv.sweep.process import Cancelled
from autoconv.sweep.sweep import Job, sweep
from autoconv.tuning.tuner import Tuner
from tuning_db import RunRecord, Trial, TuningDB, UnwritableError

ray = pytest.importorskip("ray", reason="Ray is not installed: make test-ray")
PATHS = [
    str(Path(__file__).parent),
    str(Path(__file__).parents[2]),
]  # of the scripted sweeps, and of the package
sys.path.insert(0, PATHS[0])

from probe_scripted import ScriptedPool, halfway, scripted  # noqa: E402
from ray.cluster_utils import Cluster as Nodes  # noqa: E402

from autoconv.sweep.cluster import (  # noqa: E402
    Added,
    Cluster,
    Finished,
    Known,
    Message,
    Sender,
    Started,
    Writer,
    gpu_here,
    known_of,
    on_node,
)
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


def test_a_node_killed_after_its_first_trials_leaves_no_run_open(
    nodes: Nodes, job: Job, settings_for: SettingsFor, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    local, remote = settings_for(tmp_path / "local.db"), settings_for(tmp_path / "ray.db")
    problems = PROBLEMS[::3]
    pool, killer, tuner = cast(WorkerPool, ScriptedPool()), Killer(nodes, after=0), Tuner(remote)
    for problem in problems:
        Tuner(local).tune(problem, job, pool=pool)
    open_runs: list[int] = []

    def told(doing: str, done: int, of: int) -> None:
        before = killer.killed
        killer.told(doing, done, of)
        if killer.killed and not before:
            with open_user(remote) as database:
                runs = [run for problem in problems for run in database.runs(problem.key())]
            open_runs.append(sum(not run.finished for run in runs))

    with (
        Cluster(nodes.address, sweeper=halfway) as cluster,
        caplog.at_level(logging.WARNING, logger="autoconv"),
        ThreadPoolExecutor(2) as lanes,
    ):
        list(lanes.map(lambda problem: tuner.tune(problem, job, executor=cluster, progress=told), problems))
    assert open_runs and open_runs[0] > 0, "it had told of trials"
    assert sum("is lost" in record.message for record in caplog.records) >= 1
    assert content(remote) == content(local)
    with open_user(remote) as database:
        runs = [run for problem in problems for run in database.runs(problem.key())]
    assert len(runs) == len(problems) and all(run.finished for run in runs)


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


def test_a_cluster_without_a_node_that_could_sweep_is_not_waited_for_without_end(
    nodes: Nodes, job: Job, settings_for: SettingsFor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("autoconv.sweep.cluster.MISSING_SECONDS", 1.0)
    bare = ray.cluster_resources
    monkeypatch.setattr(ray, "cluster_resources", lambda: bare() | {"GPU": 1.0})
    monkeypatch.setattr("autoconv.sweep.cluster._devices", frozenset)
    lost = Cluster(nodes.address, sweeper=scripted)  # its GPU is gone by the time of the sweep
    monkeypatch.undo()
    monkeypatch.setattr("autoconv.sweep.cluster.MISSING_SECONDS", 1.0)
    tuner = Tuner(settings_for(tmp_path / "tuning.db"))
    with pytest.raises(Unavailable, match="no node of the Ray cluster has a GPU any more"):
        tuner.tune(PROBLEMS[0], job, executor=lost)


def test_nodes_are_asked_for_their_gpus(nodes: Nodes) -> None:
    """This machine has none, whatever its node says it has."""
    node = nodes.add_node(num_gpus=1, num_cpus=0, object_store_memory=80 << 20)
    try:
        nodes.wait_for_nodes()
        cluster = Cluster(nodes.address, sweeper=scripted)
        assert (cluster.lanes, set(cluster.devices)) == (1, {found.name} if (found := gpu_here()) else set())
    finally:
        nodes.remove_node(node)


# --- who writes, and what nodes are told, without a cluster ---------------------------------------


@pytest.fixture
def database(settings_for: SettingsFor, tmp_path: Path) -> Iterator[TuningDB]:
    with open_user(settings_for(tmp_path / "tuning.db")) as database:
        yield database


def here(problem: Any, job: Any, database: Any, _pool: Any, *more: Any, **how: Any) -> Any:
    return sweep(problem, job, database, ScriptedPool(), *more, **how)  # type: ignore[arg-type]


def asked(problem: Problem, job: Job, database: TuningDB, trials: float = float("inf")) -> list[Message]:
    """What a node says to who asks anew, which ends, as Ctrl-C does it, with so many trials."""
    record, _ = records(problem, job.environment)
    writer, said = Writer(database, record, known_of(record, database)), list[Message]()
    for message in on_node(Request(problem, job), writer.known, here):
        writer.take(message)
        said.append(message)
        if sum(isinstance(one, Added) for one in said) >= trials:
            break
    assert writer.recorded
    return said


def runs_of(database: TuningDB, problem: Problem) -> dict[str, bool]:
    return {run.id: run.finished for run in database.runs(problem.key())}


def test_what_was_interrupted_is_gone_on_with_in_its_run(
    small: Problem, job: Job, database: TuningDB
) -> None:
    asked(small, job, database, trials=2)
    ((run, finished),) = runs_of(database, small).items()
    assert not finished and len(database.trials(small.key())) == 2
    said = asked(small, job, database)
    assert runs_of(database, small) == {run: True} and not any(isinstance(one, Started) for one in said)
    trials = database.trials(small.key())
    assert len(trials) > 2 and len({trial.config_hash for trial in trials}) == len(trials)


def test_what_nodes_recorded_under_their_own_driver_is_not_tried_again(
    small: Problem, job: Job, database: TuningDB, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who asks has no GPU, so no driver: its environment is not theirs."""
    there = replace(job.environment, cuda_driver="570.1")
    monkeypatch.setattr("autoconv.sweep.cluster._job_here", lambda job: replace(job, environment=there))
    asked(small, job, database, trials=3)
    ((run, _),) = runs_of(database, small).items()
    known = {trial.config_hash for trial in database.trials(small.key())}
    said = asked(small, job, database)
    assert not known & {one.trial.config_hash for one in said if isinstance(one, Added)}
    assert runs_of(database, small) == {run: True}


def take_in_turn(writer: Writer, run: RunRecord, outcomes: list[str]) -> None:
    writer.take(Started(run))
    for outcome in outcomes:
        writer.take(Added(run.id, Trial({"kernel": "dense"}, outcome, predicted_us=1.0)))
    writer.take(Finished(run.id))


def test_a_node_with_another_compiler_is_refused(small: Problem, job: Job) -> None:
    """What it finds would be filed as found by the Triton of who asks."""
    elsewhere = replace(job.environment, triton="3.1", triton_patch="3.1.0")
    (said,) = on_node(Request(small, replace(job, environment=elsewhere)), Known(), here)
    assert isinstance(said, Unavailable)
    assert f"has Triton {job.environment.triton_patch}, and who asks has 3.1.0" in said.reason


def test_what_a_node_predicts_is_filed_without_the_driver_of_who_asks(
    small: Problem, job: Job, database: TuningDB
) -> None:
    asks = replace(job, environment=replace(job.environment, cuda_driver="580.1", power_limit_w=450))
    said = on_node(Request(small, asks), Known(), here)
    (started,) = (one for one in said if isinstance(one, Started))
    assert started.run.environment == records(small, job.environment)[1]


def test_every_run_that_a_sweep_needed_ends(small: Problem, job: Job, database: TuningDB) -> None:
    """A candidate that was compiled before its node died and is timed on another needs one more."""
    problem, environment = records(small, job.environment)
    writer = Writer(database, problem, Known())
    take_in_turn(writer, RunRecord("theirs", environment, "sweep"), ["compiled", "ok"])
    assert writer.recorded and list(runs_of(database, small).values()) == [True, True]
    assert [trial.outcome for _, trial in writer.known.trials] == ["compiled", "ok"]


def test_what_a_file_did_not_take_is_told_and_the_next_node_knows_it(
    small: Problem, job: Job, database: TuningDB, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise UnwritableError("the.db", "the disk is full", "make room")

    problem, environment = records(small, job.environment)
    run = RunRecord("theirs", environment, "sweep")
    writer = Writer(database, problem, Known())
    with monkeypatch.context() as patch:
        patch.setattr(TuningDB, "add", full)
        take_in_turn(writer, run, ["ok"])
    assert not writer.recorded and "the disk is full" in str(writer.unrecorded)
    assert len(writer.known.trials) == 1 and [one.id for one in writer.known.runs] == ["theirs"]
    writer.take(Finished("theirs"))
    assert writer.recorded and list(runs_of(database, small).values()) == [True]


def test_nothing_that_is_on_file_is_tried_on_a_node(job: Job) -> None:
    """A node asks its stand-in for the database, which knows what the writer had of its environment."""
    trial, other = Trial({"kernel": "dense"}, "ok", predicted_us=1.0), Trial({"kernel": "x"}, "ok")
    run = RunRecord("theirs", records(PROBLEMS[0], job.environment)[1], "sweep")
    sender = Sender(Known((run,), (("here", trial), ("there", other))), SimpleQueue())
    assert sender.trials("any", "here") == [trial] and sender.trials("any") == [trial, other]
    assert sender.runs("any") == [run]
