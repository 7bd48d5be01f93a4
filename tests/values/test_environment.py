from __future__ import annotations

import dataclasses
import os
import pickle
import subprocess
import sys
from importlib import metadata

import pytest

from autoconv import environment as environment_module
from autoconv.device import by_product, derived, find
from autoconv.environment import IDENTITY, TIMING_PROTOCOL, Environment

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
    assert HERE.hard_hash == "7708ee6bd0c60f76"


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


def board(**reported: int) -> Environment:
    """The environment of a board that the catalogue lacks, as its driver reports it."""
    figures = {"sms": 68, "memory_bytes": 10_500_000_000, "l2_bytes": 5 * 2**20, "boost_mhz": 1710}
    return Environment.current(
        derived(
            "NVIDIA GeForce RTX 3080",
            **{**figures, **reported},
            capability=86,
            memory_mhz=9501,
            memory_bus_bits=320,
        )
    )


def identity(environment: Environment) -> list[object]:
    return [getattr(environment, name) for name in IDENTITY]


def test_boards_of_one_name_are_devices_of_their_own():
    ten, twelve, cut = board(), board(memory_bytes=12_600_000_000), board(sms=70)
    assert ten.device == twelve.device == cut.device
    assert len({tuple(identity(one)) for one in (ten, twelve, cut)}) == 3
    assert ten.hard() == twelve.hard() == cut.hard()


def test_what_a_driver_reports_of_the_memory_may_vary_a_little():
    assert identity(board(memory_bytes=10_480_000_000)) == identity(board())


def test_slices_of_a_gpu_are_devices_of_their_own():
    """Each by its SMs and memory, whatever name the driver gives it."""
    whole = by_product("NVIDIA H100 80GB HBM3", 132, 84_900_000_000)
    assert whole is not None
    seen = {tuple(identity(Environment.current(whole)))}
    for sms, gib in ((16, 10), (32, 20), (60, 40), (64, 40)):
        slice_ = derived(
            whole.product,
            capability=90,
            sms=sms,
            memory_bytes=int((gib - 0.3) * 2**30),
            l2_bytes=whole.l2_bytes,
            boost_mhz=whole.boost_mhz,
            memory_mhz=0,
            memory_bus_bits=0,
        )
        assert by_product(whole.product, sms, slice_.memory_bytes) is None
        seen.add(tuple(identity(Environment.current(slice_))))
    assert len(seen) == 5
