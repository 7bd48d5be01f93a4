"""Why a lookup missed: field by field, how the nearest entry differs from what was asked."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from autoconv.environment import Environment
from autoconv.errors import ConfigError
from autoconv.lookup.bests import departures
from autoconv.lookup.elsewhere import neighbours
from autoconv.lookup.found import PredictorOf
from autoconv.lookup.legality import runnable
from autoconv.problem import Problem
from tuning_db import Layers, Winner


def why_missing(
    layers: Layers,
    problem: Problem,
    environment: Environment,
    predictor_of: PredictorOf,
    *,
    served: bool = False,
) -> list[str]:
    """Say, a line a field, how the nearest entry differs: in its environment, or else in its problem too.

    Where a pin is why, that comes first, unless the problem is `served` by it: what other layers hold does
    not serve then.
    """
    return [*([] if served else _pins(layers)), *_nearest(layers, problem, environment, predictor_of)]


def _pins(layers: Layers) -> list[str]:
    """Return a line for each pin, of which none serves."""
    unread = layers.unread_pins
    return [
        f"layer {name} is a pin that cannot be read, so torch serves; `autoconv doctor` says why"
        if name in unread
        else f"layer {name} is a pin without this problem, so torch serves; pin anew once it is tuned"
        for name in layers.pins
    ]


def _nearest(
    layers: Layers, problem: Problem, environment: Environment, predictor_of: PredictorOf
) -> list[str]:
    nearest = _nearest_environment(layers, problem, environment, predictor_of)
    if nearest is not None:
        layer, winner, differing = nearest
        try:
            runnable(winner.config, problem, environment.arch)
        except ConfigError as error:
            differing.append(f"its config does not run today: {error}")
        if not differing:
            return [f"nearest: this problem in this very environment, layer {layer}"]
        return [f"nearest: this problem in another environment, layer {layer}", *differing]
    for other in neighbours(layers, problem):
        nearest = _nearest_environment(layers, other, environment, predictor_of)
        if nearest is not None:
            fields = differences(problem.to_json(), other.to_json())
            return ["nearest: another problem", *fields, *nearest[2]]
    return ["the database has no entries; run `autoconv tune` for this problem"]


def differences(here: Mapping[str, Any], there: Mapping[str, Any]) -> list[str]:
    """Return a line for each field that is not the same."""
    return [_line(name, here[name], there.get(name)) for name in here if here[name] != there.get(name)]


def _line(name: str, here: object, there: object) -> str:
    return f"{name}: {here} here, {there} there"


def _nearest_environment(
    layers: Layers, problem: Problem, environment: Environment, predictor_of: PredictorOf
) -> tuple[str, Winner, list[str]] | None:
    """Return the winner of `problem` whose environment differs least, its layer, and those fields."""
    told = [
        (layer, winner, _differing(winner, environment, predictor_of))
        for layer, winner in layers.winners(problem.key())
    ]
    return min(told, key=lambda entry: len(entry[2]), default=None)


def _differing(winner: Winner, environment: Environment, predictor_of: PredictorOf) -> list[str]:
    """Return a line for each field of the environment that differs, and for what else bears on the entry."""
    fields = {**environment.hard(), **environment.soft()}
    lines = differences(fields, {**winner.environment.hard, **winner.environment.soft})
    pairs = departures(winner, environment, predictor_of)
    return lines + [_line(name, *pair) for name, pair in pairs.items() if name not in fields]
