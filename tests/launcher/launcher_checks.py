"""A plan's launch beside Triton's own, both made by Triton's real driver utilities and C launcher.

Run by test_launcher.py in a process that has stand_in.c in libcuda's place. It is what proves the private
call that a plan makes: in any other test without a GPU the launcher is a stand-in itself.
"""

from __future__ import annotations

import gc
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from operator import attrgetter
from typing import Any

import pytest
import torch
import triton
from triton.compiler import CompiledKernel
from triton.runtime import driver as active_driver
from triton.runtime.errors import OutOfResources

import autoconv
from autoconv import serving, settings
from autoconv.compiler.recording import recording
from autoconv.config import Config
from autoconv.cost.predict import estimate_seconds
from autoconv.device import Device, find
from autoconv.dispatch import handover
from autoconv.dispatch.dispatcher import Dispatcher
from autoconv.dispatch.handover import handed_over, hooks
from autoconv.dispatch.launchers import empty_on
from autoconv.dispatch.machines import Cuda
from autoconv.environment import Environment
from autoconv.kernels.base import Kernel, Launch
from autoconv.kernels.registry import kernels
from autoconv.problem import Problem

PROBLEMS = (
    # For each kernel the first that it has a config for.
    Problem(3, 40, 40, 31, 333, groups=40, padding=4, bias=True),
    Problem(3, 40, 40, 3, 333, groups=40, stride=2, bias=True),
    Problem(3, 32, 64, 5, 333, groups=2, padding=2, bias=True),
    Problem(3, 32, 48, 3, 100, groups=2, layout="nlc", dtype="float16", bias=True),
    Problem(3, 40, 40, 4, 100, op="conv_transpose", stride=2, padding=1, groups=40, bias=True),
    Problem(3, 32, 48, 4, 100, op="conv_transpose", stride=2, padding=1, bias=True),
    Problem(3, 32, 48, 3, 100, op="conv_transpose", stride=2, dilation=2),
    Problem(3, 32, 48, 3, 100, op="conv_weight", padding=1),
    Problem(3, 48, 64, 1, 333, bias=True),
    Problem(3, 4, 40, 3, 333, stride=2, dilation=3, padding=4, bias=True),
    Problem(3, 512, 40, 3, 60, stride=2, dilation=3, padding=4, bias=True),
    Problem(3, 32, 48, 3, 100, layout="nlc", dtype="float16", bias=True),
)
DEVICES = ("rtx4090", "h100-sxm")
PARTIALS = "partials"


@cache
def work_of(kernel: Kernel, device: Device) -> tuple[Problem, Config]:
    """A problem that `kernel` runs, and its best guess."""
    for problem in PROBLEMS:
        configs = [] if kernel.unsupported(problem) else list(kernel.space(problem, device))
        if configs:
            seconds = estimate_seconds(problem, configs, device)
            return problem, configs[int(seconds.argmin())]
    raise AssertionError(f"add a problem that {kernel.name} runs")


def tensors_of(problem: Problem, aligned: bool) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
    """x, w and bias; x packed in its layout, and where it is not aligned one element off a multiple of 16."""
    dtype = getattr(torch, problem.dtype)
    first = 0 if aligned else 1
    flat = torch.zeros(first + torch.Size(problem.x_shape).numel(), dtype=dtype)[first:]
    samples, channels, length = problem.x_shape
    nlc = problem.layout == "nlc"
    x = flat.view(samples, length, channels).transpose(1, 2) if nlc else flat.view(problem.x_shape)
    assert x.data_ptr() % 16 == (0 if aligned else x.element_size())
    bias = torch.zeros(problem.Cout, dtype=dtype) if problem.bias else None
    return x, torch.zeros(problem.w_shape, dtype=dtype), bias


def steps_of(kernel: Kernel, problem: Problem, config: Config, x: torch.Tensor) -> tuple[Launch, ...]:
    return kernel.launches(problem, config, x.stride())


def without_scratch(
    launches: list[dict[str, Any]], steps: tuple[Launch, ...], given: dict[str, Any]
) -> set[int]:
    """Put a name for the address of `partials`, which is another in each call; return the addresses found."""
    found = set()
    for launch, step in zip(launches, steps, strict=True):
        if PARTIALS in step.tensors:
            place = [name for name in step.tensors if given.get(name, PARTIALS) is not None].index(PARTIALS)
            found.add(int(launch["parameters"][place], 16))
            launch["parameters"][place] = PARTIALS
    return found


