from __future__ import annotations

import dataclasses
import os
import pickle
import subprocess
import sys
from importlib import metadata

import pytest

from autoconv import environment as environment_module
from autoconv.device import find
from autoconv.environment import TIMING_PROTOCOL, Environment

HERE = Environment(
    arch="sm_89",
    triton="3.7",
    device="rtx4090",
    sms=128,
    memory_gib=24,
    triton_patch="3.7.1",
    cuda_driver="580.1",
    power_limit_w=450,
    protocol=1,
)
OTHER = {
    "arch": "sm_86", "triton": "3.6", "device": "l4", "sms": 58, "memory_gib": 12, "triton_patch": "3.7.2",
    "cuda_driver": None, "power_limit_w": None, "protocol": 2,
}  # fmt: skip
HARD = {"arch", "triton"}


def install(monkeypatch, **versions: str) -> None:
    def version(package: str) -> str:
        try:
            return versions[package.replace("-", "_")]
        except KeyError:
            raise metadata.PackageNotFoundError(package) from None

    monkeypatch.setattr(environment_module.metadata, "version", version)


def test_hard_and_soft_fields_are_all_fields():
    assert set(HERE.hard()) == HARD
    assert not HARD & set(HERE.soft())
    assert {**HERE.hard(), **HERE.soft()} == dataclasses.asdict(HERE)


@pytest.mark.parametrize("field", OTHER)
def test_every_field_is_in_the_hash_and_only_hard_ones_in_the_hard_hash(field):
    assert set(OTHER) == {known.name for known in dataclasses.fields(Environment)}
    changed = dataclasses.replace(HERE, **{field: OTHER[field]})
    assert changed.hash != HERE.hash
    assert (changed.hard_hash != HERE.hard_hash) == (field in HARD)


def test_hashes_stay_as_released():
    # Databases hold these.
    assert HERE.hash == "08d6a2d108c9c13c"
    assert HERE.hard_hash == "fa2fc2ebfb222478"


def test_hashes_are_the_same_in_another_process():
    code = (
        "import pickle, sys; e = pickle.loads(bytes.fromhex(sys.argv[1])); "
        "print(e.hash, e.hard_hash)"
    )  # fmt: skip
    ran = subprocess.run(
        [sys.executable, "-c", code, pickle.dumps(HERE).hex()],
        env={**os.environ, "PYTHONHASHSEED": "7", "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert ran.stdout.split() == [HERE.hash, HERE.hard_hash]


def test_current_reads_versions_and_device(monkeypatch):
    install(monkeypatch, triton="3.7.1")
    assert Environment.current(find("l4")) == Environment(
        arch="sm_89",
        triton="3.7",
        device="l4",
        sms=58,
        memory_gib=24,
        triton_patch="3.7.1",
        cuda_driver=None,
        power_limit_w=None,
        protocol=TIMING_PROTOCOL,
    )
    with_gpu = Environment.current(find("l4"), cuda_driver="580.1", power_limit_w=72)
    assert (with_gpu.cuda_driver, with_gpu.power_limit_w) == ("580.1", 72)


@pytest.mark.parametrize(
    ("versions", "triton", "patch"),
    [
        ({"triton": "3.10.0"}, "3.10", "3.10.0"),
        ({"pytorch_triton": "3.8.0+git1b0418a9"}, "3.8", "3.8.0+git1b0418a9"),
        ({"triton_windows": "3.3.1.post19"}, "3.3", "3.3.1.post19"),
        ({}, "absent", "absent"),
    ],
)
def test_triton_is_found_under_each_of_its_names(monkeypatch, versions, triton, patch):
    install(monkeypatch, **versions)
    current = Environment.current(find("l4"))
    assert (current.triton, current.triton_patch) == (triton, patch)


def test_versions_are_those_installed():
    assert Environment.current(find("l4")).triton_patch == metadata.version("triton")
