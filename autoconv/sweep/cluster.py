"""Sweeps on a Ray cluster: a task a problem, whose trials stream to this process as they end.

The only code that knows of Ray (`pip install 'autoconv[ray]'`). Nodes write no database and need no shared
disk: what a node finds goes back to who asked, who is the one writer. A node that dies costs the sweeps that
ran on it, which are gone on with elsewhere: what had ended is not tried again.
"""

from __future__ import annotations

import logging
import socket
import threading
import time
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from queue import SimpleQueue
from types import TracebackType
from typing import Any

import ray
from ray.exceptions import (
    NodeDiedError,
    ObjectLostError,
    OutOfMemoryError,
    RayError,
    RaySystemError,
    RayTaskError,
    WorkerCrashedError,
)
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from autoconv import gpu, settings
from autoconv.device import Device
from autoconv.environment import Environment
from autoconv.lookup import records
from autoconv.sweep.executor import Request, Sweep, requested
from autoconv.sweep.ledger import Ledger
from autoconv.sweep.outcomes import GivenUp, Unavailable, outcome_of
from autoconv.sweep.pool import WorkerPool
from autoconv.sweep.process import Cancelled
from autoconv.sweep.recorder import Recording
from autoconv.sweep.sweep import Job, Progress, Swept, sweep
from tuning_db import EnvironmentRecord, ProblemRecord, RunRecord, Trial, TuningDBError

ATTEMPTS = 3
"""Nodes that may die under one problem before it is given up: it may be what kills them."""

SLICE_SECONDS = 0.5
"""How long a node is waited for at a time: between two waits it is seen whether the cluster was closed."""

ASK_SECONDS = 60.0
"""How long nodes are waited for to say which GPUs they have; one whose GPUs are all in use says nothing."""

MISSING_SECONDS = 300.0
"""How long a cluster is waited for that has no node which could sweep: an autoscaler may be starting one."""

_LOST = (NodeDiedError, ObjectLostError, OutOfMemoryError, RaySystemError, WorkerCrashedError)

_log = logging.getLogger("autoconv")


# --- what a node says -----------------------------------------------------------------------------


@dataclass(frozen=True)
class Started:
    """A run has begun."""

    run: RunRecord


@dataclass(frozen=True)
class Added:
    """A trial has ended."""

    run_id: str
    trial: Trial


@dataclass(frozen=True)
class Finished:
    """A run has come to its end."""

    run_id: str


@dataclass(frozen=True)
class Doing:
    """How far the sweep is."""

    doing: str
    done: int
    of: int


Message = Started | Added | Finished | Doing | Swept | Exception


@dataclass(frozen=True)
class Known:
    """What the writer has of one problem, of whatever environment: a node's is not that of who asks."""

    runs: tuple[RunRecord, ...] = ()
    trials: tuple[tuple[str, Trial], ...] = ()  # each with the hash of its environment


# --- on a node ------------------------------------------------------------------------------------


class Sender:
    """Stands in for the database on a node: knows what the writer knew, and tells it all that is new."""

    def __init__(self, known: Known, say: SimpleQueue[Message]) -> None:
        """Say it to `say`."""
        self._known = known
        self._say = say

    def start(
        self, environment: EnvironmentRecord, *, origin: str, info: Mapping[str, Any] | None = None
    ) -> str:
        """Begin a run."""
        run = RunRecord(str(uuid.uuid4()), environment, origin, info or {})
        self._say.put(Started(run))
        return run.id

    def add(self, run_id: str, _problem: ProblemRecord, trial: Trial) -> None:
        """Tell of a trial of the one problem that is swept."""
        self._say.put(Added(run_id, trial))

    def finish(self, run_id: str) -> None:
        """End a run."""
        self._say.put(Finished(run_id))

    def trials(self, _problem_key: str, environment_hash: str | None = None) -> list[Trial]:
        """Return the trials that the writer has of it."""
        return [trial for of, trial in self._known.trials if environment_hash in (None, of)]

    def runs(self, _problem_key: str) -> list[RunRecord]:
        """Return its runs that the writer has."""
        return list(self._known.runs)


@lru_cache(maxsize=1)
def _pool() -> WorkerPool:
    """Return the pool of this node's process, whose workers end with it; sweeps that follow share it."""
    return WorkerPool(1)


