"""The stand-in for libcuda as a device, for launcher_checks.py: its process has it in libcuda's place."""

from __future__ import annotations

import ctypes
import json
from collections.abc import Iterator
from typing import Any

import pytest

from autoconv.device import find

DEVICES = ("rtx4090", "h100-sxm")  # sm_89 and sm_90; their ordinals are their places here


class Limits(ctypes.Structure):
    """As in stand_in.c."""

    _fields_ = [
        (name, ctypes.c_int)
        for name in (
            "capability",
            "sms",
            "shared_per_sm",
            "shared_per_block",
            "registers_per_block",
            "threads_per_block",
        )
    ]


class StandIn:
    """One device of the stand-in; `stream` is the handle of the stream in use there."""

    def __init__(self, name: str) -> None:
        self.ordinal = DEVICES.index(name)
        self.device = find(name)
        self.stream = 0x57EA0
        self._library = ctypes.CDLL("libcuda.so.1")
        self._library.stand_in_events.restype = ctypes.c_char_p
        arch = self.device.arch
        limits = Limits(
            arch.capability,
            self.device.sms,
            arch.shared_per_sm,
            arch.shared_per_block_max,
            arch.registers_per_sm,
            arch.max_threads_per_block,
        )
        self._library.stand_in_device(self.ordinal, ctypes.byref(limits))
        self.use()
        self._seen = len(self._lines())

    def use(self) -> None:
        """Make it the current device of this thread."""
        self._library.stand_in_use(self.ordinal)

    def events(self) -> list[dict[str, Any]]:
        """What happened since this was last asked: launches, and modules unloaded."""
        lines = self._lines()
        new, self._seen = lines[self._seen :], len(lines)
        return [json.loads(line) for line in new]

    def _lines(self) -> list[bytes]:
        return self._library.stand_in_events().splitlines()


@pytest.fixture(params=DEVICES)
def stand_in(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[StandIn]:
    """A device of the stand-in, in use by Triton's own CUDA driver and by the product's CUDA machine."""
    from triton.backends.nvidia.driver import CudaDriver
    from triton.runtime import driver as active_driver

    from autoconv import gpu

    device = StandIn(request.param)
    driver = CudaDriver()
    # These three it takes from torch, which sees no device.
    driver.get_current_device = lambda: device.ordinal
    driver.get_device_capability = lambda _ordinal: divmod(device.device.arch.capability, 10)
    driver.get_current_stream = lambda _ordinal: device.stream
    monkeypatch.setattr(gpu, "stream_reader", lambda: driver.get_current_stream)
    before = dict(vars(active_driver))
    active_driver.set_active(driver)
    yield device
    vars(active_driver).clear()
    vars(active_driver).update(before)