def expected_parameters(step: Launch, given: dict[str, Any]) -> list[int | str]:
    """What the signature says is handed over: all but what Triton compiles in."""
    tensors = [given.get(name, PARTIALS) for name in step.tensors]
    addresses = [PARTIALS if one is PARTIALS else one.data_ptr() for one in tensors if one is not None]
    rest = zip(step.jit.params[len(tensors) :], step.constants(), strict=True)
    return addresses + [value for parameter, value in rest if not parameter.is_constexpr and value != 1]


def number(parameter: str) -> int | str:
    """A parameter's value, of as many bytes as it has, two's complement."""
    if parameter == PARTIALS:
        return parameter
    return int.from_bytes(bytes.fromhex(parameter), "big", signed=True)


def _runs() -> Iterator[Any]:
    """Every kernel with aligned tensors; with others, compiled once more, one of each number of launches."""
    for kernel in kernels().values():
        yield pytest.param(kernel, True, id=f"{kernel.name}-aligned")
        marks = [] if kernel.name in ("dense", "split_k") else [pytest.mark.long]
        yield pytest.param(kernel, False, id=f"{kernel.name}-misaligned", marks=marks)


@pytest.mark.parametrize(("kernel", "aligned"), list(_runs()))
def test_a_plan_launches_what_triton_s_own_path_launches(kernel, aligned, stand_in):
    problem, config = work_of(kernel, stand_in.device)
    x, w, b = tensors_of(problem, aligned)
    plan = Cuda().bind(kernel, problem, config, x, w, b)
    assert stand_in.events() == []
    y = plan(x, w, b)
    planned = stand_in.events()
    kernel.launch(problem, config, x, w, b, y)
    jitted = stand_in.events()

    steps, given = steps_of(kernel, problem, config, x), {"x": x, "w": w, "b": b, "y": y}
    for launches in (planned, jitted):
        scratch = without_scratch(launches, steps, given)
        assert len(scratch) == (len(steps) > 1)
        assert all(address and address % 16 == 0 for address in scratch)
    assert planned == jitted
    for launch, step in zip(planned, steps, strict=True):
        expected = expected_parameters(step, given)
        assert launch["launch"] == step.jit.fn.__name__
        assert launch["capability"] == stand_in.device.arch.capability
        assert tuple(launch["grid"]) == step.grid
        assert launch["block"] == [32 * step.keywords["num_warps"], 1, 1]
        assert launch["stream"] == stand_in.stream
        assert [number(one) for one in launch["parameters"][: len(expected)]] == expected
        # After the signature's own: Triton's scratch and profile buffers, of which no kernel here has any.
        assert [number(one) for one in launch["parameters"][len(expected) :]] in ([0], [0, 0])


def test_a_plan_asks_for_the_stream_in_each_call(stand_in):
    problem, config = work_of(kernels()["dense"], stand_in.device)
    tensors = tensors_of(problem, aligned=True)
    plan = Cuda().bind(kernels()["dense"], problem, config, *tensors)
    for stream in (0, 0x1234, 0x7FFF_FFFF_FFFF):
        stand_in.stream = stream
        plan(*tensors)
        (launch,) = stand_in.events()
        assert launch["stream"] == stream


def handed_over_on(stand_in: Any, name: str = "dense") -> tuple[Any, Any, Any]:
    """A launcher of a plan, its tensors, and how Triton would launch the same."""
    kernel = kernels()[name]
    problem, config = work_of(kernel, stand_in.device)
    tensors = tensors_of(problem, aligned=True)
    bound = Cuda().bind(kernel, problem, config, *tensors)
    assert stand_in.events() == []
    y = torch.zeros(problem.y_shape, dtype=tensors[0].dtype)
    return bound, tensors, lambda: kernel.launch(problem, config, *tensors, y)


def test_what_triton_hands_to_its_launcher_in_c_is_understood(stand_in):
    problem, config = work_of(kernels()["dense"], stand_in.device)
    tensors = tensors_of(problem, aligned=True)
    (step,) = steps_of(kernels()["dense"], problem, config, tensors[0])
    found = handed_over(step, [*tensors, tensors[0].dtype], stand_in.stream, empty_on(tensors[0].device))
    assert found.call is not None
    assert found.addresses
    assert stand_in.events() == []


