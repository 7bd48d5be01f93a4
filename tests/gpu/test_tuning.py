"""Timing on the device, and a sweep that measures."""

from __future__ import annotations

import statistics
import time

import pytest
import torch
from torch.nn import functional

import autoconv
from autoconv import Problem, gpu, lookup, serving, settings
from autoconv.dispatch.dispatcher import Dispatcher
from autoconv.dispatch.machines import Cuda
from autoconv.environment import Environment
from autoconv.sweep import timing, verify
from autoconv.sweep.sweep import Job
from autoconv.tuning.tuner import Tuner
from tuning_db.ranking import TIE_TOLERANCE

pytestmark = pytest.mark.gpu

PROBLEM = Problem(4, 64, 128, 3, 4096, padding=1)
HIFIGAN = Problem(16, 128, 128, 7, 8192, dilation=3, padding=9, bias=True)


def median_us(call, seconds=0.3) -> float:
    samples = timing.time_callable(call, seconds=seconds)
    assert timing.LEAST_SAMPLES <= len(samples) <= timing.MOST_SAMPLES
    assert all(sample > 0 for sample in samples)
    return statistics.median(samples)


# --- time_callable --------------------------------------------------------------------------------


def test_a_copy_takes_what_the_bandwidth_says(device):
    source = torch.zeros(1 << 28, dtype=torch.int8, device="cuda")
    target = torch.empty_like(source)
    least_us = 2 * source.numel() / (device.dram_gbps * 1e3)
    # What the L2 still holds at the end, some 50 to 100 MB of 512, is not written in time.
    assert 0.7 * least_us < median_us(lambda: target.copy_(source)) < 4 * least_us


def test_twice_the_work_takes_about_twice_the_time():
    one, two = torch.zeros(1 << 26, device="cuda"), torch.zeros(1 << 27, device="cuda")
    assert 1.5 < median_us(lambda: two.add_(1)) / median_us(lambda: one.add_(1)) < 2.6


