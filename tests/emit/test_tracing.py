"""Launches as expressions: what holds for every size, and the conditions under which it does."""

from __future__ import annotations

import math

import pytest

from autoconv.emit.expressions import denied, text_of
from autoconv.emit.tracing import Traced, traced
from autoconv.kernels import implicit_gemm, sizes
from autoconv.kernels.registry import kernels
from autoconv.problem import Problem
from tests.emit.loading import DEVICE


def of(name: str, text: str) -> Traced:
    problem = Problem.parse(text)
    return traced(kernels()[name], problem, next(iter(kernels()[name].space(problem, DEVICE))))


# Past which a sample's offsets take 64 bits, where a problem's own do not.
SAMPLE = (
    "max(Cin * (L + 512 * stride + K * dilation), Cout * (L_out + 512 * stride + K * dilation)) > 2**31 - 1"
)


@pytest.mark.parametrize(
    ("name", "problem", "conditions"),
    [
        ("dense", "N=2,Cin=5,Cout=7,K=3,L=40,stride=2", [SAMPLE]),
        ("pointwise", "N=2,Cin=20,Cout=9,K=1,L=40", ["K != 1", SAMPLE]),
        ("tap_major", "N=2,Cin=20,Cout=9,K=3,L=40", ["stride != 1", "K == 1", SAMPLE]),
        # An `or` of the kernel's: the one of its two ways that this problem meets.
        ("narrow", "N=2,Cin=64,Cout=4,K=7,L=40", ["Cout > 8"]),
        ("narrow", "N=2,Cin=1,Cout=64,K=7,L=40", ["Cin * K > 128"]),
        # A stride of 2 is asked for first, and none of 4 is lost by that.
        ("transposed_joined", "N=1,Cin=4,Cout=6,K=3,L=20,stride=4,op=conv_transpose", ["stride != 4"]),
    ],
)
def test_conditions_are_those_that_the_kernel_has(name: str, problem: str, conditions: list[str]) -> None:
    assert [" ".join(denied(one)) for one in of(name, problem).conditions] == conditions


def test_a_tile_that_a_size_bears_on_is_kept() -> None:
    """A row of `transposed_rows` is a phase of the stride: with fewer its products would be too small."""
    found = of("transposed_rows", "N=1,Cin=4,Cout=6,K=8,L=20,stride=4,op=conv_transpose")
    assert "triton.next_power_of_2(stride) != 4" in [" ".join(denied(one)) for one in found.conditions]


def test_a_grid_is_of_tiles_and_sizes_alone() -> None:
    (launch,) = of("dense", "N=2,Cin=5,Cout=7,K=3,L=40").launches
    axis = 'triton.cdiv(Cout, META["BLOCK_CO"]) * triton.cdiv(N * L_out, META["BLOCK_L"])'
    assert tuple(map(text_of, launch.grid)) == (axis, "1", "1")


def test_the_kernels_are_as_they_were_afterwards() -> None:
    of("dense", "N=2,Cin=5,Cout=7,K=3,L=40")
    for module in (sizes, implicit_gemm):
        assert vars(module)["math"] is math
        assert not {"max", "min"} & vars(module).keys()
    assert sizes.alignment(24, 40) == implicit_gemm.alignment(24, 40) == 8
