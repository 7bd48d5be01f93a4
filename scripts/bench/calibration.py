"""Hold the cost model against measured GEMM tile times, and print as JSON how well it ranks and predicts.

    python scripts/bench/calibration.py PATH [--folds SECONDS]

PATH is a table of measured times (tab-separated; columns as `gemm.read` has them), all of one A100. Every
figure is per dtype: the geometric mean of the time of the model's first pick over the best time, of the best
of its first 3 and 5 picks; Spearman's rank correlation; predicted over measured time of the best config. With
--folds, the fitted constants are fitted anew five times, for so many seconds each, to problems whose (N, K)
the held-out fold does not have, and the figures are those of the held-out folds.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import random
import time
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from gemm import Gemm, Measured, read, work

from autoconv.compiler.resources import Resources
from autoconv.config import Config
from autoconv.cost.batch import Batch, Column, batch
from autoconv.cost.constants import CONSTANTS, Constants
from autoconv.cost.guess import guess
from autoconv.cost.memory import memory
from autoconv.cost.timeline import timeline
from autoconv.device import find
from autoconv.kernels.work import Work

DEVICE = find("a100-80gb")
FOLDS = 5
# What is fitted, and how far: never beyond a factor of two of what is published, nor of what was seen.
FITTED = {
    "l2_bytes_per_cycle": (24.0, 47.0), "dram_efficiency": (0.8, 0.9), "throttle": (0.0, 0.4),
    "latency_factor": (1.0, 1.9), "barrier": (20.0, 60.0), "slice_cycles": (0.0, 15.0),
    "warp_instructions": (15.0, 60.0), "load_instructions": (2.0, 6.0), "prologue": (200.0, 1000.0),
    "epilogue": (200.0, 1000.0), "launch_seconds": (2.5e-6, 6e-6), "units": (3.0, 12.0),
    "levels": (3.0, 12.0), "exposed_latency": (0.0, 0.5),
}  # fmt: skip

Table = list[tuple[Gemm, list[Measured]]]


def columns(table: Table) -> Batch:
    """Return all measured configs of all problems as one batch."""
    parts = []
    for gemm, rows in table:
        configs = [row.config for row in rows]
        works = [work(gemm, config) for config in configs]
        taken = [_as_then(c, w) for c, w in zip(configs, works, strict=True)]
        parts.append(batch(gemm.problem, configs, works, taken, DEVICE))
    return Batch(*(_joined([getattr(p, f.name) for p in parts]) for f in dataclasses.fields(Batch)))


def _as_then(config: Config, work: Work) -> Resources:
    """Return the guess, with the buffers of 2024's Triton, which the times are of: as many for any load."""
    shared = max(1, config.num_stages - 1) * work.stage_bytes
    return dataclasses.replace(guess(config, work, DEVICE.arch), shared=shared)


def _joined(parts: list[Any]) -> Any:
    first = parts[0]
    if isinstance(first, tuple):
        fields = [_joined(list(field)) for field in zip(*parts, strict=True)]
        return type(first)._make(fields) if hasattr(first, "_make") else tuple(fields)
    return np.concatenate(parts)


def predicted(b: Batch, constants: Constants) -> Column:
    """Return the model's seconds, with these constants."""
    with np.errstate(invalid="ignore"):
        return timeline(b, memory(b, DEVICE, constants), DEVICE, constants).seconds


def figures(table: Table, seconds: Column, chosen: list[int]) -> dict[str, Any]:
    """Return the figures of the problems `chosen`, by dtype; `seconds` has all problems in order."""
    starts = np.cumsum([0, *(len(rows) for _, rows in table)])
    by_dtype: dict[str, list[list[float]]] = {}
    for number in chosen:
        gemm, rows = table[number]
        measured = np.array([row.seconds for row in rows])
        guessed = seconds[starts[number] : starts[number + 1]]
        order = np.argsort(guessed, kind="stable")
        best = measured.min()
        regrets = [np.log(measured[order[:count]].min() / best) for count in (1, 3, 5)]
        error = np.log(guessed[measured.argmin()] / best)
        within = int(np.argmax(measured[order] <= 1.02 * best)) + 1
        by_dtype.setdefault(gemm.dtype, []).append([*regrets, error, _spearman(measured, guessed), within])
    return {dtype: _summary(np.array(rows)) for dtype, rows in sorted(by_dtype.items())}


def _summary(rows: Column) -> dict[str, Any]:
    error = np.abs(rows[:, 3])
    return {
        "problems": len(rows),
        "regret_first_3_5": [round(float(x), 4) for x in np.exp(rows[:, :3].mean(axis=0))],
        "spearman": round(float(rows[:, 4].mean()), 3),
        "predicted_to_measured": round(float(np.exp(rows[:, 3].mean())), 3),
        "typical_factor_off": round(float(np.exp(error.mean())), 3),
        "factor_off_at_p90": round(float(np.exp(np.quantile(error, 0.9))), 3),
        "measurements_to_2_percent": round(float(rows[:, 5].mean()), 2),
    }


def _spearman(one: Column, other: Column) -> float:
    ranks = [np.argsort(np.argsort(values)) for values in (one, other)]
    return float(np.corrcoef(ranks[0], ranks[1])[0, 1])


