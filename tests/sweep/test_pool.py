"""Worker processes: in order, alive between tasks, and replaced when they die, hang or are spoilt."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
from probe_tasks import Die, Echo, Hang, NeedsLong, NeedsMore, Niceness, Raise

from autoconv.settings import child_environment
from autoconv.sweep import memory, process
from autoconv.sweep.outcomes import Failed, Outcome, Unavailable
from autoconv.sweep.pool import WorkerPool, Workers
from autoconv.sweep.process import Cancelled
from autoconv.sweep.tasks import Crashed, Skipped, TimedOut
from tests.waiting import is_alive, stat, wait_for

NO_TILE = ValueError("no such tile")
HERE = Path(__file__).parent


def answers(workers: Workers, number: int) -> bool:
    return list(workers.perform([Echo(number)])) == [number]


def one(workers: Workers, task: Any) -> tuple[type, str]:
    """The class of the outcome of a task, and its reason."""
    (outcome,) = workers.perform([task])
    assert isinstance(outcome, Outcome)
    return type(outcome), outcome.reason


def processes() -> set[int]:
    """The processes this one started that live."""
    pids = [int(entry.name) for entry in Path("/proc").glob("[0-9]*")]
    return {pid for pid in pids if is_alive(pid) and stat(pid)[1:2] == [str(os.getpid())]}


def hanging(where: Path) -> list[int]:
    """The processes of a Hang that has begun: its worker, and what that started."""
    wait_for(where.exists)
    return [int(pid) for pid in where.read_text(encoding="utf-8").split()]


@contextmanager
def beside(work: Callable[[], object]) -> Iterator[None]:
    thread = threading.Thread(target=work)
    thread.start()
    yield
    thread.join()


# --- tasks and answers ----------------------------------------------------------------------------


def test_answers_come_in_the_order_of_the_tasks() -> None:
    with Workers(2, limit=30) as workers:
        tasks = [NeedsLong(0), *map(Echo, range(1, 7))]
        assert list(workers.perform(task for task in tasks)) == list(range(7))


def test_a_worker_serves_task_after_task_and_ends_with_the_others() -> None:
    before = processes()
    with Workers(4, limit=30) as workers:
        assert not processes() - before, "none starts without a task"
        assert answers(workers, 1)
        (first,) = processes() - before
        for _ in range(3):
            assert list(workers.perform([Echo(1), Echo(2)])) == [1, 2]
        assert first in processes()
        assert len(processes() - before) <= 2, "a worker at hand comes before a new one"
    assert not processes() - before


def test_a_failed_task_is_the_candidate_s() -> None:
    before = processes()
    with Workers(1, limit=30) as workers:
        assert one(workers, Raise(1, NO_TILE)) == (Failed, "ValueError: no such tile")
        worker = processes() - before
        assert answers(workers, 1)
        assert processes() - before == worker


def test_a_failed_task_spoils_its_worker_where_asked() -> None:
    before = processes()
    with Workers(1, limit=30, fresh_after_failure=True) as workers:
        assert one(workers, Raise(1, NO_TILE)) == (Failed, "ValueError: no such tile")
        assert not processes() - before
        assert answers(workers, 2)


@pytest.mark.parametrize(
    "error",
    [MemoryError(), FileNotFoundError(2, "no ptxas"), RuntimeError("ptxas: No space left on device")],
    ids=lambda error: type(error).__name__,
)
def test_a_fault_of_the_machine_ends_the_round(error: Exception) -> None:
    before = processes()
    with Workers(1, limit=30) as workers:
        round_ = workers.perform([Echo(1), Raise(2, error), Echo(3)])
        assert next(round_) == 1
        with pytest.raises(Unavailable, match=type(error).__name__):
            next(round_)
        assert not processes() - before
        assert answers(workers, 4)


@pytest.mark.parametrize("error", [ValueError("ptxas fatal"), SystemError("ptxas raised SIGSEGV")], ids=str)
def test_a_folder_without_room_is_the_machine_s_fault(
    error: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the compiler made of it."""
    (tmp_path / "file").write_text("no folder", encoding="utf-8")
    monkeypatch.setenv("AUTOCONV_CACHE", str(tmp_path / "file"))
    with Workers(1, limit=30) as workers:
        with pytest.raises(
            Unavailable, match=r"file/triton cannot be written .*; set AUTOCONV_CACHE"
        ) as caught:
            one(workers, Raise(1, error))
        assert str(error) in caught.value.reason


def test_closing_early_ends_what_is_at_work(tmp_path: Path) -> None:
    before = processes()
    with Workers(2, limit=60) as workers:
        round_ = workers.perform([Echo(1), Hang(2, str(tmp_path / "hang")), Echo(3)])
        assert next(round_) == 1
        hanging(tmp_path / "hang")
        round_.close()
        assert len(processes() - before) <= 1
        assert answers(workers, 4)


# --- death, hangs, deadlines ----------------------------------------------------------------------


