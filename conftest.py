"""For every test and every docstring's example: no user's files, and no GPU tests where there is no GPU."""

from __future__ import annotations

import os
import signal
from importlib.util import find_spec
from pathlib import Path

import pytest
from hypothesis import settings

# Of two threads that share their cores with another worker's, each waits for the other to be scheduled: by
# two a convolution of 50 samples took 10 ms, by one 0.05 ms. Read when torch and numpy are first imported.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# A job that a shell runs in the background ignores Ctrl-C, and so would every process that a test interrupts.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# The one module that imports Ray, which nothing else needs; `make test-ray` has it.
collect_ignore = [] if find_spec("ray") else ["autoconv/sweep/cluster.py"]

# CI draws the same examples every time; a person's runs look further.
settings.register_profile("autoconv", derandomize="CI" in os.environ)
settings.load_profile("autoconv")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--stress", action="store_true", help="run what takes long, and print a table of faults")


@pytest.fixture(autouse=True)
def own_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pytestconfig: pytest.Config) -> None:
    for variable in ("AUTOCONV_SITE_DB", "AUTOCONV_ON_MISS", "AUTOCONV_SWEEP_SECONDS"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("AUTOCONV_DB", str(tmp_path / "user" / "tuning.db"))
    monkeypatch.setenv("AUTOCONV_CACHE", str(tmp_path / "cache"))
    if getattr(pytestconfig, "cache", None):  # what Triton compiled, a second each, is kept from run to run
        (tmp_path / "cache").mkdir()
        (tmp_path / "cache" / "triton").symlink_to(pytestconfig.cache.mkdir("triton"))


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("long") and not item.config.getoption("--stress"):
        pytest.skip("takes long; `make stress` runs it")
    if item.get_closest_marker("gpu") is None:
        return
    import torch

    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
