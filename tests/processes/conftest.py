"""Real processes that tune, with a compiler that hangs, and what they leave running."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import triton

from autoconv.settings import child_environment
from tests.waiting import is_alive

ROOT = Path(__file__).parents[2]
PTXAS = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "ptxas"

# A worker has TRITON_INTERPRET, the process that it works for has not: that compiles as ever.
HANGING_PTXAS = """#!/bin/sh
[ "$1" = --version ] || [ -z "$TRITON_INTERPRET" ] && exec {ptxas} "$@"
echo $$ >> {pids}
exec sleep 1000
"""


# Run by Python whenever it starts: one worker process of each kind, each of which imports torch for seconds.
ONE_CORE = "import os; os.cpu_count = lambda: 1\n"


@dataclass
class Machine:
    """Files of its own, and the processes started on it."""

    folder: Path
    start_up: str = ONE_CORE
    variables: dict[str, str] = field(default_factory=dict)
    stack: ExitStack = field(default_factory=ExitStack)

    @property
    def database(self) -> Path:
        return self.folder / "tuning.db"

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        """Start Python with these arguments."""
        customised = self.folder / "start up"
        customised.mkdir(exist_ok=True)
        (customised / "sitecustomize.py").write_text(self.start_up, encoding="utf-8")
        path = os.pathsep.join(map(str, (customised, ROOT)))
        process = subprocess.Popen(
            [sys.executable, "-W", "error", *arguments],
            env=child_environment(AUTOCONV_DB=str(self.database), PYTHONPATH=path, **self.variables),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.stack.enter_context(process)
        self.stack.callback(process.kill)
        return process

    def hang(self) -> None:
        """Give it a compiler that hangs, where a worker calls it."""
        ptxas = self.folder / "ptxas"
        ptxas.write_text(HANGING_PTXAS.format(ptxas=PTXAS, pids=self.folder / "pids"), encoding="utf-8")
        ptxas.chmod(0o755)
        self.variables |= {"TRITON_PTXAS_PATH": str(ptxas), "AUTOCONV_CACHE": str(self.folder / "own cache")}

    def hanging(self) -> list[int]:
        """The compilers that have hung so far."""
        pids = self.folder / "pids"
        return list(map(int, pids.read_text(encoding="utf-8").split())) if pids.exists() else []

    def running(self) -> list[int]:
        """All processes that have this machine's database in their environment."""
        marker = f"AUTOCONV_DB={self.database}\0".encode()
        pids = [int(entry.name) for entry in Path("/proc").glob("[0-9]*")]
        return [pid for pid in pids if marker in environment(pid)]


def environment(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/environ").read_bytes() if is_alive(pid) else b""
    except OSError:
        return b""


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    machine = Machine(tmp_path)
    with machine.stack:
        yield machine
