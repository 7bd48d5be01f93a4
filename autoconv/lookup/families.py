"""Families: all that the layers have of one module shape for one device, from which any size is answered.

The order in which entries serve is `Family.find`, and stands nowhere else.
"""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import replace
from itertools import product
from typing import Any, NamedTuple

from autoconv.config import Config
from autoconv.environment import Environment
from autoconv.errors import ConfigError, ProblemError
from autoconv.kernels.aten import ATEN
from autoconv.kernels.source import source_of
from autoconv.lookup.bests import Best, bests
from autoconv.lookup.buckets import SIZES, farness, first_by_model, serves
from autoconv.lookup.found import (
    GRADES,
    PROVENANCES,
    TIMED,
    Found,
    PredictorOf,
    hard_fits,
    records,
    same_device,
)
from autoconv.problem import Problem
from tuning_db import EnvironmentRecord, Layers, Ranked, Sibling, Winner

HANDFUL = 24
"""Of an entry's configs, the best at its own size, are asked for their estimates at another one: all of a
sweep's, of which the last were tried for the sake of other sizes."""


class Entry(NamedTuple):
    """What one layer has of one problem in one environment, as one model tells it."""

    found: Found  # at its own size, "exact" or "soft" but for the Triton it was tuned under
    passed: tuple[Config, ...]  # what may serve at other sizes, best first
    finished: bool  # whether a sweep that came to its end stands behind it
    releases: float  # minor versions of Triton between the one it was tuned under and the one here


class Family:
    """What was tuned of one module shape for one device, whatever the size and the Triton."""

    def __init__(
        self,
        siblings: Iterable[tuple[str, Sibling]],
        environment: Environment,
        predictor_of: PredictorOf,
        pins: Collection[str] = (),
    ) -> None:
        """Take what the layers hold, in the order of their precedence.

        Args:
            siblings: Each with its layer.
            environment: Where configs are to run.
            predictor_of: What predicts here; what others predicted is soft.
            pins: The layers that are final. Where there are any, no other one serves.
        """
        self._environment = environment
        self._predictor_of = predictor_of
        self._pins = tuple(pins)
        self._siblings: dict[Problem, list[tuple[str, Sibling]]] = {}
        self._entries: dict[tuple[Problem, bool], list[Entry]] = {}
        for layer, sibling in siblings:
            try:
                self._siblings.setdefault(Problem.from_key(sibling.key), []).append((layer, sibling))
            except ProblemError:  # a key of an older version
                continue

    def find(self, problem: Problem) -> Found | None:
        """Return what serves `problem`, of this module shape, or None.

        Pinned layers are final: what they lack is torch's. Hits come before what was carried from another
        Triton, or from before its kernel changed; then what was timed before what was predicted; then exact,
        soft, bucket; of buckets the nearest; of one size what was measured before what was timed beside other
        work; then the layers' precedence.
        """
        found = next(self._serving(problem, self._pins), None)
        if found is None and self._pins:
            return Found(ATEN, "default", "default", self._pins[0], None, None, pinned=True)
        return found

    def known(
        self,
        problem: Problem,
        grades: Collection[str],
        provenances: Collection[str],
        *,
        finished: bool = True,
    ) -> Found | None:
        """Return the best entry of these grades and provenances, if `finished` of a sweep that ended.

        Pinned layers are as any others here: this is asked by who wants to know what is tuned already.
        """
        fitting = (
            found
            for found in self._serving(problem, (), finished=finished)
            if found.grade in grades and found.provenance in provenances
        )
        return next(fitting, None)

    def _serving(self, problem: Problem, pins: Collection[str], *, finished: bool = False) -> Iterator[Found]:
        """Yield all that may serve, best first; of all layers, or of `pins` alone if there are any."""
        near = sorted(
            (tuned for tuned in self._siblings if tuned != problem and serves(tuned, problem)),
            key=lambda tuned: farness(tuned, problem),
        )
        sizes = [problem, *near]
        for carried, provenances, tuned in product((False, True), (TIMED, ("predicted",)), sizes):
            for entry in self._tuned(tuned, carried):
                mine = entry.found.provenance in provenances and (not pins or entry.found.layer in pins)
                config = self._config(entry, tuned, problem) if mine and entry.finished >= finished else None
                if config is not None:
                    yield self._found(entry.found, config, tuned, problem, carried, bool(pins))

    def _config(self, entry: Entry, tuned: Problem, problem: Problem) -> Config | None:
        """Return which config of an entry serves: at another size torch's if it won, else the model's."""
        if tuned == problem or entry.found.config == ATEN:
            return entry.found.config
        return first_by_model(problem, entry.passed, self._environment)

    def _found(
        self, own: Found, config: Config, tuned: Problem, problem: Problem, carried: bool, pinned: bool
    ) -> Found:
        found = replace(own, config=config, pinned=pinned)
        if tuned != problem:
            found = replace(found.without_times(), grade="bucket", tuned=tuned)
        if carried:
            found = replace(found.without_times(), grade="carried", provenance="transferred")
        return found

    def _tuned(self, tuned: Problem, carried: bool) -> list[Entry]:
        """Return the entries of one problem, of each provenance exact before soft, then the nearest Triton's.

        Of equals the layers' precedence decides.
        """
        key = tuned, carried
        if key not in self._entries:
            made = [
                entry
                for layer, sibling in self._siblings.get(tuned, ())
                for entry in self._of_layer(layer, sibling, tuned, carried)
            ]
            made.sort(key=_order)
            self._entries[key] = made
        return self._entries[key]

    def _of_layer(self, layer: str, sibling: Sibling, tuned: Problem, carried: bool) -> Iterator[Entry]:
        def of(*, here: bool, older: bool = False) -> list[Best]:
            winners = [
                (layer, winner)
                for winner in sibling.winners
                if hard_fits(winner.environment, self._environment) == here
            ]
            return bests(
                winners, tuned, self._environment, self._predictor_of, tried=sibling.tried, older=older
            )

        for best in [*of(here=True, older=True), *of(here=False)] if carried else of(here=True):
            passed = _passed(best.found, best.winner, sibling.ranked)
            releases = _releases(best.winner.environment.hard.get("triton"), self._environment.triton)
            yield Entry(best.found, passed, best.winner.finished, releases)