def on_node(request: Request, known: Known, sweeper: Sweep) -> Iterator[Message]:
    """Sweep on this node, and yield what there is to say as it comes; last the result, or the error."""
    said: SimpleQueue[Message] = SimpleQueue()

    def told(doing: str, done: int, of: int) -> None:
        said.put(Doing(doing, done, of))

    def work() -> None:
        try:
            here = replace(request, job=_job_here(request.job))
            said.put(requested(here, Sender(known, said), _pool(), told, sweeper))
        except Exception as error:  # whatever it is, who asked for the sweep is to have it
            said.put(error)

    threading.Thread(target=work, daemon=True).start()
    while True:
        message = said.get()
        yield message
        if isinstance(message, (Swept, Exception)):
            return


def _job_here(job: Job) -> Job:
    """Return the job as this node can do it: measured where it has the device, in its own folders.

    Raises:
        Unavailable: this node's compiler is not that of who asks, whose lookups would not find the results.
    """
    found = gpu_here()
    on_gpu = found is not None and found.name == job.device.name
    driver, power = gpu.driver_and_power(0) if on_gpu else (None, None)
    device = found if found and on_gpu else job.device  # a board that was cut down has the catalogue's name
    here = Environment.current(device, cuda_driver=driver, power_limit_w=power)
    if here.triton != job.environment.triton:
        versions = f"Triton {here.triton_patch}, and who asks has {job.environment.triton_patch}"
        raise Unavailable(f"the node {socket.gethostname()} has {versions}: install one version on all")
    return replace(job, on_gpu=on_gpu, environment=here, ordinal=0, cache=settings.load().cache)


def gpu_here() -> Device | None:
    """Return this node's GPU, None where it has none that is known."""
    return gpu.current(0) if gpu.present() else None


# --- the one writer -------------------------------------------------------------------------------


class Writer:
    """Records what nodes say of one problem, whichever of them says it.

    Attributes:
        known: what nodes may be told of it: what was known before, and what was heard since.
    """

    def __init__(self, database: Ledger | None, problem: ProblemRecord, known: Known) -> None:
        """Write to `database`, if there is one."""
        self.known = known
        self._database = database
        self._problem = problem
        self._runs = {run.id: run for run in known.runs}
        self._recordings: dict[str, Recording] = {}  # by the id that nodes know the run by
        for run in known.runs:
            self._record(run, run.id)

    @property
    def recorded(self) -> bool:
        """Whether the database has all that was said."""
        return self._database is not None and self.unrecorded is None

    @property
    def unrecorded(self) -> str | None:
        """Why the database has not; None where it has, or there is none."""
        return next((str(one.error) for one in self._recordings.values() if one.error), None)

    def take(self, message: Message) -> None:
        """Record it."""
        if isinstance(message, Started):
            self._runs[message.run.id] = message.run
            self.known = replace(self.known, runs=(*self.known.runs, message.run))
            self._record(message.run)
        elif isinstance(message, Added):
            heard = self._runs[message.run_id].environment.hash, message.trial
            self.known = replace(self.known, trials=(*self.known.trials, heard))
            if self._database is not None:
                self._recordings[message.run_id].add(message.trial)
        elif isinstance(message, Finished) and self._database is not None:
            self._recordings[message.run_id].finish()

    def _record(self, run: RunRecord, ours: str | None = None) -> None:
        if self._database is not None:
            given = self._database, self._problem, run.environment, run.info
            self._recordings[run.id] = Recording(*given, ours)