@contextmanager
def listening(enter: Any, leave: Any) -> Iterator[None]:
    """Set Triton's two hooks, as its profilers do."""
    chains = [hooks.launch_enter_hook, hooks.launch_exit_hook]
    if hasattr(chains[0], "add"):
        chains[0].add(enter)
        chains[1].add(leave)
    else:
        hooks.launch_enter_hook, hooks.launch_exit_hook = enter, leave
    yield
    if hasattr(chains[0], "add"):
        chains[0].remove(enter)
        chains[1].remove(leave)
    else:
        hooks.launch_enter_hook, hooks.launch_exit_hook = chains


@pytest.mark.parametrize("name", ["dense", "split_k"])
def test_hooks_are_told_of_a_plan_s_launches_as_of_triton_s(name, stand_in):
    plan, tensors, public = handed_over_on(stand_in, name)
    told: list[Any] = []
    with listening(
        lambda metadata: told.append(metadata.get()["name"]), lambda metadata: told.append(metadata.get())
    ):
        plan(*tensors)
        by_plan, told = told, []
        public()
    assert len(by_plan) == 2 * len(stand_in.events()) // 2
    assert by_plan == told
    plan(*tensors)
    assert by_plan == told


def test_what_is_not_understood_is_launched_by_triton_s_own_path_with_a_warning(stand_in, monkeypatch):
    monkeypatch.setattr(handover, "_fields", lambda launcher: {"launch": launcher.launch})
    monkeypatch.setattr(handover, "GRID", (0, 5, 7))
    monkeypatch.setattr(handover, "_same", lambda these, those: these is those)
    with pytest.warns(RuntimeWarning, match=f"Triton {triton.__version__} .* its own path") as warned:
        plan, tensors, public = handed_over_on(stand_in)
    assert len(warned) == 1
    y = plan(*tensors)
    public()
    planned, jitted = stand_in.events()
    assert f"{y.data_ptr():016x}" in planned["parameters"]
    for launch in (planned, jitted):
        del launch["parameters"][len([one for one in tensors if one is not None])]  # y
    assert planned == jitted


def test_launches_of_other_threads_go_ahead_while_one_is_looked_at(stand_in, monkeypatch):
    """They are of the same compiled kernel, and their results are waited for."""
    _, tensors, public = handed_over_on(stand_in)
    original = handover._in_place_of

    @contextmanager
    def meanwhile(*given: Any) -> Iterator[Any]:
        with original(*given) as arrived:
            other = threading.Thread(target=lambda: (stand_in.use(), public()))
            other.start()
            other.join()
            yield arrived

    monkeypatch.setattr(handover, "_in_place_of", meanwhile)
    kernel = kernels()["dense"]
    Cuda().bind(kernel, *work_of(kernel, stand_in.device), *tensors)
    assert len(stand_in.events()) == 1


def compiled_kernels() -> int:
    return sum(issubclass(type(one), CompiledKernel) for one in gc.get_objects())


def forget_compiled() -> None:
    """Have Triton's JIT forget what it compiled, as clearing its caches does."""
    for kernel in kernels().values():
        for step in kernel.launches(*work_of(kernel, find("rtx4090"))):
            step.jit.device_caches.clear()
    gc.collect()


@pytest.mark.parametrize("name", ["dense", "split_k"])
def test_a_plan_keeps_its_kernels_loaded(name, stand_in):
    """Since Triton 3.9 a compiled kernel that nothing refers to unloads its module."""
    kernel = kernels()[name]
    problem, config = work_of(kernel, stand_in.device)
    tensors = tensors_of(problem, aligned=True)
    forget_compiled()
    before = compiled_kernels()
    plan = Cuda().bind(kernel, problem, config, *tensors)
    stand_in.events()
    forget_compiled()
    assert compiled_kernels() - before == len(kernel.launches(problem, config))
    plan(*tensors)
    assert ["launch" in event for event in stand_in.events()] == [True] * len(
        kernel.launches(problem, config)
    )
    del plan
    gc.collect()
    assert compiled_kernels() == before
    unloads = [event["unload"] for event in stand_in.events()]
    assert len(unloads) == (0 if triton.__version__ < "3.9" else len(kernel.launches(problem, config)))