def test_a_worker_killed_at_work_costs_its_task_alone() -> None:
    with Workers(1, limit=60) as workers:
        assert one(workers, Die(signal.SIGKILL)) == (Crashed, "worker ended with status -9")
        assert answers(workers, 1)


def test_a_dead_worker_s_last_words_are_kept() -> None:
    with Workers(1, limit=30) as workers:
        one(workers, Die(signal.SIGSEGV, "of another task"))
        assert one(workers, Die(signal.SIGABRT, "LLVM ERROR: no such type")) == (
            Crashed, "worker ended with status -6: LLVM ERROR: no such type",
        )  # fmt: skip


def test_a_worker_killed_for_memory_blames_no_candidate(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    counters = tmp_path / "vmstat"
    counters.write_text("pgfault 7\noom_kill 3\n", encoding="utf-8")
    monkeypatch.setattr(memory, "COUNTERS", counters)
    where = tmp_path / "hang"

    def run_out_of_memory() -> None:
        worker, *_ = hanging(where)
        counters.write_text("pgfault 9\noom_kill 4\n", encoding="utf-8")
        os.kill(worker, signal.SIGKILL)

    told = pytest.raises(Unavailable, match="ran out of memory: worker ended with status -9")
    with Workers(1, limit=60) as workers, beside(run_out_of_memory), told:
        one(workers, Hang(1, str(where)))


def test_a_worker_killed_while_idle_costs_nothing() -> None:
    before = processes()
    with Workers(1, limit=60) as workers:
        assert answers(workers, 1)
        (idle,) = processes() - before
        os.kill(idle, signal.SIGKILL)
        os.waitid(os.P_PID, idle, os.WEXITED | os.WNOWAIT)
        assert answers(workers, 1)


@pytest.mark.parametrize("how", ["python", "native", "child"])
def test_a_hanging_task_is_ended_with_all_it_started(how: str, tmp_path: Path) -> None:
    where = tmp_path / "hang"
    with Workers(1, limit=1.5) as workers:
        assert one(workers, Hang(1, str(where), how)) == (TimedOut, "no answer within 1.5 s")
        hung = hanging(where)
        assert len(hung) == 1 + (how == "child")
        wait_for(lambda: not any(map(is_alive, hung)))
        assert answers(workers, 1)


def test_workers_yield_the_cores_by_as_much_as_is_asked() -> None:
    with WorkerPool(1, niceness=3) as pool, Workers(1, limit=60) as usual:
        asked = [one for kind in (pool.compilers, pool.gpu) for one in kind.perform([Niceness(0)])]
        assert asked == [os.nice(0) + 3] * 2
        assert list(usual.perform([Niceness(0)])) == [os.nice(0)]


def test_what_a_task_needs_is_not_its_time() -> None:
    with Workers(1, limit=0.5) as workers:  # less than the import takes
        assert list(workers.perform([NeedsLong(1)])) == [1]


def test_a_crashed_task_leaves_nothing_behind(tmp_path: Path) -> None:
    where = tmp_path / "hang"

    def kill() -> None:
        os.kill(hanging(where)[0], signal.SIGKILL)

    with Workers(1, limit=60) as workers, beside(kill):
        assert one(workers, Hang(1, str(where), "child"))[0] is Crashed
        wait_for(lambda: not any(map(is_alive, hanging(where))))


def test_a_deadline_blames_no_task(tmp_path: Path) -> None:
    before = processes()
    with Workers(1, limit=600) as workers:
        tasks = [Hang(1, str(tmp_path / "1")), Echo(2)]
        outcomes = list(workers.perform(tasks, deadline=time.monotonic() + 0.3))
        assert [type(outcome) for outcome in outcomes] == [Skipped, Skipped]
        assert not processes() - before, "the one at work was ended"


def test_another_thread_may_close_them(tmp_path: Path) -> None:
    before = processes()
    workers = Workers(2, limit=600)

    def close() -> None:
        hanging(tmp_path / "hang")
        workers.close()

    with beside(close), pytest.raises(Cancelled):
        list(workers.perform([Hang(1, str(tmp_path / "hang")), Echo(2), Echo(3)]))
    assert not processes() - before
    with pytest.raises(Cancelled):
        list(workers.perform([Echo(1)]))


# --- starting -------------------------------------------------------------------------------------


def test_starting_is_bounded_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "START_SECONDS", 0.01)
    with Workers(1, limit=60) as workers, pytest.raises(Unavailable, match=r"took over 0\.01 s to start"):
        one(workers, Echo(1))


@pytest.mark.parametrize(
    ("executable", "reason"),
    [
        ("/nowhere/python", "No such file or directory: '/nowhere/python'"),
        ("/bin/sh", "worker ended with status 2: .*not found"),  # which knows no Python
        ("", "No such file or directory|Permission denied"),
    ],
)
def test_why_no_worker_starts_is_said_in_a_line(
    executable: str, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "executable", executable)
    with Workers(1, limit=30) as workers, pytest.raises(Unavailable) as caught:
        one(workers, Echo(1))
    caught.match(f"^no worker process can be started: .*({reason})")
    assert "\n" not in caught.value.reason


