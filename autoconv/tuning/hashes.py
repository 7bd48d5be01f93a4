"""What a process hashes once: Triton itself, and the sources of the kernels and of the model."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from autoconv.compiler.specialisation import hash_compiler
from autoconv.cost.version import predictor_of
from autoconv.kernels.registry import kernels
from autoconv.kernels.source import source_of

GIVE_WAY_SECONDS = 0.0005


def hash_once() -> None:
    """Make every hash that this process will ask for, so that no call and no sweep has to."""
    with giving_way():
        hash_compiler()
        for name in kernels():
            source_of(name)
            predictor_of(name)


@contextmanager
def giving_way() -> Iterator[None]:
    """Let other threads have the interpreter when they want it, sooner than Python's 5 ms.

    Hashing is a second of Python, and only this process can do it for itself. Each operator of torch lets go
    of the interpreter: a forward of 78 convolutions could wait for it 78 times.
    """
    before = sys.getswitchinterval()
    sys.setswitchinterval(min(before, GIVE_WAY_SECONDS))
    try:
        yield
    finally:
        sys.setswitchinterval(before)
