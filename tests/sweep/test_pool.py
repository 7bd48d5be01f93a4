"""Worker processes: in order, alive between tasks, and replaced when they die, hang or are spoilt."""

from __future__ import annotations

import os
import resource
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from autoconv.config import Config
from autoconv.device import find
from autoconv.problem import Problem
from autoconv.sweep import pool as pool_module
from autoconv.sweep.pool import Crew, Pool
from autoconv.sweep.tasks import Task, compile_task

CONFIG = Config("dense", {"BLOCK_CO": 16, "BLOCK_L": 16, "BLOCK_R": 16}, num_warps=1, num_stages=2)


def quick(number: int) -> Task:
    """A task that is answered at once, with an error: there is none of this name."""
    return {"do": f"nothing {number}"}


def answers(pool: Pool, number: int) -> bool:
    (reply,) = pool.perform([quick(number)])
    return reply == {"error": f"KeyError: 'nothing {number}'"}


def slow(folder: Path) -> Task:
    """A task that takes seconds: a fresh worker imports torch for it, and then compiles."""
    return compile_task(Problem(1, 16, 16, 3, 64), CONFIG, find("rtx4090"), folder)


def workers() -> set[int]:
    """The processes this one started that live."""
    found = set()
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            _, _, rest = stat.read_text(encoding="utf-8", errors="replace").rpartition(")")
        except OSError:  # it ended just now
            continue
        state, parent = rest.split()[:2]
        if int(parent) == os.getpid() and state != "Z":
            found.add(int(stat.parent.name))
    return found


@contextmanager
def killing(pool_started: set[int]) -> Iterator[None]:
    """Kill the first process that appears beside these."""

    def kill() -> None:
        while not (new := workers() - pool_started):
            time.sleep(0.01)
        for pid in new:
            os.kill(pid, signal.SIGKILL)

    killer = threading.Thread(target=kill)
    killer.start()
    yield
    killer.join()


def test_replies_come_in_the_order_of_the_tasks() -> None:
    with Pool(2, timeout=30) as pool:
        replies = list(pool.perform(quick(number) for number in range(7)))
    assert replies == [{"error": f"KeyError: 'nothing {number}'"} for number in range(7)]


def test_a_worker_serves_task_after_task_and_ends_with_the_pool() -> None:
    before = workers()
    with Pool(4, timeout=30) as pool:
        assert workers() == before, "none starts without a task"
        list(pool.perform([quick(1)]))
        (first,) = workers() - before
        for _ in range(3):
            list(pool.perform([quick(1), quick(2)]))
        assert first in workers()
        assert len(workers() - before) <= 2, "a worker at hand comes before a new one"
    assert workers() == before


def test_a_failed_task_spoils_its_worker_where_asked() -> None:
    before = workers()
    with Pool(1, timeout=30, fresh_after_error=True) as pool:
        assert answers(pool, 1)
        assert workers() == before
        assert answers(pool, 2)


def test_a_worker_killed_at_work_costs_its_task_alone(tmp_path: Path) -> None:
    with Pool(1, timeout=60) as pool:
        with killing(workers()):
            (reply,) = pool.perform([slow(tmp_path)])
        assert reply["outcome"] == "crash"
        assert reply["error"] == "worker ended with status -9"
        assert answers(pool, 1)


def test_a_worker_killed_while_idle_costs_nothing() -> None:
    before = workers()
    with Pool(1, timeout=60) as pool:
        list(pool.perform([quick(1)]))
        (idle,) = workers() - before
        os.kill(idle, signal.SIGKILL)
        os.waitid(os.P_PID, idle, os.WEXITED | os.WNOWAIT)
        assert answers(pool, 1)


def test_a_hanging_task_times_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = workers()
    with Pool(1, timeout=0.05) as pool:
        (reply,) = pool.perform([slow(tmp_path)])  # torch's import, which takes longer than that, is granted
        assert (reply["outcome"], reply["error"]) == ("timeout", "no answer within 0.05 s")
        assert workers() == before
        assert answers(pool, 1)
        monkeypatch.setattr(pool_module, "START_SECONDS", 0.1)  # granted to the new process again
        assert next(pool.perform([slow(tmp_path)]))["error"] == "no answer within 0.1 s"


def test_a_deadline_blames_no_task(tmp_path: Path) -> None:
    before = workers()
    with Pool(1, timeout=60) as pool:
        begun = time.monotonic()
        replies = list(pool.perform([slow(tmp_path), slow(tmp_path)], deadline=begun + 0.3))
        assert replies == [{"skipped": True}] * 2
        assert time.monotonic() - begun < 5
        assert workers() == before, "the one at work was ended"


def test_starting_is_bounded_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool_module, "START_SECONDS", 0.1)
    with Pool(1, timeout=60) as pool:
        (reply,) = pool.perform([slow(tmp_path)])
    assert (reply["outcome"], reply["error"]) == ("timeout", "no answer within 0.1 s")


def test_a_dead_worker_s_last_words_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/bin/sh")  # which knows no -m
    with Pool(1, timeout=30) as pool:
        (reply,) = pool.perform([quick(1)])
    assert reply["outcome"] == "crash"
    assert reply["error"].startswith("worker ended with status ") and "sh" in reply["error"]


@pytest.mark.skipif(sys.version_info < (3, 11), reason="Python 3.10 always looks in the current folder first")
def test_files_in_the_current_folder_are_no_modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "json.py").write_text("raise SystemExit('a stranger was imported')", encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    with Pool(1, timeout=30) as pool:
        assert answers(pool, 1)


def test_a_process_with_many_open_files_can_sweep() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if 0 <= hard < 1200:
        pytest.skip("may not open as many files")
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (1200 if soft < 1200 else soft, hard))
        with ExitStack() as files, Pool(1, timeout=30) as pool:
            for _ in range(1100):
                files.enter_context(Path(os.devnull).open("rb"))
            assert answers(pool, 1)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_a_crew_ends_all_its_workers() -> None:
    before = workers()
    with Crew(1) as crew:
        for pool in (crew.compilers, crew.interpreters):
            list(pool.perform([quick(1)]))
        assert len(workers() - before) == 2
        list(crew.gpu.perform([quick(1)]))
        assert len(workers() - before) == 2, "an error on the GPU is the last of its process"
    assert workers() == before
