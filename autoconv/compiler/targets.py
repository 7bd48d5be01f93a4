"""Which architectures the Triton of this process compiles for."""

from __future__ import annotations

import triton

from autoconv.device import Architecture


def uncompilable(arch: Architecture) -> str | None:
    """Return why Triton cannot compile for `arch`, or None where it can.

    To be asked first: its ptxas refuses an architecture that is too new, and Triton 3.3 ends the process.
    """
    if _numbers(triton.__version__) >= _numbers(arch.first_triton):
        return None
    return f"Triton {triton.__version__} does not compile for {arch.name}, Triton {arch.first_triton} does"


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(map(int, version.split(".")[:2]))
