"""What a call does about a problem that nobody has tuned."""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap
import time
from dataclasses import replace

import pytest
import torch

import autoconv
from autoconv import Config, MissError, Problem, lookup, settings
from autoconv.compiler.recording import recording
from autoconv.device import find as device_called
from autoconv.dispatch.dispatcher import Dispatcher
from autoconv.dispatch.machines import Recorded
from autoconv.kernels.registry import kernels
from autoconv.sweep.candidates import best_guess
from autoconv.tuning.tuner import Tuned, Tuner
from tuning_db import TuningDB, TuningDBError, export_lines, single_flight
from tuning_db.prebuilt import build

DEVICE = "rtx4090"
# So small that it has one tile and three candidates: its sweep is the shortest there is.
PROBLEM = Problem(1, 16, 16, 1, 16)
X, WEIGHT = torch.zeros(PROBLEM.x_shape), torch.zeros(PROBLEM.w_shape)
SAME_ELSEWHERE = torch.zeros(17)[1:].view(16, 1, 1).expand(16, 16, 1)  # another plan, the same problem
LARGER = Config("dense", {"BLOCK_CO": 32, "BLOCK_L": 32, "BLOCK_R": 16}, num_warps=2, num_stages=4)
SMALLER = Config("dense", {"BLOCK_CO": 16, "BLOCK_L": 16, "BLOCK_R": 16}, num_warps=1, num_stages=2)


def policy(monkeypatch, name, seconds=60.0):
    monkeypatch.setenv("AUTOCONV_ON_MISS", name)
    monkeypatch.setenv("AUTOCONV_SWEEP_SECONDS", str(seconds))


def config_of(launch) -> Config:
    """The config that a recorded launch was made with."""
    kernel = next(kernel for kernel in kernels().values() if kernel.jit.fn.__name__ == launch.kernel)
    by_name = dict(zip(kernel.jit.arg_names, launch.arguments, strict=True))
    tiles = {tile: by_name[tile] for tile in kernel.tiles}
    return Config(kernel.name, tiles, num_warps=launch.num_warps, num_stages=launch.num_stages)


def info() -> dict:
    with lookup.open_user(settings.load()) as database:
        return database.info()


def winner() -> Config:
    with lookup.open_user(settings.load()) as database:
        found = min(database.winners(PROBLEM.key()), key=lambda one: one.predicted_us)  # of all sources
    assert found.provenance == "predicted"
    return Config.from_document(found.config)


def guess() -> Config:
    return best_guess(PROBLEM, device_called(DEVICE))[0]


def wait_until(condition):
    """Wait, by no clock, for what a thread is about to bring about: a wait in vain hangs the test."""
    while not condition():
        time.sleep(0.05)


@pytest.fixture
def no_workers(monkeypatch):
    """No worker process starts."""

    def refuse(*_):
        raise AssertionError("a worker was given a task")

    monkeypatch.setattr("autoconv.sweep.pool.Worker.begin", refuse)


# --- sweep ----------------------------------------------------------------------------------------


def test_sweep_tunes_records_and_launches_the_winner(monkeypatch):
    policy(monkeypatch, "sweep")
    with autoconv.recorded(DEVICE) as launches:
        autoconv.conv1d(X, WEIGHT)
        assert config_of(launches[0]) == winner()
        assert info() | {"runs": 1, "winners": 1, "problems": 1, "environments": 1} == info()
        assert info()["trials"] >= 2  # one of each kernel at least
        autoconv.conv1d(X, SAME_ELSEWHERE)
    with autoconv.recorded(DEVICE) as later:
        autoconv.conv1d(X, WEIGHT)
    assert config_of(later[0]) == config_of(launches[1]) == winner()
    assert info()["runs"] == 1


def test_a_sweep_has_its_best_candidate_checked_whatever_its_time(monkeypatch):
    policy(monkeypatch, "sweep", seconds=1e-6)
    with autoconv.recorded(DEVICE) as launches:
        autoconv.conv1d(X, WEIGHT)
    assert config_of(launches[0]) == winner() == guess()