class Cluster:
    """Runs sweeps on a Ray cluster, used as a context manager.

    Attributes:
        devices: names of the GPUs that its nodes have. A sweep goes to any node that is free, and one without
            the device predicts: where results are to be measured, the nodes are of one kind.
    """

    def __init__(self, address: str | None = None, *, sweeper: Sweep = sweep) -> None:
        """Join the cluster at `address`, or that of RAY_ADDRESS, or else start one on this machine.

        `sweeper` is what runs on a node.

        Raises:
            ConnectionError: there is no such cluster.
        """
        self._sweeper = sweeper
        self._closed = threading.Event()
        self._joined = not ray.is_initialized()
        if self._joined:
            ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
        self._gpus = int(ray.cluster_resources().get("GPU", 0))
        self._kind = "GPU" if self._gpus else "CPU"
        needs = {"num_gpus": 1} if self._gpus else {"num_cpus": 1}
        self._remote = ray.remote(num_returns="streaming", max_retries=0, **needs)(on_node)
        self.devices = _devices() if self._gpus else frozenset[str]()

    def __enter__(self) -> Cluster:
        """Return the cluster itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Leave it, ending what runs there for this process."""
        self.close()
        if self._joined:
            ray.shutdown()

    def close(self) -> None:
        """End what runs there for this process; whoever waits for it gets Cancelled."""
        self._closed.set()

    @property
    def lanes(self) -> int:
        """How many sweeps it runs at once: one a GPU, or else one a core."""
        return max(1, self._gpus or int(ray.cluster_resources().get("CPU", 1)))

    def sweep(self, request: Request, database: Ledger | None, progress: Progress) -> Swept:
        """Sweep on some node, and on another where that one dies; see `Executor.sweep`."""
        problem, _ = records(request.problem, request.job.environment)
        known = Known() if request.again or database is None else known_of(problem, database)
        writer = Writer(database, problem, known)
        for _ in range(ATTEMPTS):
            try:
                swept = self._swept(request, writer, progress)
                return replace(swept, recorded=writer.recorded, unrecorded=writer.unrecorded)
            except RayTaskError as error:  # not the sweep's, which come as messages: the node lacks something
                raise Unavailable(f"a node cannot sweep: {str(error).splitlines()[-1]}") from error
            except _LOST as lost:
                _log.warning("the node that swept %s is lost (%s)", request.problem, type(lost).__name__)
                request = replace(request, again=False)  # but for what is known since it was asked for
        raise GivenUp(f"{ATTEMPTS} nodes were lost in sweeps of {request.problem}")

    def _swept(self, request: Request, writer: Writer, progress: Progress) -> Swept:
        for message in self._said(self._remote.remote(request, writer.known, self._sweeper)):
            if isinstance(message, Exception):
                raise message
            if isinstance(message, Swept):
                return message
            if isinstance(message, Doing):
                progress(message.doing, message.done, message.of)
            writer.take(message)
        raise RaySystemError("its answers ended before the result")

    def _said(self, references: ray.ObjectRefGenerator) -> Iterator[Message]:
        """Yield what a node says as it comes, until this is closed."""
        able = time.monotonic()  # when the cluster was last seen to be able to sweep
        while not self._closed.is_set():
            ready, _ = ray.wait([references], timeout=SLICE_SECONDS)
            if ready:
                reference = next(references, None)
                if reference is None:
                    return
                yield ray.get(reference)
            if ready or ray.cluster_resources().get(self._kind, 0) >= 1:
                able = time.monotonic()
            elif time.monotonic() - able > MISSING_SECONDS:
                ray.cancel(references)
                raise Unavailable(f"no node of the Ray cluster has a {self._kind} any more; add one")
        ray.cancel(references)
        raise Cancelled


def _devices() -> frozenset[str]:
    """Ask each node that has GPUs which they are."""
    ask = ray.remote(num_gpus=1, max_retries=0)(gpu_here)
    nodes = [node["NodeID"] for node in ray.nodes() if node["Alive"] and node["Resources"].get("GPU")]
    there = [NodeAffinitySchedulingStrategy(node, soft=False) for node in nodes]
    asked = [ask.options(scheduling_strategy=strategy).remote() for strategy in there]
    answers, silent = ray.wait(asked, num_returns=len(asked), timeout=ASK_SECONDS)
    found = set[str]()
    for answer in answers:
        try:
            device: Device | None = ray.get(answer)
            if device is not None:
                found.add(device.name)
        except RayError as error:
            _log.warning("a node does not tell its GPU: %s", outcome_of(error).reason)
    for one in silent:
        _log.warning("a node does not tell its GPU within %.0f s; others may use it", ASK_SECONDS)
        ray.cancel(one)
    return frozenset(found)


def known_of(problem: ProblemRecord, database: Ledger) -> Known:
    """Return what the database has of a problem; nothing where it cannot be read."""
    try:
        runs = database.runs(problem.key)
        hashes = sorted({run.environment.hash for run in runs})
        trials = [(of, trial) for of in hashes for trial in database.trials(problem.key, of)]
    except TuningDBError:
        return Known()
    return Known(tuple(runs), tuple(trials))
