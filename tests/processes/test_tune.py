"""`autoconv tune` in a process of its own, on machines that are not as they should be."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any

import pytest

from autoconv.lookup import COLUMNS
from autoconv.problem import Problem
from tests.waiting import wait_for
from tuning_db import TuningDB

PROBLEM = "N=1,Cin=16,Cout=16,K=1,L=16"  # one tile and three candidates: the shortest sweep there is
TUNE = ("-m", "autoconv", "tune", PROBLEM, "--device", "rtx4090", "--json")

NO_TEMPORARY_FILES = """
import tempfile
tempfile._candidate_tempdir_list = lambda: ["/proc/nowhere"]
"""


def trials(database: Path) -> list[Any]:
    with TuningDB.open_readonly(database, columns=COLUMNS, application="autoconv") as opened:
        return opened.trials(Problem.parse(PROBLEM).key())


# --- machines that can tune -----------------------------------------------------------------------


def test_no_home_to_write_to_and_a_python_that_prints_at_its_start_are_no_trouble(machine: Any) -> None:
    machine.variables |= {"HOME": "/proc/nowhere", "TRITON_CACHE_DIR": "/proc/nowhere/triton"}
    machine.start_up += "import sys, pathlib; sys.path.insert(0, pathlib.Path('/a')); print('hello')"
    tuning = machine.start(*TUNE)
    out, err = tuning.communicate()
    assert tuning.returncode == 0, err
    printed, _, line = out.partition("\n")
    assert (printed, json.loads(line)["provenance"]) == ("hello", "predicted")
    assert all(trial.error is None for trial in trials(machine.database))


# --- machines that cannot -------------------------------------------------------------------------


def test_a_cache_that_cannot_be_written_is_said_in_a_line(machine: Any) -> None:
    machine.variables["AUTOCONV_CACHE"] = "/proc/nowhere"
    tuning = machine.start(*TUNE)
    _, err = tuning.communicate()
    assert (tuning.returncode, err.count("\n")) == (1, 1), err
    assert "/proc/nowhere/triton cannot be written" in err and "set AUTOCONV_CACHE" in err
    assert trials(machine.database) == []


def test_a_missing_temporary_folder_is_said_in_a_line(machine: Any) -> None:
    machine.start_up += NO_TEMPORARY_FILES
    machine.variables["AUTOCONV_CACHE"] = str(machine.folder / "own cache")
    tuning = machine.start(*TUNE)
    _, err = tuning.communicate()
    assert (tuning.returncode, err.count("\n")) == (1, 1), err
    assert "temporary" in err
    assert trials(machine.database) == []


# --- interruptions --------------------------------------------------------------------------------


def test_ctrl_c_ends_it_and_all_it_started(machine: Any) -> None:
    machine.hang()
    tuning = machine.start(*TUNE)
    wait_for(machine.hanging)
    tuning.send_signal(signal.SIGINT)
    out, err = tuning.communicate()
    assert (tuning.returncode, out) == (130, "")
    assert "Traceback" not in err
    wait_for(lambda: not machine.running())


@pytest.mark.long  # tests/faults kills one every time
def test_a_killed_parent_s_compilers_do_not_outlive_it(machine: Any) -> None:
    machine.hang()
    tuning = machine.start(*TUNE)
    wait_for(machine.hanging)
    assert len(machine.running()) >= 3  # itself, a worker, its compiler
    tuning.kill()
    wait_for(lambda: not machine.running())