def test_a_sweep_that_finds_nothing_is_not_made_again_and_torch_serves(monkeypatch):
    policy(monkeypatch, "sweep")
    monkeypatch.setattr("autoconv.sweep.sweep._compile", lambda *_: [])
    with autoconv.recorded(DEVICE) as launches, pytest.warns(RuntimeWarning) as warned:
        autoconv.conv1d(X, WEIGHT)
        autoconv.conv1d(X, SAME_ELSEWHERE)
    assert launches == []
    (message,) = [str(warning.message) for warning in warned]
    why = "no candidate was left to try"
    assert message == f"the sweep of {PROBLEM} found no winner, torch serves: {why}"
    assert info()["runs"] == 1


class OnSecondDevice(torch.Tensor):
    """A CPU tensor that says it is on the second GPU."""

    def get_device(self):
        return 1


class Gpus(Recorded):
    """Two of a device that is not here, on which candidates could be timed."""

    on_gpu = True


def test_under_deterministic_algorithms_no_call_sweeps(monkeypatch, no_workers, deterministic):
    policy(monkeypatch, "sweep")
    with autoconv.recorded(DEVICE) as launches, autoconv.stats() as seen:
        autoconv.conv1d(X, WEIGHT)
    assert (launches, seen.sweeps) == ([], 0)


def test_a_sweep_is_for_the_device_of_the_call(monkeypatch):
    jobs = []

    def tune(self, problem, job, **_):
        jobs.append(job)
        return Tuned(None, None)

    policy(monkeypatch, "sweep")
    monkeypatch.setattr(Tuner, "tune", tune)
    dispatcher = Dispatcher(Gpus(device_called(DEVICE)), settings.load())
    with recording(device_called(DEVICE)):
        dispatcher.plan(X.as_subclass(OnSecondDevice), WEIGHT, None, 1, 0, 1, 1)
    assert [(job.on_gpu, job.ordinal) for job in jobs] == [(True, 1)]


def test_a_sweep_that_cannot_start_its_workers_costs_a_warning(monkeypatch):
    policy(monkeypatch, "sweep")
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    with autoconv.recorded(DEVICE) as launches:
        with pytest.warns(RuntimeWarning, match="no winner, torch serves: no worker process") as warned:
            autoconv.conv1d(X, WEIGHT)
        autoconv.conv1d(X, SAME_ELSEWHERE)
    assert launches == []
    assert [warning.category for warning in warned].count(RuntimeWarning) == 1


def test_while_another_process_sweeps_torch_serves(monkeypatch, environment, remember, compiled_here):
    policy(monkeypatch, "sweep")
    monkeypatch.setattr("autoconv.dispatch.choosing.FLIGHT_SECONDS", 0.1)
    flight = single_flight(settings.load().database, f"{PROBLEM.key()} {environment.hash}", 0.0)
    with autoconv.recorded(DEVICE) as launches:
        with flight as mine:
            assert mine
            autoconv.conv1d(X, WEIGHT)
            autoconv.conv1d(X, SAME_ELSEWHERE)
            assert launches == []
            remember(PROBLEM, LARGER)  # the other process is done
        assert autoconv.wait(60)
        autoconv.conv1d(X, WEIGHT)
        autoconv.conv1d(X, SAME_ELSEWHERE)
    assert [config_of(launch) for launch in launches] == [LARGER, LARGER]


# --- predict, strict ------------------------------------------------------------------------------


def test_predict_starts_no_worker_and_records_nothing(monkeypatch, no_workers):
    policy(monkeypatch, "predict")
    with autoconv.recorded(DEVICE) as launches:
        autoconv.conv1d(X, WEIGHT)
    assert config_of(launches[0]) == guess()
    assert info()["runs"] == 0


def test_strict_says_field_by_field_what_the_nearest_entry_differs_in(monkeypatch, remember, no_workers):
    policy(monkeypatch, "strict")
    remember(replace(PROBLEM, L=48, stride=2), LARGER)  # nearer than the packaged problems
    with autoconv.recorded(DEVICE) as launches, pytest.raises(MissError) as caught:
        autoconv.conv1d(X, WEIGHT)
    assert launches == []
    assert caught.value.problem == str(PROBLEM)
    assert caught.value.why[0] == "nearest: another problem"
    assert set(caught.value.why[1:]) == {
        "L: 16 here, 48 there", "stride: 1 here, 2 there",
    }  # fmt: skip
    assert f'autoconv tune "{PROBLEM}"' in str(caught.value)
    assert "\n" not in str(caught.value)


