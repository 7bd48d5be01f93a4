"""What serves each problem now, as lines of text: what a pin is made of."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from autoconv.environment import Environment
from autoconv.errors import ProblemError
from autoconv.kernels.aten import ATEN
from autoconv.kernels.source import source_of
from autoconv.lookup import Found, PredictorOf, find
from autoconv.lookup.found import hard_fits, same_device, times_of
from autoconv.problem import Problem
from tuning_db import Layers, Trial, TuningDB, Winner, entry_lines


def unpinned(layers: Layers, warn: Callable[[str], None]) -> Layers:
    """Return the layers that are no pins, open: a pin is made of what serves without one."""
    pins = set(layers.pins)
    opened = [(name, layers.database(name)) for name in layers.names if name not in pins]
    return Layers([(name, database) for name, database in opened if database is not None], warn)


def in_force(layers: Layers, environment: Environment, predictor_of: PredictorOf) -> Iterator[list[str]]:
    """Yield, of each problem that has an exact or a soft entry in `environment`, the lines of that entry.

    An entry is of one layer and one environment, so that all who read it get the same answer, whatever their
    driver. With the winner come the other configs of today's kernels that passed: a bucket is served by one
    of them.
    """
    for record in layers.problems():
        try:
            problem = Problem.from_key(record.key)
        except ProblemError:  # a key of an older version, or of none
            continue
        found = find(layers, problem, environment, predictor_of)
        database = layers.database(found.layer) if found and found.grade in ("exact", "soft") else None
        if found is None or database is None:
            continue
        for winner in database.winners(record.key):
            there = winner.environment
            if _is(winner, found) and hard_fits(there, environment) and same_device(there, environment):
                yield list(_lines(database, winner))
                break


def _is(winner: Winner, found: Found) -> bool:
    """Return whether they tell the same config and times; of two environments that do, either will do."""
    alike = (winner.config, winner.provenance) == (found.config.document(), found.provenance)
    return alike and all(getattr(found, name) == time for name, time in times_of(winner).items())


def _lines(database: TuningDB, winner: Winner) -> Iterator[str]:
    key, environment_hash = winner.problem.key, winner.environment.hash
    sources = {trial.source for trial in database.trials(key, environment_hash) if _may_serve(trial)}
    return entry_lines(database, key, environment_hash, sorted(sources))


def _may_serve(trial: Trial) -> bool:
    """Return whether a lookup looks at the trial: today's kernels alone, and torch's own of any version."""
    kernel = str(trial.config.get("kernel"))
    return kernel == ATEN.kernel or trial.source == source_of(kernel)
