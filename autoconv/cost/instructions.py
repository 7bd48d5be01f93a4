"""The instruction mix of a compiled kernel: issue slots by pipe, shuffles, local memory, steps unrolled."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import NamedTuple

from autoconv.compiler.resources import Resources

# The pipes, named as in Nsight Compute's documentation, that take an instruction only every other cycle or
# less often. The rates are those of the CUDA C++ Programming Guide's table of arithmetic throughput.
_ALU = {
    "IADD3", "IADD", "IABS", "IMNMX", "VIMNMX", "VABSDIFF", "ISETP", "LEA", "LOP3", "LOP", "SHF", "SHL",
    "SHR", "SEL", "PRMT", "SGXT", "BMSK", "FSETP", "FSEL", "FMNMX",
}  # fmt: skip
_FMA_HEAVY = {"IMAD", "IMUL", "IDP"}
_XU = {"MUFU", "I2F", "F2I", "F2F", "FRND", "POPC", "FLO", "BREV"}
HALF_RATE = 2  # issue slots of an instruction of the ALU or of an integer product: 64 results a cycle and SM
XU_RATE = 8  # of a conversion, a reciprocal or the like: 16 results a cycle and SM
_SHAPE = re.compile(r"(\d+)x(\d+)x(\d+)$|168(\d+)$")


class Slots(NamedTuple):
    """What one warp issues: the cycles for which its scheduler, or a pipe behind it, is busy."""

    issue: float  # one for each instruction
    integer: float  # of the busier of the ALU and the pipe of integer products
    xu: float  # of conversions and special functions, on which an integer division rests
    shuffles: float  # SHFL: through the shared memory's crossbar, one a cycle and SM


class Local(NamedTuple):
    """Bytes that one thread moves to and from local memory: spills, and arrays indexed at run time."""

    loaded: float
    stored: float


NO_SLOTS, NO_LOCAL = Slots(0.0, 0.0, 0.0, 0.0), Local(0.0, 0.0)


def slots(mix: Mapping[str, float]) -> Slots:
    """Return the issue slots of a mix of opcodes.

    >>> slots({"ISETP": 10, "IMAD": 4, "I2F": 1, "MUFU": 1, "HMMA.1688": 8})
    Slots(issue=24, integer=20, xu=16, shuffles=0)
    """
    alu, products, xu = (_count(mix, names) for names in (_ALU, _FMA_HEAVY, _XU))
    return Slots(sum(mix.values()), HALF_RATE * max(alu, products), XU_RATE * xu, _count(mix, {"SHFL"}))


def local(mix: Mapping[str, float]) -> Local:
    """Return the bytes that a mix of opcodes moves through local memory.

    >>> local({"LDL.64": 3, "STL.32": 2, "LDG.128": 1})
    Local(loaded=24, stored=8)
    """
    return Local(_bytes(mix, "LDL"), _bytes(mix, "STL"))


def split(taken: Resources, flops: float, warps: int) -> tuple[dict[str, float], dict[str, int]]:
    """Return the mix of one main-loop step and the mix outside the loop, of a warp; empty where not compiled.

    The compiler may have unrolled the loop: its body then multiplies for several steps, and where it was
    unrolled whole there is no loop, and all its instructions are outside.

    Args:
        taken: As compiled.
        flops: Of a block in one step, the padding of instructions included.
        warps: Of a block.
    """
    once = {opcode: count - taken.loop.get(opcode, 0) for opcode, count in taken.instructions.items()}
    of_body = warps * sum(count * _flops(opcode) for opcode, count in taken.loop.items())
    steps = max(1, round(of_body / flops))
    return {opcode: count / steps for opcode, count in taken.loop.items()}, once


def _flops(opcode: str) -> float:
    """Return the FLOPs of one warp's instruction, 0 where it does not multiply and add."""
    base, _, shape = opcode.partition(".")
    if base in ("FFMA", "HFMA2"):
        return 2.0 * 32 * (2 if base == "HFMA2" else 1)
    found = _SHAPE.match(shape) if base in ("HMMA", "HGMMA") else None
    if found is None:
        return 0.0
    rows, columns, depth, depth_of_warp = found.groups()
    # m16n8 of one warp, or the product of a group of four.
    return 2.0 * 16 * 8 * int(depth_of_warp) if depth_of_warp else int(rows) * int(columns) * int(depth) / 2


def _count(mix: Mapping[str, float], names: set[str]) -> float:
    return sum(count for opcode, count in mix.items() if opcode.partition(".")[0] in names)


def _bytes(mix: Mapping[str, float], name: str) -> float:
    widths = ((opcode.partition("."), count) for opcode, count in mix.items())
    return sum(count * int(width or 32) // 8 for (base, _, width), count in widths if base == name)
