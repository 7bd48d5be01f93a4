"""bfloat16 in the interpreter: rounded as torch, and so the hardware, rounds it."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from autoconv.kernels.interpreter import interpreting, to_bfloat16_bits

bits = arrays(np.uint32, st.integers(1, 40), elements=st.integers(0, 2**32 - 1))
EDGES = np.array(
    [
        0x00000000, 0x80000000,  # zeros
        0x3F808000, 0x3F818000, 0xBF808000,  # half way: to even, down, up, down
        0x3F807FFF, 0x3F808001,  # a little less and a little more than half
        0x00000001, 0x00008000, 0x00018000, 0x007FFFFF,  # subnormal
        0x7F7FFFFF, 0xFF7FFFFF,  # the largest, which round to infinity
        0x7F800000, 0xFF800000,  # infinities
    ],
    dtype=np.uint32,
)  # fmt: skip


@given(bits)
@example(EDGES)
def test_rounding_is_torch_s(bits: np.ndarray) -> None:
    values = bits.view(np.float32)
    values = values[~np.isnan(values)]
    ours = to_bfloat16_bits(values)
    theirs = torch.from_numpy(values.copy()).to(torch.bfloat16).view(torch.int16).numpy().view(np.uint16)
    assert ours.dtype == np.uint16
    np.testing.assert_array_equal(ours, theirs)


@given(st.integers(0x7F800001, 0x7FFFFFFF) | st.integers(0xFF800001, 0xFFFFFFFF))
def test_nan_stays_nan(bits: int) -> None:
    rounded = to_bfloat16_bits(np.array([bits], dtype=np.uint32).view(np.float32))
    assert torch.from_numpy(rounded.view(np.int16)).view(torch.bfloat16).isnan().all()


def test_this_process_compiles() -> None:
    assert not interpreting()
