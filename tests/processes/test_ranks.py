"""Ranks of one job that start in any order, while others tune: with a pin all of them serve the same."""

from __future__ import annotations

import json
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from autoconv import lookup
from autoconv.cli import cli
from autoconv.config import Config
from autoconv.device import find
from autoconv.environment import Environment
from autoconv.kernels.source import source_of
from autoconv.problem import Problem
from tuning_db import Trial, TuningDB

RANKS = 4  # of which each takes five seconds to import torch
ENVIRONMENT = Environment.current(find("rtx4090"))
PINNED = Problem(2, 32, 64, 3, 400)
SIZES = {"pinned": PINNED, "in its bucket": replace(PINNED, L=304), "far off": replace(PINNED, L=4000)}

RANK = """
import json, sys, time
import torch
import autoconv

time.sleep(float(sys.argv[1]))
weight, served = torch.zeros(64, 32, 3), {}
with autoconv.recorded("rtx4090") as launches:
    for name, length in json.loads(sys.argv[2]).items():
        for _ in range(2):  # the second, once whatever is to be compiled was
            before = len(launches)
            autoconv.conv1d(torch.zeros(2, 32, length), weight)
            autoconv.wait(60)
        served[name] = [(one.kernel, one.num_warps) for one in launches[before:]]
print(json.dumps(served), flush=True)
"""


def recorded(path: Path, problem: Problem, warps: int, us: float) -> None:
    """Record a measured trial."""
    path.parent.mkdir(exist_ok=True)
    tiles = {"BLOCK_CO": 64, "BLOCK_L": 64, "BLOCK_R": 32}
    config = Config("dense", tiles, num_warps=warps, num_stages=2)
    trial = Trial(config.document(), "ok", measured_us=us, source=source_of("dense") or "")
    problem_record, environment_record = lookup.records(problem, ENVIRONMENT)
    with TuningDB.open(path, columns=lookup.COLUMNS, application=lookup.APPLICATION) as database:
        database.record(environment_record, problem_record, [trial], origin="test")


def test_ranks_in_any_order_serve_what_the_pin_says(
    machine: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorded(machine.database, PINNED, warps=4, us=9.0)
    pin = tmp_path / "pin.db"
    monkeypatch.setenv("AUTOCONV_DB", str(machine.database))
    done = CliRunner().invoke(cli, ["db", "pin", str(pin), "--device", "rtx4090"])
    assert done.exit_code == 0, done.output
    machine.variables["AUTOCONV_SITE_DB"] = str(pin)
    lengths = json.dumps({name: problem.L for name, problem in SIZES.items()})
    order = random.Random(8)
    ranks = [machine.start("-c", RANK, str(order.uniform(0, 1)), lengths) for _ in range(RANKS)]
    for number, problem in enumerate(SIZES.values()):  # meanwhile another job tunes, and finds better
        recorded(machine.database, problem, warps=8, us=1.0 + number)
    answers = []
    for rank in ranks:
        out, err = rank.communicate(timeout=300)
        assert (rank.returncode, err) == (0, "")
        answers.append(json.loads(out))
    served = {"pinned": [["dense_kernel", 4]], "in its bucket": [["dense_kernel", 4]], "far off": []}
    assert answers == [served] * RANKS
