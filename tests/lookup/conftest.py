"""Databases filled by hand, and the layers that they are."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from autoconv import lookup
from autoconv.config import Config
from autoconv.environment import Environment
from autoconv.kernels.source import source_of
from autoconv.lookup import COLUMNS, open_layers, records
from autoconv.problem import Problem
from autoconv.settings import Settings
from tuning_db import Layers, Trial, TuningDB

PROBLEM = Problem(64, 64, 128, 3, 224280, stride=3, dilation=4)
HERE = Environment(
    arch="sm_89",
    triton="3.7",
    device="rtx4090",
    sms=128,
    memory_gib=24,
    triton_patch="3.7.1",
    cuda_driver="570.86",
    power_limit_w=450,
)
MODEL, OLD_MODEL = "0123456789abcdef", "b" * 16


def predictor_of(kernel: str, model: str = MODEL) -> str:
    """What predicts times of a kernel: the model, and a part that is the kernel's own."""
    return f"{model}-of {kernel}"


TILES = {"BLOCK_CO": 128, "BLOCK_L": 32, "BLOCK_R": 32}


def config(warps: int) -> Config:
    """Configs that tests can tell apart."""
    return Config("dense", TILES, num_warps=warps, num_stages=2)


class Database:
    """A database file, filled one entry at a time."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def add(
        self,
        chosen: Config | dict[str, object],
        *,
        problem: Problem = PROBLEM,
        environment: Environment = HERE,
        measured_us: float | None = None,
        predicted_us: float | None = None,
        source: str | None = None,  # today's
        predictor: str | None = None,  # likewise
        finished: bool = True,
        contended: bool = False,
        outcome: str = "ok",
    ) -> Database:
        document = chosen.document() if isinstance(chosen, Config) else chosen
        kernel = str(document.get("kernel"))
        named = {"source": source or source_of(kernel) or "", "predictor": predictor or predictor_of(kernel)}
        trial = Trial(document, outcome, predicted_us, measured_us=measured_us, max_err=1e-7, **named)
        trial = replace(trial, detail={"contended": True}) if contended else trial
        problem_record, environment_record = records(problem, environment)
        with TuningDB.open(self.path, columns=COLUMNS, application="autoconv") as database:
            run = database.start(environment_record, origin="test")
            database.add(run, problem_record, trial)
            if finished:
                database.finish(run)
        return self


@pytest.fixture
def user(tmp_path: Path) -> Database:
    return Database(tmp_path / "user.db")


@pytest.fixture
def site(tmp_path: Path) -> Database:
    return Database(tmp_path / "site.db")


@pytest.fixture
def second_site(tmp_path: Path) -> Database:
    return Database(tmp_path / "second-site.db")


@pytest.fixture
def packaged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Database:
    database = Database(tmp_path / "packaged.db")
    monkeypatch.setattr(lookup, "PREBUILT", database.path)
    return database


@pytest.fixture
def warnings() -> list[str]:
    return []


@pytest.fixture
def layers(
    user: Database,
    site: Database,
    second_site: Database,
    packaged: Database,
    tmp_path: Path,
    warnings: list[str],
) -> Callable[[], Layers]:
    """Opens those of the databases that were filled, as the settings of a process would."""

    def opened() -> Layers:
        sites = tuple(one.path for one in (site, second_site) if one.path.exists())
        if not packaged.path.exists():
            packaged.add(config(1), problem=replace(PROBLEM, N=1), predicted_us=1.0)
        return open_layers(Settings(user.path, sites, "sweep", tmp_path, 60.0), warnings.append)

    return opened
