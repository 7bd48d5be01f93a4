"""The kernels there are: every module of this package that defines `KERNEL`."""

from __future__ import annotations

import pkgutil
from functools import lru_cache
from importlib import import_module
from pathlib import Path

from autoconv.errors import ConfigError
from autoconv.kernels.base import Kernel
from autoconv.kernels.sizes import beyond_reach
from autoconv.problem import Problem


@lru_cache(maxsize=1)
def kernels() -> dict[str, Kernel]:
    """Return every kernel by name, in the order of their file names. Imports Triton."""
    found = [kernel for kernel in map(_defined_in, _modules()) if kernel is not None]
    return {kernel.name: kernel for kernel in found}


def kernel(name: str) -> Kernel:
    """Return the kernel called `name`, or raise ConfigError. Imports its module and what that imports."""
    if not kernels.cache_info().currsize and name in _modules():
        alone = _defined_in(name)
        if alone is not None and alone.name == name:
            return alone
    if name not in kernels():
        raise ConfigError("kernel", name, "is not known", f"use one of {', '.join(kernels())}")
    return kernels()[name]


@lru_cache(maxsize=1)
def _modules() -> tuple[str, ...]:
    return tuple(found.name for found in pkgutil.iter_modules([str(Path(__file__).parent)]))


def _defined_in(module: str) -> Kernel | None:
    return getattr(import_module(f"autoconv.kernels.{module}"), "KERNEL", None)


def supporting(problem: Problem) -> list[Kernel]:
    """Return the kernels that can run `problem`."""
    if beyond_reach(problem) is not None:
        return []
    return [candidate for candidate in kernels().values() if candidate.unsupported(problem) is None]
