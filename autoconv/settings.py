"""What the environment variables say. No other module reads or copies os.environ."""

from __future__ import annotations

import math
import os
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import platformdirs

from autoconv.errors import SettingError, suggestion

ON_MISS = ("background", "sweep", "predict", "strict")
"""What may be done for a problem that has no tuned config."""

VARIABLES: Mapping[str, tuple[str, str]] = {
    "AUTOCONV_DB": (
        "autoconv/tuning.db in the platform's user data folder",
        "the tuning database read first and written to",
    ),
    "AUTOCONV_SITE_DB": (
        "none",
        "further databases, read only, in the order they are asked, set apart as in PATH",
    ),
    "AUTOCONV_ON_MISS": (
        "background",
        "what to do for a problem without a tuned config: serve torch now and tune in the background, sweep "
        "first, predict only, or be strict and raise an error",
    ),
    "AUTOCONV_CACHE": (
        "autoconv in the platform's user cache folder",
        "folder of compiled kernels, Triton's cache of them included; may be deleted at any time",
    ),
    "AUTOCONV_SWEEP_SECONDS": (
        "60",
        "the longest a sweep inside a call or beside it may take once its worker processes have started, in "
        "seconds",
    ),
}
"""Each variable's default and meaning, in words."""


@dataclass(frozen=True)
class Settings:
    """The settings in force, checked.

    Attributes:
        database: the user's tuning database.
        site_databases: read-only databases, in the order they are asked.
        on_miss: one of ON_MISS.
        cache: folder of compiled kernels.
        sweep_seconds: bound on a sweep inside a call or beside it once its workers have started, seconds.
        override: a read-only database that this process asks before all others; see `overriding`.
    """

    database: Path
    site_databases: tuple[Path, ...]
    on_miss: str
    cache: Path
    sweep_seconds: float
    override: Path | None = None


_override: Path | None = None


class Policy(threading.local):
    """The policy that `on_miss` put in force in this thread.

    Attributes:
        name: of ON_MISS; None where it is that of the settings.
    """

    name: str | None = None


policy = Policy()


@contextmanager
def on_miss(name: str) -> Iterator[None]:
    """Have the policy of this name, one of ON_MISS, be in force for what this thread calls in the block."""
    before, policy.name = policy.name, name
    try:
        yield
    finally:
        policy.name = before


def check_policy(field: str, value: str) -> str:
    """Return `value` as one of ON_MISS has it.

    Raises:
        SettingError: it is none.
    """
    name = value.strip().lower()
    if name not in ON_MISS:
        reason = f"is not a policy{suggestion(name, ON_MISS)}"
        remedy = f"give {', '.join(ON_MISS[:-1])} or {ON_MISS[-1]}"
        raise SettingError(field, value, reason, remedy)
    return name


@contextmanager
def overriding(database: Path) -> Iterator[None]:
    """Have `load` name `database` as the override during the block, in every thread of the process."""
    global _override
    before, _override = _override, database.expanduser().absolute()
    try:
        yield
    finally:
        _override = before


def load() -> Settings:
    """Read the settings from the environment, anew each time; an empty variable counts as not set.

    Raises:
        SettingError: a variable's value cannot be used; the error names it and the choices.
    """
    database = os.environ.get("AUTOCONV_DB") or platformdirs.user_data_path("autoconv", False) / "tuning.db"
    sites = os.environ.get("AUTOCONV_SITE_DB", "").split(os.pathsep)
    return Settings(
        database=_path("AUTOCONV_DB", database),
        site_databases=tuple(_path("AUTOCONV_SITE_DB", site) for site in sites if site),
        on_miss=check_policy("AUTOCONV_ON_MISS", os.environ.get("AUTOCONV_ON_MISS") or "background"),
        cache=_path(
            "AUTOCONV_CACHE",
            os.environ.get("AUTOCONV_CACHE") or platformdirs.user_cache_path("autoconv", False),
        ),
        sweep_seconds=_seconds(os.environ.get("AUTOCONV_SWEEP_SECONDS") or "60"),
        override=_override,
    )


def child_environment(**extra: str) -> dict[str, str]:
    """Return a copy of this process's environment variables with `extra` set, for a child process."""
    # Another thread may set or unset one meanwhile, as `environment` does.
    own = {name: value for name in list(os.environ) if (value := os.environ.get(name)) is not None}
    return {**own, **extra}


@contextmanager
def environment(**extra: str) -> Iterator[None]:
    """Have this process's own environment variables include `extra` during the block."""
    before = {name: os.environ.get(name) for name in extra}
    os.environ.update(extra)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def _path(variable: str, value: str | Path) -> Path:
    # Absolute, so that a worker in another folder means the same file.
    try:
        return Path(value).expanduser().absolute()
    except RuntimeError as error:
        reason = "has a home folder that cannot be found"
        raise SettingError(variable, value, reason, "give an absolute path") from error


def _seconds(value: str) -> float:
    try:
        seconds = float(value)
    except ValueError:
        seconds = math.nan
    if not (math.isfinite(seconds) and seconds > 0):
        reason = "is not a number of seconds above 0"
        raise SettingError("AUTOCONV_SWEEP_SECONDS", value, reason, "give such as 60")
    return seconds
