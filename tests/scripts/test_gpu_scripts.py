"""The run on a GPU, as far as that goes without one: refusal, rehearsal, what is summed up and adopted."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from autoconv.kernels.registry import kernels
from autoconv.kernels.source import source_of
from scripts.gpu import adopt, layers, run, summary
from tests.waiting import is_alive, wait_for

ROOT = Path(__file__).parents[2]


def command(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", *arguments], cwd=ROOT, capture_output=True, text=True, timeout=600
    )


# --- running --------------------------------------------------------------------------------------


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_it_says_so_in_one_line(tmp_path: Path) -> None:
    done = command("scripts.gpu.run", str(tmp_path / "out"))
    assert (done.returncode, done.stdout.count("\n"), done.stderr) == (2, 1, "")
    assert "no CUDA device here" in done.stdout
    assert not (tmp_path / "out").exists()


def test_a_rehearsal_goes_as_far_as_the_touch_of_the_device(tmp_path: Path) -> None:
    done = command(
        "scripts.gpu.run", str(tmp_path), "--rehearse", "h200", "--only", "machine", "layers", "export"
    )
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads((tmp_path / "summary.json").read_text())
    assert found["rehearsal"] and [row["layer"] for row in found["layers"]] == list(layers.LAYERS)[:1]
    for row in found["layers"]:
        assert row["measured_us"] > 0 and row["kernel"] in kernels()
    assert {name: row["rc"] for name, row in found["stages"].items()} == {
        "machine": 0,
        "layers": 0,
        "export": 0,
    }
    text = (tmp_path / "summary.md").read_text()
    assert "A rehearsal" in text and " measured |" not in text
    exported = [json.loads(line) for line in (tmp_path / "export.jsonl").read_text().splitlines()]
    assert any(line["trial"]["samples_us"] for line in exported)
    refused = command("scripts.gpu.adopt", str(tmp_path), "--date", "2026-01-31")
    assert refused.returncode == 1 and "a rehearsal measures nothing" in refused.stderr


def test_a_stage_past_its_limit_is_ended_with_all_that_it_started(tmp_path: Path) -> None:
    started = tmp_path / "started"
    code = (
        "import subprocess, sys, time\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])\n"
        f"open({str(started)!r}, 'w').write(str(child.pid))\n"
        "time.sleep(600)\n"
    )
    (tmp_path / "endless_stage.py").write_text(code)
    environment = os.environ.get("PYTHONPATH", "")
    os.environ["PYTHONPATH"] = f"{tmp_path}{os.pathsep}{environment}"
    try:
        result = run.run(run.Stage("endless", ("endless_stage",), seconds=15.0), tmp_path, None)
    finally:
        os.environ["PYTHONPATH"] = environment
    assert result["rc"] != 0
    child = int(started.read_text())
    wait_for(lambda: not is_alive(child))


def test_all_stages_together_are_given_ten_minutes() -> None:
    assert sum(stage.seconds for stage in run.STAGES if stage.usual) <= 600
    assert all(stage.seconds <= 600 for stage in run.STAGES)


def test_every_layer_is_one_that_the_kernels_run() -> None:
    assert len(layers.LAYERS) >= 24
    for problem in layers.LAYERS.values():
        assert any(kernel.unsupported(problem) is None for kernel in kernels().values()), problem


# --- summing up -----------------------------------------------------------------------------------


def trial(kernel: str, us: float | None, predicted: float | None) -> dict[str, Any]:
    return {"config": {"kernel": kernel}, "us": us, "predicted_us": predicted}


def row(**more: Any) -> dict[str, Any]:
    best = trial("dense", 50.0, 40.0)
    return {
        "layer": "a layer", "problem": "N=1", "best": best, "first_us": 60.0, "torch_us": 120.0,
        "torch_benchmark_us": 100.0, "floor_us": 20.0, "outcomes": {"ok": 3},
        "trials": [trial("aten", 100.0, None), best, trial("dense", None, 1.0)],
        "sampled": [trial("split_k", 20.0, 30.0)], **more,
    }  # fmt: skip


def test_the_model_s_error_is_of_every_config_that_was_timed() -> None:
    model = summary.by_kernel([row()])
    assert {name: one["configs"] for name, one in model.items()} == {"dense": 1, "split_k": 1, "all": 2}
    assert (model["dense"]["median_ratio"], model["dense"]["median_error_pct"]) == (0.8, 20.0)
    assert (model["split_k"]["median_ratio"], model["split_k"]["p90_error_pct"]) == (1.5, 50.0)


def test_what_stages_left_is_summed_up_and_what_they_did_not_is_missing(tmp_path: Path) -> None:
    assert summary.summed(tmp_path)["layers"] == []
    assert summary.markdown(summary.summed(tmp_path))
    lines = [json.dumps(row(layer=f"layer {number}")) for number in range(30)]
    (tmp_path / "layers.jsonl").write_text("\n".join(lines))
    found = summary.summed(tmp_path)
    assert found["torch_over_ours"]["geometric_mean"] == 2.0  # over the better of torch's two
    text = summary.markdown(found)
    assert len(text.splitlines()) <= 100
    assert "| layer 29 | dense | 50.0 | 60.0 | 120.0 | 100.0 | 40.0 | 20.0 |" in text


def test_what_torch_wins_is_told() -> None:
    layers = [row(), row(layer="another", torch_benchmark_us=25.0), row(layer="none", best=None)]
    found = summary.against_torch(layers)
    assert found == {"geometric_mean": 1.0, "median": 1.25, "torch_wins": ["another"]}
    assert "so serves: another." in summary.told_against_torch({"torch_over_ours": found})
    assert summary.told_against_torch({"torch_over_ours": summary.against_torch([])}) == ""


def test_a_layer_without_a_winner_is_shown_without_times() -> None:
    assert "| a layer | - | - |" in summary.layer_table([summary.layer(row(best=None))])


# --- adopting -------------------------------------------------------------------------------------


def line(kernel: str, us: float, *, default: bool = False, **of_trial: Any) -> dict[str, Any]:
    return {
        "environment": {"soft": {"device": "h200"}},
        "problem": {"key": "N=1"},
        "trial": {
            "config": {"kernel": kernel}, "outcome": "ok", "samples_us": [us + 0.01 * n for n in range(100)],
            "source": source_of(kernel), "detail": {"default": default}, **of_trial,
        },
    }  # fmt: skip


def test_only_what_was_measured_on_the_device_with_kernels_of_today_is_shipped() -> None:
    assert adopt.shippable(line("dense", 5.0), "h200")
    assert adopt.shippable(line("aten", 5.0, source="another torch's"), "h200")
    assert adopt.shippable(line("dense", 5.0, source="an older one"), "h200")
    assert not adopt.shippable(line("no kernel of today", 5.0, source=""), "h200")
    assert not adopt.shippable(line("dense", 5.0, outcome="wrong"), "h200")
    assert not adopt.shippable(line("dense", 5.0, samples_us=[]), "h200")
    assert not adopt.shippable(line("dense", 5.0), "rtx4090")


def test_the_best_torch_s_and_the_default_are_kept_of_each_problem_as_they_are() -> None:
    trials = [line("dense", float(us), default=us == 9) for us in (7, 3, 9, 5, 8)]
    lines = [json.dumps(one) for one in (*trials, line("aten", 6.0))]
    kept = adopt.chosen(lines, best=2)
    assert set(kept) <= set(lines)
    told = [(one["config"]["kernel"], one["samples_us"][0]) for one in (json.loads(k)["trial"] for k in kept)]
    assert told == [("dense", 3.0), ("dense", 5.0), ("aten", 6.0), ("dense", 9.0)]
