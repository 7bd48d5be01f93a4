"""Profiles of Nsight Compute: read from both of its pages, set beside the prediction, and made sense of."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest

from autoconv.compiler.resources import Resources
from autoconv.config import Config
from autoconv.cost.predict import predict
from autoconv.cost.prediction import Prediction
from autoconv.device import find
from autoconv.errors import FieldError
from autoconv.nsight import METRICS, advice, differences, measured, predicted
from autoconv.problem import Problem
from tests.cli.conftest import Run
from tests.cli.conftest import run as run
from tests.cli.test_commands import BASELINE, SEED, documented

PROBLEM, DEVICE = Problem.parse(SEED), find("rtx4090")
CONFIG = Config("im2col_rows", {"BLOCK_M": 64, "BLOCK_N": 64, "BLOCK_K": 32}, num_warps=4, num_stages=2)
SM = "sm__throughput.avg.pct_of_peak_sustained_elapsed"
DRAM = "dram__throughput.avg.pct_of_peak_sustained_elapsed"
WARPS = "sm__warps_active.avg.pct_of_peak_sustained_active"
HITS = "lts__t_sector_hit_rate.pct"
PUBLISHED = {SM: 23.15, "launch__grid_size": 149516, WARPS: 16.54, DRAM: 94.85, HITS: 58.73}
"""What was measured of the seed's kernel on an RTX 4090, by the document that this project started from."""


@pytest.fixture(scope="module")
def told() -> Prediction:
    return predict(PROBLEM, CONFIG, DEVICE, Resources(registers=140, spills=0, shared=16384))


def raw(*launches: tuple[str, dict[str, float]], unit_of_time: str = "ms") -> str:
    """What `ncu --csv --page raw` prints: a header, a row of units, a row a launch."""
    names = list(dict.fromkeys(name for _, figures in launches for name in figures))
    units = {"gpu__time_duration.sum": unit_of_time, "dram__bytes_read.sum": "Gbyte"}
    rows = [
        ["ID", "Kernel Name", *names],
        ["", "", *(units.get(name, "" if name.startswith("launch") else "%") for name in names)],
        *([str(number), kernel, *(f"{figures[name]:,}" for name in names)]
          for number, (kernel, figures) in enumerate(launches)),
    ]  # fmt: skip
    noise = "==PROF== Connected to process 7\n==PROF== Profiling\n"
    return (
        noise + "\n".join(",".join(f'"{cell}"' for cell in row) for row in rows) + "\n==PROF== Disconnected\n"
    )


def details(kernel: str, figures: dict[str, tuple[str, str]]) -> str:
    """What `ncu --csv` prints: a row for each figure, under the name that the page has."""
    header = '"ID","Kernel Name","Section Name","Metric Name","Metric Unit","Metric Value"'
    rows = [
        f'"0","{kernel}","a section","{name}","{unit}","{value}"' for name, (unit, value) in figures.items()
    ]
    return "\n".join([header, *rows])


def test_every_figure_that_is_compared_is_predicted(told: Prediction) -> None:
    figures = predicted(told)
    assert list(figures) == [metric.name for metric in METRICS]
    assert figures["launch__grid_size"] == PUBLISHED["launch__grid_size"]
    assert figures["gpu__time_duration.sum"] == pytest.approx(told.seconds * 1e9)
    assert set(PUBLISHED) <= set(figures)


def test_the_raw_page_is_read_in_base_units() -> None:
    figures = {**PUBLISHED, "gpu__time_duration.sum": 13.08, "dram__bytes_read.sum": 9.1}
    found = measured(raw(("_im2col_rows_kernel", figures)), PROBLEM, CONFIG)
    assert found["gpu__time_duration.sum"] == pytest.approx(13.08e6)
    assert found["dram__bytes_read.sum"] == pytest.approx(9.1e9)
    assert {name: found[name] for name in PUBLISHED} == PUBLISHED


def test_the_details_page_is_read_by_its_labels() -> None:
    text = details(
        "conv1d_fwd_kernel",
        {"Duration": ("ms", "13.08"), "Grid Size": ("", "149,516"), "Achieved Occupancy": ("%", "16.54"),
         "L2 Hit Rate": ("%", "n/a"), SM: ("%", "23.15"), "Elapsed Cycles": ("cycle", "1")},
    )  # fmt: skip
    found = measured(text, PROBLEM, CONFIG)
    assert found == {"launch__grid_size": 149516, "gpu__time_duration.sum": 13.08e6, SM: 23.15, WARPS: 16.54}


def test_of_several_kernels_the_config_s_own_is_taken_and_of_its_launches_the_median() -> None:
    from autoconv.kernels.registry import kernel

    own = kernel("im2col_rows").main_launch(PROBLEM, CONFIG).jit.__name__
    text = raw(
        *((name, {SM: value}) for name, value in (("other", 90.0), (own, 20.0), (own, 22.0), (own, 50.0)))
    )
    assert measured(text, PROBLEM, CONFIG) == {SM: 22.0}
    with pytest.raises(FieldError, match=f"has another, other, and not {own}"):
        measured(raw(("other", {SM: 1.0}), ("another", {SM: 1.0})), PROBLEM, CONFIG)


