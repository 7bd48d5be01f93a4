"""The clock of a sweep, on a simulated device: what the host takes to enqueue a call is not in its time."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import pytest

from autoconv import gpu
from autoconv.sweep import timing

ENQUEUE_US = 5.0  # of a fill or an event


class Simulated:
    """A host that enqueues, and a device that works through what is there, in microseconds."""

    def __init__(self, fill_us: float) -> None:
        self.host = self.device = 0.0
        self._fill_us = fill_us
        self.fills = 0

    def work(self, host_us: float, device_us: float) -> None:
        self.host += host_us
        self.device = max(self.host, self.device) + device_us

    def zero_(self) -> None:  # the buffer that flushes the L2
        self.fills += 1
        self.work(ENQUEUE_US, self._fill_us)

    @contextmanager
    def capture(self, _graph: Any) -> Iterator[None]:
        begun = self.device
        before, self.host = self.host, begun
        yield
        self._captured_us = self.device - begun  # without what the host took
        self.host, self.device = before, begun

    def replay(self) -> None:
        self.work(ENQUEUE_US, self._captured_us)

    def synchronize(self) -> None:
        self.host = max(self.host, self.device)

    def seconds(self) -> float:
        return self.host / 1e6

    def event(self, enable_timing: bool) -> Any:
        assert enable_timing
        at = SimpleNamespace(us=0.0)

        def record() -> None:
            self.work(ENQUEUE_US, 0.0)
            at.us = self.device

        def elapsed_time(end: Any) -> float:
            return float(end.at.us - at.us) / 1e3

        return SimpleNamespace(at=at, record=record, synchronize=self.synchronize, elapsed_time=elapsed_time)


@pytest.fixture
def simulate(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], Simulated]:
    def made(fill_us: float) -> Simulated:
        found = Simulated(fill_us)
        cuda = SimpleNamespace(
            Event=found.event, synchronize=found.synchronize, current_device=lambda: 0,
            CUDAGraph=lambda: SimpleNamespace(replay=found.replay), graph=found.capture,
        )  # fmt: skip
        torch = SimpleNamespace(cuda=cuda, empty=lambda *_, **__: found, int8=None)
        clock = SimpleNamespace(perf_counter=found.seconds, monotonic=found.seconds)
        monkeypatch.setattr(gpu, "torch", torch)
        monkeypatch.setattr(gpu, "time", clock)
        monkeypatch.setattr(timing, "time", clock)
        monkeypatch.setattr(gpu, "current", lambda _index: None)
        return found

    return made


@pytest.mark.parametrize("host_us", [0.0, 40.0, 180.0, 900.0])
@pytest.mark.parametrize("fill_us", [58.0, 280.0])  # 256 MiB on an H200, on an RTX 4090
@pytest.mark.parametrize("kernel_us", [2.0, 700.0])
def test_a_sample_is_the_kernel_s_time_alone(
    host_us: float, fill_us: float, kernel_us: float, simulate: Callable[[float], Simulated]
) -> None:
    device = simulate(fill_us)
    samples = timing.time_callable(lambda: device.work(host_us, kernel_us), seconds=0.05)
    assert len(samples) >= timing.LEAST_SAMPLES
    assert samples == pytest.approx([kernel_us] * len(samples))


def test_a_call_that_costs_the_host_little_is_flushed_for_once_or_twice(
    simulate: Callable[[float], Simulated],
) -> None:
    device = simulate(280.0)
    samples = timing.time_callable(lambda: device.work(20.0, 10.0), seconds=0.05)
    assert device.fills <= 2 * (len(samples) + 1)


def test_calls_in_turn_are_told_apart(simulate: Callable[[float], Simulated]) -> None:
    device = simulate(58.0)
    calls = [lambda: device.work(20.0, 10.0), lambda: device.work(400.0, 2.0)]
    laps = timing.time_callables(calls, seconds=0.05)
    assert len(laps) >= timing.LEAST_SAMPLES
    assert all(lap == pytest.approx([10.0, 2.0]) for lap in laps)


@pytest.mark.parametrize("kernel_us", [0.7, 9.0])
def test_calls_in_a_graph_are_told_by_the_call(
    kernel_us: float, simulate: Callable[[float], Simulated]
) -> None:
    device = simulate(58.0)
    calls = []

    def call() -> None:
        calls.append(device.work(0.0, kernel_us))

    sample = gpu.sampler(call, gpu.flush_buffer(), graph=20)
    captured = len(calls) - gpu.WARM_UP
    assert captured == 20
    assert [sample(), sample()] == pytest.approx([kernel_us] * 2)
    assert len(calls) == gpu.WARM_UP + captured, "a sample replays what was captured"
