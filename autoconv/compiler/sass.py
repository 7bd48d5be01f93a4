"""What a cubin says of itself: registers, spills, instruction mix; read with cuobjdump of Triton's wheel."""

from __future__ import annotations

import re
import subprocess
import tempfile
from collections import Counter
from pathlib import Path

import triton

CUOBJDUMP = str(Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump")
_USAGE = re.compile(r"REG:(\d+) STACK:(\d+)")
# "        /*0a10*/              @!P0 BRA 0x4c0 ;": address, optional predicate, opcode, operands
_INSTRUCTION = re.compile(r"/\*([0-9a-f]{4,})\*/\s+(?:@!?U?P\w+\s+)?([A-Z][A-Za-z0-9_.]*)\s*([^;]*);")
_MEMORY = {"LDG", "STG", "LDS", "STS", "LDGSTS", "LDL", "STL"}
_MULTIPLY = re.compile(r"(\w*MMA|[FH]FMA2?)\b")  # HMMA; HGMMA, the warp group's on sm_90; FFMA; HFMA2


def usage(cubin: bytes) -> tuple[int, int]:
    """Return (registers of a thread, bytes a thread spills) of the one kernel in `cubin`."""
    found = _USAGE.search(_cuobjdump(cubin, "-res-usage"))
    if found is None:
        raise ValueError("cuobjdump -res-usage printed no resource line; is this a cubin?")
    return int(found[1]), int(found[2])


def instruction_mix(cubin: bytes) -> tuple[dict[str, int], dict[str, int]]:
    """Return the instruction counts of the whole kernel and of its main loop.

    Loads and stores carry their width in bits (`LDGSTS.128`), tensor-core instructions their shape
    (`HMMA.1688`), all others the bare opcode. The main loop is the body of the backward branch that spans
    the most tensor-core or multiply-add instructions; it is empty where the loop was unrolled away.
    """
    instructions = parse(_cuobjdump(cubin, "-sass"))
    loops = [
        instructions_between(instructions, target, address)
        for address, opcode, target in instructions
        if opcode == "BRA" and target is not None and target < address
    ]
    main = max(loops, key=_multiplies, default=Counter())
    return dict(Counter(opcode for _, opcode, _ in instructions)), dict(main)


def parse(sass: str) -> list[tuple[int, str, int | None]]:
    """Return (address, opcode, branch target) of every instruction that cuobjdump -sass printed."""
    found = []
    for address, opcode, operands in _INSTRUCTION.findall(sass):
        target = re.search(r"0x([0-9a-f]+)", operands) if opcode.startswith("BRA") else None
        found.append((int(address, 16), _name(opcode), int(target[1], 16) if target else None))
    return found


def instructions_between(
    instructions: list[tuple[int, str, int | None]], first: int, last: int
) -> Counter[str]:
    """Count the opcodes whose address lies in [first, last]."""
    return Counter(opcode for address, opcode, _ in instructions if first <= address <= last)


def _multiplies(mix: Counter[str]) -> int:
    return sum(count for opcode, count in mix.items() if _MULTIPLY.match(opcode))


def _name(opcode: str) -> str:
    base, *modifiers = opcode.split(".")
    if base in _MEMORY:
        width = next((m.lstrip("US") for m in modifiers if m.lstrip("US").isdigit()), "32")
        return f"{base}.{width}"
    if base.endswith("MMA"):
        return ".".join([base, *modifiers[:1]])
    return base


def _cuobjdump(cubin: bytes, flag: str) -> str:
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        done = subprocess.run(
            [CUOBJDUMP, flag, file.name],
            capture_output=True,
            text=True,
            check=True,
            timeout=60,
        )
    return done.stdout
