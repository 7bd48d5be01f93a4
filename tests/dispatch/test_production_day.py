"""A production day: run under background, list the misses, tune them offline, run again with none."""

from __future__ import annotations

import json

import torch
from click.testing import CliRunner

import autoconv
from autoconv.cli import cli
from autoconv.tuning.tuner import Tuned, Tuner

DEVICE = "rtx4090"
X, WEIGHT = torch.randn(1, 16, 16), torch.randn(16, 16, 1)


def run(*arguments: str) -> list[dict]:
    done = CliRunner().invoke(cli, [*arguments, "--json"])
    assert done.exit_code == 0, done.output
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_a_production_day(monkeypatch):
    with monkeypatch.context() as in_production:
        in_production.setattr(Tuner, "tune", lambda *_, **__: Tuned(None, None))  # the process ends before
        with autoconv.recorded(DEVICE) as launches:
            for _ in range(3):
                autoconv.conv1d(X, WEIGHT)
            autoconv.wait(60)
            assert (launches, autoconv.stats().misses) == ([], 1)
    (missed,) = run("db", "missed")
    assert (missed["calls"], missed["served"]) == (3, "torch")
    (tuned,) = run("tune", "--missed", "--device", DEVICE)
    assert tuned["problem"] == missed["problem"]
    assert run("db", "missed") == []
    with autoconv.recorded(DEVICE) as launches:
        autoconv.conv1d(X, WEIGHT)
        counted = autoconv.stats()
    assert (len(launches), counted.misses, counted.calls) == (1, 0, {("exact", "user"): 1})
