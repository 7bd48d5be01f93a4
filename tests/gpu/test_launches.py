"""Streams, graphs, threads and devices: where and when a launch happens."""

from __future__ import annotations

import threading

import pytest
import torch
from torch.nn import functional

import autoconv
from autoconv import gpu

pytestmark = pytest.mark.gpu

HELD_CYCLES = 200_000_000  # about 0.1 s


@pytest.fixture
def tensors():
    return torch.randn(2, 32, 500, device="cuda"), torch.randn(64, 32, 3, device="cuda")


def assert_right(y, x, weight):
    expected = functional.conv1d(x.double(), weight.double())
    assert (y.double() - expected).norm() <= 1e-3 * expected.norm()  # TF32 or not


def test_a_launch_goes_to_the_stream_in_use(tensors, dispatcher):
    x, weight = tensors
    autoconv.conv1d(x, weight)
    late = torch.zeros_like(x)
    torch.cuda.synchronize()
    side = torch.cuda.Stream()
    with torch.cuda.stream(side):
        torch.cuda._sleep(HELD_CYCLES)
        late.copy_(x)  # a launch on any other stream would read zeros
        y = autoconv.conv1d(late, weight)
    side.synchronize()
    assert_right(y, x, weight)


def test_streams_side_by_side(tensors, dispatcher):
    x, weight = tensors
    streams = [torch.cuda.Stream() for _ in range(4)]
    inputs = [x * (number + 1) for number in range(len(streams))]
    torch.cuda.synchronize()
    results = []
    for stream, one in zip(streams, inputs, strict=True):
        with torch.cuda.stream(stream):
            results.append(autoconv.conv1d(one, weight))
    torch.cuda.synchronize()
    for y, one in zip(results, inputs, strict=True):
        assert_right(y, one, weight)


def test_threads_side_by_side(tensors, dispatcher):
    x, weight = tensors
    results: dict[int, torch.Tensor] = {}

    def work(number: int) -> None:
        with torch.cuda.stream(torch.cuda.Stream()):
            results[number] = autoconv.conv1d(x[:, :, number:], weight)
            torch.cuda.current_stream().synchronize()

    torch.cuda.synchronize()
    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(results) == list(range(8))
    for number, y in results.items():
        assert_right(y, x[:, :, number:], weight)


def test_a_graph_replays_the_launch(tensors, dispatcher):
    x, weight = tensors
    autoconv.conv1d(x, weight)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        y = autoconv.conv1d(x, weight)
    x.copy_(torch.randn_like(x))
    graph.replay()
    torch.cuda.synchronize()
    assert_right(y, x, weight)


def test_a_first_call_inside_a_capture_is_torchs_and_does_not_end_it(tensors, dispatcher):
    x, weight = tensors
    functional.conv1d(x, weight)  # torch, too, wants to be called once before
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with pytest.warns(RuntimeWarning, match="call it once before the capture"), torch.cuda.graph(graph):
        assert gpu.capturing()
        y = autoconv.conv1d(x, weight)
    assert not gpu.capturing()
    x.copy_(torch.randn_like(x))
    graph.replay()
    torch.cuda.synchronize()
    assert_right(y, x, weight)


def test_under_torch_compile(tensors, dispatcher):
    x, weight = tensors
    torch.compiler.reset()
    compiled = torch.compile(lambda x: autoconv.conv1d(x, weight) + 1, backend="eager", fullgraph=True)
    assert_right(compiled(x) - 1, x, weight)
    torch.compiler.reset()


def test_a_tensor_on_another_device_than_the_current_one(dispatcher):
    if torch.cuda.device_count() < 2:
        pytest.skip("needs a second CUDA device")
    x, weight = torch.randn(2, 32, 500, device="cuda:1"), torch.randn(64, 32, 3, device="cuda:1")
    for _ in range(2):
        y = autoconv.conv1d(x, weight)
        assert (y.get_device(), torch.cuda.current_device()) == (1, 0)
        assert_right(y, x, weight)
