"""Whose fault it is: the texts and types are those that torch, Triton, CUDA and the system raise."""

from __future__ import annotations

import errno
import os

import pytest
import torch

from autoconv.sweep.outcomes import Failed, Outcome, Unavailable, outcome_of


def full_disk() -> OSError:
    return OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "/cache/dense.cubin")


def because_of(cause: Exception) -> Exception:
    try:
        raise RuntimeError("`ptxas` failed") from cause
    except RuntimeError as error:
        return error


MACHINE = [
    torch.OutOfMemoryError(
        "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of ..."
    ),
    RuntimeError("CUDA error: out of memory"),
    RuntimeError("Triton Error [CUDA]: out of memory"),
    RuntimeError(
        "[enforce fail at alloc_cpu.cpp:119] . DefaultCPUAllocator: can't allocate memory: you tried"
    ),
    RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    RuntimeError("cuDNN error: CUDNN_STATUS_NOT_INITIALIZED"),
    RuntimeError("CUDA error: CUDA-capable device(s) is/are busy or unavailable"),
    RuntimeError("No CUDA GPUs are available"),
    RuntimeError("CUDA error: invalid device ordinal"),
    AssertionError("Torch not compiled with CUDA enabled"),
    RuntimeError("CUDA error: uncorrectable ECC error encountered"),
    MemoryError(),
    PermissionError(errno.EACCES, os.strerror(errno.EACCES), "/root/.triton"),
    FileNotFoundError(errno.ENOENT, "No usable temporary directory found in ['/tmp']"),
    ModuleNotFoundError("No module named 'triton'"),
    full_disk(),
    because_of(full_disk()),
    RuntimeError("ptxas fatal: cannot write: No space left on device"),
]
CANDIDATE = [
    RuntimeError("CUDA error: an illegal memory access was encountered"),
    RuntimeError("out of resource: shared memory, Required: 294912, Hardware limit: 232448."),
    RuntimeError("Triton Error [CUDA]: invalid argument"),
    RuntimeError("Triton Error [CUDA]: misaligned address"),
    ValueError("no such tile"),
    because_of(ValueError("BLOCK_R is no power of two")),
]


@pytest.mark.parametrize("error", MACHINE, ids=str)
def test_memory_device_and_disk_are_the_machine_s(error: Exception) -> None:
    assert type(outcome_of(error)) is Unavailable


@pytest.mark.parametrize("error", CANDIDATE, ids=str)
def test_what_a_candidate_does_is_its_own(error: Exception) -> None:
    assert type(outcome_of(error)) is Failed


def test_a_reason_is_one_line_that_names_the_error() -> None:
    assert outcome_of(ValueError("no\n  such tile")).reason == "ValueError: no such tile"
    assert len(outcome_of(ValueError("x" * 10_000)).reason) == 400


@pytest.mark.parametrize("outcome", [Failed("it hangs"), Unavailable("no memory")], ids=str)
def test_an_outcome_is_its_own(outcome: Failed | Unavailable) -> None:
    assert outcome_of(outcome) is outcome
    assert isinstance(outcome, Outcome) and str(outcome) == outcome.reason
