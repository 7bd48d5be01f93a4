"""What a process hashes once: Triton itself, and the sources of the kernels and of the model."""

from __future__ import annotations

from autoconv.compiler.specialisation import hash_compiler
from autoconv.cost.version import predictor_of
from autoconv.kernels.registry import kernels
from autoconv.kernels.source import source_of


def hash_once() -> None:
    """Make every hash that this process will ask for, so that no call and no sweep has to."""
    hash_compiler()
    for name in kernels():
        source_of(name)
        predictor_of(name)
