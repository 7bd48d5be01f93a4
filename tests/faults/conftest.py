"""The faults a tuning database must survive: a few of each in the tests, very many with `make stress`."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import pytest

SCENARIOS = Path(__file__).with_name("scenarios")
collect_ignore = ["scenarios"]  # each runs in an interpreter of its own
ROWS = pytest.StashKey[list[tuple[str, int, int, float]]]()
T = TypeVar("T")


@dataclass
class Stress:
    """How much to do, and what came of it."""

    long: bool
    what: str = ""
    times: int = 0
    lost: int = 0

    def pick(self, short: T, long: T) -> T:
        return long if self.long else short

    def report(self, what: str, times: int, lost: int) -> None:
        self.what, self.times, self.lost = what, times, lost


@pytest.fixture
def stress(request: pytest.FixtureRequest) -> Iterator[Stress]:
    stress = Stress(bool(request.config.getoption("--stress", default=False)))
    begun = time.monotonic()
    yield stress
    row = (stress.what, stress.times, stress.lost, time.monotonic() - begun)
    request.config.stash.setdefault(ROWS, []).append(row)


@pytest.fixture
def scenario(pytestconfig: pytest.Config) -> Callable[..., Any]:
    """Runs a function of a file in scenarios/ in a fresh interpreter, which may fork and die as it likes.

    The limit ends what hangs; the long form has none, for it takes as long as the machine's load makes it.
    """
    limit = None if pytestconfig.getoption("--stress", default=False) else 500

    def run(file: str, name: str, *arguments: object) -> Any:
        command = [sys.executable, "-W", "error", str(SCENARIOS / f"{file}.py"), name]
        done = subprocess.run(
            [*command, json.dumps(arguments, default=str)],
            capture_output=True,
            text=True,
            timeout=limit,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    return run


@pytest.fixture
def older(tmp_path: Path, scenario: Callable[..., Any]) -> tuple[Path, int]:
    """A file of version 1 of the schema, and how many trials are in it."""
    (tmp_path / "old").mkdir()
    path = tmp_path / "old" / "template.db"
    return path, scenario("common", "older", path, 300)


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    if not config.getoption("--stress", default=False):
        return
    rows = [("what was done", "times", "lost", "seconds")]
    rows += [
        (what, f"{times:,}", f"{lost:,}", f"{seconds:.1f}")
        for what, times, lost, seconds in config.stash.get(ROWS, [])
        if what
    ]
    width = max(len(row[0]) for row in rows)
    terminalreporter.section("what the tuning database survived")
    for what, times, lost, seconds in rows:
        terminalreporter.write_line(f"{what:<{width}}  {times:>8}  {lost:>5}  {seconds:>8}")
