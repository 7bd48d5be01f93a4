"""Import, merge, check and lookup follow one rule: in comes what a space offers, nothing that is unsound."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from autoconv.config import Config
from autoconv.cost.version import predictor_of
from autoconv.device import CATALOGUE, find
from autoconv.environment import Environment
from autoconv.kernels.registry import kernel as kernel_called
from autoconv.kernels.soundness import refusal as unsound
from autoconv.kernels.source import source_of
from autoconv.lookup import APPLICATION, COLUMNS, records, refusal
from autoconv.lookup import find as look_up
from autoconv.lookup.legality import in_space
from autoconv.problem import Problem
from autoconv.sweep.candidates import candidates
from tests.kernels.test_soundness import HOSTILE
from tuning_db import Layers, Trial, TuningDB, check, export_lines, import_lines, merge

PROBLEMS = (
    Problem(1, 1, 1, 3, 20),
    Problem(2, 64, 128, 3, 2000, stride=3, dilation=4),
    Problem(1, 512, 16, 3, 64, dtype="float16"),
    Problem(2, 64, 64, 1, 333, layout="nlc", dtype="bfloat16"),
    Problem(2, 40, 40, 31, 2000, groups=40),
    Problem(2, 12, 12, 4, 50, groups=3, stride=2, op="conv_transpose"),
    Problem(2, 64, 64, 3, 2000, op="conv_weight", precision="", dtype="float16"),
)
MOST = 20  # configs of one file
# In the catalogue; not there, but of a known architecture; of one that is not known either.
DEVICES = (("sm_89", "rtx4090"), ("sm_89", "a GPU to come"), ("sm_130", "a GPU to come"))


def environment(arch: str, device: str) -> Environment:
    return Environment(arch=arch, triton="3.7", device=device, sms=128, memory_gib=24, triton_patch="3.7.1")


def opened(path: Path) -> TuningDB:
    return TuningDB.open(path, columns=COLUMNS, application=APPLICATION)


def filled(path: Path, problem: Problem, here: Environment, configs: Iterable[Config]) -> Path:
    """Write a file as somebody might who does not ask whether its configs are any good."""
    problem_record, environment_record = records(problem, here)
    trials = [
        Trial(config.document(), "ok", measured_us=1.0 + place, source=source_of(config.kernel) or "")
        for place, config in enumerate(configs)
    ]
    with opened(path) as database:
        database.record(environment_record, problem_record, trials, origin="test")
    return path


def hit(path: Path, problem: Problem, here: Environment) -> Config | None:
    with opened(path) as database:
        found = look_up(Layers([("user", database)], pytest.fail), problem, here, predictor_of)
    return found and found.config


@pytest.mark.parametrize("problem", PROBLEMS, ids=str)
@settings(max_examples=2, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(device=st.sampled_from(sorted(CATALOGUE)), data=st.data(), known=st.booleans())
def test_what_a_space_offers_comes_in_and_is_found(
    problem: Problem, device: str, data: st.DataObject, known: bool
) -> None:
    configs = candidates(problem, find(device))
    if len(configs) > MOST:
        configs = data.draw(st.lists(st.sampled_from(configs), min_size=1, max_size=MOST, unique=True))
    here = environment(find(device).arch_name, device if known else "a GPU to come")
    with tempfile.TemporaryDirectory() as folder:
        given_file = filled(Path(folder) / "given.db", problem, here, configs)
        with opened(given_file) as source:
            assert check(source, refusal).ok
            lines = list(export_lines(source))
        with opened(Path(folder) / "imported.db") as database:
            assert import_lines(database, lines, refusal).inserted == len(configs)
        with opened(Path(folder) / "merged.db") as database:
            assert merge(database, given_file, refusal).inserted == len(configs)
        for name in ("given.db", "imported.db", "merged.db"):
            assert hit(Path(folder) / name, problem, here) == configs[0]


@pytest.mark.parametrize(("arch", "device"), DEVICES)
@pytest.mark.parametrize("hostile", HOSTILE)
def test_what_none_should_run_is_refused_by_all_alike(
    hostile: str, arch: str, device: str, tmp_path: Path
) -> None:
    _, _, problem, config = HOSTILE[hostile]
    here = environment(arch, device)
    reason = unsound(problem, config, find("rtx4090").arch if arch == "sm_89" else None)
    assert reason is not None
    given_file = filled(tmp_path / "given.db", problem, here, [config])
    with opened(given_file) as source:
        report = check(source, refusal)
        assert (report.refused, report.reasons) == (1, [f"{problem.key()}: {reason}"])
        lines = list(export_lines(source))
    with opened(tmp_path / "user.db") as database:
        imported, merged = import_lines(database, lines, refusal), merge(database, given_file, refusal)
        for summary in (imported, merged):
            assert (summary.inserted, summary.quarantined) == (0, 1)
            assert summary.reasons == (f"line 1: {reason}",)
    assert hit(given_file, problem, here) is None


@pytest.mark.parametrize("hostile", HOSTILE)
def test_what_none_should_run_is_offered_by_no_space(hostile: str) -> None:
    _, _, problem, config = HOSTILE[hostile]
    for device in CATALOGUE.values():
        assert not in_space(config, problem, device)


def test_a_config_for_another_architecture_s_shared_memory_is_a_miss(tmp_path: Path) -> None:
    """One file, one config, and a device that has no room for it."""
    problem = Problem(2, 512, 128, 3, 2000)
    deep = Config("dense", {"BLOCK_CO": 128, "BLOCK_L": 64, "BLOCK_R": 64}, num_warps=8, num_stages=4)
    assert deep in kernel_called("dense").space(problem, find("h100-sxm"))
    hopper = environment("sm_90", "h100-sxm")
    ada = replace(hopper, arch="sm_89", device="rtx4090")
    for here, expected in ((hopper, deep), (ada, None)):
        path = filled(tmp_path / f"{here.device}.db", problem, here, [deep])
        assert hit(path, problem, here) == expected
