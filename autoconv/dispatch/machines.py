"""Where convolutions run: on CUDA devices, on a recording driver, or in Triton's interpreter."""

from __future__ import annotations

from collections.abc import Callable
from operator import attrgetter
from typing import Any, NamedTuple, Protocol

import torch

from autoconv import gpu
from autoconv.compiler.folders import compiling
from autoconv.compiler.targets import uncompilable
from autoconv.config import Config
from autoconv.device import Device
from autoconv.dispatch.launchers import Launcher, empty_on
from autoconv.environment import Environment
from autoconv.kernels.base import TENSORS, Kernel, Launch
from autoconv.kernels.sizes import Strides
from autoconv.lookup import warn_once
from autoconv.problem import Problem


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
    """Compile through Triton's JIT, and return a launcher that goes round it.

    The JIT binds arguments, specialises them and looks the kernel up anew in every call, which takes longer
    than many a kernel runs. The signature of the call decides all of that, so it is done here, once, and a
    later call hands the tensors and the constant arguments to the compiled kernel's own launcher.
    """
    x_strides: Strides = (x.stride(0), x.stride(1), x.stride(2))
    steps = kernel.launches(problem, config, x_strides)
    scratch_elements = kernel.workspace(problem, config)
    # A dtype stands for what each call allocates: its address is a multiple of 16, as theirs will be.
    tensors = {"x": x, "w": w, "b": b, "y": x.dtype, "partials": torch.float32}
    loaded = [_loaded(one, [tensors[name] for name in one.tensors]) for one in steps]
    empty, dtype, y_shape = empty_on(x.device), x.dtype, problem.y_shape
    _, rows, length = y_shape
    y_strides = (rows * length, length, 1)
    if len(steps) == 1 and steps[0].tensors == TENSORS:
        _, run, axes, function, packed, constants = loaded[0]

        def launch(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
            y = empty(y_shape, y_strides, dtype)
            # After the metadata: launch metadata and the two hooks, which profilers set; a plan has none.
            run(*axes, stream(index), function, packed, None, None, None, x, weight, bias, y, *constants)
            return y

        launch.loaded = loaded  # type: ignore[attr-defined]  # kept for as long as the plan is
        return launch

    def launch_steps(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        y = empty(y_shape, y_strides, dtype)
        partials = empty((scratch_elements,), (1,), torch.float32)
        given = {"x": x, "w": weight, "b": bias, "y": y, "partials": partials}
        for one, (_, run, axes, function, packed, constants) in zip(steps, loaded, strict=True):
            taken = [given[name] for name in one.tensors]
            run(*axes, stream(index), function, packed, None, None, None, *taken, *constants)
        return y

    return launch_steps


class _Loaded(NamedTuple):
    """A step's kernel on the device, and what to call its launcher with."""

    compiled: Any  # since Triton 3.9 it unloads the kernel when nothing refers to it any more
    run: Any  # the launcher that Triton made
    grid: tuple[int, int, int]
    function: Any
    packed_metadata: Any
    constants: tuple[Any, ...]


def _loaded(one: Launch, tensors: list[Any]) -> _Loaded:
    """Compile a step and load it."""
    with compiling():
        compiled = one.jit.warmup(*tensors, grid=one.grid, **one.keywords)
        run = compiled.run  # before the function, which is loaded by reading this
    return _Loaded(compiled, run, one.grid, compiled.function, compiled.packed_metadata, one.constants())
