"""Candidates, and what compiling them for a GPU that is not here gave."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from autoconv.compiler.candidate import compile_candidate
from autoconv.compiler.resources import Resources
from autoconv.config import Config
from autoconv.device import find
from autoconv.problem import Problem

SEED = Problem(64, 64, 128, 3, 224280, stride=3, dilation=4)

Compiled = Callable[[Config, str], Resources]


@pytest.fixture(scope="session")
def seed() -> Problem:
    return SEED


@pytest.fixture(scope="session")
def baseline() -> Config:
    """The schedule of published kernels."""
    return Config("im2col_rows", {"BLOCK_M": 64, "BLOCK_N": 64, "BLOCK_K": 32}, num_warps=4, num_stages=2)


@pytest.fixture(scope="session")
def dense() -> Config:
    return Config("dense", {"BLOCK_CO": 128, "BLOCK_L": 64, "BLOCK_R": 32}, num_warps=4, num_stages=3)


@pytest.fixture(scope="session")
def too_large() -> Config:
    """More shared memory than a block may have."""
    return Config("dense", {"BLOCK_CO": 128, "BLOCK_L": 256, "BLOCK_R": 64}, num_warps=8, num_stages=5)


@pytest.fixture(scope="session")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> Compiled:
    """Compiles a config of the seed problem for a device; what one test compiled another finds."""
    folder: Path = tmp_path_factory.mktemp("resources")
    return lambda config, device: compile_candidate(SEED, config, find(device), folder)
