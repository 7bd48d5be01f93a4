"""What of a call its cubins depend on, and whether they are compiled already.

Sizes are arguments of a launch: of each, Triton's compiler is told only whether it is 1, whether 16 divides
it, and whether 32 bits hold it, and of each tensor whether its address is a multiple of 16. So calls of many
sizes share one specialisation, and only the first of them is compiled for.
"""

from __future__ import annotations

import hashlib
import json
from contextlib import suppress
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
import triton

from autoconv.compiler.folders import compiling
from autoconv.compiler.recording import recording
from autoconv.compiler.resolve import resolve
from autoconv.config import Config
from autoconv.device import Device
from autoconv.kernels.base import Launch
from autoconv.kernels.sizes import Strides
from autoconv.problem import Problem

_INT32 = range(-(2**31), 2**31)


@dataclass(frozen=True)
class Form:
    """How the tensors of a call lie, as far as a launch depends on it."""

    x_strides: Strides
    aligned: tuple[bool, bool, bool] = (True, True, True)  # x, w, b: at addresses that 16 divides

    @classmethod
    def of(cls, x: torch.Tensor, w: torch.Tensor, b: torch.Tensor | None) -> Form:
        """Return the form of a call with these tensors, x of three axes."""
        addresses = x.data_ptr(), w.data_ptr(), 0 if b is None else b.data_ptr()
        at_x, at_w, at_b = (address % 16 == 0 for address in addresses)
        return cls((x.stride(0), x.stride(1), x.stride(2)), (at_x, at_w, at_b))


def specialisation(problem: Problem, config: Config, device: Device, form: Form) -> str:
    """Return what names the cubins that calls of this form launch: calls with one name share them.

    A name too many, as for a version of Triton that is told less, costs a compilation that finds its result
    in Triton's cache; so nothing but that rests on these names.
    """
    kernel = resolve(problem, config, device).kernel
    told = {
        "triton": triton.__version__,
        "capability": device.arch.capability,
        "dtype": problem.dtype,
        "aligned": form.aligned,
        "launches": [_told(one) for one in kernel.launches(problem, config, form.x_strides)],
    }
    return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()[:32]


def _told(launch: Launch) -> dict[str, Any]:
    """Return what the compiler is told of one launch."""
    constant = {one.name for one in launch.jit.params if one.is_constexpr}
    names = {one.name for one in launch.jit.params} - constant
    return {
        "source": launch.jit.cache_key,
        "tensors": launch.tensors,
        "keywords": {
            name: _class_of(value) if name in names else value for name, value in launch.keywords.items()
        },
    }


def _class_of(value: Any) -> Any:
    """Return what the compiler is told of an argument's value."""
    if type(value) is not int or value == 1:
        return value
    return "multiple of 16" if value % 16 == 0 else "other", value in _INT32


def compile_form(problem: Problem, config: Config, device: Device, cache: Path, form: Form) -> None:
    """Cross-compile every launch of such calls for `device`, and note in the folder `cache` that it is done.

    The cubins are left in Triton's cache. Not to be called while another thread compiles or launches.

    Raises:
        Exception: whatever Triton or ptxas raises on a config they cannot compile.
    """
    kernel = resolve(problem, config, device).kernel
    dtype = getattr(torch, problem.dtype)
    x, w, b = (_stand_in(dtype, aligned) for aligned in form.aligned)
    tensors = {"x": x, "w": w, "b": b if problem.bias else None, "y": dtype, "partials": torch.float32}
    with recording(device), compiling():
        for one in kernel.launches(problem, config, form.x_strides):
            one.jit.warmup(*(tensors[name] for name in one.tensors), grid=one.grid, **one.keywords)
    note_compiled(cache, specialisation(problem, config, device, form))


def _stand_in(dtype: torch.dtype, aligned: bool) -> Any:
    """Return what Triton specialises on as on a tensor: a dtype stands for one at a multiple of 16."""
    return dtype if aligned else torch.empty(2, dtype=dtype)[1:]


def load_compiler() -> None:
    """Import what Triton imports when it first specialises a call, in half a second; versions differ."""
    for module in ("triton.compiler", "triton.experimental.gluon"):
        with suppress(ImportError):
            import_module(module)


def hash_compiler() -> None:
    """Have Triton hash itself, as it does once a process before it loads a cubin, in up to two seconds."""
    for module in ("triton.runtime.cache", "triton.compiler.compiler"):  # by version
        hashed = getattr(import_module(module), "triton_key", None)
        if hashed is not None:
            hashed()


def is_compiled(cache: Path, name: str) -> bool:
    """Return whether a process of this machine has compiled the specialisation `name`."""
    with suppress(OSError):
        return _note(cache, name).exists()
    return False


def note_compiled(cache: Path, name: str) -> None:
    """Have `is_compiled` say so from now on; a folder that cannot be written is not an error."""
    note = _note(cache, name)
    with suppress(OSError):
        note.parent.mkdir(parents=True, exist_ok=True)
        note.touch()


def _note(cache: Path, name: str) -> Path:
    return cache / "compiled" / name[:2] / name[2:]
