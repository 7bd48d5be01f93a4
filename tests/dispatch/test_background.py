"""The default policy: no call waits for a sweep or a compiler, and what the tuner finds is swapped in."""

from __future__ import annotations

import logging
import os
import signal
import threading
from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch.nn import functional

import autoconv
from autoconv import Config, Problem, lookup, serving, settings
from autoconv.compiler.recording import recording
from autoconv.device import find as device_called
from autoconv.dispatch import plans
from autoconv.dispatch.dispatcher import Dispatcher
from autoconv.dispatch.launchers import ByTorch
from autoconv.dispatch.machines import Recorded
from autoconv.dispatch.planning import Planner
from autoconv.kernels.aten import ATEN
from autoconv.lookup import Found
from autoconv.sweep.outcomes import Unavailable
from autoconv.sweep.pool import Workers
from autoconv.sweep.sweep import Job
from autoconv.sweep.tasks import Specialise
from autoconv.tuning import background, waiting
from autoconv.tuning.tuner import Tuned, Tuner
from tuning_db import TuningDB

DEVICE = "rtx4090"
PROBLEM = Problem(1, 16, 16, 1, 16)  # with one tile: its sweep is the shortest there is
X, WEIGHT = torch.randn(PROBLEM.x_shape), torch.randn(PROBLEM.w_shape)
ELSEWHERE = torch.randn(17)[1:].view(16, 1, 1).expand(16, 16, 1)  # another plan of the same problem
SMALL = Config("dense", {"BLOCK_CO": 16, "BLOCK_L": 16, "BLOCK_R": 16}, num_warps=1, num_stages=2)


def misses() -> list[Any]:
    with lookup.open_user(settings.load()) as database:
        return database.misses()


def by_torch(y: torch.Tensor, x: torch.Tensor = X) -> bool:
    return torch.equal(y, functional.conv1d(x, WEIGHT))


def kernels() -> dict[tuple[str, str], int]:
    return autoconv.stats().calls


def planner() -> Planner:
    assert serving.current is not None
    return serving.current._planner


def idle() -> None:
    """Wait until the tuner's thread has ended for want of work."""
    thread = planner().background._thread
    if thread is not None:
        thread.join()


# --- a miss ---------------------------------------------------------------------------------------


def test_the_default_serves_torch_then_what_real_workers_found(caplog):
    assert settings.load().on_miss == "background"
    caplog.set_level(logging.INFO, "autoconv")
    with autoconv.recorded(DEVICE) as launches:
        assert by_torch(autoconv.conv1d(X, WEIGHT)) and launches == []
        assert autoconv.wait(300)
        assert launches == []
        autoconv.conv1d(X, WEIGHT)
        autoconv.conv1d(X, WEIGHT)
        counted = autoconv.stats()
    assert len(launches) == 2
    assert counted.calls == {("exact", "user"): 2}
    assert counted.by_torch == {"nothing is tuned for it": 1}
    assert (counted.misses, counted.sweeps, counted.plans, counted.evicted) == (1, 1, 1, 0)
    begins, ends, swapped = [record.getMessage() for record in caplog.records]
    assert begins == f"sweep of {PROBLEM} for {DEVICE} begins: a call missed it"
    assert ends.startswith(f"sweep of {PROBLEM} for {DEVICE} ends after ") and ", predicted" in ends
    assert swapped.startswith(f"{PROBLEM}: exact of layer user serves from now on, in place of torch, ")


def test_no_call_waits_for_a_sweep(monkeypatch, sweeps):
    begun, go_on = threading.Event(), threading.Event()
    scripted = sweeps.tune

    def tune(*args: Any, **rest: Any) -> Tuned:
        begun.set()
        assert go_on.wait(60)
        return scripted(*args, **rest)

    monkeypatch.setattr(sweeps, "tune", tune)
    monkeypatch.setattr(background, "QUIET_SECONDS", 0.0)
    with autoconv.recorded(DEVICE) as launches:
        autoconv.conv1d(X, WEIGHT)
        assert begun.wait(60)
        for _ in range(3):
            assert by_torch(autoconv.conv1d(X, WEIGHT))
        assert not autoconv.wait(0.01)
        go_on.set()
        assert autoconv.wait(60)
        autoconv.conv1d(X, WEIGHT)
    assert len(launches) == 1