def test_every_sample_finds_a_cold_cache(device):
    """A quarter of the L2, read over and over, would come from there faster than the memory can give it."""
    held = torch.zeros(device.l2_bytes // 16, device="cuda")
    least_us = 4 * held.numel() / (device.dram_gbps * 1e3)
    assert median_us(held.sum) > 0.9 * least_us


@pytest.mark.parametrize("host_seconds", [0.0, 0.0003])
def test_the_hosts_own_time_is_not_in_a_sample(host_seconds):
    """The call is enqueued while the device still flushes, so a tiny kernel takes the device's time only."""
    nothing = torch.zeros(1, device="cuda")

    def call():
        end = time.perf_counter() + host_seconds
        while time.perf_counter() < end:
            pass
        nothing.add_(1)

    assert median_us(call) < 15


def test_few_samples_of_a_long_call_and_many_of_a_short_one():
    long = timing.time_callable(lambda: torch.cuda._sleep(20_000_000), seconds=0.01)
    short = timing.time_callable(lambda: torch.cuda._sleep(1000), seconds=2.0)
    assert (len(long), len(short)) == (timing.LEAST_SAMPLES, timing.MOST_SAMPLES)


# --- the device -----------------------------------------------------------------------------------


def test_the_device_is_the_one_that_torch_sees(device):
    properties = torch.cuda.get_device_properties(0)
    assert device.arch.capability == 10 * properties.major + properties.minor
    assert device.sms == properties.multi_processor_count
    assert 0.88 <= properties.total_memory / device.memory_bytes <= 1


def test_the_driver_is_named_where_nvidia_smi_is():
    driver, power = gpu.driver_and_power(0)
    assert driver is None or driver.split(".")[0].isdigit()
    assert power is None or 30 < power < 2000


# --- sweeps ---------------------------------------------------------------------------------------


def test_a_sweep_measures_and_its_winner_is_served(device, precision, monkeypatch):
    environment = Environment.current(device, *gpu.driver_and_power(0))
    job = Job(device, environment, settings.load().cache, on_gpu=True, seconds=120.0, shortlist=4)
    tuner = Tuner(settings.load())
    tuned = tuner.tune(PROBLEM, job)
    assert tuned.found is not None and tuned.swept is not None
    assert (tuned.found.provenance, tuned.found.grade, tuned.found.layer) == ("measured", "exact", "user")
    measured = [trial for trial in tuned.swept.trials if trial.outcome == "ok"]
    assert measured and all(len(trial.samples_us) >= timing.LEAST_SAMPLES for trial in measured)
    medians = [statistics.median(trial.samples_us) for trial in measured]
    assert min(medians) <= tuned.found.measured_us <= min(medians) * (1 + TIE_TOLERANCE["measured"])
    assert tuner.tune(PROBLEM, job).swept is None

    monkeypatch.setenv("AUTOCONV_ON_MISS", "strict")  # so it serves what was found, or raises
    precision(PROBLEM.precision)
    x, weight = torch.randn(PROBLEM.x_shape, device="cuda"), torch.randn(PROBLEM.w_shape, device="cuda")
    with serving.served_by(Dispatcher(Cuda(), settings.load())):
        y = autoconv.conv1d(x, weight, padding=1)
    expected = functional.conv1d(x.double(), weight.double(), padding=1)
    tolerance = verify.TOLERANCE[PROBLEM.dtype, PROBLEM.precision]
    assert (y.double() - expected).norm() <= tolerance * expected.norm()


def test_the_first_call_sweeps_within_its_bound(device, monkeypatch):
    monkeypatch.setenv("AUTOCONV_ON_MISS", "sweep")
    monkeypatch.setenv("AUTOCONV_SWEEP_SECONDS", "45")
    problem = Problem(1, 16, 32, 3, 1024, dtype="float16")
    x, weight = (torch.randn(shape, device="cuda").half() for shape in (problem.x_shape, problem.w_shape))
    with serving.served_by(Dispatcher(Cuda(), settings.load())):
        y = autoconv.conv1d(x, weight)
    with lookup.open_user(settings.load()) as database:
        winners = database.winners(problem.key())  # one a kernel
    assert winners and {winner.provenance for winner in winners} == {"measured"}
    expected = functional.conv1d(x.double(), weight.double())
    assert (y.double() - expected).norm() <= 1e-3 * expected.norm()


def test_the_background_tunes_beside_and_what_it_found_serves_then(device, precision, monkeypatch):
    """Torch serves at once, then what was measured; then the next size, once it is compiled."""
    monkeypatch.setenv("AUTOCONV_ON_MISS", "background")
    monkeypatch.setenv("AUTOCONV_SWEEP_SECONDS", "45")
    precision("tf32")
    weight = torch.randn(128, 128, 7, device="cuda")  # a layer of HiFi-GAN, on which torch is no match
    bias = torch.randn(128, device="cuda")
    by_kernels = []
    with serving.served_by(Dispatcher(Cuda(), settings.load())):
        for length in (8192, 8192, 7000, 7000):
            x = torch.randn(16, 128, length, device="cuda")
            y = autoconv.conv1d(x, weight, bias, padding=9, dilation=3)
            expected = functional.conv1d(x.double(), weight.double(), bias.double(), padding=9, dilation=3)
            assert (y.double() - expected).norm() <= 2e-3 * expected.norm()
            assert autoconv.wait(120)
            by_kernels.append(sum(autoconv.stats().calls.values()))
        calls = autoconv.stats().calls
    assert (by_kernels[0], by_kernels[1], by_kernels[3] - by_kernels[2]) == (0, 1, 1)
    assert ("exact", "user") in calls
    with lookup.open_user(settings.load()) as database:
        assert {winner.provenance for winner in database.winners(HIFIGAN.key())} == {"contended"}


# --- against torch --------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
@pytest.mark.parametrize(
    ("x_shape", "w_shape", "rest"),
    [
        ((16, 64, 65536), (128, 64, 3), {"stride": 3, "dilation": 4}),
        ((32, 512, 1024), (512, 512, 3), {"padding": 1}),
        ((8, 80, 3000), (512, 80, 3), {"padding": 1}),
        ((4, 1, 16000), (512, 1, 10), {"stride": 5}),
    ],
    ids=["wide stride", "square", "mel", "waveform"],
)
def test_benchmark_against_torch(x_shape, w_shape, rest, dtype, device, dispatcher, capsys):
    """Prints both times, measured here, and what served. Only the result is asserted."""
    x, weight = (torch.randn(shape, device="cuda", dtype=dtype) for shape in (x_shape, w_shape))
    torch.backends.cudnn.benchmark = True
    try:
        with torch.no_grad():
            ours, torchs = (
                median_us(lambda conv1d=conv1d: conv1d(x, weight, **rest))
                for conv1d in (autoconv.conv1d, functional.conv1d)
            )
            y, expected = autoconv.conv1d(x, weight, **rest), functional.conv1d(x, weight, **rest)
    finally:
        torch.backends.cudnn.benchmark = False
    with capsys.disabled():
        print(
            f"\n{device.name} {str(dtype).removeprefix('torch.')} x {x_shape} w {w_shape} {rest}: measured "
            f"{ours:.0f} us, torch {torchs:.0f} us, {torchs / ours:.2f} x; {autoconv.stats()}"
        )
    assert (y.double() - expected.double()).norm() <= 4e-3 * expected.double().norm()
