"""The default policy: no call waits for a sweep or a compiler, and what the tuner finds is swapped in."""

from __future__ import annotations

import logging
import os
import signal
import threading
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
from autoconv.kernels.aten import ATEN
from autoconv.lookup import Found
from autoconv.sweep.sweep import Job
from autoconv.tuning import background
from autoconv.tuning.tuner import Tuned, Tuner

DEVICE = "rtx4090"
PROBLEM = Problem(1, 16, 16, 1, 16)  # with one tile: its sweep is the shortest there is
X, WEIGHT = torch.randn(PROBLEM.x_shape), torch.randn(PROBLEM.w_shape)
SMALL = Config("dense", {"BLOCK_CO": 16, "BLOCK_L": 16, "BLOCK_R": 16}, num_warps=1, num_stages=2)


def misses() -> list[Any]:
    with lookup.open_user(settings.load()) as database:
        return database.misses()


def by_torch(y: torch.Tensor, x: torch.Tensor = X) -> bool:
    return torch.equal(y, functional.conv1d(x, WEIGHT))


def kernels() -> dict[tuple[str, str], int]:
    return autoconv.stats().calls


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
    with autoconv.recorded(DEVICE), pytest.warns(RuntimeWarning, match="gave up a task: OverflowError"):
        assert by_torch(autoconv.conv1d(X, WEIGHT))
        assert autoconv.wait(60)
        assert by_torch(autoconv.conv1d(X, WEIGHT))


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


@pytest.fixture
def deterministic():
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


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
