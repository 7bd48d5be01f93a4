"""The programs of examples/ run as they stand, and say what they promise."""

from __future__ import annotations

import os
import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[1] / "examples"
PROGRAMS = sorted(path.stem for path in EXAMPLES.glob("*.py"))
TINY = "N=1,Cin=16,Cout=16,K=1,L=16"  # the shortest sweep there is


def in_this_process(name: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setattr(sys, "argv", [f"{name}.py"])
    monkeypatch.setenv("AUTOCONV_ON_MISS", "predict")  # where there is a GPU: no sweep in a test
    runpy.run_path(str(EXAMPLES / f"{name}.py"), run_name="__main__")
    return capsys.readouterr().out


def as_a_program(name: str, *arguments: str | Path, **settings: str) -> str:
    done = subprocess.run(
        [sys.executable, EXAMPLES / f"{name}.py", *arguments],
        env={**os.environ, "PYTHONPATH": str(EXAMPLES.parent), **settings},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_a_vocoder_sounds_as_it_did(capsys, monkeypatch):
    shown = in_this_process("vocoder", capsys, monkeypatch)
    difference = re.search(r"^\(1, 1, 2560\), largest difference (\S+)$", shown, re.MULTILINE)
    assert difference is not None and float(difference[1]) < 1e-2


def test_a_training_step_lowers_the_loss(capsys, monkeypatch):
    shown = in_this_process("training_step", capsys, monkeypatch)
    first, last = map(float, re.findall(r"loss (\S+)", shown))
    assert last < first / 2
    assert float(re.findall(r"differs by (\S+)", shown)[0]) < 1e-2


def test_a_whisper_encoder_is_looked_up(capsys, monkeypatch):
    shown = in_this_process("whisper_encoder", capsys, monkeypatch)
    assert re.findall(r"^(\S+ conv[12]):", shown, re.MULTILINE) == [
        "rtx4090 conv1",
        "rtx4090 conv2",
    ]
    for text in re.findall(r"(?:measured|predicted) (\S+ ms, floor \S+) ms", shown):
        time, floor = map(float, text.split(" ms, floor "))
        assert 0 < floor < time


def test_a_database_is_shipped():
    exported, imported, checked = as_a_program("ship_a_database", "--packaged").splitlines()
    (count,) = re.findall(r"exported (\d+) trials", exported)
    assert int(count) > 0
    assert imported == f"imported {count}, 0 refused"
    assert checked.startswith("checked: ") and checked.endswith(" winners, sound")


def test_what_does_not_hold_is_told_by_the_other_side(tmp_path):
    program = runpy.run_path(str(EXAMPLES / "ship_a_database.py"))
    text = tmp_path / "trials.jsonl"
    program["autoconv"]("db", "export", "--packaged", "--output", str(text))
    whole = text.read_text(encoding="utf-8")
    text.write_text(whole.replace('"num_warps":', '"num_warps":1', 1), encoding="utf-8")
    (imported,) = program["autoconv"]("db", "import", str(text), AUTOCONV_DB=str(tmp_path / "there.db"))
    assert (imported["quarantined"], imported["inserted"]) == (1, whole.count("\n") - 1)


@pytest.mark.long
def test_a_cluster_tunes_and_merges(tmp_path):
    problems, folder = tmp_path / "problems.txt", tmp_path / "tuned"
    problems.write_text(f"{TINY}\n", encoding="utf-8")
    for task in "01":  # the second has no share
        as_a_program("tune_on_a_cluster", problems, folder, "--device", "rtx4090",
                     SLURM_PROCID=task, SLURM_NTASKS="2")  # fmt: skip
    assert [path.name for path in folder.glob("task-*.db")] == ["task-0.db"]
    shown = as_a_program("tune_on_a_cluster", "--merge", folder)
    assert re.search(r"problems\D+1\b", shown)


def test_every_program_is_tried_and_told_of():
    tried = Path(__file__).read_text(encoding="utf-8")
    assert sorted(set(re.findall(r'(?:in_this_process|as_a_program)\(\s*"(\w+)"', tried))) == PROGRAMS
    told = (EXAMPLES / "README.md").read_text(encoding="utf-8")
    assert set(re.findall(r"\((\w+)\.py\)", told)) == set(PROGRAMS)