# --- limits ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("num_stages", [2, 5, 9])
def test_too_much_shared_memory_does_not_load(num_stages, stand_in):
    """A stage takes 32 KiB, of which sm_89 has 99 for a block and sm_90 has 227."""
    kernel, problem = kernels()["pointwise"], Problem(2, 512, 64, 1, 70)
    tiles = {"BLOCK_CO": 64, "BLOCK_L": 64, "BLOCK_R": 64, "GROUP_L": 1, "X_BYTES": 16}
    config = Config("pointwise", tiles, num_warps=4, num_stages=num_stages)
    tensors = tensors_of(problem, aligned=True)
    if num_stages <= {"sm_89": 2, "sm_90": 5}[stand_in.device.arch_name]:
        Cuda().bind(kernel, problem, config, *tensors)(*tensors)
        (launch,) = stand_in.events()
        assert 0 < launch["shared"] <= stand_in.device.arch.shared_per_block_max
    else:
        limit = f"Hardware limit: {stand_in.device.arch.shared_per_block_max}"
        with pytest.raises(OutOfResources, match=f"shared memory, Required: .*, {limit}"):
            Cuda().bind(kernel, problem, config, *tensors)


@pytest.mark.parametrize("split", [65535, 65536])
def test_too_large_a_grid_is_refused_by_the_launch(split, stand_in):
    kernel, problem = kernels()["split_k"], Problem(1, 16, 16, 3, 18)
    tiles = {"BLOCK_CO": 16, "BLOCK_L": 16, "BLOCK_R": 16, "SPLIT": split}
    config = Config("split_k", tiles, num_warps=1, num_stages=2)
    main, _ = kernel.launches(problem, config)
    assert main.grid[2] == split
    tensors = tensors_of(problem, aligned=True)
    plan = Cuda().bind(kernel, problem, config, *tensors)
    if split == 65535:
        plan(*tensors)
        assert [event["grid"][2] for event in stand_in.events()] == [split, 1]
    else:
        with pytest.raises(RuntimeError, match="invalid argument"):
            plan(*tensors)
        with pytest.raises(RuntimeError, match="invalid argument"):
            kernel.launch(problem, config, *tensors, torch.zeros(problem.y_shape))


def test_code_for_another_architecture_does_not_load(stand_in):
    problem, config = work_of(kernels()["dense"], stand_in.device)
    (other,) = set(DEVICES) - {stand_in.device.name}
    with recording(find(other)):
        (step,) = kernels()["dense"].launches(problem, config)
        compiled = step.jit.warmup(*(torch.float32,) * 4, grid=step.grid, **step.keywords)
    utilities = active_driver.active.utils
    with pytest.raises(RuntimeError, match="no kernel image is available"):
        utilities.load_binary(compiled.name, compiled.asm["cubin"], 0, stand_in.ordinal)


# --- the whole path -------------------------------------------------------------------------------


class OnStandIn(Cuda):
    """The product's CUDA machine, which takes the host's tensors for those of the stand-in."""

    on_gpu = False
    device_type = "cpu"

    def __init__(self, device: Device) -> None:
        super().__init__()
        self.serves = attrgetter("is_cpu")
        self._device = device

    def device(self, _index: int) -> Device:
        return self._device

    def environment(self, _index: int, device: Device) -> Environment:
        return Environment.current(device)


@pytest.fixture
def served(stand_in, monkeypatch):
    monkeypatch.setenv("AUTOCONV_ON_MISS", "predict")
    dispatcher = Dispatcher(OnStandIn(stand_in.device), settings.load())
    with serving.served_by(dispatcher):
        yield stand_in


def test_a_hit_is_the_launch_of_the_first_call(served):
    x, weight = torch.zeros(2, 16, 100), torch.zeros(32, 16, 3)
    launches = []
    for _ in range(2):
        y = autoconv.conv1d(x, weight)
        (launch,) = served.events()
        launch["parameters"].remove(f"{y.data_ptr():016x}")
        launches.append(launch)
    assert launches[0] == launches[1]


def test_each_hit_launches_with_the_tensors_of_its_call(served):
    """Whatever becomes of a weight, whose identity stays: by address, contents and alignment."""
    weight = torch.zeros(32, 16, 3)
    flat = torch.zeros(1 + weight.numel())
    names = set()
    for data in (weight, torch.ones(32, 16, 3), flat[1:].view(32, 16, 3), torch.ones(32, 16, 3)):
        weight.data = data
        for _ in range(3):
            x = torch.zeros(2, 16, 100)
            y = autoconv.conv1d(x, weight)
            (launch,) = served.events()
            pointers = [int(one, 16) for one in launch["parameters"][:3]]
            assert pointers == [x.data_ptr(), weight.data_ptr(), y.data_ptr()]
            names.add((data.data_ptr() % 16, launch["code"]))
    assert len(names) == 2
    assert len(serving.current.recent) == 1
