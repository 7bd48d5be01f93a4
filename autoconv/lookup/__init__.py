"""From a problem to the config to use: the layers of the tuning database, grades, and explained misses."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from pathlib import Path

import tuning_db
from autoconv.lookup.buckets import SIZES
from autoconv.lookup.elsewhere import priors, transferred
from autoconv.lookup.estimates import estimated
from autoconv.lookup.families import find
from autoconv.lookup.found import (
    GRADES,
    HITS,
    OF_ITS_OWN,
    OWN,
    PROVENANCES,
    SERVING,
    TIMED,
    Found,
    PredictorOf,
    records,
    times_of,
)
from autoconv.lookup.legality import refusal
from autoconv.lookup.misses import why_missing
from autoconv.lookup.runs import outdated, tried
from autoconv.lookup.shelf import Shelf
from autoconv.problem import Problem
from autoconv.settings import Settings
from tuning_db import Application, Layers, TuningDB, open_healed

__all__ = [
    "APPLICATION", "COLUMNS", "GRADES", "HITS", "OF_ITS_OWN", "OWN", "PIN_SUFFIX", "PREBUILT",
    "PROVENANCES", "SERVING", "TIMED", "Found", "PredictorOf", "Shelf", "estimated", "find",
    "open_as_it_is", "open_file", "open_layers", "open_user", "outdated", "priors", "read_only_files",
    "records", "refusal", "times_of", "transferred", "tried", "warn_once", "why_missing",
]  # fmt: skip

APPLICATION = Application("autoconv", Problem.fields())
_COLUMNS = Problem(N=1, Cin=1, Cout=1, K=1, L=1).columns()
COLUMNS: Mapping[str, type] = {
    name: type(_COLUMNS[name]) for name in sorted(_COLUMNS, key=lambda name: name in SIZES)
}
"""The columns of the problems table, beside the canonical key; those of the sizes last, for the index over
them serves who asks for all sizes of a module shape."""

PIN_SUFFIX = ".pin"
"""Of a file that is a pin even where it cannot be read: a rank that cannot must not serve something else."""

PREBUILT = Path(tuning_db.__file__).parent / "prebuilt" / "autoconv.db"


def warn_once(message: str) -> None:
    """Warn; Python's default filter shows a text once a place, which is once here."""
    warnings.warn(message, RuntimeWarning, stacklevel=3)


def open_user(settings: Settings, warn: Callable[[str], None] = warn_once) -> TuningDB:
    """Open the user's database for writing, creating it as needed; a damaged one is moved aside and salvaged.

    Raises:
        TuningDBError: it cannot be written, or is a file of something else.
    """
    return open_healed(settings.database, columns=COLUMNS, application=APPLICATION, warn=warn, accept=refusal)


def open_as_it_is(settings: Settings) -> TuningDB:
    """Open the user's database as `open_user` does, but mend nothing: for who asks what is wrong with it.

    Raises:
        TuningDBError: it cannot be used.
    """
    return TuningDB.open(settings.database, columns=COLUMNS, application=APPLICATION)


def open_file(path: Path, *, immutable: bool = False) -> TuningDB:
    """Open any database of ours to be read; `immutable` suits a packaged one. Raises TuningDBError."""
    return TuningDB.open_readonly(path, columns=COLUMNS, application=APPLICATION, immutable=immutable)


def open_layers(settings: Settings, warn: Callable[[str], None] = warn_once) -> Layers:
    """Return every layer, in order of precedence; each is opened when it is first asked.

    As long as a file named *.pin cannot be read, nothing serves but torch.
    """

    def site(path: Path) -> Callable[[], TuningDB]:
        return lambda: open_file(path)

    process, sites = read_only_files(settings)
    layers: list[tuple[str, Callable[[], TuningDB]]] = [
        *((name, site(path)) for name, path in process.items()),
        ("user", lambda: open_user(settings, warn)),
        *((name, site(path)) for name, path in sites.items()),
        ("prebuilt", lambda: open_file(PREBUILT, immutable=True)),
    ]
    pins = [name for name, path in {**process, **sites}.items() if path.suffix == PIN_SUFFIX]
    return Layers(layers, warn, pins=pins)


def read_only_files(settings: Settings) -> tuple[dict[str, Path], dict[str, Path]]:
    """Return the file that the process named, if it did, and the site's, by the names of their layers."""
    process = {} if settings.override is None else {"process": settings.override}
    return process, {f"site {number}": path for number, path in enumerate(settings.site_databases, start=1)}
