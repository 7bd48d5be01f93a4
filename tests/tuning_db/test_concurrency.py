"""Many processes, threads, forks and kills on one file."""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tuning_db import EnvironmentRecord, ProblemRecord, Trial, TuningDB, connection, single_flight

Script = Callable[..., "subprocess.Popen[str]"]
ENVIRONMENT = EnvironmentRecord({"arch": "sm_89"}, {})
SHARED = ProblemRecord("shared", {"N": 0})


def in_processes(count: int, work: Callable[..., None], *arguments: Any) -> None:
    """Run `work(index, *arguments)` in that many processes, which all begin at the same moment."""
    context = multiprocessing.get_context("fork")
    gate = context.Barrier(count)

    def enter(index: int) -> None:
        gate.wait()
        work(index, *arguments)

    processes = [context.Process(target=enter, args=(index,)) for index in range(count)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0] * count


def own(index: int) -> ProblemRecord:
    return ProblemRecord(f"own {index}", {"N": index})


def write(index: int, path: Path, rounds: int) -> None:
    with TuningDB.open(path, columns={"N": int}) as db:
        run = db.start(ENVIRONMENT, origin=f"process {index}")
        for step in range(rounds):
            trial = Trial({"process": index, "step": step}, "ok", predicted_us=1.0 + index + step)
            db.add(run, SHARED, trial)
            db.add(run, own(index), trial)


def test_many_processes_open_a_new_file_at_once_and_lose_nothing(tmp_path: Path) -> None:
    for attempt in range(5):
        path = tmp_path / f"{attempt}" / "new.db"
        in_processes(8, write, path, 3)
        with TuningDB.open(path, columns={"N": int}) as db:
            assert len(db.trials("shared")) == 8 * 3
            assert [len(db.trials(own(index).key)) for index in range(8)] == [3] * 8
            assert db.winners("shared")[0].config == {"process": 0, "step": 0}
            assert db.info()["winners"] == 9


def miss(index: int, path: Path) -> None:
    with (
        TuningDB.open(path, columns={"N": int}) as db,
        single_flight(path, "shared", timeout=30) as held,
    ):
        assert held
        if not db.winners("shared"):
            time.sleep(0.05)  # the sweep
            db.record(ENVIRONMENT, SHARED, [Trial({}, "ok", predicted_us=1.0)], origin=f"process {index}")


def test_processes_that_miss_together_sweep_once(path: Path) -> None:
    in_processes(16, miss, path)
    with TuningDB.open(path, columns={"N": int}) as db:
        assert db.info()["runs"] == 1


def test_a_killed_holder_frees_its_flight_at_once(path: Path, script: Script) -> None:
    code = """
import sys, time
from tuning_db import single_flight
with single_flight(sys.argv[1], "key", timeout=5) as held:
    print(held, flush=True)
    time.sleep(60)
"""
    with script(code, path) as holder:
        assert holder.stdout is not None and holder.stdout.readline() == "True\n"
        with single_flight(path, "key", timeout=0.1) as held:
            assert not held
        holder.kill()
        holder.communicate()
        began = time.monotonic()
        with single_flight(path, "key", timeout=5) as held:
            assert held
        assert time.monotonic() - began < 1


SWEEP = """
import sys
from tuning_db import *
with TuningDB.open(sys.argv[1], columns={}) as db:
    run = db.start(EnvironmentRecord({}, {}), origin="sweep")
    for step in range(100_000):
        trial = Trial({"run": run, "step": step}, "ok", predicted_us=1.0 + step)
        db.add(run, ProblemRecord("p"), Trial(trial.config, "started"))
        db.add(run, ProblemRecord("p"), trial)
        print(run, step, flush=True)
"""


def test_a_kill_loses_no_acknowledged_trial(path: Path, script: Script) -> None:
    acknowledged, rng = set(), random.Random(3)
    for _ in range(10):
        with script(SWEEP, path) as sweep:
            assert sweep.stdout is not None
            told = rng.randint(1, 4)  # trials, however slow the machine is; then at any instant
            first = "".join(sweep.stdout.readline() for _ in range(told))
            time.sleep(rng.uniform(0, 0.06))
            sweep.send_signal(signal.SIGKILL)
            rest, _ = sweep.communicate()
        acknowledged |= {tuple(line.split()) for line in (first + rest).splitlines() if line.count(" ") == 1}
        with TuningDB.open(path, columns={}) as db:
            finished = [trial for trial in db.trials("p") if trial.finished]
            kept = {(trial.config["run"], str(trial.config["step"])) for trial in finished}
            assert acknowledged <= kept
            assert len(finished) - len(acknowledged) <= 10  # at most the one being told about, per kill
            assert db.bad_rows == 0 and len(db.winners("p")) == 1
    assert len(acknowledged) > 10