def test_strict_tells_an_entry_of_another_device(monkeypatch, remember, no_workers):
    policy(monkeypatch, "strict")
    remember(PROBLEM, LARGER)
    with autoconv.recorded("l4"), pytest.raises(MissError) as caught:
        autoconv.conv1d(X, WEIGHT)
    assert "device: l4 here, rtx4090 there" in caught.value.why


def test_strict_serves_what_is_known_and_what_no_kernel_runs(monkeypatch, remember, no_workers):
    policy(monkeypatch, "strict")
    remember(PROBLEM, LARGER)
    with autoconv.recorded(DEVICE) as launches:
        autoconv.conv1d(X, WEIGHT)
        autoconv.conv1d(torch.zeros(0, 4, 9), torch.zeros(4, 4, 3))
    assert [config_of(launch) for launch in launches] == [LARGER]


def test_the_process_s_own_database_comes_before_the_user_s(monkeypatch, tmp_path, remember):
    policy(monkeypatch, "strict")
    given = tmp_path / "given.db"
    monkeypatch.setenv("AUTOCONV_DB", str(given))
    remember(PROBLEM, LARGER)
    held = given.read_bytes()
    monkeypatch.setenv("AUTOCONV_DB", str(tmp_path / "user.db"))
    remember(PROBLEM, SMALLER)
    with autoconv.override(given):
        assert settings.load().override == given
        with autoconv.recorded(DEVICE) as inside:
            autoconv.conv1d(X, WEIGHT)
    with autoconv.recorded(DEVICE) as after:
        autoconv.conv1d(X, WEIGHT)
    assert [config_of(launches[0]) for launches in (inside, after)] == [LARGER, SMALLER]
    assert given.read_bytes() == held
    with pytest.raises(TuningDBError, match="there is no such file"), autoconv.override(tmp_path / "none.db"):
        pass


# --- layers, forks --------------------------------------------------------------------------------


def test_the_packaged_layer_alone_serves_without_a_sweep(monkeypatch, tmp_path, remember, no_workers):
    remember(PROBLEM, LARGER)
    mine = settings.load().database
    with TuningDB.open(mine, columns=lookup.COLUMNS, application=lookup.APPLICATION) as database:
        text = tmp_path / "rtx4090.jsonl"
        text.write_text("".join(f"{line}\n" for line in export_lines(database)))
    packaged = tmp_path / "packaged.db"
    build([text], packaged, lookup.COLUMNS, application=lookup.APPLICATION)
    monkeypatch.setattr(lookup, "PREBUILT", packaged)
    monkeypatch.setenv("AUTOCONV_DB", str(tmp_path / "empty.db"))
    policy(monkeypatch, "sweep")
    with autoconv.recorded(DEVICE) as launches:
        autoconv.conv1d(X, WEIGHT)
    assert config_of(launches[0]) == LARGER
    assert info()["runs"] == 0


FORK = """
    import json, os, signal, threading, time
    import torch, autoconv
    from autoconv import serving

    x, weight = torch.zeros(1, 16, 16), torch.zeros(16, 16, 1)
    other = torch.zeros(1, 16, 32)
    with autoconv.recorded("rtx4090") as launches:
        sweeping = threading.Thread(target=autoconv.conv1d, args=(x, weight), daemon=True)
        sweeping.start()  # holds the lock under which plans are made
        while not serving.current.swept:
            time.sleep(0.01)
        child = os.fork()
        if child == 0:
            signal.alarm(60)  # a child that waits for ever ends all the same
            autoconv.conv1d(other, weight)
            print(json.dumps({"launches": len(launches), "swept": len(serving.current.swept)}), flush=True)
            os._exit(0)
        _, status = os.waitpid(child, 0)
        print(json.dumps({"status": status, "sweeping": sweeping.is_alive()}), flush=True)
    os._exit(0)
"""


def test_a_forked_child_neither_sweeps_nor_waits_for_the_sweep_of_its_parent(monkeypatch):
    policy(monkeypatch, "sweep")
    code = textwrap.dedent(FORK)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr
    child, parent = map(json.loads, done.stdout.splitlines())
    assert child == {"launches": 0, "swept": 1}  # swept: its parent's
    assert parent == {"status": 0, "sweeping": True}
    assert info()["problems"] <= 1  # the parent's
