"""What `autoconv doctor` looks at."""

from __future__ import annotations

import sqlite3
import subprocess
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from autoconv import device as devices
from autoconv import gpu, lookup, settings
from autoconv.compiler.folders import triton_cache, unwritable
from autoconv.environment import Environment
from autoconv.errors import SettingError
from autoconv.kernels.source import sources
from autoconv.settings import Settings
from tuning_db import TuningDBError

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
    looks: list[Callable[[Settings], Finding]] = [
        _triton, _numpy, _tools, _gpu, _database, _misses, _pins, _prebuilt, _cache, _temporary,
    ]  # fmt: skip
    return [look(now) for look in looks]


def _toolchain() -> Environment:
    """Return the environment of this process; its versions are the same for every device."""
    return Environment.current(devices.find("rtx4090"))


def _triton(_: Settings) -> Finding:
    found = _toolchain()
    if found.triton_patch == "absent":
        remedy = "install it; CPU builds of torch do not bring it"
        return Finding("triton", "failure", "is not installed", remedy)
    if TRITON_FROM <= _minor(found.triton) < TRITON_BEFORE:
        return Finding("triton", "ok", f"{found.triton_patch}, with torch {version('torch')}")
    supported = f"{'.'.join(map(str, TRITON_FROM))} up to, not including, {'.'.join(map(str, TRITON_BEFORE))}"
    return Finding("triton", "warning", f"{found.triton_patch} is untested", f"tested are {supported}")


def _numpy(_: Settings) -> Finding:
    triton, numpy = _toolchain(), version("numpy")
    if triton.triton_patch != "absent" and _minor(triton.triton) < (3, 7) and _minor(numpy) >= (2, 4):
        detail = f"{numpy} breaks the interpreter of Triton {triton.triton_patch}"
        return Finding("numpy", "warning", detail, "install numpy<2.4, or tune where the GPU is")
    return Finding("numpy", "ok", numpy)


def _minor(full: str) -> tuple[int, ...]:
    return tuple(int(part) for part in full.split(".")[:2])


def _tools(_: Settings) -> Finding:
    try:
        from autoconv.compiler import sass  # imports Triton, which need not be here

        done = subprocess.run(
            [sass.CUOBJDUMP, "--version"], capture_output=True, text=True, check=True, timeout=30
        )
    except (ImportError, OSError, subprocess.SubprocessError) as error:
        remedy = "reinstall triton, whose wheel carries it"
        return Finding("cuobjdump", "failure", f"does not run ({error})", remedy)
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
        with lookup.open_as_it_is(now) as database:
            info = database.info()
    except TuningDBError as error:
        return Finding("database", "failure", error.reason, f"{error.remedy}; the file is {error.path}")
    detail = f"{info['winners']} winners, {info['trials']} trials in {info['path']}"
    return Finding("database", "ok", f"{detail} (SQLite {sqlite3.sqlite_version})")


def _misses(now: Settings) -> Finding:
    try:
        with lookup.open_as_it_is(now) as database:
            misses = database.misses()
    except TuningDBError:  # which is told already
        return Finding("misses", "ok", "none that can be read")
    if not misses:
        return Finding("misses", "ok", "none: all that was called for since is tuned")
    problems, calls = len({miss.problem.key for miss in misses}), sum(miss.calls for miss in misses)
    detail = f"{problems} problems were called for {calls} times and are not tuned"
    return Finding(
        "misses", "warning", detail, "`autoconv db missed` lists them, `autoconv tune --missed` tunes them"
    )


def _pins(now: Settings) -> Finding:
    """Look at the files that others wrote: which are pins, and which cannot be read."""
    process, sites = lookup.read_only_files(now)
    pinned, unread = [], []
    for path in (*process.values(), *sites.values()):
        try:
            with lookup.open_file(path) as database:
                if database.pin is not None:
                    pinned.append(f"{path} pins {database.pin.title} since {database.pin.made}")
        except TuningDBError as error:
            unread.append(error)
    remedy = "; ".join(error.remedy for error in unread)
    detail = "; ".join([*pinned, *(f"{error.path}: {error.reason}" for error in unread)])
    if any(Path(error.path).suffix == lookup.PIN_SUFFIX for error in unread):
        return Finding("pins", "failure", f"{detail}; torch serves everything", remedy)
    if unread:
        return Finding("pins", "warning", f"{detail}; nothing of it serves", remedy)
    return Finding("pins", "ok", detail or "none")


def _prebuilt(_: Settings) -> Finding:
    try:
        with lookup.open_file(lookup.PREBUILT, immutable=True) as database:
            tritons = [
                str(winner.environment.hard.get("triton"))
                for problem in database.problems()
                for winner in database.winners(problem.key)
                if winner.source in sources().values()
            ]
            winners = database.info()["winners"]
    except TuningDBError as error:
        return Finding("prebuilt", "warning", error.reason, "reinstall autoconv")
    if len(tritons) < winners:
        detail = f"{winners - len(tritons)} of {winners} winners were made for other kernels than these"
        return Finding("prebuilt", "warning", detail, "reinstall autoconv")
    return Finding("prebuilt", "ok", f"{winners} winners, for Triton {', '.join(sorted(set(tritons)))}")


def _cache(now: Settings) -> Finding:
    why = unwritable(triton_cache())
    if why is None:
        return Finding("cache", "ok", str(now.cache))
    detail = f"{now.cache} cannot be written ({why})"
    return Finding("cache", "failure", detail, "set AUTOCONV_CACHE; no kernel compiles until then")


def _temporary(_: Settings) -> Finding:
    why = unwritable(None)
    if why is None:
        return Finding("temporary files", "ok", tempfile.gettempdir())
    detail = f"cannot be written ({why})"
    return Finding("temporary files", "failure", detail, "set TMPDIR; no kernel compiles until then")
