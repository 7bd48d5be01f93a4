"""Reading what cuobjdump prints: a listing made up here, in its form, with every case the reader knows."""

from __future__ import annotations

from collections import Counter

import pytest

from autoconv.compiler import sass

# Addresses 0x10 apart, as on every architecture since sm_70; the encodings on the right are not looked at.
LISTING = """
\tcode for sm_89
\t\tFunction : some_kernel
\t.headerflags\t@"EF_CUDA_SM89"
        /*0000*/                   MOV R1, c[0x0][0x28] ;                  /* 0x00000a0000017a02 */
                                                                           /* 0x000fe40000000f00 */
        /*0010*/                   S2R R0, SR_TID.X ;                      /* 0x0000000000007919 */
        /*0020*/              @!P0 BRA 0x90 ;                              /* 0x0000000000007947 */
        /*0030*/                   LDGSTS.E.BYPASS.LTC128B.128.ZFILL [R1], [R2.64], P1 ;
        /*0040*/               @P1 LDG.E.U16 R4, [R2.64] ;
        /*0050*/                   LDS R5, [R1+0x20] ;
        /*0060*/                   HMMA.1688.F32.TF32 R8, R4, R6, R8 ;
        /*0070*/                   HMMA.16816.F32.BF16 R8, R4, R6, R8 ;
        /*0080*/               @P2 BRA 0x30 ;
        /*0090*/              @UP0 UIADD3 UR4, UR4, 0x1, URZ ;
        /*00a0*/             @!UPT UIADD3 UR4, UR4, 0x1, URZ ;
        /*00b0*/                   STG.E.64 [R2.64+0xa0], R8 ;
        /*00c0*/                   LDL R9, [R1] ;
        /*00d0*/               @P3 BRA 0x90 ;
        /*00e0*/                   EXIT ;
        /*00f0*/                   BRA 0xf0;
        /*0100*/                   NOP;
"""


def test_every_instruction_is_read_once() -> None:
    assert [(address, opcode) for address, opcode, _ in sass.parse(LISTING)] == [
        (0x00, "MOV"), (0x10, "S2R"), (0x20, "BRA"), (0x30, "LDGSTS.128"), (0x40, "LDG.16"),
        (0x50, "LDS.32"), (0x60, "HMMA.1688"), (0x70, "HMMA.16816"), (0x80, "BRA"), (0x90, "UIADD3"),
        (0xA0, "UIADD3"), (0xB0, "STG.64"), (0xC0, "LDL.32"), (0xD0, "BRA"), (0xE0, "EXIT"), (0xF0, "BRA"),
        (0x100, "NOP"),
    ]  # fmt: skip


def test_only_branches_have_targets() -> None:
    targets = {address: target for address, _, target in sass.parse(LISTING) if target is not None}
    assert targets == {0x20: 0x90, 0x80: 0x30, 0xD0: 0x90, 0xF0: 0xF0}


def test_the_main_loop_is_the_one_that_multiplies(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sass, "_cuobjdump", lambda _cubin, _flag: LISTING)
    whole, loop = sass.instruction_mix(b"")
    assert loop == {"LDGSTS.128": 1, "LDG.16": 1, "LDS.32": 1, "HMMA.1688": 1, "HMMA.16816": 1, "BRA": 1}
    assert sum(whole.values()) == 17 and whole["BRA"] == 4


@pytest.mark.parametrize(
    "multiply", ["HGMMA.64x128x16.F32 R24, gdesc[UR4], R24", "FFMA R1, R2, R3, R1", "HFMA2 R1, R2, R3, R1"]
)
def test_a_loop_of_any_multiply_counts(multiply: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two loops, of which the first does nothing but shift."""
    lines = ["SHF.R.U32.HI R1, RZ, 0x1, R1", "SHF.R.U32.HI R1, RZ, 0x1, R1", "BRA 0x0", multiply, "BRA 0x30"]
    text = "\n".join(f"        /*{16 * i:04x}*/                   {line} ;" for i, line in enumerate(lines))
    monkeypatch.setattr(sass, "_cuobjdump", lambda _cubin, _flag: text)
    _, loop = sass.instruction_mix(b"")
    opcode = multiply.split()[0]
    assert loop == {opcode.removesuffix(".F32"): 1, "BRA": 1}


def test_an_unrolled_kernel_has_no_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    straight = LISTING.replace("BRA 0x30", "BRA 0x90").replace("@P3 BRA 0x90", "@P3 BRA 0xe0")
    monkeypatch.setattr(sass, "_cuobjdump", lambda _cubin, _flag: straight)
    assert sass.instruction_mix(b"")[1] == {}


def test_instructions_between_counts_both_ends() -> None:
    parsed = sass.parse(LISTING)
    assert sass.instructions_between(parsed, 0x60, 0x80) == Counter(
        {"HMMA.1688": 1, "HMMA.16816": 1, "BRA": 1}
    )


def test_what_is_no_cubin_is_refused() -> None:
    with pytest.raises((ValueError, sass.subprocess.CalledProcessError)):
        sass.usage(b"not a cubin")
