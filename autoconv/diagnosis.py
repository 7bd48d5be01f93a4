"""What `autoconv doctor` looks at."""

from __future__ import annotations

import sqlite3
import subprocess
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version

from autoconv import gpu, lookup, settings
from autoconv.compiler import sass
from autoconv.errors import SettingError
from autoconv.kernels.source import source_hash
from autoconv.settings import Settings
from tuning_db import TuningDB, TuningDBError

TRITON_FROM, TRITON_BEFORE = (3, 3), (3, 10)


@dataclass(frozen=True)
class Finding:
    """One thing looked at."""

    subject: str
    status: str  # "ok", "warning" or "failure"
    detail: str
    remedy: str = ""


def diagnose() -> list[Finding]:
    """Look at everything autoconv needs, and return a finding for each."""
    try:
        now = settings.load()
    except SettingError as error:
        return [Finding("settings", "failure", str(error))]
    looks: list[Callable[[Settings], Finding]] = [_triton, _numpy, _tools, _gpu, _database, _prebuilt, _cache]
    return [look(now) for look in looks]


def _triton(_: Settings) -> Finding:
    try:
        found = version("triton")
    except PackageNotFoundError:
        return Finding(
            "triton", "failure", "is not installed", "install it; CPU builds of torch do not bring it"
        )
    minor = tuple(int(part) for part in found.split(".")[:2])
    if TRITON_FROM <= minor < TRITON_BEFORE:
        return Finding("triton", "ok", f"{found}, with torch {version('torch')}")
    supported = f"{'.'.join(map(str, TRITON_FROM))} up to, not including, {'.'.join(map(str, TRITON_BEFORE))}"
    return Finding("triton", "warning", f"{found} is untested", f"tested are {supported}")


def _numpy(_: Settings) -> Finding:
    triton_minor = tuple(int(part) for part in version("triton").split(".")[:2])
    numpy_minor = tuple(int(part) for part in version("numpy").split(".")[:2])
    if triton_minor < (3, 7) and numpy_minor >= (2, 4):
        detail = f"{version('numpy')} breaks the interpreter of Triton {version('triton')}"
        return Finding("numpy", "warning", detail, "install numpy<2.4, or tune where the GPU is")
    return Finding("numpy", "ok", version("numpy"))


def _tools(_: Settings) -> Finding:
    try:
        done = subprocess.run(
            [sass.CUOBJDUMP, "--version"], capture_output=True, text=True, check=True, timeout=30
        )
    except (OSError, subprocess.SubprocessError) as error:
        return Finding(
            "cuobjdump", "failure", f"does not run ({error})", "reinstall triton, whose wheel carries it"
        )
    return Finding("cuobjdump", "ok", done.stdout.strip().splitlines()[-1])


def _gpu(_: Settings) -> Finding:
    if not gpu.present():
        return Finding("gpu", "ok", "none: tuning predicts, and checks in the interpreter")
    device = gpu.current(0)
    if device is None:
        return Finding("gpu", "warning", "of an unknown architecture", "torch serves every convolution here")
    return Finding("gpu", "ok", f"{device.product}, known as {device.name} ({device.source})")


def _database(now: Settings) -> Finding:
    try:
        with lookup.open_user(now) as database:
            info = database.info()
    except TuningDBError as error:
        return Finding("database", "failure", error.reason, f"{error.remedy}; the file is {error.path}")
    detail = f"{info['winners']} winners, {info['trials']} trials in {info['path']}"
    return Finding("database", "ok", f"{detail} (SQLite {sqlite3.sqlite_version})")


def _prebuilt(_: Settings) -> Finding:
    try:
        with TuningDB.open_readonly(
            lookup.PREBUILT, columns=lookup.COLUMNS, application=lookup.APPLICATION, immutable=True
        ) as database:
            environments = {
                (winner.environment.hard.get("kernels"), winner.environment.hard.get("triton"))
                for problem in database.problems()
                for winner in database.winners(problem.key)
            }
            winners = database.info()["winners"]
    except TuningDBError as error:
        return Finding("prebuilt", "warning", error.reason, "reinstall autoconv")
    if source_hash() not in {kernels for kernels, _ in environments}:
        return Finding("prebuilt", "warning", "was made for other kernels than these", "reinstall autoconv")
    tritons = ", ".join(sorted(str(triton) for _, triton in environments))
    return Finding("prebuilt", "ok", f"{winners} winners, for Triton {tritons}")


def _cache(now: Settings) -> Finding:
    try:
        now.cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=now.cache):
            pass
    except OSError as error:
        detail = f"{now.cache} cannot be written ({error.strerror})"
        return Finding(
            "cache", "warning", detail, "set AUTOCONV_CACHE; every process compiles anew until then"
        )
    return Finding("cache", "ok", str(now.cache))
