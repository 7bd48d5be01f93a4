"""The best of one problem's winners: of today's kernels, of each layer, environment, provenance and model."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Any, NamedTuple

from autoconv.config import Config
from autoconv.environment import IDENTITY, Environment
from autoconv.errors import ConfigError
from autoconv.kernels.aten import ATEN
from autoconv.kernels.source import source_of
from autoconv.lookup.found import PROVENANCES, Found, PredictorOf, times_of
from autoconv.lookup.legality import runnable
from autoconv.problem import Problem
from tuning_db import Winner
from tuning_db.ranking import TIE_TOLERANCE, best

# A prediction rests on the compiler and the device; driver, power limit and timing protocol do not enter it.
_SOFT_OF_PREDICTION = (*IDENTITY, "triton_patch")


class Best(NamedTuple):
    """The best entry of one layer, environment, provenance and model."""

    found: Found  # "exact" or "soft"
    winner: Winner


def bests(
    entries: Iterable[tuple[str, Winner]],
    problem: Problem,
    environment: Environment,
    predictor_of: PredictorOf,
    *,
    tried: Collection[tuple[str, str]] | None = None,
    older: bool = False,
) -> list[Best]:
    """Return the fastest of today's kernels of each layer, environment, provenance and model, in this order.

    What this process's own model predicted comes before what others did.

    Args:
        entries: Winners of the problem, each with its layer.
        problem: The problem.
        environment: Where configs are to run.
        predictor_of: What predicts here.
        tried: Hashes of environments with the sources that were tried there, whatever came of it. Where a
            kernel was faster than all of today's before its source changed, and is not among these, there is
            no best. None: what was before plays no part.
        older: Whether to return the configs of such kernels instead, and nothing else.
    """
    groups: dict[tuple[str, str, bool, int, str], list[tuple[Winner, Config]]] = {}
    for layer, winner in entries:
        try:
            config = runnable(winner.config, problem, environment.arch)
        except ConfigError:
            continue
        foreign = winner.provenance == "predicted" and winner.predictor != predictor_of(config.kernel)
        rank = PROVENANCES.index(winner.provenance)
        key = layer, winner.environment.hash, foreign, rank, winner.predictor.partition("-")[0]
        groups.setdefault(key, []).append((winner, config))
    order = list(dict.fromkeys(layer for layer, *_ in groups))
    found = []
    for key in sorted(groups, key=lambda key: (order.index(key[0]), *key[1:])):
        today = _fastest(groups[key], predictor_of)
        before = None if tried is None else _faster_before(groups[key], today, tried)
        chosen = before if older else today if before is None else None
        if chosen is not None:
            found.append(Best(_found(key[0], *chosen, environment, predictor_of), chosen[0]))
    return found


def _fastest(entries: list[tuple[Winner, Config]], predictor_of: PredictorOf) -> tuple[Winner, Config] | None:
    """Return the fastest of entries of one model, of those made with the sources of today.

    torch's own convolution competes with the time it had under another torch or cuDNN where it has none of
    today: to leave it out would have a kernel serve that is slower than torch.
    """
    torchs = [entry for entry in entries if entry[1] == ATEN]
    if len(torchs) > 1:  # else it is that one whatever it is of, and torch need not be imported to say so
        torchs = _of_today(torchs) or torchs
    today = _of_today([entry for entry in entries if entry[1] != ATEN])
    same = _of_one_version(today + torchs, predictor_of)
    chosen = best(winner for winner, _ in same)
    return next((entry for entry in same if entry[0] is chosen), None)


def _faster_before(
    entries: list[tuple[Winner, Config]],
    today: tuple[Winner, Config] | None,
    tried: Collection[tuple[str, str]],
) -> tuple[Winner, Config] | None:
    """Return the fastest timed entry of a kernel that has changed and was not tried since, if it leads.

    It says how fast that kernel may be again. So the others, torch's own convolution above all, are not the
    winners of a sweep that it would have won, until the kernel was tried anew: if it is slower then, or
    wrong, that is known.
    """
    timed = [
        (winner.measured_us, number)
        for number, (winner, config) in enumerate(entries)
        if winner.measured_us is not None
        and config != ATEN
        and (winner.environment.hash, source_of(config.kernel)) not in tried
    ]
    if not timed:
        return None
    least, number = min(timed)
    limit = least * (1 + TIE_TOLERANCE["measured"])
    beaten = today is not None and (today[0].measured_us is None or today[0].measured_us <= limit)
    return None if beaten else entries[number]


def _of_today(entries: list[tuple[Winner, Config]]) -> list[tuple[Winner, Config]]:
    return [entry for entry in entries if entry[0].source == source_of(entry[1].kernel)]


def _of_one_version(
    entries: list[tuple[Winner, Config]], predictor_of: PredictorOf
) -> list[tuple[Winner, Config]]:
    """Return the entries but for those that another version of their kernel predicted, of several versions.

    Times of two versions do not compare, so the one that reads as today stays, or else the first by name.
    """
    chosen: dict[str, str] = {}
    for winner, config in entries:
        today = predictor_of(config.kernel).partition("-")[2]
        rivals = chosen.get(config.kernel, winner.predictor), winner.predictor
        chosen[config.kernel] = min(rivals, key=lambda one: (one.partition("-")[2] != today, one))
    return [entry for entry in entries if entry[0].predictor == chosen[entry[1].kernel]]


def _found(
    layer: str, winner: Winner, config: Config, environment: Environment, predictor_of: PredictorOf
) -> Found:
    same = not departures(winner, environment, predictor_of)
    return Found(config, winner.provenance, "exact" if same else "soft", layer, **times_of(winner))


def departures(
    winner: Winner, environment: Environment, predictor_of: PredictorOf
) -> Mapping[str, tuple[Any, Any]]:
    """Return what makes an entry of this device and these hard fields soft, by name: here, and there."""
    predicted = winner.provenance == "predicted"
    theirs, ours = dict(winner.environment.soft), environment.soft()
    pairs = {name: (ours[name], theirs.get(name)) for name in (_SOFT_OF_PREDICTION if predicted else ours)}
    kernel = str(winner.config.get("kernel"))
    if source_of(kernel) is not None:  # else it is no kernel of today, which `runnable` says
        pairs[f"source of {kernel}"] = source_of(kernel), winner.source
    if predicted:
        pairs["model"] = predictor_of(kernel), winner.predictor
    pairs["sweep"] = "finished", "finished" if winner.finished else "interrupted"
    return {name: pair for name, pair in pairs.items() if pair[0] != pair[1]}
