"""Compilers that hang while whoever tunes is killed, interrupted or asked to end."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import triton
from common import main

PTXAS = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "ptxas"
HANGING_PTXAS = """#!/bin/sh
[ "$1" = --version ] && exec {ptxas} "$@"
echo $$ >> {pids}
exec sleep 1000
"""
PROBLEM = "N=1,Cin=16,Cout=16,K=1,L=16"
PATIENCE = 20.0  # seconds that what was left running gets to end; it needs a fraction of one


def hanging_compilers(folder: str, signals: list[int], seed: int) -> dict[str, Any]:
    """Tune with a compiler that hangs, end the tuning process by each signal, and count what goes on."""
    rng = random.Random(seed)
    left, statuses = 0, []
    for number, by in enumerate(signals):
        place = Path(folder) / str(number)
        place.mkdir()
        tuning = _tuning(place)
        while not (place / "pids").exists():
            time.sleep(0.01)
        time.sleep(rng.uniform(0, 0.3))
        tuning.send_signal(by)
        statuses.append(tuning.wait())
        left += len(_left(place))
    return {"left": left, "statuses": statuses}


def _tuning(place: Path) -> subprocess.Popen[bytes]:
    ptxas = place / "ptxas"
    ptxas.write_text(HANGING_PTXAS.format(ptxas=PTXAS, pids=place / "pids"), encoding="utf-8")
    ptxas.chmod(0o755)
    files = {"AUTOCONV_DB": place / "tuning.db", "AUTOCONV_CACHE": place, "TRITON_PTXAS_PATH": ptxas}
    return subprocess.Popen(
        [sys.executable, "-m", "autoconv", "tune", PROBLEM, "--device", "rtx4090"],
        env=os.environ | {name: str(path) for name, path in files.items()},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


def _left(place: Path) -> list[int]:
    """End what is still running after a while, and return it."""
    end = time.monotonic() + PATIENCE
    while (running := _running(place)) and time.monotonic() < end:
        time.sleep(0.05)
    for pid in running:
        os.kill(pid, signal.SIGKILL)
    return running


def _running(place: Path) -> list[int]:
    """Every process with this place's database in its environment: tuning, workers and compilers."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if f"AUTOCONV_DB={place}/tuning.db\0".encode() in (folder / "environ").read_bytes():
                found.append(int(folder.name))
        except OSError:
            continue  # it ended just now, or is another user's
    return found


if __name__ == "__main__":
    main(globals())