def test_threads_share_a_database(path: Path) -> None:
    failures: list[BaseException] = []

    def work(index: int, db: TuningDB) -> None:
        try:
            run = db.start(ENVIRONMENT, origin=f"thread {index}")
            for step in range(5):
                db.add(run, SHARED, Trial({"thread": index, "step": step}, "ok", predicted_us=1.0))
                assert db.winners("shared")
        except BaseException as error:
            failures.append(error)
            raise

    with TuningDB.open(path, columns={"N": int}) as db:
        threads = [threading.Thread(target=work, args=(index, db)) for index in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert failures == []
        assert len(db.trials("shared")) == 8 * 5


def test_many_threads_share_a_bounded_number_of_descriptors(tmp_path: Path, script: Script) -> None:
    code = """
import os, resource, sys, threading, time
from tuning_db import *
resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
paths = sys.argv[1:]
layers = Layers([(path, TuningDB.open(path, columns={"N": int})) for path in paths], print)
problem, environment = ProblemRecord("shared"), EnvironmentRecord({"arch": "sm_89"}, {})
layers.database(paths[0]).record(environment, problem, [Trial({}, "ok", predicted_us=1.0)], origin="x")
there, looked, found = threading.Barrier(560), threading.Barrier(561), []
def look():
    there.wait()
    found.extend(layers.winners("shared"))
    with layers.database(paths[0]).reading():
        time.sleep(0.06)  # while the others come here
    looked.wait()
    looked.wait()
threading.stack_size(128 * 1024)
for _ in range(560):
    threading.Thread(target=look).start()
looked.wait()
opened = len(os.listdir("/proc/self/fd"))
open(paths[0] + ".txt", "w").close()  # as any program may
looked.wait()
print(len(found), opened)
"""
    out, err = script(code, tmp_path / "a.db", tmp_path / "b.db").communicate()
    assert err == ""
    found, opened = map(int, out.split())
    assert found == 560 and opened <= 10 + 2 * connection.MOST_CONNECTIONS


def test_a_database_left_open_says_nothing_at_exit(path: Path, script: Script) -> None:
    code = """
import sys, threading
from tuning_db import TuningDB
db = TuningDB.open(sys.argv[1], columns={"N": int})
kept = lambda: db  # a cycle through the module, which is torn down late
thread = threading.Thread(target=db.info)
thread.start()
thread.join()
print(db.info()["trials"])
"""
    assert script(code, path).communicate() == ("0\n", "")


def use_inherited(index: int, db: TuningDB) -> None:
    db.record(ENVIRONMENT, SHARED, [Trial({"child": index}, "ok", predicted_us=1.0)], origin="child")
    assert db.winners("shared")
    db.close()


def test_a_forked_child_may_use_the_database_it_inherits(path: Path) -> None:
    with TuningDB.open(path, columns={"N": int}) as db:
        db.record(ENVIRONMENT, SHARED, [Trial({"parent": 1}, "ok", predicted_us=1.0)], origin="parent")
        in_processes(4, use_inherited, db)
        db.record(ENVIRONMENT, SHARED, [Trial({"parent": 2}, "ok", predicted_us=1.0)], origin="parent")
        assert len(db.trials("shared")) == 6


def test_a_fork_waits_until_other_threads_have_written(path: Path) -> None:
    """Else the child inherits SQLite's note of a lock that nobody in it will ever release."""
    inside, waiting = threading.Event(), threading.Event()

    def write(db: TuningDB) -> None:
        with db.writing() as connection:
            connection.execute("INSERT INTO meta VALUES ('thread', 'wrote')")
            inside.set()
            waiting.wait(10)
            time.sleep(0.1)  # the fork is asked for meanwhile

    with TuningDB.open(path, columns={"N": int}) as db:
        thread = threading.Thread(target=write, args=(db,))
        thread.start()
        inside.wait(10)
        waiting.set()
        child = os.fork()
        if child == 0:
            with db.writing() as own:
                os._exit(own.execute("DELETE FROM meta WHERE name = 'thread'").rowcount)
        thread.join()
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 1


def test_a_fork_in_the_middle_of_a_write_harms_neither_side(path: Path) -> None:
    with TuningDB.open(path, columns={"N": int}) as db:
        with db.writing() as connection:
            connection.execute("INSERT INTO meta VALUES ('parent', 'wrote')")
            child = os.fork()
            if child == 0:
                with db.reading() as own:  # a connection of its own does not see what is not committed
                    os._exit(own.execute("SELECT count(*) FROM meta WHERE name = 'parent'").fetchone()[0])
            assert os.waitpid(child, 0)[1] == 0
        with db.reading() as connection:
            assert connection.execute("SELECT value FROM meta WHERE name = 'parent'").fetchone() == ("wrote",)


def test_a_spawned_process_sees_what_was_committed(path: Path, script: Script) -> None:
    with TuningDB.open(path, columns={"N": int}) as db:
        db.record(ENVIRONMENT, SHARED, [Trial({"B": 1}, "ok", predicted_us=1.0)], origin="parent")
        code = """
import sys
from tuning_db import TuningDB
with TuningDB.open_readonly(sys.argv[1], columns={"N": int}) as db:
    print(db.winners("shared")[0].config)
"""
        assert script(code, path).communicate() == ("{'B': 1}\n", "")


@pytest.mark.parametrize("years", [-10, 10])
def test_the_clock_does_not_matter(path: Path, script: Script, years: int) -> None:
    code = """
import sys, time, datetime
offset = int(sys.argv[2]) * 365 * 86400
now = time.time
time.time = lambda: now() + offset
from tuning_db import *
with TuningDB.open(sys.argv[1], columns={"N": int}) as db:
    db.record(EnvironmentRecord({"arch": "sm_89"}, {}), ProblemRecord("shared"), [
        Trial({"B": 2}, "ok", predicted_us=2.0)], origin="off")
"""
    with TuningDB.open(path, columns={"N": int}) as db:
        db.record(ENVIRONMENT, SHARED, [Trial({"B": 1}, "ok", predicted_us=1.0)], origin="on time")
        assert script(code, path, years).communicate() == ("", "")
        (winner,) = db.winners("shared")
        assert (winner.config, winner.margin) == ({"B": 1}, 1.0)
