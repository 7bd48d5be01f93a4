"""From a problem to the config to use: the layers of the tuning database, grades, and explained misses."""

from __future__ import annotations

import json
import math
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tuning_db
from autoconv.config import Config
from autoconv.environment import Environment
from autoconv.errors import ConfigError
from autoconv.kernels.aten import ATEN
from autoconv.kernels.registry import kernel as kernel_called
from autoconv.problem import Problem
from autoconv.settings import Settings
from tuning_db import EnvironmentRecord, Layers, ProblemRecord, TuningDB, Winner

APPLICATION = "autoconv"
COLUMNS: Mapping[str, type] = {
    name: type(value) for name, value in Problem(N=1, Cin=1, Cout=1, K=1, L=1).columns().items()
}
"""The columns of the problems table, beside the canonical key."""

PREBUILT = Path(tuning_db.__file__).parent / "prebuilt" / "autoconv.db"

GRADES = ("exact", "soft", "default")
"""Best first. exact: all that bears on the figure is the same. soft: a soft field of the environment differs.
default: not from the database at all, but the least estimate."""

# A prediction rests on the compiler and the device; driver, power limit and timing protocol do not enter it.
_SOFT_OF_PREDICTION = ("device", "sms", "triton_patch")


@dataclass(frozen=True)
class Found:
    """A config out of the database, with where it came from and how well it fits."""

    config: Config
    provenance: str  # "measured" or "predicted"
    grade: str  # one of GRADES
    layer: (
        str  # "user", "site 1", ..., "prebuilt"; "memory" where no file could be written, "none" of a guess
    )
    measured_us: float | None
    predicted_us: float | None


def warn_once(message: str) -> None:
    """Warn; Python's default filter shows a text once a place, which is once here."""
    warnings.warn(message, RuntimeWarning, stacklevel=3)


def open_user(settings: Settings) -> TuningDB:
    """Open the user's database for writing, creating it as needed; raises TuningDBError."""
    return TuningDB.open(settings.database, columns=COLUMNS, application=APPLICATION)


def open_layers(settings: Settings, warn: Callable[[str], None] = warn_once) -> Layers:
    """Open user, site and packaged databases, in order of precedence, but for those that cannot be opened."""

    def read_only(path: Path, *, immutable: bool) -> Callable[[], TuningDB]:
        return lambda: TuningDB.open_readonly(
            path, columns=COLUMNS, application=APPLICATION, immutable=immutable
        )

    sites = [
        (f"site {number}", read_only(path, immutable=False))
        for number, path in enumerate(settings.site_databases, start=1)
    ]
    layers = [
        ("user", lambda: open_user(settings)),
        *sites,
        ("prebuilt", read_only(PREBUILT, immutable=True)),
    ]
    return Layers.opened(layers, warn)


def find(layers: Layers, problem: Problem, environment: Environment) -> Found | None:
    """Return the best entry for `problem` in `environment`, or None.

    The better grade comes first, then measured before predicted, then the layers' precedence; never the
    fastest across layers. An entry whose config today's kernels cannot run is passed over.
    """
    fitting = [
        found
        for layer, winner in layers.winners(problem.key())
        if (found := _found(layer, winner, problem, environment)) is not None
    ]
    provenances = ("measured", "predicted")
    return min(
        fitting,
        key=lambda found: (GRADES.index(found.grade), provenances.index(found.provenance)),
        default=None,
    )


def records(problem: Problem, environment: Environment) -> tuple[ProblemRecord, EnvironmentRecord]:
    """Return both as the database keeps them."""
    return ProblemRecord(problem.key(), problem.columns()), EnvironmentRecord(
        environment.hard(), environment.soft()
    )


def why_missing(layers: Layers, problem: Problem, environment: Environment) -> list[str]:
    """Say, a line a field, how the nearest entry differs: in its environment, or else in its problem."""
    elsewhere = layers.winners(problem.key())
    if elsewhere:
        here = {**environment.hard(), **environment.soft()}
        layer, winner = min(elsewhere, key=lambda entry: len(_differences(here, _fields(entry[1]))))
        return [
            f"nearest: this problem in another environment, layer {layer}",
            *(
                _differences(here, _fields(winner))
                or [f"its config does not run today: {dict(winner.config)}"]
            ),
        ]
    wanted = problem.to_json()
    others = [fields for record in layers.problems() if (fields := _fields_of_key(record.key))]
    if not others:
        return ["the database has no entries; run `autoconv tune` for this problem"]
    nearest = min(others, key=lambda fields: _distance(wanted, fields))
    return ["nearest: another problem", *_differences(wanted, nearest)]


def _found(layer: str, winner: Winner, problem: Problem, environment: Environment) -> Found | None:
    theirs = winner.environment
    if dict(theirs.hard) != environment.hard() or theirs.soft.get("device") != environment.device:
        return None
    config = _runnable(winner, problem)
    if config is None:
        return None
    ours = environment.soft()
    bearing = _SOFT_OF_PREDICTION if winner.provenance == "predicted" else tuple(ours)
    same = all(theirs.soft.get(name) == ours[name] for name in bearing)
    return Found(
        config=config,
        provenance=winner.provenance,
        grade="exact" if same else "soft",
        layer=layer,
        measured_us=winner.measured_us,
        predicted_us=winner.predicted_us,
    )


def config_of(winner: Winner) -> Config:
    """Return the winner's config; raises ConfigError where it is none."""
    return Config.from_document(winner.config)


def _runnable(winner: Winner, problem: Problem) -> Config | None:
    try:
        config = config_of(winner)
        if config == ATEN:
            return config
        kernel = kernel_called(config.kernel)
        kernel.check(config)
    except ConfigError:
        return None
    return config if kernel.unsupported(problem) is None else None


def _fields_of_key(key: str) -> dict[str, Any]:
    """Return the fields of a problem's key; none where it is no key of ours, as an import may bring."""
    try:
        fields = json.loads(key)
    except ValueError:
        return {}
    return fields if isinstance(fields, dict) else {}


def _fields(winner: Winner) -> dict[str, Any]:
    return {**winner.environment.hard, **winner.environment.soft}


def _differences(here: Mapping[str, Any], there: Mapping[str, Any]) -> list[str]:
    return [
        f"{name}: {here[name]} here, {there.get(name)} there"
        for name in here
        if here[name] != there.get(name)
    ]


def _distance(wanted: Mapping[str, Any], other: Mapping[str, Any]) -> tuple[int, float]:
    """Order problems by the fields that differ other than in size, then by the ratio of their sizes."""
    kinds, ratio = 0, 0.0
    for name, value in wanted.items():
        there = other.get(name)
        if _is_size(value) and _is_size(there):
            ratio += abs(math.log2(value / there))
        else:
            kinds += value != there
    return kinds, ratio


def _is_size(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0
