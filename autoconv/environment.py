"""An environment: the machine and the toolchain a measurement was made in."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass
from importlib import metadata

from autoconv.device import Device

TIMING_PROTOCOL = 2
"""Version of the way kernels are timed; raised when times before and after do not compare."""

IDENTITY = ("device", "sms", "memory_gib")
"""The soft fields that make the device. Boards of one name are sold with other SM counts or other memory, and
slices of a partitioned GPU may carry the whole one's name: each of them is a device of its own."""

# Triton is shipped under another name in torch's nightlies and on Windows.
_TRITON_PACKAGES = ("triton", "pytorch-triton", "triton-windows")


@dataclass(frozen=True)
class Environment:
    """Where a trial ran.

    A result from an environment that differs in a hard field is no result here. One that differs in
    soft fields only is served, labelled, and may be measured anew. Device, SMs and memory are soft as well,
    for a sweep on one device learns from another; together they say which device it is, see `IDENTITY`.
    The kernels' sources are not part of it: each trial has that of its own kernel.

    Attributes:
        arch: hard; architecture compiled for, such as ``"sm_89"``.
        triton: hard; Triton's major and minor version, such as ``"3.7"``.
        device: the device's name in the catalogue.
        sms: its streaming multiprocessors.
        memory_gib: its memory, whole GiB, rounded up: what a driver reports varies by some MB.
        triton_patch: Triton's full version; ``"absent"`` where it is not installed.
        cuda_driver: the driver's version; None where there is no GPU.
        power_limit_w: the board's power limit in force, watts; None where there is no GPU.
        protocol: version of the timing protocol.
    """

    arch: str
    triton: str
    device: str
    sms: int
    memory_gib: int
    triton_patch: str
    cuda_driver: str | None = None
    power_limit_w: int | None = None
    protocol: int = TIMING_PROTOCOL

    @classmethod
    def current(
        cls,
        device: Device,
        cuda_driver: str | None = None,
        power_limit_w: int | None = None,
    ) -> Environment:
        """Return the environment of this process, for this device.

        The versions are read from the installed packages' metadata: neither torch nor Triton is imported.

        Args:
            device: the device tuned for; it need not be present.
            cuda_driver: the driver's version, None where there is no GPU.
            power_limit_w: the board's power limit in watts, None where there is no GPU.
        """
        triton_patch = _version(*_TRITON_PACKAGES)
        return cls(
            arch=device.arch_name,
            triton=_major_minor(triton_patch),
            device=device.name,
            sms=device.sms,
            memory_gib=-(-device.memory_bytes // 2**30),
            triton_patch=triton_patch,
            cuda_driver=cuda_driver,
            power_limit_w=power_limit_w,
        )

    def hard(self) -> dict[str, str]:
        """Return the fields in which a difference is a miss."""
        return {"arch": self.arch, "triton": self.triton}

    def soft(self) -> dict[str, str | int | None]:
        """Return the fields in which a difference is only told."""
        return {
            "device": self.device,
            "sms": self.sms,
            "memory_gib": self.memory_gib,
            "triton_patch": self.triton_patch,
            "cuda_driver": self.cuda_driver,
            "power_limit_w": self.power_limit_w,
            "protocol": self.protocol,
        }

    @property
    def hash(self) -> str:
        """Sixteen hex digits that name this environment, of all fields."""
        return _digest({**self.hard(), **self.soft()})

    @property
    def hard_hash(self) -> str:
        """Sixteen hex digits of the hard fields alone."""
        return _digest(self.hard())


def _version(*packages: str) -> str:
    for package in packages:
        try:
            return metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return "absent"


def _major_minor(version: str) -> str:
    found = re.match(r"\d+\.\d+", version)
    return found.group() if found else version


def _digest(fields: dict[str, str] | dict[str, str | int | None]) -> str:
    text = json.dumps(fields, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]