def test_what_a_call_takes_is_the_sum_over_its_launches() -> None:
    from autoconv.kernels.registry import kernel

    problem = Problem(1, 256, 64, 3, 128)
    split_k = kernel("split_k")
    config = next(iter(split_k.space(problem, DEVICE)))
    main, second = (launch.jit.__name__ for launch in split_k.launches(problem, config))
    time, grid = "gpu__time_duration.sum", "launch__grid_size"
    first, rest = {time: 3.0, grid: 8.0}, {time: 2.0, grid: 4.0}
    text = raw((main, first), (second, rest), unit_of_time="us")
    assert measured(text, problem, config) == {time: 5000.0, grid: 8.0}
    assert measured(raw((main, first), unit_of_time="us"), problem, config) == {grid: 8.0}


@pytest.mark.parametrize(
    "text",
    [
        "", "no table", '"a","b"\n"1","2"', raw(("k", {"l1tex__t_bytes.sum": 1.0})),
        '"Kernel Name","Metric Name"\n"k","Duration"', '"ID","Kernel Name"\n"1"',
    ],
    ids=range(6),
)  # fmt: skip
def test_what_is_no_profile_is_an_error_that_says_what_to_give(text: str) -> None:
    with pytest.raises(FieldError, match="ncu --csv"):
        measured(text, PROBLEM, CONFIG)


def test_differences_are_told_where_they_are_news(told: Prediction) -> None:
    lines = differences(predicted(told), PUBLISHED)
    assert [line.split(" is ")[0] for line in lines] == [WARPS]  # the others are within five points
    assert "fewer fit an SM" in lines[0]
    assert differences(predicted(told), predicted(told)) == []
    higher = {**predicted(told), "gpu__time_duration.sum": told.seconds * 2e9, HITS: 10.0}
    assert [line.split(":")[0] for line in differences(predicted(told), higher)] == [
        "gpu__time_duration.sum is higher", f"{HITS} is lower",
    ]  # fmt: skip


def test_another_grid_is_told_alone(told: Prediction) -> None:
    (line,) = differences(predicted(told), {"launch__grid_size": 1000, SM: 99.0})
    assert "no other figure compares" in line


def advised(told: Prediction, **seen: float) -> str:
    return "; ".join(advice(told, {SM: seen.get("sm", 20.0), DRAM: seen.get("dram", 20.0)}, DEVICE))


def test_the_grid_is_changed_only_where_the_sms_idle(told: Prediction) -> None:
    assert "leave the grid as it is" in advised(told, sm=61.0)
    assert "a larger grid does not help" in advised(told, dram=94.85)
    assert "not for want of a grid" in advised(told)
    few = replace(told, grid=(8, 2))
    assert "batch, output channels and groups" in advised(few)
    assert advised(few).index("batch") < advised(few).index("smaller tiles")
    assert "leave the grid as it is" in advised(few, sm=61.0)
    places = DEVICE.sms * told.blocks_per_sm
    assert "the last wave is 25 % full" in advised(replace(told, grid=(2 * places + places // 4,)))
    assert advice(replace(told, blocks_per_sm=0, seconds=math.inf), {}, DEVICE)[0].startswith("no block fits")


def test_measured_goes_before_predicted(told: Prediction) -> None:
    assert "90 % predicted" in "; ".join(advice(told, {}, DEVICE))
    assert "94 % measured" in advised(told, dram=94.4)


def test_explain_sets_a_profile_beside_the_prediction(run: Run, tmp_path: Path) -> None:
    profile = tmp_path / "profile.csv"
    profile.write_text(raw(("conv1d_fwd_kernel", {**PUBLISHED, "gpu__time_duration.sum": 13.08})))
    call = ("explain", SEED, *BASELINE, "--device", "rtx4090", "--profile", str(profile))
    shown = run(*call, "--resources", "registers=140,shared=16384", "--json")
    fields = json.loads(shown.stdout)
    assert shown.exit_code == 0 and set(fields) == documented("explain")
    assert fields["measured"][SM] == 23.15
    assert fields["nsight"][SM] == pytest.approx(fields["sm_throughput_pct"], abs=0.01)
    assert fields["predicted_ms"] != 13.08 and fields["provenance"] == "predicted"
    assert any(line.startswith("gpu__time_duration.sum is higher") for line in fields["differences"])
    person = run(*call).stdout
    header = next(line for line in person.splitlines() if line.startswith("Nsight Compute"))
    assert header.split() == ["Nsight", "Compute", "here", "predicted", "measured"]
    assert "13.08 ms" in person and "- DRAM is busy, 95 % measured" in person


def test_a_profile_is_of_one_config(run: Run, tmp_path: Path) -> None:
    profile = tmp_path / "profile.csv"
    profile.write_text("nothing")
    two = run("explain", SEED, *BASELINE, "--against", "{}", "--profile", str(profile))
    assert (two.exit_code, "--profile or --against" in two.stderr) == (2, True)
    bad = run("explain", SEED, *BASELINE, "--device", "rtx4090", "--profile", str(profile))
    assert (bad.exit_code, "ncu --csv" in bad.stderr) == (2, True)
