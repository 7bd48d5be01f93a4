"""What Triton makes of a tile on sm_90, held against cubins compiled for it; first guesses that run."""

from __future__ import annotations

from dataclasses import replace

import pytest
import triton

from autoconv.config import Config
from autoconv.cost.batch import batch
from autoconv.cost.constants import CONSTANTS
from autoconv.cost.guess import guess
from autoconv.cost.predict import compiled_resources, estimate
from autoconv.cost.traffic import count, count_map
from autoconv.device import ARCHITECTURES, find
from autoconv.kernels.registry import kernel as kernel_called
from autoconv.kernels.soundness import refusal
from autoconv.kernels.work import AddressMap, Work, as_copied, plain, shared_bytes, uses_wgmma
from autoconv.problem import Problem
from autoconv.sweep.candidates import best_guess

H100 = find("h100-sxm")
SM_80, SM_90 = ARCHITECTURES["sm_80"], ARCHITECTURES["sm_90"]
ODD = "N=8,Cin=128,Cout=128,K=5,L=2000,padding=2"
POINTWISE = "N=8,Cin=256,Cout=512,K=1,L=3200"


def config_of(kernel: str, tile: tuple[int, int, int], warps: int, stages: int) -> Config:
    names = ("BLOCK_CO", "BLOCK_L", "BLOCK_R")
    return Config(kernel, dict(zip(names, tile, strict=True)), num_warps=warps, num_stages=stages)


def work_of(text: str, config: Config) -> Work:
    return kernel_called(config.kernel).work(Problem.parse(text), config)


# --- warp groups, copies, shared memory -----------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "tile", "warps", "stages", "wgmma"),
    [
        (ODD, (64, 64, 32), 4, 3, True),  # a buffer for each stage
        (ODD, (64, 64, 32), 2, 3, False),  # no whole group of warps
        (ODD, (32, 64, 32), 4, 3, False),  # too few rows for one
        (f"{ODD},precision=tf32x3", (64, 64, 32), 4, 3, True),  # rows in registers, columns in parts
        (f"{ODD},precision=ieee", (64, 64, 32), 4, 3, False),  # on the CUDA cores
        (f"{ODD},dtype=float16", (64, 64, 64), 4, 3, True),  # x by 2 bytes: one buffer
        (f"{ODD},dtype=float16", (16, 128, 16), 8, 3, False),  # w too: an element for a thread
        ("N=2,Cin=64,Cout=128,K=3,L=4099", (128, 256, 16), 8, 4, True),  # scratch of the end is more
    ],
)
def test_a_cubin_multiplies_and_buffers_as_the_rule_says(
    text: str, tile: tuple[int, int, int], warps: int, stages: int, wgmma: bool
) -> None:
    config = config_of("dense", tile, warps, stages)
    taken = compiled_resources(Problem.parse(text), config, H100)
    guessed = guess(config, work_of(text, config), SM_90)
    assert any(opcode.startswith("HGMMA") for opcode in taken.instructions) == wgmma
    assert uses_wgmma(work_of(text, config), warps, SM_90) == wgmma
    assert guessed.shared == taken.shared
    assert guessed.registers == pytest.approx(taken.registers, rel=0.6)


def test_warp_groups_are_of_sm_90_alone() -> None:
    config = config_of("dense", (128, 128, 32), 8, 3)
    work = work_of(ODD, config)
    assert uses_wgmma(work, 8, SM_90) and not uses_wgmma(work, 8, SM_80)
    assert shared_bytes(work, config, SM_90) == 3 * work.stage_bytes
    assert shared_bytes(work, config, SM_80) == 2 * work.stage_bytes


def test_what_would_not_load_is_neither_offered_nor_sound() -> None:
    problem = Problem(2, 512, 512, 3, 8000, dilation=4, padding=8)
    config = config_of("dense", (256, 128, 64), 8, 3)  # 294,912 bytes in three buffers, of 232,448
    reason = refusal(problem, config, SM_90)
    assert reason is not None and "294912 bytes" in reason
    assert config not in set(kernel_called("dense").space(problem, H100))
    fewer = replace(config, num_stages=2)
    assert refusal(problem, fewer, SM_90) is None


