"""The packaged rows of public models' layers: which sizes are swept, gone on with, and written."""

from __future__ import annotations

import json
import sys
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from autoconv import lookup, settings
from autoconv.cost.version import predictor_of
from autoconv.device import find
from autoconv.environment import Environment
from autoconv.lookup import Found
from autoconv.lookup.buckets import module_shape, serves
from autoconv.lookup.published import MODELS
from autoconv.problem import Problem
from autoconv.settings import Settings
from autoconv.sweep.executor import Local, Request
from autoconv.sweep.sweep import Job
from autoconv.tuning.tuner import no_progress
from scripts import prebuilt_workloads as script
from tuning_db import DamagedError, Layers, TuningDB
from tuning_db.prebuilt.build import build as build_database

sys.path.insert(0, str(Path(__file__).parents[1] / "sweep"))
from probe_scripted import ScriptedPool

DEVICE = find("rtx4090")
ENVIRONMENT = Environment.current(DEVICE)
PROBLEMS = [
    *(Problem(1, 8, 16, 3, length, padding=1) for length in (40, 60, 90, 100, 400, 900)),
    *(Problem(batch, 8, 16, 3, 64, padding=1, bias=True) for batch in (1, 2, 4, 16)),
    Problem(2, 16, 16, 3, 50, groups=16), Problem(2, 8, 16, 4, 50, op="conv_transpose", stride=2),
]  # fmt: skip


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    folder = tmp_path_factory.mktemp("build")
    return replace(settings.load(), database=folder / "build.db", site_databases=(), cache=folder)


def scripted_pool(_count: int) -> AbstractContextManager[Any]:
    return nullcontext(ScriptedPool())


def built(files: Settings, limit: int | None = None) -> int:
    return len(list(script.build(PROBLEMS, DEVICE, ENVIRONMENT, files, 1, limit, pool=scripted_pool)))  # type: ignore[arg-type]


def known(file: TuningDB, problem: Problem) -> Found | None:
    shelf = lookup.Shelf(Layers([("one", file)], lookup.warn_once), predictor_of)
    return shelf.known(problem, ENVIRONMENT, lookup.HITS, ("predicted",))


def test_a_build_goes_on_where_it_stopped_and_writes_the_winners_alone(
    files: Settings, tmp_path: Path
) -> None:
    swept = script.cover(PROBLEMS)
    assert 5 < len(swept) < len(PROBLEMS)
    assert built(files, limit=3) == 3
    assert 0 < len(script.unserved(PROBLEMS, ENVIRONMENT, files)) < len(PROBLEMS)
    assert built(files) == len(swept) - 3
    assert built(files) == 0 and script.unserved(PROBLEMS, ENVIRONMENT, files) == []

    lines = list(script.winning_lines(files, ENVIRONMENT))
    assert len(lines) == len(swept) == len({json.loads(line)["problem"]["key"] for line in lines})
    text = tmp_path / "rows.jsonl"
    text.write_text("".join(lines), encoding="utf-8")
    assert build_database([text], tmp_path / "packaged.db", lookup.COLUMNS, application=lookup.APPLICATION)
    with (
        lookup.open_file(tmp_path / "packaged.db", immutable=True) as packaged,
        lookup.open_user(files) as full,
    ):
        for problem in PROBLEMS:
            found, best = known(packaged, problem), known(full, problem)
            assert found is not None and found.provenance == "predicted" and best is not None
            assert best.grade != "exact" or found.config == best.config, "its trial alone says who won"


def test_a_build_without_its_database_goes_on_from_the_text(files: Settings, tmp_path: Path) -> None:
    built(files)
    text, anew = tmp_path / "rows.jsonl", replace(files, database=tmp_path / "anew.db")
    text.write_text("".join(script.winning_lines(files, ENVIRONMENT)), encoding="utf-8")
    for _ in range(2):
        script.take_up(text, anew)
    assert script.unserved(PROBLEMS, ENVIRONMENT, anew) == [] and built(anew) == 0
    assert "".join(script.winning_lines(anew, ENVIRONMENT)) == text.read_text(encoding="utf-8")


def test_a_problem_that_was_swept_twice_has_one_line(files: Settings) -> None:
    built(files)
    before = list(script.winning_lines(files, ENVIRONMENT))
    job = Job(DEVICE, ENVIRONMENT, files.cache, on_gpu=False, shortlist=script.SHORTLIST)
    with lookup.open_user(files) as database:
        request = Request(script.cover(PROBLEMS)[0], job, again=True)
        Local(ScriptedPool()).sweep(request, database, no_progress)  # type: ignore[arg-type]
    again = list(script.winning_lines(files, ENVIRONMENT))
    assert len(again) == len(before) == len({json.loads(line)["problem"]["key"] for line in again})


def test_a_text_that_was_changed_is_not_gone_on_from(files: Settings, tmp_path: Path) -> None:
    built(files)
    text, anew = tmp_path / "rows.jsonl", replace(files, database=tmp_path / "anew.db")
    lines = "".join(script.winning_lines(files, ENVIRONMENT))
    text.write_text(lines.replace('"BLOCK_L":', '"BLOCK_L":1', 1), encoding="utf-8")
    for _ in range(2):
        with pytest.raises(DamagedError, match=r"rows\.jsonl.*restore it"):
            script.take_up(text, anew)


def test_what_another_model_predicted_is_swept_anew(files: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    built(files)
    monkeypatch.setattr(script, "predictor_of", lambda kernel: f"0000-{kernel}")
    assert script.unserved(PROBLEMS, ENVIRONMENT, files) == PROBLEMS


sizes = st.lists(st.tuples(st.integers(1, 64), st.integers(8, 5000)), min_size=1, max_size=12, unique=True)


@hypothesis_settings(deadline=None)
@given(sizes)
def test_the_buckets_of_what_is_swept_hold_every_size(found: list[tuple[int, int]]) -> None:
    problems = [Problem(batch, 4, 4, 3, length) for batch, length in found]
    chosen = script.cover(problems)
    assert set(chosen) <= set(problems)
    assert all(any(serves(tuned, one) for tuned in chosen) for one in problems)


def test_the_list_holds_problems_and_says_where_each_was_seen() -> None:
    models = json.loads(MODELS.read_text(encoding="utf-8"))
    problems = script.listed(MODELS)
    assert len(models) >= 60 and len(problems) == len(set(problems)) > 1000
    assert all(
        one["sources"] and all(count > 0 for count in one["calls"].values()) for one in models.values()
    )
    assert {str(Problem.parse(text)) for one in models.values() for text in one["calls"]} == set(
        map(str, problems)
    )
    assert len({module_shape(problem) for problem in problems}) > 100


def test_the_table_counts_every_problem_once(tmp_path: Path) -> None:
    served = "N=64,Cin=64,Cout=128,K=3,L=224280,stride=3,dilation=4"
    calls = {served: 1, served.replace("N=64", "N=63"): 1, "N=3,Cin=5,Cout=7,K=3,L=77": 2}
    path = tmp_path / "list.json"
    path.write_text(json.dumps({"one": {"sources": ["a test"], "calls": calls}}), encoding="utf-8")
    *_, one, all_of_them = script.coverage(path=path).splitlines()
    assert one == "| one | 3 | 1 | 1 | 0 | 1 |"
    assert all_of_them == one.replace("one", "all")
