"""The only code that needs a GPU: read the device, its stream and capture state, and time a call."""

from __future__ import annotations

import math
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import cache

import torch

from autoconv import device as devices
from autoconv.device import Device

WARM_UP = 3  # launches before the first sample: compilation, clocks, caches
FLUSHED_BYTES = 1 << 28  # least overwritten before a sample: 0.06 ms on an H200
HIDDEN = 2.5  # times what the host takes to enqueue a call: how long the device is kept busy before it


def present() -> bool:
    """Return whether this process can see a CUDA device; torch for AMD's GPUs calls those cuda, too."""
    return torch.cuda.is_available() and torch.version.hip is None


@cache
def current(index: int) -> Device | None:
    """Return the device at CUDA ordinal `index`: the catalogue's, or one made from what the driver tells.

    None where the architecture is unknown, such as that of a GPU older than sm_80, or AMD's.
    """
    if torch.version.hip is not None:
        return None
    properties = torch.cuda.get_device_properties(index)
    known = devices.by_product(properties.name, properties.multi_processor_count, properties.total_memory)
    return known or devices.derived(
        properties.name,
        capability=10 * properties.major + properties.minor,
        sms=properties.multi_processor_count,
        memory_bytes=properties.total_memory,
        l2_bytes=getattr(properties, "L2_cache_size", 0),
        boost_mhz=getattr(properties, "clock_rate", 0) // 1000,
        memory_mhz=getattr(properties, "memory_clock_rate", 0) // 1000,
        memory_bus_bits=getattr(properties, "memory_bus_width", 0),
    )


def opened(index: int) -> int:
    """Make this process's context on the device at CUDA ordinal `index`, if need be; return the bytes free.

    Raises:
        RuntimeError: it cannot be had; torch and CUDA raise subclasses of it, and AssertionError.
    """
    with torch.cuda.device(index):
        free, _ = torch.cuda.mem_get_info(index)
    return int(free)


@contextmanager
def using(where: str) -> Iterator[None]:
    """Let `where`, such as "cuda:1", be the current device; leave no memory of it in torch's cache."""
    with torch.cuda.device(where) if where.startswith("cuda") else nullcontext():
        yield
        torch.cuda.empty_cache()


def wait(where: str) -> None:
    """Wait until all that was enqueued on `where` is done, and raise what became of it."""
    if where.startswith("cuda"):
        torch.cuda.synchronize(where)


@cache
def driver_and_power(index: int) -> tuple[str | None, int | None]:
    """Return the driver's version and the board's power limit in watts, each None where it cannot be read."""
    asked = ("--query-gpu=driver_version,power.limit", "--format=csv,noheader,nounits")
    query = ["nvidia-smi", f"--id=GPU-{torch.cuda.get_device_properties(index).uuid}", *asked]
    try:
        done = subprocess.run(query, capture_output=True, text=True, check=True, timeout=10)
        driver, power = done.stdout.strip().split(", ")
    except (OSError, subprocess.SubprocessError, ValueError):
        return None, None
    return driver, round(float(power)) if power.replace(".", "", 1).isdigit() else None


def stream_reader() -> Callable[[int], int]:
    """Return torch's own function from a device's ordinal to the handle of the stream in use there."""
    return torch._C._cuda_getCurrentRawStream


def capturing() -> bool:
    """Return whether torch's current stream is being captured into a CUDA graph."""
    return torch.cuda.is_available() and torch.cuda.is_current_stream_capturing()


def sampler(call: Callable[[], object], flush: torch.Tensor, *, graph: int = 0) -> Callable[[], float]:
    """Return what takes one sample of `call`, which enqueues work on torch's current stream; microseconds.

    `flush` is overwritten before, so that no call finds the tensors of the one before in the L2, and so often
    that the call is enqueued before the device is done with that. With `graph`, so many calls are captured,
    and a sample is the mean of a replay, whose first call alone finds the L2 cold.
    """
    for _ in range(WARM_UP):
        call()
    if graph:
        captured = torch.cuda.CUDAGraph()
        with torch.cuda.graph(captured):
            for _ in range(graph):
                call()
        call = captured.replay
    passes = _passes(call, flush)
    return lambda: _sample(call, flush, passes) / max(graph, 1)


def _passes(call: Callable[[], object], flush: torch.Tensor) -> int:
    """Return how often to overwrite `flush`, so that the device is still at it when `call` is enqueued.

    A launch by Triton's JIT takes the host 0.05 to 0.2 ms, in which a device without work would wait.
    """
    host = 0.0
    for _ in range(WARM_UP):
        torch.cuda.synchronize()
        begun = time.perf_counter()
        call()
        host = max(host, time.perf_counter() - begun)
    return math.ceil(1 + HIDDEN * 1e6 * host / _sample(flush.zero_, flush, 1))


def _sample(call: Callable[[], object], flush: torch.Tensor, passes: int) -> float:
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    for _ in range(passes):
        flush.zero_()
    start.record()
    call()
    end.record()
    end.synchronize()
    return float(start.elapsed_time(end)) * 1e3


def flush_buffer() -> torch.Tensor:
    """Return what is overwritten before each sample on the current device: twice its L2 or more."""
    here = current(torch.cuda.current_device())
    return torch.empty(flushed_bytes(here), dtype=torch.int8, device="cuda")


def flushed_bytes(device: Device | None) -> int:
    """Return how much that is."""
    return max(2 * device.l2_bytes if device else 0, FLUSHED_BYTES)