def test_what_cannot_be_imported_is_no_candidate_s_fault() -> None:
    with Workers(1, limit=30) as workers, pytest.raises(Unavailable, match="No module named 'nowhere'"):
        one(workers, NeedsMore(1))


def test_files_in_the_current_folder_are_no_modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "json.py").write_text("raise SystemExit('a stranger was imported')", encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    with Workers(1, limit=30) as workers:
        assert answers(workers, 1)


def test_what_imports_ignore_in_the_path_is_ignored(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    odd: list[Any] = [tmp_path, None, f"{tmp_path}/a:b", *sys.path]
    monkeypatch.setattr(sys, "path", odd)
    with Workers(1, limit=30) as workers:
        assert answers(workers, 1)


@pytest.mark.parametrize("start_up", ["print('hello')", "import sys; print(sys.stdin.read())"])
def test_what_python_does_at_its_start_is_no_answer(
    start_up: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "sitecustomize.py").write_text(start_up, encoding="utf-8")
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
    with Workers(1, limit=30) as workers:
        assert answers(workers, 1)


def test_without_temporary_files_workers_start_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process.tempfile, "tempdir", "/nowhere")
    with Workers(1, limit=30) as workers:
        assert answers(workers, 1)


def test_a_process_with_many_open_files_can_sweep() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if 0 <= hard < 1200:
        pytest.skip("may not open as many files")
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (1200 if soft < 1200 else soft, hard))
        with ExitStack() as files, Workers(1, limit=30) as workers:
            for _ in range(1100):
                files.enter_context(Path(os.devnull).open("rb"))
            assert answers(workers, 1)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_a_pool_ends_all_its_workers() -> None:
    before = processes()
    with WorkerPool(1) as pool:
        for workers in (pool.compilers, pool.interpreters):
            assert answers(workers, 1)
        assert len(processes() - before) == 2
        one(pool.gpu, Raise(1, NO_TILE))
        assert len(processes() - before) == 2, "a failure on the GPU is the last of its process"
    assert not processes() - before


# --- the parent's end -----------------------------------------------------------------------------

SWEEPING = f"""
import os, sys, threading, time
sys.path.insert(0, {str(HERE)!r})
from probe_tasks import Echo, Hang, Pid
from autoconv.sweep.pool import Workers

where, how, limit = sys.argv[1:]

def sweep():
    with Workers(1, limit=float(limit)) as workers:
        list(workers.perform([Hang(1, where, how)]))
"""


@contextmanager
def sweeping(then: str, where: Path, how: str, limit: float) -> Iterator[subprocess.Popen[str]]:
    """A process that goes on with `then`."""
    command = [
        sys.executable,
        "-W",
        "error",
        "-c",
        SWEEPING + textwrap.dedent(then),
        str(where),
        how,
        str(limit),
    ]
    with subprocess.Popen(command, env=child_environment(), stdout=subprocess.PIPE, text=True) as parent:
        yield parent
        parent.kill()


@pytest.mark.parametrize(("how", "limit"), [("python", 600), ("child", 600), ("native", 1)])
def test_a_killed_parent_leaves_nothing_running(how: str, limit: float, tmp_path: Path) -> None:
    """Though a fork of the parent's keeps the parent's end of the pipe."""
    then = """
        begun = threading.Thread(target=sweep, daemon=True)
        begun.start()
        while not os.path.exists(where):
            time.sleep(0.01)
        pid = os.fork()
        if pid:
            print(pid, flush=True)
        time.sleep(1000)
    """
    with sweeping(then, tmp_path / "hang", how, limit) as parent:
        hung = hanging(tmp_path / "hang")
        assert parent.stdout is not None
        fork = int(parent.stdout.readline())
        parent.kill()
        wait_for(lambda: not any(map(is_alive, hung)))
        os.kill(fork, signal.SIGKILL)


def test_an_exit_ends_the_workers_and_waits_for_no_task(tmp_path: Path) -> None:
    """One that hangs so that it cannot see its parent's end."""
    then = """
        threading.Thread(target=sweep, daemon=True).start()
        while not os.path.exists(where):
            time.sleep(0.01)
    """
    with sweeping(then, tmp_path / "hang", "native", 600) as parent:
        hung = hanging(tmp_path / "hang")
        assert parent.wait() == 0
        wait_for(lambda: not any(map(is_alive, hung)))


def test_a_forked_child_s_exit_ends_no_worker_of_its_parent_s(tmp_path: Path) -> None:
    then = """
        with Workers(1, limit=600) as workers:
            before = list(workers.perform([Pid(1)]))
            if not os.fork():
                sys.exit()  # which runs what is registered for the exit
            os.wait()
            print(before == list(workers.perform([Pid(1)])))
    """
    with sweeping(then, tmp_path, "", 1) as parent:
        assert parent.communicate()[0] == "True\n"
