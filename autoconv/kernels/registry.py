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
    package = Path(__file__).parent
    modules = (
        import_module(f"autoconv.kernels.{found.name}") for found in pkgutil.iter_modules([str(package)])
    )
    found = [module.KERNEL for module in modules if hasattr(module, "KERNEL")]
    return {kernel.name: kernel for kernel in found}


def kernel(name: str) -> Kernel:
    """Return the kernel called `name`, or raise ConfigError."""
    if name not in kernels():
        raise ConfigError("kernel", name, "is not known", f"use one of {', '.join(kernels())}")
    return kernels()[name]


def supporting(problem: Problem) -> list[Kernel]:
    """Return the kernels that can run `problem`."""
    if beyond_reach(problem) is not None:
        return []
    return [candidate for candidate in kernels().values() if candidate.unsupported(problem) is None]
