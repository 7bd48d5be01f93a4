"""Sweeps on a Ray cluster: a task a problem, whose trials stream to this process as they end.

The only code that knows of Ray (`pip install 'autoconv[ray]'`). Nodes write no database and need no shared
disk: what a node finds goes back to who asked, who is the one writer. A node that dies costs the sweeps that
ran on it, which are gone on with elsewhere: what had ended is not tried again.
"""

from __future__ import annotations

import logging
import threading
import uuid
from collections.abc import Iterable, Iterator, Mapping
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
    RaySystemError,
    RayTaskError,
    WorkerCrashedError,
)

from autoconv import gpu, settings
from autoconv.environment import Environment
from autoconv.lookup import records
from autoconv.sweep.executor import Request, Sweep, requested
from autoconv.sweep.ledger import Ledger
from autoconv.sweep.outcomes import Unavailable
from autoconv.sweep.pool import WorkerPool
from autoconv.sweep.process import Cancelled
from autoconv.sweep.sweep import Job, Progress, Swept, sweep
from tuning_db import ContradictionError, EnvironmentRecord, ProblemRecord, RunRecord, Trial, TuningDBError

ATTEMPTS = 3
"""Nodes that may die under one problem before it is given up: it may be what kills them."""

SLICE_SECONDS = 0.5
"""How long a node is waited for at a time: between two waits it is seen whether the cluster was closed."""

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
    problem: ProblemRecord
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
    """A trial that the writer has, and the hash of its environment."""

    environment_hash: str
    trial: Trial


# --- on a node ------------------------------------------------------------------------------------


class Sender:
    """Stands in for the database on a node: knows what the writer knew, and tells it all that is new."""

    def __init__(self, known: Iterable[Known], say: SimpleQueue[Message]) -> None:
        """Say it to `say`."""
        self._known = list(known)
        self._say = say

    def start(
        self, environment: EnvironmentRecord, *, origin: str, info: Mapping[str, Any] | None = None
    ) -> str:
        """Begin a run."""
        run = RunRecord(str(uuid.uuid4()), environment, origin, info or {})
        self._say.put(Started(run))
        return run.id

    def add(self, run_id: str, problem: ProblemRecord, trial: Trial) -> None:
        """Tell of a trial."""
        self._say.put(Added(run_id, problem, trial))

    def finish(self, run_id: str) -> None:
        """End a run."""
        self._say.put(Finished(run_id))

    def trials(self, _problem_key: str, environment_hash: str | None = None) -> list[Trial]:
        """Return the trials that the writer has of the one problem that is swept."""
        return [one.trial for one in self._known if environment_hash in (None, one.environment_hash)]

    def runs(self, _problem_key: str) -> list[RunRecord]:
        """Return none: which run is gone on with is the writer's to say."""
        return []


@lru_cache(maxsize=1)
def _pool() -> WorkerPool:
    """Return the pool of this node's process, whose workers end with it; sweeps that follow share it."""
    return WorkerPool(1)


def on_node(request: Request, known: list[Known], sweeper: Sweep) -> Iterator[Message]:
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
    """Return the job as this node can do it: measured where it has the device, in its own folders."""
    job = replace(job, cache=settings.load().cache)
    found = gpu.current(0) if gpu.present() else None
    if found is None or found.name != job.device.name:
        return replace(job, on_gpu=False)
    driver, power = gpu.driver_and_power(0)
    here = Environment.current(found, cuda_driver=driver, power_limit_w=power)
    return replace(job, on_gpu=True, environment=here, ordinal=0)


# --- the one writer -------------------------------------------------------------------------------


class Writer:
    """Records what nodes say of one problem, whichever of them says it."""

    def __init__(self, database: Ledger | None) -> None:
        """Write to `database` as long as that works."""
        self.database = database
        self.heard: list[Known] = []
        self._runs: dict[str, tuple[str, RunRecord]] = {}  # by the node's name for it: ours, and what it is

    def take(self, message: Message) -> None:
        """Record it."""
        try:
            if isinstance(message, Started):
                self._start(message.run)
            elif isinstance(message, Added):
                self._add(message)
            elif isinstance(message, Finished) and self.database is not None:
                self.database.finish(self._runs[message.run_id][0])
        except TuningDBError:
            self.database = None  # the sweep goes on: its result is still of use to this process

    def _start(self, run: RunRecord) -> None:
        """Begin a run, or go on with that of a node that died."""
        same = [ours for ours, one in self._runs.values() if replace(one, id=run.id) == run]
        self._runs[run.id] = (same or [self._begun(run)])[0], run

    def _begun(self, run: RunRecord) -> str:
        return self.database.start(run.environment, origin=run.origin, info=run.info) if self.database else ""

    def _add(self, message: Added) -> None:
        ours, run = self._runs[message.run_id]
        self.heard.append(Known(run.environment.hash, message.trial))
        if self.database is None:
            return
        try:
            self.database.add(ours, message.problem, message.trial)
        except ContradictionError:  # a candidate that was only compiled before its node died
            ours = self._begun(run)
            self._runs[message.run_id] = ours, run
            self.database.add(ours, message.problem, message.trial)


class Cluster:
    """Runs sweeps on a Ray cluster, used as a context manager."""

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
        needs = {"num_gpus": 1} if self._gpus else {"num_cpus": 1}
        self._remote = ray.remote(num_returns="streaming", max_retries=0, **needs)(on_node)

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
        writer = Writer(database)
        known = [] if request.again else _known(request, database)
        for _ in range(ATTEMPTS):
            try:
                swept = self._swept(request, [*known, *writer.heard], writer, progress)
                return replace(swept, recorded=writer.database is not None)
            except RayTaskError as error:  # not the sweep's, which come as messages: the node lacks something
                raise Unavailable(f"a node cannot sweep: {str(error).splitlines()[-1]}") from error
            except _LOST as lost:
                _log.warning("the node that swept %s is lost (%s)", request.problem, type(lost).__name__)
                request = replace(request, again=False)  # but for what is known since it was asked for
        raise Unavailable(f"{ATTEMPTS} nodes were lost in sweeps of {request.problem}")

    def _swept(self, request: Request, known: list[Known], writer: Writer, progress: Progress) -> Swept:
        for message in self._said(self._remote.remote(request, known, self._sweeper)):
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
        while not self._closed.is_set():
            ready, _ = ray.wait([references], timeout=SLICE_SECONDS)
            if not ready:
                continue
            reference = next(references, None)
            if reference is None:
                return
            yield ray.get(reference)
        ray.cancel(references)
        raise Cancelled


def _known(request: Request, database: Ledger | None) -> list[Known]:
    problem, environment = records(request.problem, request.job.environment)
    try:
        trials = database.trials(problem.key, environment.hash) if database else []
    except TuningDBError:
        trials = []
    return [Known(environment.hash, trial) for trial in trials]
