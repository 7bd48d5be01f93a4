"""What the tests on a real GPU share. Without one they are skipped (by the conftest at the root)."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch

from autoconv import gpu, serving, settings
from autoconv.device import Device
from autoconv.dispatch.dispatcher import Dispatcher
from autoconv.dispatch.machines import Cuda
from autoconv.sweep.check import SECONDS
from autoconv.sweep.pool import Workers


@pytest.fixture
def device() -> Device:
    found = gpu.current(0)
    if found is None:
        pytest.skip("a GPU of an unknown architecture, where torch serves all")
    return found


@pytest.fixture
def dispatcher(device: Device, monkeypatch: pytest.MonkeyPatch) -> Iterator[Dispatcher]:
    """A dispatcher of CUDA devices, in force, that predicts; with a database of its own."""
    monkeypatch.setenv("AUTOCONV_ON_MISS", "predict")
    fresh = Dispatcher(Cuda(), settings.load())
    with serving.served_by(fresh):
        yield fresh


@pytest.fixture
def precision() -> Iterator[Callable[[str], None]]:
    """Sets the precision of torch's float32 convolutions, "tf32" or "ieee"; it is put back afterwards."""
    conv = torch.backends.cudnn.conv
    before = conv.fp32_precision

    def use(name: str) -> None:
        conv.fp32_precision = name

    yield use
    use(before)


@pytest.fixture(scope="session")
def worker() -> Iterator[Workers]:
    """One worker process on the GPU, for all tests of this process: starting one takes seconds."""
    with Workers(1, limit=SECONDS, fresh_after_failure=True) as one:
        yield one