def _order(entry: Entry) -> tuple[int, int, float]:
    provenance, grade = PROVENANCES.index(entry.found.provenance), GRADES.index(entry.found.grade)
    return provenance, grade, entry.releases


def _releases(there: object, here: str) -> float:
    """Return how many minor versions lie between two of Triton, such as "3.6" and "3.9"; inf if one is none.

    >>> _releases("3.6", "3.9")
    3.0
    """
    try:
        (major, minor), (our_major, our_minor) = (map(int, one.split(".")) for one in (str(there), here))
    except ValueError:
        return math.inf
    return float(100 * abs(major - our_major) + abs(minor - our_minor))


def _passed(found: Found, winner: Winner, ranked: Iterable[Ranked]) -> tuple[Config, ...]:
    """Return the config of an entry and the others that passed beside it with today's sources, best first.

    Those that were slower than torch's own convolution do not serve at another size either.
    """
    model = winner.predictor.partition("-")[0]
    configs = [found.config]
    for one in ranked:
        alike = one.provenance == winner.provenance and one.predictor.partition("-")[0] == model
        if one.environment != winner.environment or not alike:
            continue
        try:
            config = Config.from_document(one.config)
        except ConfigError:  # none of today's
            continue
        if config == ATEN:
            break
        if one.source == source_of(config.kernel):
            configs.append(config)
    return tuple(dict.fromkeys(configs))[:HANDFUL]


def load(
    layers: Layers,
    problem: Problem,
    environment: Environment,
    predictor_of: PredictorOf,
    before: Iterable[tuple[str, Sibling]] = (),
) -> tuple[Family, int]:
    """Return the family of `problem`'s module shape, and the most siblings that any one layer gave.

    Args:
        layers: The layers to ask.
        problem: Any of the module shape.
        environment: Where configs are to run.
        predictor_of: What predicts here.
        before: What comes before all layers.
    """
    wanted = _shape_of(problem.to_json())

    def alike(key: str) -> bool:
        try:
            fields = json.loads(key)
            return isinstance(fields, dict) and _shape_of(fields) == wanted
        except (ValueError, RecursionError):  # a key of somebody else's
            return False

    def among(one: EnvironmentRecord) -> bool:
        return same_device(one, environment)

    siblings = layers.siblings(records(problem, environment)[0], SIZES, alike, among)
    counts = [sum(name == layer for name, _ in siblings) for layer in dict.fromkeys(n for n, _ in siblings)]
    family = Family([*before, *siblings], environment, predictor_of, layers.pins)
    return family, max(counts, default=0)


def _shape_of(fields: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if name not in (*SIZES, "v")}


def find(
    layers: Layers, problem: Problem, environment: Environment, predictor_of: PredictorOf
) -> Found | None:
    """Return what serves `problem` in `environment`, of a grade among SERVING, or None; see `Family.find`.

    Among the bests of today's kernels in one layer and environment, measured or predicted by one model, each
    kernel by one version of its own, the fastest serves; never the fastest across layers. An entry
    whose config today's kernels cannot run is passed over. One of a kernel whose source has changed since is
    carried, if nothing was as fast and the kernel has not been timed anew.
    Where a pinned layer lacks the problem the answer is torch's own convolution, of grade "default".

    Args:
        layers: The layers to ask.
        problem: The problem.
        environment: Where the config is to run.
        predictor_of: What predicts here; what others predicted is soft.
    """
    return load(layers, problem, environment, predictor_of)[0].find(problem)
