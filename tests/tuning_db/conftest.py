"""Environments, problems and databases for the tests of the tuning database."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tuning_db import EnvironmentRecord, ProblemRecord, TuningDB

ROOT = Path(__file__).parents[2]
COLUMNS = {"N": int, "dtype": str}


@pytest.fixture
def environment() -> EnvironmentRecord:
    return EnvironmentRecord({"arch": "sm_89", "source": "5f2e"}, {"device": "RTX 4090", "driver": "570"})


@pytest.fixture
def problem() -> ProblemRecord:
    return ProblemRecord("N=64,dtype=float16", {"N": 64, "dtype": "float16"})


@pytest.fixture
def columns() -> dict[str, type]:
    return COLUMNS


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where a database may be, in a folder that has nothing else in it."""
    (tmp_path / "database").mkdir()
    return tmp_path / "database" / "tuning.db"


@pytest.fixture
def db(path: Path) -> Iterator[TuningDB]:
    with TuningDB.open(path, columns=COLUMNS, application="tests") as opened:
        yield opened


@pytest.fixture
def script() -> Callable[..., subprocess.Popen[str]]:
    """Starts a fresh interpreter on some code, which finds its arguments in sys.argv[1:]."""

    def start(code: str, *arguments: object, **options: object) -> subprocess.Popen[str]:
        process: subprocess.Popen[str] = subprocess.Popen(
            [sys.executable, "-W", "error", "-c", code, *map(str, arguments)],
            cwd=ROOT,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            **options,  # type: ignore[call-overload]
        )
        return process

    return start
