"""The model's figures for known problems, and the directions in which it must move."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import autoconv
from autoconv.compiler import sass
from autoconv.compiler.resources import Resources
from autoconv.config import Config
from autoconv.cost.predict import estimate, estimate_seconds, predict
from autoconv.cost.prediction import floor_seconds
from autoconv.device import CATALOGUE, find
from autoconv.errors import ConfigError, DeviceError, FieldError
from autoconv.kernels.registry import kernel as kernel_called
from autoconv.kernels.registry import supporting
from autoconv.problem import PRECISIONS, Problem

RTX4090 = find("rtx4090")
SEED = Problem(64, 64, 128, 3, 224280, stride=3, dilation=4)
BASELINE = Config("im2col_rows", {"BLOCK_M": 64, "BLOCK_N": 64, "BLOCK_K": 32}, num_warps=4, num_stages=2)
DENSE = Config("dense", {"BLOCK_CO": 128, "BLOCK_L": 64, "BLOCK_R": 32}, num_warps=4, num_stages=3)
AS_TRITON_3_3 = Resources(registers=184, spills=0, shared=16384)

no_deadline = settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.too_slow])


# --- known figures --------------------------------------------------------------------------------


def test_the_floor_of_the_seed_problem() -> None:
    assert SEED.ideal_bytes / 1e9 == pytest.approx(6.124, abs=0.001)
    assert SEED.flops / 1e9 == pytest.approx(235.2, abs=0.1)
    assert floor_seconds(SEED, RTX4090) * 1e3 == pytest.approx(6.08, abs=0.005)
    # With memory out of the way, the FLOPs remain.
    assert floor_seconds(SEED, replace(RTX4090, dram_gbps=1e9)) * 1e3 == pytest.approx(2.85, abs=0.005)


def test_the_launch_of_the_yardstick() -> None:
    found = estimate(SEED, BASELINE, "rtx4090")
    assert found.grid == (74758, 2)
    assert found.blocks == 149516


def test_the_yardstick_with_the_registers_of_triton_3_3() -> None:
    found = predict(SEED, BASELINE, "rtx4090", AS_TRITON_3_3)
    assert (found.registers, found.shared, found.compiled) == (184, 16384, True)
    assert (found.blocks_per_sm, found.limiter) == (2, "registers")
    assert found.warps_active_pct == pytest.approx(16.67, abs=0.005)
    # Two tiles of Cout walk through all of x, 3.67 GB that no L2 holds.
    assert found.dram_read_bytes == pytest.approx(2 * 64 * 64 * 224280 * 4, rel=0.02)


def test_a_tile_of_all_channels_moves_the_ideal_bytes() -> None:
    found = estimate(SEED, DENSE, "rtx4090")
    assert found.dram_bytes == pytest.approx(SEED.ideal_bytes, rel=0.02)
    assert 0 < found.l2_hit_pct < 100


def test_terms_and_bound_agree() -> None:
    found = predict(SEED, DENSE, "rtx4090", Resources(128, 0, 49152))
    assert set(found.terms) == {"dram", "tensor", "issue", "integer", "xu", "l1", "shared", "l2", "latency"}
    assert found.terms[found.bound] == max(found.terms.values())
    assert found.terms["dram"] > SEED.ideal_bytes / 1008e9
    # 128 SMs share the tiles unevenly, so the fullest one has a little more than its part.
    assert 1 <= found.terms["tensor"] / (SEED.flops / 82.6e12) < 1.01


def test_less_efficient_schedules_are_predicted_slower() -> None:
    assert estimate(SEED, DENSE, RTX4090).seconds < estimate(SEED, BASELINE, RTX4090).seconds
    assert estimate(SEED, DENSE, "l4").seconds > 2 * estimate(SEED, DENSE, "rtx4090").seconds


@pytest.mark.parametrize(
    "problem",
    [
        Problem(72, 1024, 1024, 3, 33, padding=1, bias=True),
        Problem(72, 512, 512, 1, 264, bias=True),
        Problem(64, 128, 512, 7, 81, bias=True),
    ],
    ids=str,
)
def test_short_samples_are_no_advantage_of_the_yardstick(problem: Problem) -> None:
    own, yardstick = (
        estimate_seconds(problem, list(kernel_called(name).space(problem, RTX4090)), RTX4090).min()
        for name in ("dense", "im2col_rows")
    )
    assert own < 1.02 * yardstick


# --- directions -----------------------------------------------------------------------------------


@st.composite
def cases(draw: st.DrawFn) -> tuple[Problem, Config]:
    dtype = draw(st.sampled_from(sorted(PRECISIONS)))
    problem = Problem(
        N=draw(st.integers(1, 64)),
        Cin=draw(st.integers(1, 300)),
        Cout=draw(st.integers(1, 300)),
        K=draw(st.integers(1, 9)),
        L=draw(st.integers(40, 100_000)),
        stride=draw(st.integers(1, 4)),
        dilation=draw(st.integers(1, 4)),
        padding=draw(st.integers(0, 4)),
        dtype=dtype,
        precision=draw(st.sampled_from(PRECISIONS[dtype])),
    )
    # The whole space of one of them alone: those of all take half a second.
    able = [kernel for kernel in supporting(problem) if next(iter(kernel.space(problem, RTX4090)), None)]
    return problem, draw(st.sampled_from(list(draw(st.sampled_from(able)).space(problem, RTX4090))))


@no_deadline
@given(cases(), st.floats(1.0, 10.0))
def test_a_better_device_is_never_slower(case: tuple[Problem, Config], factor: float) -> None:
    problem, config = case
    before = estimate(problem, config, RTX4090).seconds
    faster = {name: rate * factor for name, rate in RTX4090.tensor_tflops.items()}
    for better in (
        replace(RTX4090, dram_gbps=RTX4090.dram_gbps * factor),
        replace(RTX4090, tensor_tflops=faster, fp32_tflops=RTX4090.fp32_tflops * factor),
        replace(RTX4090, l2_bytes=int(RTX4090.l2_bytes * factor)),
    ):
        assert estimate(problem, config, better).seconds <= before


@no_deadline
@given(cases(), st.integers(2, 5))
def test_more_work_is_never_faster(case: tuple[Problem, Config], factor: int) -> None:
    problem, config = case
    # Other blocks are sampled of a larger grid, and their rows may end elsewhere in a sector; of a few blocks
    # each makes a difference. Tiles that run across samples meet fewer ends where samples are longer.
    before = estimate(problem, config, RTX4090).seconds * (1 - 5e-3)
    assert estimate(replace(problem, N=problem.N * factor), config, RTX4090).seconds >= before
    longer = replace(problem, L=problem.L + 16 * problem.stride * factor)  # of the same divisibility
    if longer.L % 16 == problem.L % 16 and longer.L_out % 16 == problem.L_out % 16:
        assert estimate(longer, config, RTX4090).seconds >= before


@no_deadline
@given(cases(), st.integers(16, 254))
def test_more_registers_are_never_faster(case: tuple[Problem, Config], registers: int) -> None:
    problem, config = case
    lean, fat = (
        predict(problem, config, RTX4090, Resources(r, 0, 16384)).seconds for r in (registers, registers + 1)
    )
    assert fat >= lean


@no_deadline
@given(cases(), st.sampled_from(sorted(CATALOGUE)))
def test_no_prediction_is_below_the_floor(case: tuple[Problem, Config], device: str) -> None:
    problem, config = case
    found = estimate(problem, config, device)
    assert found.seconds >= found.floor_seconds > 0
    assert 0 <= found.dram_throughput_pct <= 100
    assert 0 <= found.sm_throughput_pct <= 100


# --- what is said of a prediction -----------------------------------------------------------------


def test_a_prediction_is_never_called_measured() -> None:
    for found in (estimate(SEED, DENSE, RTX4090), predict(SEED, BASELINE, RTX4090, AS_TRITON_3_3)):
        fields = found.to_json(DENSE)
        assert fields["provenance"] == "predicted"
        assert "measured" not in json.dumps(fields)
        assert fields["predicted_ms"] == pytest.approx(found.seconds * 1e3)
        assert fields["floor_ms"] == pytest.approx(6.0758, abs=1e-3)


def test_explain_has_the_agreed_names() -> None:
    agreed = (
        "kernel config grid blocks blocks_per_sm warps_active_pct registers spills shared dram_bytes "
        "ideal_bytes l2_hit_pct dram_throughput_pct sm_throughput_pct predicted_ms floor_ms bound provenance"
    )
    fields = estimate(SEED, DENSE, RTX4090).to_json(DENSE)
    assert set(agreed.split()) <= set(fields)
    assert fields["config"] == DENSE.to_json()
    assert fields["grid"] == [64 * 74758 // 64], "tiles of all columns, one sample after the other"


def test_what_cannot_run_has_no_time() -> None:
    found = predict(SEED, DENSE, RTX4090, Resources(128, 0, 200_000))
    assert found.seconds == math.inf
    assert (found.blocks_per_sm, found.limiter) == (0, "shared memory")
    fields = found.to_json(DENSE)
    assert fields["predicted_ms"] is None
    json.dumps(fields, allow_nan=False)


def test_given_resources_nothing_is_compiled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AUTOCONV_CACHE", str(tmp_path / "resources"))
    monkeypatch.setattr(sass, "CUOBJDUMP", "/nonexistent/cuobjdump")
    assert predict(SEED, BASELINE, RTX4090, AS_TRITON_3_3).compiled
    assert not estimate(SEED, BASELINE, RTX4090).compiled
    assert not (tmp_path / "resources").exists()
    with pytest.raises(FileNotFoundError):
        predict(SEED, replace(BASELINE, num_warps=2), RTX4090)


def test_compiled_for_the_device_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AUTOCONV_CACHE", str(tmp_path))
    small = Problem(2, 32, 32, 3, 1000)
    config = Config("dense", {"BLOCK_CO": 32, "BLOCK_L": 32, "BLOCK_R": 32}, num_warps=2, num_stages=3)
    ada, hopper = (autoconv.predict(small, config, device) for device in ("rtx4090", "h100-sxm"))
    assert ada.compiled and hopper.compiled
    assert ada.slots != hopper.slots, "of the instructions that each has in its loop"
    assert autoconv.predict(small, config, "rtx4090") == ada


@pytest.mark.parametrize("ask", [estimate, predict])
def test_errors_name_field_value_and_remedy(ask: object) -> None:
    assert callable(ask)
    for problem, config, device, kind, field, message in (
        (SEED, DENSE, "rtx9090", DeviceError, "name", "rtx9090"),
        (SEED, replace(DENSE, kernel="densee"), RTX4090, ConfigError, "kernel", "densee"),
        (SEED, replace(DENSE, tiles={"BLOCK_CO": 64}), RTX4090, ConfigError, "BLOCK_L", "give BLOCK_L"),
        (SEED, replace(DENSE, tiles={**DENSE.tiles, "BLOCK_X": 2}), RTX4090, ConfigError, "BLOCK_X", "=2"),
        (replace(SEED, groups=2), BASELINE, RTX4090, ConfigError, "kernel", "groups=2"),
    ):
        with pytest.raises(kind) as raised:
            ask(problem, config, device)
        error = raised.value
        assert isinstance(error, FieldError)
        assert error.field == field and message in str(error) and error.remedy
        assert "\n" not in str(error)
