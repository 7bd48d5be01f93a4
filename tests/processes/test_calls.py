"""conv1d in processes that are interrupted, or end, while it tunes."""

from __future__ import annotations

import signal
from typing import Any

import pytest

from tests.waiting import is_alive, wait_for

CALL = """
import os, signal, sys
import torch
import autoconv

class Enough({base}):
    pass

def enough(*_):
    raise Enough

signal.signal(signal.SIGALRM, enough)
x, weight = torch.zeros(1, 16, 16), torch.zeros(16, 16, 1)
with autoconv.recorded("rtx4090") as launches:
    try:
        autoconv.conv1d(x, weight)
    except Enough:
        print("enough", flush=True)
        sys.stdin.readline()
        autoconv.conv1d(x, weight)  # torch serves
    print(len(launches), flush=True)
    sys.stdin.readline()
"""


@pytest.mark.parametrize(
    "base", [pytest.param("Exception", marks=pytest.mark.long), "TimeoutError", "KeyboardInterrupt"]
)
def test_what_a_signal_s_handler_raises_comes_out(base: str, machine: Any) -> None:
    machine.hang()
    machine.variables["AUTOCONV_ON_MISS"] = "sweep"
    calling = machine.start("-c", CALL.format(base=base))
    hung = wait_for(machine.hanging)
    calling.send_signal(signal.SIGALRM)
    assert calling.stdout.readline() == "enough\n"
    wait_for(lambda: not any(map(is_alive, hung)))  # while the caller goes on
    assert calling.communicate("\n\n") == ("0\n", "")
    assert calling.returncode == 0


def test_an_exit_waits_for_no_sweep(machine: Any) -> None:
    machine.hang()
    machine.variables |= {"AUTOCONV_ON_MISS": "background", "AUTOCONV_SWEEP_SECONDS": "1e6"}
    calling = machine.start("-c", CALL.format(base="Exception"))
    wait_for(machine.hanging)
    out, err = calling.communicate("\n", timeout=100)
    assert (calling.returncode, out, err) == (0, "0\n", "")
    wait_for(lambda: not machine.running())
