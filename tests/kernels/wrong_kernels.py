"""Kernels with one fault each, and views for the right ones: run by test_verify with TRITON_INTERPRET=1.

Prints one JSON object: the verdict on each fault, and the error on each view.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

import torch
import triton
import triton.language as tl
from torch.nn import functional

from autoconv.config import Config
from autoconv.device import Device, find
from autoconv.kernels.base import Grid, Kernel, Scalar
from autoconv.kernels.registry import kernels
from autoconv.kernels.sizes import Strides, cdiv
from autoconv.kernels.work import Work
from autoconv.problem import Problem
from autoconv.sweep.verify import verify

FAULTS = {
    "none": 0,
    "the last tile is left out": 1,
    "no mask on the store": 2,
    "a tap too far": 3,
    "no bias": 4,
    "bias twice in one channel": 5,
    "NaN in the padding": 6,
    "products in float16": 7,
    "writes before the start": 8,
    "nothing at all": 9,
    "infinity": 10,
}
PROBLEM = Problem(2, 2, 4, 2, 37, padding=1, bias=True, precision="ieee")  # L_out = 38
VIEWED = Problem(2, 6, 8, 3, 24, stride=2, padding=2, bias=True)


@triton.jit
def faulty_kernel(
    x_ptr, w_ptr, b_ptr, y_ptr, L, L_out, CIN: tl.constexpr, COUT: tl.constexpr, K: tl.constexpr,
    PAD: tl.constexpr, FAULT: tl.constexpr, BLOCK_L: tl.constexpr,
):  # fmt: skip
    tile, n = tl.program_id(0), tl.program_id(1)
    col = tile * BLOCK_L + tl.arange(0, BLOCK_L)
    co = tl.arange(0, COUT)
    acc = tl.zeros((COUT, BLOCK_L), dtype=tl.float32)
    for r in range(CIN * K):
        position = col - PAD + r % K
        if FAULT == 3:
            position += 1
        inside = (position >= 0) & (position < L)
        x = tl.load(x_ptr + (n * CIN + r // K) * L + position, mask=inside, other=0.0)
        if FAULT == 6:
            x = tl.where(inside, x, float("nan"))
        product = tl.load(w_ptr + co * CIN * K + r)[:, None] * x[None, :]
        if FAULT == 7:
            product = product.to(tl.float16).to(tl.float32)
        acc += product
    bias = tl.load(b_ptr + co)
    if FAULT == 5:
        bias = tl.where(co == 2, 2 * bias, bias)
    if FAULT != 4:
        acc += bias[:, None]
    if FAULT == 10:
        acc += tl.where((col == 5)[None, :] & (co == 1)[:, None], float("inf"), 0.0)
    mask = col < L_out
    if FAULT == 1:
        mask = mask & (tile < tl.num_programs(0) - 1)
    if FAULT == 2:
        mask = col >= 0
    if FAULT == 9:
        mask = col < 0
    y = y_ptr + (n * COUT + co[:, None]) * L_out + col[None, :]
    tl.store(y, acc, mask=mask[None, :] & (co >= 0)[:, None])
    if FAULT == 8:
        tl.store(y_ptr - 3 + tl.arange(0, 2), tl.zeros((2,), dtype=tl.float32))


class Faulty(Kernel):
    """A direct convolution, right but for what FAULT names."""

    name = "faulty"
    tiles = ("FAULT", "BLOCK_L")
    jit = faulty_kernel

    def unsupported(self, problem: Problem) -> str | None:  # noqa: ARG002
        return None

    def space(self, problem: Problem, device: Device) -> Iterator[Config]:  # noqa: ARG002
        for fault in FAULTS.values():
            yield Config("faulty", {"FAULT": fault + 1, "BLOCK_L": 16}, num_warps=1, num_stages=1)

    def grid(self, problem: Problem) -> Grid:
        return lambda META: (cdiv(problem.L_out, META["BLOCK_L"]), problem.N)

    def arguments(self, problem: Problem, x_strides: Strides) -> dict[str, Scalar]:  # noqa: ARG002
        sizes = {"L": problem.L, "L_out": problem.L_out, "CIN": problem.Cin, "COUT": problem.Cout}
        return {**sizes, "K": problem.K, "PAD": problem.pad_left}

    def work(self, problem: Problem, config: Config) -> Work:
        raise NotImplementedError("verify needs none")

    def keywords(self, problem: Problem, config: Config, x_strides: Strides | None = None) -> dict[str, Any]:
        keywords = super().keywords(problem, config, x_strides)
        return {**keywords, "FAULT": config.meta["FAULT"] - 1}  # a tile is at least 1


def views() -> dict[str, torch.Tensor]:
    """Return x of VIEWED's shape with all sorts of strides."""
    torch.manual_seed(0)
    n, cin, length = VIEWED.x_shape
    return {
        "contiguous": torch.randn(n, cin, length),
        "every other sample": torch.randn(2 * n, cin, length)[::2],
        "every third position": torch.randn(n, cin, 3 * length)[:, :, ::3],
        "a window of a longer row": torch.randn(n, cin, length + 9)[:, :, 5 : length + 5],
        "one sample expanded": torch.randn(1, cin, length).expand(n, cin, length),
        "one channel expanded": torch.randn(n, 1, length).expand(n, cin, length),
        "one number expanded": torch.randn(1, 1, 1).expand(n, cin, length),
        "channels last": torch.randn(n, length, cin).transpose(1, 2),
        "samples innermost": torch.randn(cin, length, n).permute(2, 0, 1),
    }


def error_on(kernel: Kernel, x: torch.Tensor, *, index_64: bool) -> float:
    """Return the largest error of a kernel on VIEWED with this x, with 64-bit offsets where it has them."""
    weight, bias = torch.randn(VIEWED.w_shape), torch.randn(VIEWED.Cout)
    config = Config(kernel.name, dict.fromkeys(kernel.tiles, 16), num_warps=1, num_stages=1)
    y = torch.full(VIEWED.y_shape, torch.nan)
    keywords = kernel.keywords(VIEWED, config, x.stride())
    if index_64:
        keywords["INDEX_64"] = True
    kernel.jit[kernel.grid(VIEWED)](x, weight, bias, y, **keywords)
    expected = functional.conv1d(x.double(), weight.double(), bias.double(), VIEWED.stride, VIEWED.padding)
    return (y - expected).abs().max().item()


def main() -> None:
    """Print the verdicts and the errors."""
    kernels()["faulty"] = Faulty()
    configs = Faulty().space(PROBLEM, find("rtx4090"))
    verdicts = {
        fault: asdict(verify(PROBLEM, config, where="cpu", seed=3))
        for fault, config in zip(FAULTS, configs, strict=True)
    }
    errors = {
        f"{name}, {view}": error_on(kernels()[name], x, index_64=view == "contiguous")
        for name in ("dense", "im2col_rows")
        for view, x in views().items()
    }
    print(json.dumps({"verdicts": verdicts, "errors": errors}))


if __name__ == "__main__":
    main()
