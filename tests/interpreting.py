"""Checks that want Triton's interpreter, run by a process of their own: one either compiles or interprets."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from autoconv.settings import child_environment


def run_interpreted(checks: Path, base: Path) -> None:
    """Run a file of tests in the interpreter; all are to pass, and none to be skipped.

    Args:
        checks: The file, two folders below the project's root.
        base: For what pytest writes.
    """
    options = ["-q", "-p", "no:cacheprovider", f"--basetemp={base}"]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", str(checks), *options],
        cwd=checks.parents[2],
        env=child_environment(TRITON_INTERPRET="1"),
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert " skipped" not in done.stdout
