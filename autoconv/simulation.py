"""Convolutions on a GPU that is not here: recorded launches, or results out of Triton's interpreter."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from autoconv import device as devices
from autoconv import settings
from autoconv.compiler.recording import RecordedLaunch, recording
from autoconv.device import Device
from autoconv.dispatch.dispatcher import Dispatcher
from autoconv.dispatch.machines import Interpreted, Recorded
from autoconv.kernels.interpreter import interpreting
from autoconv.serving import served_by


@contextmanager
def recorded(device: Device | str) -> Iterator[list[RecordedLaunch]]:
    """Send convolutions of CPU tensors down the whole path of `device`, up to the launch, which is recorded.

    The problem is keyed, looked up, swept for on a miss (predicted, checked in the interpreter), compiled for
    the device, and bound to a plan. The tensors that conv1d returns have the right shape and hold no result.

    Args:
        device: A Device, or the name of one in the catalogue.

    Yields:
        The launches so far: kernel, grid, warps, stages, shared memory and every argument.

    Raises:
        DeviceError: no device has that name.
    """
    target = devices.find(device) if isinstance(device, str) else device
    with recording(target) as recorder, served_by(Dispatcher(Recorded(target), settings.load())):
        yield recorder.launches


@contextmanager
def interpreted(device: Device | str) -> Iterator[None]:
    """Compute convolutions of CPU tensors with the kernels and configs of `device`, in Triton's interpreter.

    The process must have had TRITON_INTERPRET=1 before Triton was first imported.

    Args:
        device: A Device, or the name of one in the catalogue.

    Raises:
        DeviceError: no device has that name.
        RuntimeError: Triton compiles in this process.
    """
    target = devices.find(device) if isinstance(device, str) else device
    if not interpreting():
        raise RuntimeError(
            "Triton compiles in this process; set TRITON_INTERPRET=1 before it is first imported"
        )
    with served_by(Dispatcher(Interpreted(target), settings.load())):
        yield
