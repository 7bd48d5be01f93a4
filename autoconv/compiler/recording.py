"""A Triton driver for a GPU that is not here.

It answers with the target's compute capability, hands out dummy handles instead of loading cubins, and
keeps every launch instead of making it. Argument specialisation, compilation, the grid and the launch call
are Triton's own, so what is compiled and what is recorded is what the real driver would have been given.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import triton
from triton.backends.compiler import GPUTarget
from triton.backends.driver import DriverBase
from triton.runtime import driver as active_driver

from autoconv.device import Device

if TYPE_CHECKING:
    import torch

# Triton unpacks four values of load_binary up to Triton 3.3; since 3.4 also a fifth, the thread limit.
_LOADED_VALUES = 4 if tuple(map(int, triton.__version__.split(".")[:2])) < (3, 4) else 5


@dataclass(frozen=True)
class RecordedLaunch:
    """One recorded launch: the kernel's name, its grid, and every argument in the order of the signature."""

    kernel: str
    grid: tuple[int, int, int]
    num_warps: int
    num_stages: int
    shared: int  # bytes per block
    arguments: tuple[Any, ...]

    def __repr__(self) -> str:
        """All fields; of a tensor its dtype, shape and strides, for its contents may be gigabytes."""
        told = ", ".join(_told(argument) for argument in self.arguments)
        return (
            f"RecordedLaunch({self.kernel!r}, grid={self.grid}, num_warps={self.num_warps}, "
            f"num_stages={self.num_stages}, shared={self.shared}, arguments=({told}))"
        )


def _told(argument: Any) -> str:
    if hasattr(argument, "data_ptr") and hasattr(argument, "stride"):
        kind = str(argument.dtype).removeprefix("torch.")
        return f"<{kind} {tuple(argument.shape)} strides {tuple(argument.stride())}>"
    return repr(argument)


class _Utilities:
    """The two calls of Triton's driver utilities that compiling and launching make."""

    def __init__(self, device: Device) -> None:
        self._device = device

    def get_device_properties(self, _ordinal: int) -> dict[str, int]:
        arch = self._device.arch
        return {
            "max_shared_mem": arch.shared_per_block_max,
            "max_num_regs": arch.registers_per_sm,
            "multiprocessor_count": self._device.sms,
            "warpSize": 32,
        }

    def load_binary(self, _name: str, _cubin: bytes, _shared: int, _ordinal: int) -> tuple[int, ...]:
        # module, function, registers, spills, threads per block
        return (1, 1, 0, 0, self._device.arch.max_threads_per_block)[:_LOADED_VALUES]


class RecordingDriver(DriverBase):  # type: ignore[misc]  # triton ships no types
    """Stands in for the CUDA driver: compiles for `device` and records launches in `launches`."""

    def __init__(self, device: Device) -> None:
        super().__init__()
        self.device = device
        self.launches: list[RecordedLaunch] = []
        self.utils = _Utilities(device)

    @classmethod
    def is_active(cls) -> bool:
        return True

    def map_python_to_cpp_type(self, ty: str) -> str:
        raise NotImplementedError(f"the recording driver builds no launcher, so it maps no type ({ty})")

    def get_current_target(self) -> GPUTarget:
        return GPUTarget("cuda", self.device.arch.capability, 32)

    def get_current_device(self) -> int:
        # Triton keeps what it compiled by ordinal, whatever the target. No GPU has a negative one, so neither
        # another target's kernels nor those of a GPU that is here are taken for this one's, or the reverse.
        return -self.device.arch.capability

    def set_current_device(self, device: int) -> None:
        pass

    def get_current_stream(self, _device: int) -> int:
        return 0

    def get_active_torch_device(self) -> torch.device:
        import torch  # not above: who estimates imports this module, and compiles nothing

        return torch.device("cpu")

    def get_benchmarker(self) -> Any:
        raise RuntimeError(f"nothing can be timed on a recorded {self.device.name}: no kernel runs")

    def launcher_cls(self, source: Any, metadata: Any) -> Any:
        """Return the callable that Triton, or a plan, calls to launch the kernel compiled from `source`."""
        name = source.fn.__name__

        def launch(x: int, y: int, z: int, _stream: int, _function: int, _packed: Any, *rest: Any) -> None:
            _metadata, _enter_hook, _exit_hook, *arguments = rest
            # Triton keeps this launcher for later recorders of the same target: the one active now counts.
            active_driver.active.launches.append(
                RecordedLaunch(
                    name,
                    (x, y, z),
                    metadata.num_warps,
                    metadata.num_stages,
                    metadata.shared,
                    tuple(arguments),
                )
            )

        return launch


@contextmanager
def recording(device: Device) -> Iterator[RecordingDriver]:
    """Make a RecordingDriver for `device` Triton's active driver, and put back the one before.

    Not safe while another thread compiles or launches: the active driver is one per process.
    """
    recorder = RecordingDriver(device)
    # Triton's own reset would look for a GPU, so the attributes are put back by hand; their names differ
    # between Triton versions.
    before = dict(vars(active_driver))
    active_driver.set_active(recorder)
    try:
        yield recorder
    finally:
        vars(active_driver).update(before)
