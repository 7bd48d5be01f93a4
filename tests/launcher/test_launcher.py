"""Runs launcher_checks.py with a stand-in for libcuda, compiled here, in the place of the driver's."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from autoconv.settings import child_environment

HERE = Path(__file__).parent
COMPILER = os.environ.get("CC") or shutil.which("gcc") or shutil.which("clang")  # as Triton chooses it


@pytest.fixture
def libcuda(tmp_path: Path) -> Path:
    """The folder of a libcuda.so.1 made of stand_in.c."""
    if COMPILER is None:
        pytest.skip("no C compiler: neither CC is set nor is there gcc or clang")
    triton = find_spec("triton")
    assert triton is not None and triton.origin is not None
    headers = Path(triton.origin).parent / "backends" / "nvidia" / "include"
    library = tmp_path / "libcuda.so.1"
    warnings = ["-std=gnu11", "-Wall", "-Wextra", "-Werror"]
    shape = ["-shared", "-fPIC", f"-Wl,-soname,{library.name}", f"-I{headers}"]
    subprocess.run([COMPILER, *warnings, *shape, str(HERE / "stand_in.c"), "-o", str(library)], check=True)
    (tmp_path / "libcuda.so").symlink_to(library.name)  # the name that Triton 3.3 links by
    return tmp_path


@pytest.mark.parametrize("device", ["rtx4090", pytest.param("h100-sxm", marks=pytest.mark.long)])
def test_plans_launch_what_triton_launches(
    device: str, libcuda: Path, tmp_path: Path, pytestconfig: pytest.Config
) -> None:
    checks, base = HERE / "launcher_checks.py", tmp_path / "base"
    other = {"rtx4090": "h100", "h100-sxm": "rtx4090"}[device]
    cases = ["--stress"] if pytestconfig.getoption("--stress", default=False) else ["-m", "not long"]
    options = [*cases, "-q", "-k", f"not {other}", "-p", "no:cacheprovider", f"--basetemp={base}"]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", str(checks), *options],
        cwd=HERE.parents[1],
        env=child_environment(TRITON_LIBCUDA_PATH=str(libcuda), LD_LIBRARY_PATH=str(libcuda)),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert " skipped" not in done.stdout