def test_the_most_calls_times_the_least_time_come_first(sweeps, monkeypatch):
    begun, go_on = threading.Event(), threading.Event()
    scripted = sweeps.tune

    def tune(*args: Any, **rest: Any) -> Tuned:
        begun.set()
        assert go_on.wait(60)
        return scripted(*args, **rest)

    monkeypatch.setattr(sweeps, "tune", tune)
    monkeypatch.setattr(background, "QUIET_SECONDS", 0.0)
    first, many, large = (Problem(1, 16, 16, 1, length) for length in (16, 64, 8000))
    with autoconv.recorded(DEVICE):
        for problem, calls in ((first, 1), (many, 50), (large, 40)):
            for _ in range(calls):
                autoconv.conv1d(torch.zeros(problem.x_shape), WEIGHT)
            assert begun.wait(60)  # the first, while it is alone
        go_on.set()
        assert autoconv.wait(60)
    assert sweeps.problems == [first, large, many]


def test_a_sweep_in_vain_is_made_once_and_torch_serves_on(monkeypatch, compiled_here):
    tried: list[Problem] = []

    def tune(_: Tuner, problem: Problem, *__: Any, **___: Any) -> Tuned:
        tried.append(problem)
        return Tuned(None, None)

    monkeypatch.setattr(Tuner, "tune", tune)
    with autoconv.recorded(DEVICE) as launches:
        for _ in range(3):
            assert by_torch(autoconv.conv1d(X, WEIGHT))
            assert autoconv.wait(60)
    assert (tried, launches) == ([PROBLEM], [])


def test_what_fails_in_the_thread_is_a_warning_and_no_call_s_affair(monkeypatch, compiled_here):
    def broken(*_: Any, **__: Any) -> Tuned:
        raise OverflowError("too large")

    monkeypatch.setattr(Tuner, "tune", broken)
    monkeypatch.setattr(background, "RETRY_SECONDS", 0.0)
    with autoconv.recorded(DEVICE), pytest.warns(RuntimeWarning, match="gave up a task: OverflowError"):
        assert by_torch(autoconv.conv1d(X, WEIGHT))
        assert autoconv.wait(60)
        assert by_torch(autoconv.conv1d(X, WEIGHT))


@pytest.mark.parametrize("failures", [1, background.MOST_TRIES])
def test_a_sweep_that_the_moment_fails_is_made_again_but_not_for_ever(failures, sweeps, monkeypatch):
    scripted, tried = sweeps.tune, []

    def tune(*args: Any, **rest: Any) -> Tuned:
        tried.append(args)
        if len(tried) <= failures:
            raise Unavailable("no process can be started")
        return scripted(*args, **rest)

    monkeypatch.setattr(sweeps, "tune", tune)
    monkeypatch.setattr(background, "RETRY_SECONDS", 0.0)
    with autoconv.recorded(DEVICE) as launches:
        with pytest.warns(RuntimeWarning, match="gave up a task: no process"):
            autoconv.conv1d(X, WEIGHT)
            assert autoconv.wait(60)
        autoconv.conv1d(X, WEIGHT)
        autoconv.conv1d(X, ELSEWHERE)
        assert autoconv.wait(60)
    assert len(tried) == min(failures + 1, background.MOST_TRIES)
    assert len(launches) == (2 if failures == 1 else 0)


def test_a_sweep_that_ends_while_a_call_looks_it_up_serves_that_call(sweeps, monkeypatch):
    with autoconv.recorded(DEVICE) as launches:
        autoconv.conv1d(X, WEIGHT)
        assert autoconv.wait(60)
        find, stale = Tuner.find, [None]
        monkeypatch.setattr(Tuner, "find", lambda *given: stale.pop() if stale else find(*given))
        autoconv.conv1d(X, ELSEWHERE)
    assert (len(launches), len(sweeps.problems)) == (1, 1)


