"""bfloat16 in Triton's interpreter, which otherwise gets it wrong. On a GPU nothing of this applies.

Up to Triton 3.9 the interpreter keeps bfloat16 values as their bits in uint16 arrays: its `create_dot`
multiplies those bits as integers, and its conversion from float32 cuts the low bits off where the hardware
rounds to nearest even.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
import triton.language as tl

from autoconv.kernels.registry import kernels


def interpreting() -> bool:
    """Return whether the kernels were imported with TRITON_INTERPRET=1, and so are interpreted."""
    from triton.runtime.interpreter import InterpretedFunction

    return all(isinstance(kernel.jit, InterpretedFunction) for kernel in kernels().values())


@lru_cache(maxsize=1)
def mend_bfloat16() -> None:
    """Make the interpreter round to bfloat16 as the hardware does, and widen it to float32 in a dot."""
    from triton.runtime.interpreter import InterpreterBuilder, TensorHandle

    cast, dot = InterpreterBuilder.cast_impl, InterpreterBuilder.create_dot

    def cast_impl(self: Any, value: Any, dtype: Any) -> Any:
        if value.dtype.scalar == tl.float32 and dtype.scalar == tl.bfloat16:
            return TensorHandle(to_bfloat16_bits(value.data), tl.bfloat16)
        return cast(self, value, dtype)

    def create_dot(self: Any, a: Any, b: Any, *rest: Any) -> Any:
        widened = (cast(self, x, tl.float32) if x.dtype.scalar == tl.bfloat16 else x for x in (a, b))
        return dot(self, *widened, *rest)

    InterpreterBuilder.cast_impl = cast_impl
    InterpreterBuilder.create_dot = create_dot


def to_bfloat16_bits(values: np.ndarray[Any, np.dtype[np.float32]]) -> np.ndarray[Any, np.dtype[np.uint16]]:
    """Round float32 values to bfloat16, nearest even, and return their bits; NaN stays NaN."""
    bits = values.astype(np.float32).view(np.uint32)
    rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16
    return np.where(np.isnan(values), 0x7FC0, rounded).astype(np.uint16)
