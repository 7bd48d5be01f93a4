"""What somebody else's file says is compiled in a process of its own first, once."""

from __future__ import annotations

from dataclasses import replace

import pytest

from autoconv import settings
from autoconv.compiler.specialisation import Form, note_compiled, specialisation
from autoconv.config import Config
from autoconv.device import find
from autoconv.kernels.aten import ATEN
from autoconv.lookup import Found
from autoconv.problem import Problem
from autoconv.sweep.outcomes import Unavailable
from autoconv.tuning.ahead import TRUSTED, compiled_ahead

PROBLEM = Problem(1, 16, 16, 1, 16)
CONFIG = Config("dense", {"BLOCK_CO": 16, "BLOCK_L": 16, "BLOCK_R": 16}, num_warps=1, num_stages=2)
FORM = Form((256, 16, 1))
SITE = Found(CONFIG, "measured", "exact", "site 1", 5.0, None)
NO_DOT = Config("dense", {"BLOCK_CO": 16, "BLOCK_L": 16, "BLOCK_R": 8}, num_warps=2, num_stages=2)


@pytest.fixture
def no_workers(monkeypatch):
    """A worker's task, for those who should give none."""

    def start():
        def refuse(*_):
            raise AssertionError("a worker was given a task")

        monkeypatch.setattr("autoconv.sweep.pool.Workers.perform", refuse)

    return start


def ahead(found, seconds=300.0):
    return compiled_ahead(found, PROBLEM, find("rtx4090"), FORM, settings.load(), seconds)


@pytest.mark.parametrize("layer", TRUSTED)
def test_what_this_machine_or_the_package_chose_needs_no_worker(layer, no_workers):
    no_workers()
    assert ahead(replace(SITE, layer=layer)) is None


def test_torch_s_own_convolution_needs_no_worker(no_workers):
    no_workers()
    assert ahead(replace(SITE, config=ATEN)) is None


@pytest.mark.parametrize("layer", ["site 1", "site 2", "process"])
def test_others_configs_are_compiled_in_a_worker_once(layer, no_workers):
    assert ahead(replace(SITE, layer=layer)) is None
    no_workers()
    assert ahead(SITE) is None


def test_what_the_background_compiled_needs_no_worker(no_workers):
    note_compiled(settings.load().cache, specialisation(PROBLEM, CONFIG, find("rtx4090"), FORM))
    no_workers()
    assert ahead(SITE) is None


def test_one_that_does_not_compile_is_told_as_a_trial():
    failed = ahead(replace(SITE, config=NO_DOT))
    assert failed is not None
    assert (dict(failed.config), failed.outcome) == (NO_DOT.document(), "compile")
    assert failed.error.startswith("CompilationError")


def test_one_that_takes_too_long_is_told_as_a_trial(tmp_path, monkeypatch):
    hanging = tmp_path / "ptxas"
    hanging.write_text("#!/bin/sh\nexec sleep 600\n")
    hanging.chmod(0o755)
    monkeypatch.setenv("TRITON_PTXAS_PATH", str(hanging))
    failed = ahead(SITE, seconds=1.0)
    assert failed is not None and (failed.outcome, failed.samples_us) == ("timeout", ())


def test_a_worker_that_starts_slowly_is_no_config_s_fault(monkeypatch):
    monkeypatch.setattr("autoconv.sweep.process.START_SECONDS", 0.1)
    with pytest.raises(Unavailable, match=r"took over 0\.1 s to start"):
        ahead(SITE, seconds=0.01)
