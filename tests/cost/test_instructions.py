"""What the compiled instruction mix costs: divisions, spills, shuffles, and loops that were unrolled."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from autoconv.compiler.resources import Resources
from autoconv.config import Config
from autoconv.cost.batch import batch
from autoconv.cost.instructions import local, slots, split
from autoconv.cost.predict import compiled_resources, estimate, predict
from autoconv.cost.prediction import Prediction
from autoconv.device import Device, find
from autoconv.kernels.registry import kernel as kernel_called
from autoconv.problem import Problem

RTX4090 = find("rtx4090")
KB67 = Problem(32, 64, 128, 3, 131072)
CONFIG = Config("im2col_rows", {"BLOCK_M": 64, "BLOCK_N": 128, "BLOCK_K": 32}, num_warps=4, num_stages=3)
STEP = {"HMMA.1688": 64, "LDGSTS.32": 48, "LDS.32": 64, "IADD3": 40, "IMAD": 40, "BAR": 2}  # of 6 steps
ONCE = {"IMAD": 300, "IADD3": 200, "STG.32": 64, "S2R": 3}
# Signed division of one element by an argument: a reciprocal, then its products and corrections.
DIVISION = {"IABS": 2, "I2F": 1, "MUFU": 1, "F2I": 1, "IADD3": 3, "IMAD": 5, "ISETP": 4, "SEL": 2, "LOP3": 1}


def mixed(loop: dict[str, int], once: dict[str, int], spills: int = 0, shared: int = 49152) -> Resources:
    whole = {opcode: loop.get(opcode, 0) + once.get(opcode, 0) for opcode in {**loop, **once}}
    return Resources(200, spills, shared, whole, loop)


def plus(mix: dict[str, int], more: dict[str, int], times: int = 1) -> dict[str, int]:
    return {opcode: mix.get(opcode, 0) + times * more.get(opcode, 0) for opcode in {**mix, **more}}


def predicted(taken: Resources, device: Device = RTX4090) -> Prediction:
    return predict(KB67, CONFIG, device, taken)


# --- divisions ------------------------------------------------------------------------------------


def test_more_divisions_in_the_loop_take_longer_until_they_bound_it() -> None:
    found = [predicted(mixed(plus(STEP, DIVISION, count), ONCE)) for count in (0, 8, 16, 32, 64, 128)]
    times = [prediction.seconds for prediction in found]
    assert times == sorted(times) and len(set(times)) == len(times)
    assert found[0].bound == "dram"
    assert found[-1].bound in ("integer", "xu")
    # Twelve of the 20 instructions are the ALU's, at half the rate of issue; three of them conversions.
    assert found[-1].terms["integer"] > found[-1].terms["issue"] > found[0].terms["issue"]
    assert found[-1].terms["xu"] > 50 * found[0].terms["xu"]


def test_a_division_outside_the_loop_costs_once() -> None:
    in_loop, outside = mixed(plus(STEP, DIVISION, 6), ONCE), mixed(STEP, plus(ONCE, DIVISION, 6))
    assert predicted(in_loop).terms["xu"] == pytest.approx(6 * predicted(outside).terms["xu"])
    assert predicted(in_loop).terms["integer"] > predicted(outside).terms["integer"]


def test_reciprocals_alone_are_bound_by_their_own_pipe() -> None:
    found = predicted(mixed(plus(STEP, {"MUFU": 400}), ONCE))
    assert found.bound == "xu"
    # 400 in each of 6 steps by 4 warps, 16 lanes a cycle and SM, in the 512 blocks of the fullest SM.
    assert found.terms["xu"] == pytest.approx(400 * 6 * 4 * 2 * 512 / 2.52e9, rel=0.01)


def test_the_pipes_of_the_integer_instructions_work_side_by_side() -> None:
    alu, products = {"ISETP": 30}, {"IMAD": 30}
    assert slots(alu).integer == slots(products).integer == slots({**alu, **products}).integer == 60
    assert slots({**alu, **products}).issue == 60


# --- spills ---------------------------------------------------------------------------------------


def test_more_spills_take_longer_until_they_bound_it() -> None:
    found = [
        predicted(mixed(plus(STEP, {"LDL.32": words, "STL.32": words}), ONCE, spills=4 * words))
        for words in (0, 16, 64, 256, 384)
    ]
    times = [prediction.seconds for prediction in found]
    assert times == sorted(times) and len(set(times)) == len(times)
    assert [prediction.l1_bytes for prediction in found] == sorted(p.l1_bytes for p in found)
    assert found[-1].bound in ("l1", "l2")
    # A word of each of 128 threads is four lines: out and in again, in 6 steps of 512 blocks.
    added = found[1].terms["l1"] - found[0].terms["l1"]
    assert added == pytest.approx(2 * 16 * 4 * 6 * 512 / 2.52e9, rel=0.01)


def test_spills_reach_the_l2_where_the_l1_has_no_room_for_them() -> None:
    few, many = (
        predicted(mixed(plus(STEP, {"LDL.32": words}), ONCE, spills=4 * words)) for words in (16, 512)
    )
    none = predicted(mixed(STEP, ONCE))
    # Two blocks of 128 threads: 16 KiB beside 96 KiB of shared memory in 128 KiB, then 512 KiB.
    assert few.l2_bytes == none.l2_bytes
    assert many.l2_bytes - none.l2_bytes == pytest.approx(
        (1 - 32 / 512) * 512 * 4 * 128 * 6 * many.blocks, rel=0.01
    )
    leaner = predicted(mixed(plus(STEP, {"LDL.32": 64}), ONCE, spills=256, shared=16384))
    fuller = predicted(mixed(plus(STEP, {"LDL.32": 64}), ONCE, spills=256))
    assert leaner.l2_bytes < fuller.l2_bytes


def test_spills_reach_dram_where_the_l2_has_no_room_either() -> None:
    taken = mixed(plus(STEP, {"LDL.32": 256, "STL.32": 256}), ONCE, spills=1024)
    held, lost = predicted(taken), predicted(taken, replace(RTX4090, l2_bytes=4 << 20))
    assert held.dram_bytes < 1.01 * KB67.ideal_bytes
    assert lost.dram_bytes > 10 * KB67.ideal_bytes
    assert lost.bound == "dram" and lost.l2_hit_pct < held.l2_hit_pct


def test_where_nothing_was_compiled_spills_come_back_in_every_step() -> None:
    times = [predicted(Resources(255, spills, 49152)).seconds for spills in (0, 64, 256, 1024, 4096)]
    assert times == sorted(times) and len(set(times)) == len(times)
    given = predicted(Resources(255, 64, 49152)).terms["l1"]
    compiled = predicted(mixed(plus(STEP, {"LDL.32": 16}), plus(ONCE, {"STL.32": 16}), spills=64))
    assert given == pytest.approx(compiled.terms["l1"])


def test_local_memory_counts_by_its_width() -> None:
    assert local({"LDL.128": 2, "LDL.32": 1, "STL.64": 3}) == (36, 24)


# --- shuffles, unrolled loops ---------------------------------------------------------------------


def test_a_shuffle_takes_the_shared_memory_a_cycle() -> None:
    none, some = (predicted(mixed(plus(STEP, {"SHFL": count}), ONCE)) for count in (0, 100))
    added = some.terms["shared"] - none.terms["shared"]
    assert added == pytest.approx(100 * 4 * 6 * 512 / 2.52e9, rel=0.01)


def test_an_unrolled_loop_is_counted_by_the_steps_that_it_holds() -> None:
    """How far the compiler unrolled shows in the products of the loop's body; the six steps stay six."""
    rolled = mixed(STEP, ONCE)
    threefold = mixed({opcode: 3 * count for opcode, count in STEP.items()}, ONCE)
    whole = Resources(200, 0, 49152, plus(ONCE, STEP, 6), {})
    expected = predicted(rolled)
    assert predicted(threefold).terms == pytest.approx(expected.terms)
    for other in map(predicted, (threefold, whole)):
        for unit in ("tensor", "issue", "integer", "xu", "l1", "shared"):
            assert other.terms[unit] == pytest.approx(expected.terms[unit])
        assert other.slots == pytest.approx(expected.slots)
        assert other.seconds == pytest.approx(expected.seconds, rel=0.05)


