"""Emitted files compute what torch computes."""

from __future__ import annotations

from pathlib import Path

from tests.interpreting import run_interpreted

CHECKS = Path(__file__).with_name("interpreted_checks.py")


def test_emitted_files_in_the_interpreter(tmp_path):
    run_interpreted(CHECKS, tmp_path)
