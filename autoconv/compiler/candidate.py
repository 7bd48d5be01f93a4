"""Compile one candidate for a named device."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from autoconv.compiler import sass
from autoconv.compiler.folders import compiling
from autoconv.compiler.recording import recording
from autoconv.compiler.resolve import resolve
from autoconv.compiler.resources import Resources, cache_file, load, save
from autoconv.config import Config
from autoconv.device import Device
from autoconv.problem import Problem


def compile_candidate(problem: Problem, config: Config, device: Device, cache: Path) -> Resources:
    """Cross-compile `config` for `device` and return its resources; about a second, or a read of the cache.

    Triton's JIT itself specialises the arguments and compiles, so the cubin is the one that a launch on the
    device would use, and it is left in Triton's cache, below ours, for that launch.

    Args:
        problem: The problem; only its shape and dtype are used.
        config: A config of one of the kernels.
        device: The target; it need not be present.
        cache: The folder that keeps resources between processes.

    Raises:
        ConfigError: the kernel is unknown, cannot run the problem, or the tiles are not its own.
        Exception: whatever Triton or ptxas raises on a candidate they cannot compile.
    """
    kernel = resolve(problem, config, device).kernel
    file = cache_file(cache, kernel, problem, config, device.arch.capability)
    known = load(file)
    if known is not None:
        return known
    compiled = compiled_kernel(problem, config, device)
    cubin = compiled.asm["cubin"]
    registers, spills = sass.usage(cubin)
    whole, loop = sass.instruction_mix(cubin)
    resources = Resources(registers, spills, compiled.metadata.shared, whole, loop)
    save(file, resources)
    return resources


def compiled_kernel(problem: Problem, config: Config, device: Device) -> Any:
    """Cross-compile the main launch of `config` for `device`; return what Triton's JIT made of it.

    Raises:
        ConfigError: the kernel is unknown, cannot run the problem, or the tiles are not its own.
        Exception: whatever Triton or ptxas raises on a candidate they cannot compile.
    """
    import torch  # not above: estimates compile nothing, and a lookup in a shell does without

    kernel = resolve(problem, config, device).kernel
    dtype = getattr(torch, problem.dtype)
    tensors = {
        "x": dtype,
        "w": dtype,
        "b": dtype if problem.bias else None,
        "y": dtype,
        "partials": torch.float32,
    }
    main = kernel.main_launch(problem, config)  # others add partial sums or pack a weight: never tuned
    with recording(device), compiling():
        return main.jit.warmup(*(tensors[name] for name in main.tensors), grid=main.grid, **main.keywords)
