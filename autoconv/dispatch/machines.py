"""Where convolutions run: on CUDA devices, on a recording driver, or in Triton's interpreter."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from operator import attrgetter
from typing import Any, Protocol, TypeAlias

import torch

from autoconv import gpu
from autoconv.compiler.targets import uncompilable
from autoconv.config import Config
from autoconv.device import Device
from autoconv.dispatch.handover import (
    Handover,
    enter_calls,
    exit_calls,
    handed_over,
    hooks,
    no_enter,
    no_exit,
)
from autoconv.dispatch.launchers import Empty, Launcher, empty_on
from autoconv.environment import Environment
from autoconv.kernels.base import TENSORS, Kernel
from autoconv.kernels.sizes import Strides
from autoconv.lookup import warn_once
from autoconv.problem import Problem

Layout: TypeAlias = tuple[tuple[int, int, int], tuple[int, int, int], torch.dtype]  # shape, strides, dtype


class Machine(Protocol):
    """What the dispatcher needs to know of the place where kernels run."""

    on_gpu: bool  # whether candidates can be checked and timed there
    compiles: bool  # whether kernels are compiled before they run there
    device_type: str  # of the tensors served, as torch names it
    serves: Callable[[torch.Tensor], bool]  # whether convolutions of x run here; all others are torch's

    def device(self, index: int) -> Device | None:
        """Return the device at ordinal `index`, -1 for the CPU; None where no kernel compiles for it."""

    def environment(self, index: int, device: Device) -> Environment:
        """Return the environment in which kernels run on `device`, which is at ordinal `index`."""

    def capturing(self) -> bool:
        """Return whether launches are being captured into a CUDA graph, when nothing else may happen."""

    def bind(
        self, kernel: Kernel, problem: Problem, config: Config, x: torch.Tensor, w: Any, b: Any
    ) -> Launcher:
        """Compile for these tensors, launching nothing, and return the launcher for calls like this one."""


class Cuda:
    """The CUDA devices of this process."""

    on_gpu = True
    compiles = True
    device_type = "cuda"

    def __init__(self) -> None:
        """Serve the tensors on any CUDA device."""
        self.serves: Callable[[torch.Tensor], bool] = attrgetter("is_cuda")  # a builtin: every call asks it

    def device(self, index: int) -> Device | None:
        """Return the device at ordinal `index`."""
        found = gpu.current(index)
        reason = uncompilable(found.arch) if found else None
        if found is None or reason is None:
            return found
        warn_once(f"{reason}, so torch serves the convolutions of {found.product}")
        return None

    def environment(self, index: int, device: Device) -> Environment:
        """Return the environment, driver and power limit included."""
        driver, power = gpu.driver_and_power(index)
        return Environment.current(device, cuda_driver=driver, power_limit_w=power)

    def capturing(self) -> bool:
        """Return whether torch's current stream is being captured."""
        return gpu.capturing()

    def bind(
        self, kernel: Kernel, problem: Problem, config: Config, x: torch.Tensor, w: Any, b: Any
    ) -> Launcher:
        """Compile, and return a launcher that calls the compiled kernel directly."""
        index = x.get_device()
        with torch.cuda.device(index):
            launch = _compiled(kernel, problem, config, x, w, b, stream=gpu.stream_reader(), index=index)
        current = torch.cuda.current_device

        def on_its_device(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
            if current() == index:
                return launch(x, weight, bias)
            with torch.cuda.device(index):
                return launch(x, weight, bias)

        return on_its_device if torch.cuda.device_count() > 1 else launch


class Recorded:
    """A device that is not here: CPU tensors take the whole path up to the launch, which is only recorded.

    To be used while `autoconv.compiler.recording.recording` has its driver active. Outputs hold no result.
    """

    on_gpu = False
    compiles = True
    device_type = "cpu"

    def __init__(self, device: Device) -> None:
        """Stand in for `device`."""
        self.serves: Callable[[torch.Tensor], bool] = attrgetter("is_cpu")
        self._device = device

    def device(self, index: int) -> Device:  # noqa: ARG002 - every ordinal is this device
        """Return the device stood in for."""
        return self._device

    def environment(self, index: int, device: Device) -> Environment:  # noqa: ARG002
        """Return the environment of a device without a driver."""
        return Environment.current(device)

    def capturing(self) -> bool:
        """Return False: there is no stream."""
        return False

    def bind(
        self, kernel: Kernel, problem: Problem, config: Config, x: torch.Tensor, w: Any, b: Any
    ) -> Launcher:
        """Compile for the device, and return a launcher whose calls are recorded."""
        return _compiled(kernel, problem, config, x, w, b, stream=lambda _index: 0, index=0)


class Interpreted(Recorded):
    """Triton's interpreter: CPU tensors are computed for real, slowly, with the configs of `device`.

    To be used in a process that had TRITON_INTERPRET=1 before Triton was imported.
    """

    compiles = False

    def bind(
        self, kernel: Kernel, problem: Problem, config: Config, *_tensors: torch.Tensor | None
    ) -> Launcher:
        """Return a launcher that interprets the kernel."""
        from autoconv.kernels.interpreter import mend_bfloat16

        mend_bfloat16()

        def launch(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
            y = x.new_empty(problem.y_shape)
            kernel.launch(problem, config, x, weight, bias, y)
            return y

        return launch


def _compiled(
    kernel: Kernel,
    problem: Problem,
    config: Config,
    x: torch.Tensor,
    w: torch.Tensor,
    b: torch.Tensor | None,
    *,
    stream: Callable[[int], int],
    index: int,
) -> Launcher:
    """Compile through Triton's JIT, and return a launcher that goes round it: `handover` says how."""
    x_strides: Strides = (x.stride(0), x.stride(1), x.stride(2))
    steps = kernel.launches(problem, config, x_strides)
    scratch_elements = kernel.workspace(problem, config)
    # A dtype stands for what each call allocates: its address is a multiple of 16, as theirs will be.
    tensors = {"x": x, "w": w, "b": b, "y": x.dtype, "partials": torch.float32}
    empty = empty_on(x.device)
    loaded = [
        handed_over(one, [tensors[name] for name in one.tensors], stream(index), empty) for one in steps
    ]
    _, rows, length = problem.y_shape
    output = problem.y_shape, (rows * length, length, 1), x.dtype
    if len(loaded) == 1 and loaded[0].call is not None and steps[0].tensors == TENSORS:
        return _single(loaded[0], empty, output, partial(stream, index))

    def launch_steps(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        y = empty(*output)
        given = {"x": x, "w": weight, "b": bias, "y": y}
        if scratch_elements:
            given["partials"] = empty((scratch_elements,), (1,), torch.float32)
        for step in loaded:
            step.launch(stream(index), [given[name] for name in step.one.tensors])
        return y

    return launch_steps


def _single(loaded: Handover, empty: Empty, output: Layout, stream: Callable[[], int]) -> Launcher:
    """Return the launcher of calls that are one launch: Handover.launch, in line."""
    call, public, head, constants = loaded.call, loaded.public, loaded.head, loaded.constants
    assert call is not None
    axis_0, axis_1, axis_2 = loaded.one.grid

    def launch(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        y = empty(*output)
        if (
            enter_calls
            or exit_calls
            or hooks.launch_enter_hook is not no_enter
            or (hooks.launch_exit_hook is not no_exit)
        ):
            public((x, weight, bias, y))
            return y
        call(axis_0, axis_1, axis_2, stream(), *head, x, weight, bias, y, *constants)
        return y

    def launch_packed(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        y = empty(*output)
        if (
            enter_calls
            or exit_calls
            or hooks.launch_enter_hook is not no_enter
            or (hooks.launch_exit_hook is not no_exit)
        ):
            public((x, weight, bias, y))
            return y
        b = None if bias is None else bias.data_ptr()
        given = (x.data_ptr(), weight.data_ptr(), b, y.data_ptr(), *constants)
        call(axis_0, axis_1, axis_2, stream(), *head, given)
        return y

    return launch_packed if loaded.packed else launch
