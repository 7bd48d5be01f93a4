"""What comes of a task that brings no result: whose fault it was.

A candidate's own fault is a trial, kept for good. A fault of the machine or of the moment says nothing about
any candidate: nothing is recorded, the sweep stops and says why, and the next one starts afresh.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from errno import EDQUOT, EMFILE, ENFILE, ENOMEM, ENOSPC, EROFS

_LONGEST = 400  # characters of a reason; compilers and drivers append whole logs

_CLASSES = (ImportError, MemoryError, OSError)  # no candidate reads a file, starts a process or imports

# What CUDA, cuBLAS, cuDNN and PyTorch's allocators say of memory and of the device, in the words of
# cudaGetErrorString or of the raising code; and what the tools a compiler starts print of a full machine.
_TEXTS = (
    "out of memory",
    "can't allocate memory",
    "STATUS_ALLOC_FAILED",
    "STATUS_NOT_INITIALIZED",  # a library's handle, which needs memory, could not be made
    "busy or unavailable",  # another process has the device, in exclusive-process mode
    "no CUDA-capable device",
    "No CUDA GPUs are available",
    "invalid device ordinal",
    "CUDA unknown error",
    "driver version is insufficient",
    "no NVIDIA driver",
    "not compiled with CUDA",
    "system not yet initialized",
    "uncorrectable ECC error",
    *map(os.strerror, (EDQUOT, EMFILE, ENFILE, ENOMEM, ENOSPC, EROFS)),
)


class Outcome(Exception):  # noqa: N818 - what came of a task, and not always an error
    """A task ended without a result.

    Attributes:
        reason: why, in one line.
    """

    def __init__(self, reason: str) -> None:
        """Keep `reason` in one line."""
        line = " ".join(reason.split())
        self.reason = line if len(line) <= _LONGEST else f"{line[: _LONGEST - 3]}..."
        super().__init__(self.reason)


class Failed(Outcome):
    """The candidate's own fault: it does not compile, load or launch, or breaks what runs it."""


class Unavailable(Outcome):
    """The machine's fault, or the moment's: memory, device, disk or permission is not to be had."""


class GivenUp(Unavailable):
    """The machines that had a problem were lost, one after the other: it may be at fault, others are not."""


def outcome_of(error: BaseException) -> Failed | Unavailable:
    """Return whose fault it is that a task raised `error`; an Outcome is its own."""
    if isinstance(error, (Failed, Unavailable)):
        return error
    kind = Unavailable if any(map(_of_the_machine, _causes(error))) else Failed
    return kind(f"{type(error).__name__}: {error}")


def _of_the_machine(error: BaseException) -> bool:
    return isinstance(error, (Unavailable, *_CLASSES)) or any(text in str(error) for text in _TEXTS)


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__