def test_only_so_many_plans_wait_for_a_problem_however_often_they_are_made_anew(
    sweeps, deterministic, monkeypatch
):
    monkeypatch.setattr(plans, "MOST_PLANS", 1)
    monkeypatch.setattr(waiting, "MOST_WAITING", 4)
    with autoconv.recorded(DEVICE):
        for _ in range(5):
            autoconv.conv1d(X, WEIGHT)
            autoconv.conv1d(X, ELSEWHERE)
        (wanted,) = planner().background._wanted.values()
        assert planner().plans.evicted == 9
        assert len(wanted.plans) == 4
        newest = wanted.plans[-1]
        wanted.join([newest])
        assert wanted.plans[-1] is newest and len(set(map(id, wanted.plans))) == 4
        torch.use_deterministic_algorithms(False)
        assert autoconv.wait(60)


# --- the thread -----------------------------------------------------------------------------------


def test_a_thread_that_cannot_be_started_is_started_by_a_later_request(sweeps, monkeypatch):
    def refuse(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with autoconv.recorded(DEVICE) as launches:
        with monkeypatch.context() as crowded:
            crowded.setattr(threading.Thread, "start", refuse)
            with pytest.warns(RuntimeWarning, match="cannot be started now: can't start new thread"):
                assert by_torch(autoconv.conv1d(X, WEIGHT))
                assert not autoconv.wait(60)
        assert autoconv.wait(60)
        autoconv.conv1d(X, WEIGHT)
    assert len(launches) == 1


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_thread_that_died_is_replaced_and_nobody_waits_for_it(sweeps, monkeypatch):
    def dies(*_: Any, **__: Any) -> None:
        raise OSError("no more files")

    with autoconv.recorded(DEVICE) as launches:
        with monkeypatch.context() as full:
            full.setattr(background, "WorkerPool", dies)
            autoconv.conv1d(X, WEIGHT)
            assert not autoconv.wait(60)
        assert autoconv.wait(60)
        autoconv.conv1d(X, WEIGHT)
    assert len(launches) == 1


def test_what_is_only_to_save_time_may_fail(sweeps, monkeypatch):
    def fails() -> None:
        raise OSError("no more files")

    monkeypatch.setattr(background, "hash_once", fails)
    with autoconv.recorded(DEVICE), pytest.warns(RuntimeWarning, match="gave up a task: OSError"):
        autoconv.conv1d(X, WEIGHT)
        assert autoconv.wait(60)
    assert sweeps.problems == [PROBLEM]


# --- what is known and not compiled yet -----------------------------------------------------------


class Elsewhere:
    """Has the lookup answer with `config` of another size, as it does within a bucket."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, grade: str = "bucket", layer: str = "user") -> None:
        self.found = Found(SMALL, "predicted", grade, layer, measured_us=None, predicted_us=5.0)
        monkeypatch.setattr(Tuner, "find", lambda *_: self.found)


@pytest.mark.parametrize("layer", ["user", "prebuilt", "site 1"])
@pytest.mark.parametrize("grade", ["bucket", "carried"])
def test_what_another_entry_names_serves_once_it_is_compiled_beside(
    grade, layer, monkeypatch, compiled_here, sweeps
):
    """Whoever wrote that entry: no call waits for a compiler, neither in its process nor in a worker."""
    Elsewhere(monkeypatch, grade, layer)
    with autoconv.recorded(DEVICE) as launches:
        x = torch.randn(1, 16, 48)
        assert by_torch(autoconv.conv1d(x, WEIGHT), x)
        assert autoconv.stats().by_torch == {"its kernel is not compiled yet": 1}
        assert autoconv.wait(60)
        autoconv.conv1d(x, WEIGHT)
        autoconv.conv1d(torch.zeros(1, 16, 80), WEIGHT)  # of the same specialisation: nothing to wait for
        assert kernels() == {(grade, layer): 2}
        assert autoconv.wait(60)
    assert len(launches) == 2
    assert len(compiled_here) == 1
    assert len(sweeps.problems) == (2 if grade == "carried" else 0)  # it serves until it is tuned


def test_an_exact_hit_compiles_in_the_call(remember, compiled_here):
    remember(PROBLEM, SMALL)
    with autoconv.recorded(DEVICE) as launches:
        autoconv.conv1d(X, WEIGHT)
    assert (len(launches), compiled_here) == (1, [])


def test_a_config_that_does_not_compile_beside_leaves_the_calls_to_torch(monkeypatch):
    bad = Config("dense", {"BLOCK_CO": 16, "BLOCK_L": 16, "BLOCK_R": 8}, num_warps=2, num_stages=2)
    elsewhere = Elsewhere(monkeypatch)
    elsewhere.found = replace(elsewhere.found, config=bad)
    with autoconv.recorded(DEVICE) as launches:
        with pytest.warns(RuntimeWarning, match="does not compile for rtx4090 .*; torch serves N=1"):
            autoconv.conv1d(X, WEIGHT)
            assert autoconv.wait(300)
        assert by_torch(autoconv.conv1d(X, WEIGHT))
    assert launches == []
    with lookup.open_user(settings.load()) as database:
        (failed,) = database.trials(PROBLEM.key())
    assert (dict(failed.config), failed.outcome) == (bad.document(), "compile")


@pytest.mark.parametrize("failures", [1, background.MOST_TRIES])
def test_what_the_machine_did_not_compile_waits_on_and_what_it_did_serves(
    failures, monkeypatch, compiled_here, deterministic
):
    """Both are in one batch, and the machine fails of the second."""
    Elsewhere(monkeypatch)
    usual, tried = Workers.perform, []

    def perform(workers: Workers, tasks: Iterable[Any], *_: object) -> Iterator[Any]:
        for task in tasks:
            if isinstance(task, Specialise) and task.problem.L == 33:
                tried.append(task)
                if len(tried) <= failures:
                    raise Unavailable("no process can be started")
            yield from usual(workers, [task])

    monkeypatch.setattr(Workers, "perform", perform)
    monkeypatch.setattr(background, "RETRY_SECONDS", 0.0)
    with autoconv.recorded(DEVICE) as launches:
        for length in (48, 33):
            autoconv.conv1d(torch.zeros(1, 16, length), WEIGHT)
        torch.use_deterministic_algorithms(False)
        with pytest.warns(RuntimeWarning, match="gave up a task: no process"):
            assert autoconv.wait(60)
        for length in (48, 33):
            autoconv.conv1d(torch.zeros(1, 16, length), WEIGHT)
    assert len(tried) == min(failures + 1, background.MOST_TRIES)
    assert [task.problem.L for task in compiled_here] == ([48, 33] if failures == 1 else [48])
    assert len(launches) == len(compiled_here)


@pytest.mark.parametrize("policy", ["predict", "strict"])
def test_other_policies_start_no_worker_for_it(policy, monkeypatch, compiled_here):
    monkeypatch.setenv("AUTOCONV_ON_MISS", policy)
    Elsewhere(monkeypatch)
    with autoconv.recorded(DEVICE) as launches:
        autoconv.conv1d(X, WEIGHT)
    assert (len(launches), compiled_here) == (1, [])


def test_of_a_size_far_behind_the_best_the_tuner_sweeps_that_itself(monkeypatch, sweeps):
    Elsewhere(monkeypatch)
    monkeypatch.setattr(Tuner, "ahead", lambda *_: True)
    with autoconv.recorded(DEVICE):
        autoconv.conv1d(X, WEIGHT)
        assert autoconv.wait(60)
        assert sweeps.problems == [PROBLEM]
        autoconv.conv1d(X, WEIGHT)
        assert autoconv.wait(60)
    assert [miss.problem.key for miss in misses()] == [PROBLEM.key()]


class Gpu(Recorded):
    """A device that is not here, on which candidates could be timed."""

    on_gpu = True


@pytest.mark.parametrize("served", [None, "carried"])
def test_on_a_gpu_it_times_in_pairs_with_what_serves_now(served, monkeypatch, compiled_here):
    jobs: list[Job] = []

    def tune(_: Tuner, __: Problem, job: Job, **___: Any) -> Tuned:
        jobs.append(job)
        return Tuned(None, None)

    monkeypatch.setattr(Tuner, "tune", tune)
    if served:
        Elsewhere(monkeypatch, served)
    else:
        monkeypatch.setattr(Tuner, "find", lambda *_: None)
    device = device_called(DEVICE)
    dispatcher = Dispatcher(Gpu(device), settings.load())
    with recording(device), serving.served_by(dispatcher):
        autoconv.conv1d(X, WEIGHT)
        assert autoconv.wait(60)
    assert [(job.on_gpu, job.beside, job.share) for job in jobs] == [
        (True, SMALL if served else ATEN, background.SHARE)
    ]


# --- where nothing is swept or swapped ------------------------------------------------------------


def test_under_deterministic_algorithms_nothing_is_swept(sweeps, deterministic):
    with autoconv.recorded(DEVICE) as launches:
        autoconv.conv1d(X, WEIGHT)
        assert not autoconv.wait(60)
        assert (sweeps.problems, launches) == ([], [])
        torch.use_deterministic_algorithms(False)
        assert autoconv.wait(60)
        assert sweeps.problems == [PROBLEM]


def test_under_deterministic_algorithms_or_in_a_capture_no_plan_is_swapped(sweeps):
    device = device_called(DEVICE)
    machine = Recorded(device)
    with recording(device) as recorder, serving.served_by(Dispatcher(machine, settings.load())):
        autoconv.conv1d(X, WEIGHT)
        assert autoconv.wait(60)
        torch.use_deterministic_algorithms(True)
        try:
            assert by_torch(autoconv.conv1d(X, WEIGHT))
        finally:
            torch.use_deterministic_algorithms(False)
        machine.capturing = lambda: True
        assert by_torch(autoconv.conv1d(X, WEIGHT))
        machine.capturing = lambda: False
        autoconv.conv1d(X, WEIGHT)
    assert len(recorder.launches) == 1


def test_a_forked_child_leaves_to_torch_what_is_not_compiled(monkeypatch, compiled_here):
    Elsewhere(monkeypatch)
    with autoconv.recorded(DEVICE):
        autoconv.conv1d(torch.zeros(1, 16, 48), WEIGHT)
        assert autoconv.wait(60)
        alike, odd = torch.zeros(1, 16, 80), torch.zeros(1, 16, 33)  # Triton is told the same of 80 as of 48
        child = os.fork()
        if child == 0:
            signal.alarm(60)
            served = [serving.current.plan(x, WEIGHT, None, 1, 0, 1, 1).launch for x in (alike, odd)]
            os._exit(0 if [isinstance(one, ByTorch) for one in served] == [False, True] else 1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert len(compiled_here) == 1


def test_a_forked_child_leaves_all_to_torch(sweeps):
    with autoconv.recorded(DEVICE):
        autoconv.conv1d(X, WEIGHT)
        assert autoconv.wait(60)
        other = torch.randn(1, 16, 48)
        child = os.fork()
        if child == 0:
            signal.alarm(60)  # a child that waits for ever ends all the same
            launch = serving.current.plan(other, WEIGHT, None, 1, 0, 1, 1).launch
            os._exit(0 if isinstance(launch, ByTorch) and autoconv.wait(0) else 1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert sweeps.problems == [PROBLEM]


# --- misses are kept ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("policy", "served"), [("background", "torch"), ("predict", "default"), ("strict", "none")]
)
def test_what_was_missed_is_written_with_its_calls(policy, served, monkeypatch, compiled_here):
    monkeypatch.setenv("AUTOCONV_ON_MISS", policy)
    monkeypatch.setattr(Tuner, "tune", lambda *_, **__: Tuned(None, None))
    with autoconv.recorded(DEVICE):
        for _ in range(3):
            try:
                autoconv.conv1d(X, WEIGHT)
            except autoconv.MissError:
                assert policy == "strict"
        autoconv.wait(60)
        (miss,) = misses()
    assert (miss.problem.key, miss.calls, miss.served) == (PROBLEM.key(), 3, served)
    assert miss.first_seen <= miss.last_seen
    assert miss.environment.soft["device"] == DEVICE


def test_waiting_writes_what_was_missed_even_where_nothing_is_tuned(sweeps, deterministic, monkeypatch):
    monkeypatch.setattr(background.Background, "_run", lambda _: None)  # so its own thread writes nothing
    with autoconv.recorded(DEVICE):
        autoconv.conv1d(X, WEIGHT)
        assert misses() == []
        assert not autoconv.wait(60)
        assert [(miss.problem.key, miss.calls) for miss in misses()] == [(PROBLEM.key(), 1)]


def test_a_strict_process_writes_its_misses_while_it_runs(monkeypatch):
    monkeypatch.setenv("AUTOCONV_ON_MISS", "strict")
    monkeypatch.setattr(background, "IDLE_SECONDS", 0.0)
    with autoconv.recorded(DEVICE):
        with pytest.raises(autoconv.MissError):
            autoconv.conv1d(X, WEIGHT)
        idle()
        assert [miss.calls for miss in misses()] == [1]


def test_misses_are_counted_rightly_where_a_renewal_s_call_is_counted_up_beside(monkeypatch, compiled_here):
    Elsewhere(monkeypatch, "carried")
    monkeypatch.setattr(Tuner, "tune", lambda *_, **__: Tuned(None, None))
    renew = Planner._renew

    def counted_first(planner: Planner, *given: Any) -> None:
        planner._flush()  # as the tuner's thread may do
        renew(planner, *given)

    monkeypatch.setattr(Planner, "_renew", counted_first)
    with autoconv.recorded(DEVICE) as launches:
        for _ in range(3):
            autoconv.conv1d(X, WEIGHT)
            assert autoconv.wait(60)
        counted = autoconv.stats()
        assert sum(counted.calls.values()) + sum(counted.by_torch.values()) == 3
    assert len(launches) == 2
    assert [miss.calls for miss in misses()] == [3]


def test_whatever_keeps_misses_from_being_written_loses_none_and_ends_no_tuner(monkeypatch, compiled_here):
    monkeypatch.setenv("AUTOCONV_ON_MISS", "predict")
    monkeypatch.setattr(background, "IDLE_SECONDS", 0.0)

    def refuse(*_: object) -> None:
        raise ValueError("calls=0 is no count of calls")

    with autoconv.recorded(DEVICE):
        with monkeypatch.context() as broken, pytest.warns(RuntimeWarning, match="gave up a task: ValueE"):
            broken.setattr(TuningDB, "note_misses", refuse)
            autoconv.conv1d(X, WEIGHT)
            idle()  # maybe before the call was counted
            planner().background.wake()
            idle()
        assert misses() == []
        autoconv.conv1d(torch.zeros(1, 16, 48), WEIGHT)
        idle()
        planner().background.wake()
        idle()
        assert sorted(miss.calls for miss in misses()) == [1, 1]


def test_who_waits_for_misses_to_be_written_waits_for_those_that_the_thread_writes(
    monkeypatch, compiled_here
):
    monkeypatch.setenv("AUTOCONV_ON_MISS", "predict")
    note_misses, at_it, go_on = TuningDB.note_misses, threading.Event(), threading.Event()

    def slowly(database: TuningDB, misses: Any) -> None:
        at_it.set()
        assert go_on.wait(60)
        note_misses(database, misses)

    monkeypatch.setattr(TuningDB, "note_misses", slowly)
    with autoconv.recorded(DEVICE):
        autoconv.conv1d(X, WEIGHT)
        writing = threading.Thread(target=planner()._flush)
        writing.start()
        assert at_it.wait(60)
        waiting_for_it = threading.Thread(target=autoconv.wait, args=(60,))
        waiting_for_it.start()
        waiting_for_it.join(1.0)
        assert waiting_for_it.is_alive()
        go_on.set()
        for thread in (writing, waiting_for_it):
            thread.join()
    assert [miss.calls for miss in misses()] == [1]


def test_a_hit_is_no_miss(remember):
    remember(PROBLEM, SMALL)
    with autoconv.recorded(DEVICE):
        autoconv.conv1d(X, WEIGHT)
        autoconv.wait(60)
    assert misses() == []
    assert autoconv.stats().misses == 0


def test_misses_of_evicted_plans_are_kept_too(monkeypatch, sweeps):
    monkeypatch.setenv("AUTOCONV_ON_MISS", "predict")
    monkeypatch.setattr(plans, "MOST_PLANS", 2)
    lengths = [16, 32, 48, 64]
    with autoconv.recorded(DEVICE):
        for length in lengths:
            autoconv.conv1d(torch.zeros(1, 16, length), WEIGHT)
        counted = autoconv.stats()
        autoconv.wait(60)
    assert (counted.plans, counted.evicted, sum(counted.calls.values())) == (2, 2, 4)
    assert sum(miss.calls for miss in misses()) == len(misses()) == len(lengths)