@pytest.mark.parametrize(
    ("opcode", "flops"),
    [("HMMA.1688", 2048), ("HMMA.16816", 4096), ("FFMA", 64), ("HFMA2", 128), ("HGMMA.64x128x8", 32768)],
)
def test_the_products_of_a_step(opcode: str, flops: int) -> None:
    taken = Resources(64, 0, 0, {opcode: 12, "IADD3": 30}, {opcode: 8, "IADD3": 4})
    assert split(taken, flops=4 * 4 * flops, warps=4) == ({opcode: 4, "IADD3": 2}, {opcode: 4, "IADD3": 26})


def test_an_estimate_and_a_prediction_of_the_same_kernel_agree() -> None:
    """The judged instructions of a step beside compiled ones, on kernels that the compiler did as hoped."""
    problem = Problem(8, 512, 512, 3, 4096, dtype="float16", padding=1)
    config = Config("dense", {"BLOCK_CO": 128, "BLOCK_L": 128, "BLOCK_R": 32}, num_warps=8, num_stages=3)
    judged = estimate(problem, config, RTX4090)
    given = predict(problem, config, RTX4090, Resources(judged.registers, 0, judged.shared))
    assert given.seconds == judged.seconds


@pytest.mark.parametrize(
    ("precision", "tiles", "num_warps"),
    [("tf32x3", (16, 16, 64), 2), ("tf32x3", (64, 64, 32), 4), ("ieee", (64, 64, 32), 4)],
)
def test_the_products_of_a_compiled_step_are_those_that_the_work_names(
    precision: str,
    tiles: tuple[int, int, int],
    num_warps: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """So a loop that was not unrolled counts as one step, small tiles with their redundant products too."""
    monkeypatch.setenv("AUTOCONV_CACHE", str(tmp_path))
    problem = Problem(1, 64, 64, 3, 1000, precision=precision)
    names = ("BLOCK_CO", "BLOCK_L", "BLOCK_R")
    config = Config("dense", dict(zip(names, tiles, strict=True)), num_warps, num_stages=3)
    taken = compiled_resources(problem, config, RTX4090)
    work = kernel_called("dense").work(problem, config)
    b = batch(problem, [config], [work], [taken], RTX4090)
    assert b.loop.issue[0] == num_warps * sum(taken.loop.values())
    multiplies = sum(count for name, count in taken.loop.items() if name.split(".")[0] in ("HMMA", "FFMA"))
    assert num_warps * multiplies == b.products[0]
