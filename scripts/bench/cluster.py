"""Sweep what a database has on a Ray cluster of this machine, kill a node half-way, and compare; as JSON.

    .venv-ray/bin/python -m scripts.bench.cluster DATABASE [--problems 200] [--nodes 4] [--device rtx4090]

DATABASE is one that local sweeps have filled, as scripts/prebuilt_workloads.py fills one in build/. Its first
problems are swept anew into an empty database, each with that script's shortlist, on a cluster of that many
node processes with a core each. Once half of them have ended, a node is killed while it sweeps.
`differing` names the problems of which not all trials are as they were there, but for times, runs and what a
check draws at random anew: its seed, and so how large the error was. `unended` names those without a finished
run. Exit status 1: there are such, or no node was killed.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import socket
import sys
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import ray
from ray.cluster_utils import Cluster as Nodes

from autoconv import device as devices
from autoconv import lookup, settings
from autoconv.environment import Environment
from autoconv.problem import Problem
from autoconv.sweep.cluster import Cluster
from autoconv.sweep.executor import Request
from autoconv.sweep.sweep import Job, Progress, Swept, sweep
from scripts.prebuilt_workloads import SHORTLIST
from tuning_db import TuningDB, export_lines

AGENTS = ("metrics_agent", "metrics_export", "dashboard_agent_listen", "runtime_env_agent")
SMALL = {"num_cpus": 1, "num_gpus": 0, "object_store_memory": 80 << 20}


def main() -> None:
    """Sweep, kill, compare, and print what was found."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("database", type=Path)
    parser.add_argument("--problems", type=int, default=200)
    parser.add_argument("--nodes", type=int, default=4)
    parser.add_argument("--device", default="rtx4090")
    given = parser.parse_args()
    with lookup.open_file(given.database) as local:
        before = trials_of(local)
    problems = [Problem.from_key(key) for key in sorted(before)[: given.problems]]
    device = devices.find(given.device)
    job = Job(device, Environment.current(device), settings.load().cache, on_gpu=False, shortlist=SHORTLIST)
    lost = Lost()
    logging.getLogger("autoconv").addHandler(lost)
    with tempfile.TemporaryDirectory() as folder, nodes_here(given.nodes) as nodes:
        files = replace(settings.load(), database=Path(folder) / "tuning.db", site_databases=())
        killer, begun = Killer(nodes, after=len(problems) // 2), time.monotonic()
        with Cluster(nodes.address, sweeper=telling) as cluster, lookup.open_user(files) as database:
            lanes = cluster.lanes
            sweep_all(problems, job, cluster, database, killer)
            seconds = time.monotonic() - begun
            after = trials_of(database)
            unended = [
                str(one) for one in problems if not any(run.finished for run in database.runs(one.key()))
            ]
    differing = [str(one) for one in problems if before[one.key()] != after.get(one.key())]
    found = {
        "benchmark": "cluster", "triton": version("triton"), "ray": version("ray"), "cores": os.cpu_count(),
        "nodes": given.nodes, "lanes": lanes, "problems": len(problems), "seconds": round(seconds, 1),
        "trials": sum(map(len, after.values())), "killed": killer.killed, "sweeps_lost": lost.count,
        "differing": differing, "unended": unended,
    }  # fmt: skip
    print(json.dumps(found))
    sys.exit(bool(differing or unended or not killer.killed))


def telling(
    problem: Problem, job: Job, database: Any, pool: Any, progress: Progress, *more: Any, **how: Any
) -> Swept:
    """Sweep, on a node, and say which it is once something is done."""
    here = f"on {ray.get_runtime_context().get_node_id()}"

    def told(doing: str, done: int, of: int) -> None:
        progress(here if done else doing, done, of)

    return sweep(problem, job, database, pool, told, *more, **how)


def sweep_all(
    problems: Sequence[Problem], job: Job, cluster: Cluster, database: TuningDB, killer: Killer
) -> None:
    """Sweep every problem, as many at once as the cluster has lanes."""

    def ended(problem: Problem) -> None:
        cluster.sweep(Request(problem, job), database, killer.told)
        killer.ended += 1

    with ThreadPoolExecutor(cluster.lanes) as lanes:
        list(lanes.map(ended, problems))


class Lost(logging.Handler):
    """Counts the sweeps that the log says were lost with their node."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.count = 0

    def emit(self, record: logging.LogRecord) -> None:
        """Count one."""
        self.count += "is lost" in record.getMessage()


class Killer:
    """Kills the first node, but the head, that says it sweeps once so many problems have ended."""

    def __init__(self, nodes: Nodes, after: int = 1) -> None:
        self._nodes = nodes
        self._after = after
        self._lock = threading.Lock()
        self.ended = 0
        self.killed = ""

    def told(self, doing: str, _done: int, _of: int) -> None:
        """Hear, as progress, where a sweep runs."""
        by_id = {f"on {node.node_id}": node for node in self._nodes.worker_nodes}
        with self._lock:
            if self.ended >= self._after and not self.killed and doing in by_id:
                self.killed = doing
                self._nodes.remove_node(by_id[doing], allow_graceful=False)


@contextmanager
def nodes_here(count: int) -> Iterator[Nodes]:
    """Start a cluster of so many node processes on this machine, and end it."""
    os.environ.setdefault("RAY_agent_register_timeout_ms", "300000")  # a busy machine takes its time
    nodes = Nodes(initialize_head=True, head_node_args={**_arguments(), "include_dashboard": False})
    try:
        for _ in range(count - 1):
            nodes.add_node(**_arguments())
        nodes.wait_for_nodes()
        yield nodes
    finally:
        ray.shutdown()
        nodes.shutdown()


def _arguments() -> dict[str, int]:
    """A node's, with ports of its agents: to ask them which they took is a wait that a busy machine fails."""
    with ExitStack() as stack:
        taken = [stack.enter_context(socket.socket()) for _ in AGENTS]
        for one in taken:
            one.bind(("127.0.0.1", 0))
        return SMALL | {f"{name}_port": one.getsockname()[1] for name, one in zip(AGENTS, taken, strict=True)}


def trials_of(database: TuningDB) -> dict[str, list[str]]:
    """Return of every problem, by its key, all that is exported of it but for runs and what checks drew."""
    found: dict[str, list[str]] = defaultdict(list)
    for text in export_lines(database):
        line: dict[str, Any] = json.loads(text)
        trial = line["trial"]
        del trial["max_err"]
        for drawn in ("seed", "max_rel_err"):
            trial["detail"].get("check", {}).pop(drawn, None)
        found[line["problem"]["key"]].append(json.dumps([line["environment"], trial], sort_keys=True))
    return {key: sorted(trials) for key, trials in found.items()}


if __name__ == "__main__":
    main()