def replay(table: Table, seconds: Column, seed: int = 0) -> dict[str, Any]:
    """Return how many measurements reach within 2 % of the best, by the order of measuring.

    The fixed list is the configs by how often they were within 2 % of the best in the other problems' folds.
    """
    rng = random.Random(seed)
    fold_of = folds(table)
    starts = np.cumsum([0, *(len(rows) for _, rows in table)])
    good = [{r.config for r in rows if r.seconds <= 1.02 * min(q.seconds for q in rows)} for _, rows in table]
    counts: dict[str, list[int]] = {"model": [], "fixed list": [], "random": []}
    for fold in range(FOLDS):
        wins: dict[Any, int] = {}
        for number, of_fold in enumerate(fold_of):
            if of_fold != fold:
                for config in good[number]:
                    wins[config] = wins.get(config, 0) + 1
        for number in (n for n, of_fold in enumerate(fold_of) if of_fold == fold):
            configs = [row.config for row in table[number][1]]
            guessed = dict(zip(configs, seconds[starts[number] : starts[number + 1]], strict=True))
            orders = {
                "model": sorted(configs, key=lambda c: guessed[c]),
                "fixed list": sorted(configs, key=lambda c: -wins.get(c, 0)),
                "random": rng.sample(configs, len(configs)),
            }
            for name, order in orders.items():
                counts[name].append(1 + next(i for i, c in enumerate(order) if c in good[number]))
    return {
        name: {"mean": round(float(np.mean(n)), 2), "p90": int(np.quantile(n, 0.9))}
        for name, n in counts.items()
    }


def folds(table: Table) -> list[int]:
    """Return a fold for each problem; problems of one (N, K) share theirs."""
    pairs = sorted({(gemm.N, gemm.K) for gemm, _ in table})
    random.Random(0).shuffle(pairs)
    place = {pair: index % FOLDS for index, pair in enumerate(pairs)}
    return [place[gemm.N, gemm.K] for gemm, _ in table]


def fit(table: Table, b: Batch, chosen: list[int], start: Constants, seconds: float, seed: int) -> Constants:
    """Return constants that rank and predict `chosen` better: a random walk downhill, within FITTED."""
    loss = _Loss(table, chosen)
    rng = random.Random(seed)
    best, least = start, loss(predicted(b, start))
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        moved: dict[str, Any] = {}
        for name in rng.sample(sorted(FITTED), rng.choice((1, 2, 3))):
            low, high = FITTED[name]
            value = getattr(best, name) * np.exp(rng.gauss(0, 0.15)) + rng.gauss(0, 0.03) * (high - low)
            moved[name] = float(min(high, max(low, value)))
        candidate = dataclasses.replace(best, **moved)
        now = loss(predicted(b, candidate))
        if now < least:
            best, least = candidate, now
    return best


class _Loss:
    """Regret of picks that are drawn the likelier the faster they are predicted, and the error in time."""

    def __init__(self, table: Table, chosen: list[int]) -> None:
        sizes = [len(rows) for _, rows in table]
        self.starts = np.cumsum([0, *sizes])[:-1]
        self.sizes = sizes
        measured = np.log([row.seconds for _, rows in table for row in rows])
        best = np.minimum.reduceat(measured, self.starts)
        self.regret: Column = measured - np.repeat(best, sizes)
        self.measured: Column = measured
        weights = np.zeros(len(table))
        weights[chosen] = [3.0 if table[number][0].dtype == "tf32" else 1.0 for number in chosen]
        self.weights: npt.NDArray[np.float64] = weights / weights.sum()

    def __call__(self, seconds: Column) -> float:
        guessed = np.log(seconds)
        ahead = guessed - np.repeat(np.minimum.reduceat(guessed, self.starts), self.sizes)
        total = 0.0
        for share, width in ((1.0, 0.02), (0.5, 0.06)):
            odds = np.exp(-ahead / width)
            regret = np.add.reduceat(odds * self.regret, self.starts) / np.add.reduceat(odds, self.starts)
            total += share * float((np.minimum(regret, 0.5) * self.weights).sum())
        error = np.abs(guessed - self.measured)
        near = self.regret == 0
        of_best = np.add.reduceat(np.where(near, error, 0), self.starts) / np.add.reduceat(near, self.starts)
        return total + 0.4 * float((np.minimum(of_best, 0.5) * self.weights).sum())


def main() -> None:
    """Print one JSON object."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("path", type=Path, help="table of measured times")
    parser.add_argument("--folds", type=float, metavar="SECONDS", help="fit five times, for so long each")
    parser.add_argument("--fit", type=float, metavar="SECONDS", help="fit to all and print the constants")
    asked = parser.parse_args()
    table = list(read(asked.path))
    began = time.perf_counter()
    b = columns(table)
    shipped = CONSTANTS[DEVICE.arch.capability]
    seconds = predicted(b, shipped)
    took = time.perf_counter() - began
    everything = list(range(len(table)))
    found: dict[str, Any] = {
        "device": DEVICE.name,
        "predictions": len(seconds),
        "predictions_per_second": round(len(seconds) / took),
        "shipped": figures(table, seconds, everything),
        "replay": replay(table, seconds),
    }
    if asked.fit:
        found["fitted"] = dataclasses.asdict(fit(table, b, everything, shipped, asked.fit, seed=1))
    if asked.folds:
        fold_of = folds(table)
        # From the middle of each range, so that the shipped values, which saw all problems, tell it nothing.
        middle: dict[str, Any] = {name: (low + high) / 2 for name, (low, high) in FITTED.items()}
        neutral = dataclasses.replace(shipped, **middle)
        held_out = np.empty_like(seconds)
        starts = np.cumsum([0, *(len(rows) for _, rows in table)])
        for fold in range(FOLDS):
            seen = [number for number in everything if fold_of[number] != fold]
            constants = fit(table, b, seen, neutral, asked.folds, seed=fold)
            unseen = predicted(b, constants)
            for number in (n for n in everything if fold_of[n] == fold):
                held_out[starts[number] : starts[number + 1]] = unseen[starts[number] : starts[number + 1]]
        found["five_folds"] = figures(table, held_out, everything)
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