def test_float32_that_lies_along_the_columns_is_copied_element_by_element() -> None:
    config = Config(
        "pointwise",
        {"BLOCK_CO": 128, "BLOCK_L": 128, "BLOCK_R": 16, "GROUP_L": 1, "X_BYTES": 16},
        num_warps=4,
        num_stages=4,
    )
    x, w = work_of(POINTWISE, config).reads
    work = work_of(POINTWISE, config)
    wide, narrow = (as_copied(x, work, 4, wgmma=wgmma) for wgmma in (False, True))
    assert (wide.vector_bytes, wide.apart) == (16, 1)
    assert (narrow.vector_bytes, narrow.apart) == (4, 4)
    assert as_copied(w, work, 4, wgmma=True).vector_bytes == 16  # along the reduction, as wgmma wants it
    assert count(narrow, work, per_step=True).requests == 4 * count(wide, work, per_step=True).requests
    # Each of four requests reaches over 512 bytes, and puts its elements into two banks.
    assert count(narrow, work, per_step=True).lines == 4 * count(wide, work, per_step=True).lines
    staged = {
        warps: batch(
            Problem.parse(POINTWISE),
            [replace(config, num_warps=warps)],
            [work],
            [guess(config, work, SM_90)],
            H100,
        ).staged_bytes[0]
        for warps in (2, 4)
    }
    assert staged[4] / staged[2] == pytest.approx((16 + 1) / 2)


def test_tensor_cores_slow_the_clock_down_and_cuda_cores_do_not() -> None:
    assert CONSTANTS[90].tensor_clock == pytest.approx(1830 / 1980, rel=1e-3)
    config = config_of("dense", (128, 128, 32), 4, 3)
    found = estimate(Problem.parse(ODD), config, H100)
    per_sm = work_of(ODD, config).flops * -(-found.blocks // H100.sms)
    assert found.terms["tensor"] == pytest.approx(per_sm / (494.7e12 / H100.sms), rel=0.01)
    lone = estimate(Problem.parse(ODD), replace(config, num_warps=2), H100)  # HMMA: 0.63 of the rate
    assert lone.terms["tensor"] == pytest.approx(found.terms["tensor"] / 0.63, rel=0.01)


# --- lanes and lines ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("version", "text", "x", "y"),
    [
        ("3.6.0", "N=2,Cin=64,Cout=64,K=3,L=999,layout=nlc", "reduction", "columns"),
        ("3.7.1", "N=2,Cin=64,Cout=64,K=3,L=999,layout=nlc", "columns", "columns"),
        ("3.6.0", "N=2,Cin=64,Cout=64,K=3,L=999,stride=2", "columns", "columns"),
        ("3.6.0", "N=2,Cin=64,Cout=64,K=6,L=99,stride=3,op=conv_transpose", "columns", "rows"),
        ("3.7.1", "N=2,Cin=64,Cout=64,K=6,L=99,stride=3,op=conv_transpose", "columns", "columns"),
    ],
)
def test_lanes_lie_where_that_triton_puts_them(
    version: str, text: str, x: str, y: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(triton, "__version__", version)
    kernel = "transposed_phases" if "transpose" in text else "dense"
    work = work_of(text, config_of(kernel, (64, 128, 32), 4, 3))
    assert (work.reads[0].map.reduction == "lanes") == (x == "reduction")
    assert work.write.map.lanes.extent == (128 if y == "columns" else 64)


@pytest.mark.parametrize(
    ("lanes", "rows", "ragged"),
    [
        (plain(32, 4), plain(1, 0), 0),
        (plain(32, 4), plain(8, 128 + 32), 0),  # off a line, on a sector
        (plain(32, 4), plain(8, 128 + 8), 2 * 6 / 8),  # six rows of eight end and begin inside a sector
        (plain(32, 8), plain(1, 0), 2),  # every other element of 256 bytes
        (plain(32, 4096), plain(1, 0), 32),
    ],
)
def test_lines_that_a_store_leaves_ragged(lanes: object, rows: object, ragged: float) -> None:
    found = count_map(AddressMap(lanes, rows, reduction=""), 4, 4)  # type: ignore[arg-type]
    assert found.ragged_lines == pytest.approx(ragged)


def test_steps_that_divide_by_the_taps_issue_more() -> None:
    issued = {}
    for taps in (4, 5):
        text = f"N=8,Cin=128,Cout=128,K={taps},L=4000"
        config = config_of("dense", (128, 128, 32), 8, 3)
        issued[taps] = work_of(text, config).address_instructions
    assert issued[5] > 5 * issued[4]
    nlc = "N=8,Cin=128,Cout=128,K=5,L=4000,layout=nlc"
    assert work_of(nlc, config_of("channels_last", (128, 128, 32), 8, 3)).address_instructions == issued[4]


# --- first guesses --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    # The H200 compiles what the H100 does.
    ["h100-sxm", pytest.param("h200", marks=pytest.mark.long), "a100-80gb", "rtx4090"],
)
@pytest.mark.parametrize(
    "text",
    [
        "N=2,Cin=512,Cout=512,K=3,L=8000,dilation=4,padding=8,bias=1",
        "N=64,Cin=128,Cout=128,K=7,L=2048,padding=3,bias=1,dtype=float16",
    ],
)
def test_a_first_guess_loads_and_spills_nothing(text: str, name: str) -> None:
    problem, device = Problem.parse(text), find(name)
    config, _ = best_guess(problem, device)
    taken = compiled_resources(problem, config, device)
    assert taken.unrunnable(config, device) is None
    assert taken.spills == 0
