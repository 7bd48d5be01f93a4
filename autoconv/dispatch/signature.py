"""From the tensors of a call to its problem."""

from __future__ import annotations

from typing import TypeAlias

import torch

from autoconv.errors import ProblemError
from autoconv.problem import DTYPE_BYTES, Problem

Padding: TypeAlias = int | tuple[int, int]

DTYPES = {getattr(torch, name): name for name in DTYPE_BYTES}

# The documented torch.backends.cudnn.conv.fp32_precision takes 1.7 us to read, three quarters of a hit.
# It calls the first of these two, which exists since torch 2.9; the second is the flag of torch before that.
_precision_now = getattr(torch._C, "_get_fp32_precision_getter", None)
_allow_tf32_now = torch._C._get_cudnn_allow_tf32


def float32_precision() -> str:
    """Return "tf32" or "ieee", as torch is set now for float32 convolutions on CUDA."""
    if _precision_now is not None:
        return "tf32" if _precision_now("cuda", "conv") == "tf32" else "ieee"
    return "tf32" if _allow_tf32_now() else "ieee"


def problem_of(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    stride: int,
    padding: Padding,
    dilation: int,
    groups: int,
    precision: str,
) -> Problem | None:
    """Return the problem that a call of conv1d poses, or None where torch alone can serve or refuse it.

    Args:
        x: (N, Cin, L).
        weight: (Cout, Cin / groups, K).
        bias: (Cout,) or None.
        stride: Step between windows.
        padding: Zeros on each side, or (left, right).
        dilation: Step between taps.
        groups: Channel groups.
        precision: Of float32 products; ignored for the other dtypes.
    """
    tensors = [t for t in (x, weight, bias) if t is not None]
    if x.dtype not in DTYPES or any(t.dtype != x.dtype or t.device != x.device for t in tensors):
        return None
    if x.dim() != 3 or weight.dim() != 3 or weight.shape[1] * groups != x.shape[1]:
        return None
    if bias is not None and bias.shape != weight.shape[:1]:
        return None
    dtype = DTYPES[x.dtype]
    try:
        return Problem(
            N=x.shape[0],
            Cin=x.shape[1],
            Cout=weight.shape[0],
            K=weight.shape[2],
            L=x.shape[2],
            stride=stride,
            padding=padding,
            dilation=dilation,
            groups=groups,
            bias=bias is not None,
            dtype=dtype,
            precision=precision if dtype == "float32" else "",
            layout="nlc" if x.stride(1) == 1 and x.stride(2) > 1 else "ncl",
        )
    except ProblemError:
        return None  # empty or impossible shapes: torch returns an empty tensor or raises its own error
