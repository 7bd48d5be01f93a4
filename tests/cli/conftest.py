"""What the command line's tests share: a way to call it, and one problem tuned once."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from autoconv import lookup
from autoconv.cli import cli
from autoconv.settings import child_environment
from tuning_db.prebuilt.build import build

PROBLEM = "N=1,Cin=16,Cout=16,K=1,L=16"  # one tile and three candidates: the shortest sweep there is
DEVICE = "rtx4090"

Run = Callable[..., Result]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Run:
    """Call the command line in this process."""
    monkeypatch.setenv("COLUMNS", "100")
    return lambda *arguments: CliRunner().invoke(cli, list(arguments), prog_name="autoconv")


@pytest.fixture(scope="session")
def part_of_the_packaged(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("packaged") / "few.db"
    texts = [text for text in lookup.PREBUILT.parent.glob("*.jsonl") if text.stat().st_size < 1 << 19]
    assert build(texts, path, lookup.COLUMNS, application=lookup.APPLICATION) > 0
    return path


@pytest.fixture
def few_packaged(part_of_the_packaged: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have a file with a part of the rows serve as the packaged one: all of them take half a minute."""
    monkeypatch.setattr(lookup, "PREBUILT", part_of_the_packaged)


@dataclass(frozen=True)
class Tuned:
    """What `autoconv tune --json` printed in a process of its own, and the files it left."""

    database: Path
    cache: Path
    stdout: str
    stderr: str

    @property
    def fields(self) -> dict[str, Any]:
        (line,) = self.stdout.splitlines()
        return json.loads(line)


@pytest.fixture(scope="session")
def first_tuning(tmp_path_factory: pytest.TempPathFactory) -> Tuned:
    folder = tmp_path_factory.mktemp("tuned")
    database, cache = folder / "folder that is not there yet" / "tuning.db", folder / "cache"
    done = subprocess.run(
        [sys.executable, "-m", "autoconv", "tune", PROBLEM, "--device", DEVICE, "--json"],
        env=child_environment(AUTOCONV_DB=str(database), AUTOCONV_CACHE=str(cache)),
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert done.returncode == 0, done.stderr
    return Tuned(database, cache, done.stdout, done.stderr)


@pytest.fixture
def tuned(first_tuning: Tuned, monkeypatch: pytest.MonkeyPatch) -> Tuned:
    """The tuned problem, its files in force."""
    monkeypatch.setenv("AUTOCONV_DB", str(first_tuning.database))
    monkeypatch.setenv("AUTOCONV_CACHE", str(first_tuning.cache))
    return first_tuning
