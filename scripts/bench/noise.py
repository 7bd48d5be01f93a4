"""How a noisy, drifting GPU misleads a sweep: by the rule for winners, and by the least median, as JSON.

    python scripts/bench/noise.py [sweeps]

The GPU is simulated: a launch takes what the model estimates, times a drift, which changes from launch to
launch, times noise. Each layer is swept so many times, each time on a GPU of its own. Told are the flips
(sweeps whose winner is not that of the sweep before) and the mean regret (the true time of the winner over
the least, less 1). Both ways launch as often: `median` times one candidate after the other and takes the
least median, `race` is what a sweep does.
"""

from __future__ import annotations

import json
import math
import platform
import random
import statistics
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from autoconv.config import Config
from autoconv.cost.predict import estimate
from autoconv.device import find
from autoconv.problem import Problem
from autoconv.sweep.candidates import candidates, shortlist
from autoconv.sweep.racing import race
from autoconv.sweep.sweep import SHORTLIST
from tuning_db import EnvironmentRecord, ProblemRecord, Trial
from tuning_db.ranking import winners

DEVICE = "rtx4090"
LAYERS = (
    "N=64,Cin=64,Cout=128,K=3,L=224280,stride=3,dilation=4",
    "N=16,Cin=128,Cout=128,K=7,L=8192,padding=9,dilation=3,bias=1",
    "N=8,Cin=512,Cout=512,K=3,L=3000,padding=1,dtype=float16",
    "N=1,Cin=80,Cout=512,K=7,L=800,padding=3,bias=1",
    "N=4,Cin=512,Cout=512,K=31,L=500,groups=512,padding=15,dtype=float16",
    "N=16,Cin=256,Cout=128,K=8,L=512,stride=4,padding=2,op=conv_transpose",
)
NOISES = (0.005, 0.02, 0.05)  # standard deviation of the noise, and of the drift
DRIFT_LAUNCHES = 200  # in which the drift forgets where it was
ROUND_LAPS = (
    10  # of the race's first round; its later rounds launch as often, the fewer candidates more often
)
SWEEPS = 10


@dataclass(frozen=True)
class Candidate:
    """A config with what it truly takes."""

    name: str
    us: float
    registers: int
    shared: int


class NoisyGpu:
    """A GPU whose launches take their true time, times drift, times noise; the same for the same seed."""

    def __init__(self, noise: float, seed: int) -> None:
        """Let both noise and drift have a standard deviation of `noise`."""
        self._noise = noise
        self._random = random.Random(seed)
        self._drift = self._random.gauss(0, 1)
        self.launches = 0

    def launch(self, candidate: Candidate) -> float:
        """Return the time of one launch, in microseconds."""
        self.launches += 1
        kept = math.exp(-1 / DRIFT_LAUNCHES)
        self._drift = kept * self._drift + math.sqrt(1 - kept * kept) * self._random.gauss(0, 1)
        return candidate.us * math.exp(self._noise * (self._drift + self._random.gauss(0, 1)))


Choice = Callable[[Sequence[Candidate], NoisyGpu], Candidate]


def by_race(entrants: Sequence[Candidate], gpu: NoisyGpu) -> Candidate:
    """Return the winner of a race, by the rule of the tuning database."""

    def in_turn(running: Sequence[Candidate]) -> list[dict[Candidate, float]]:
        laps = round(ROUND_LAPS * len(entrants) / len(running))
        orders = (running[:: -1 if lap % 2 else 1] for lap in range(laps))
        return [{one: gpu.launch(one) for one in order} for order in orders]

    by_name = {one.name: one for one in entrants}
    trials = [
        Trial(
            {"name": one.name},
            "ok",
            samples_us=timing.samples_us,
            detail={
                **timing.detail(), "race": "r", "registers": one.registers, "shared": one.shared
            },
        )
        for one, timing in race(entrants, in_turn).items()
    ]  # fmt: skip
    (winner,) = winners(EnvironmentRecord({}, {}), ProblemRecord("p"), trials)
    return by_name[winner.config["name"]]


def by_median(entrants: Sequence[Candidate], gpu: NoisyGpu) -> Candidate:
    """Return the candidate of the least median, of as many launches as a race has, one after the other."""
    rounds, running = 1, len(entrants)
    while running > 3:
        rounds, running = rounds + 1, max(3, (running + 1) // 2)
    medians = {
        one: statistics.median(gpu.launch(one) for _ in range(rounds * ROUND_LAPS)) for one in entrants
    }
    return min(medians, key=lambda one: (medians[one], one.name))


def entrants_of(layer: str) -> list[Candidate]:
    """Return what a sweep would time, each with its estimate as the truth."""
    problem, device = Problem.parse(layer), find(DEVICE)
    chosen = shortlist(problem, candidates(problem, device), device, SHORTLIST)
    return [_candidate(config, problem) for config in chosen]


def _candidate(config: Config, problem: Problem) -> Candidate:
    told = estimate(problem, config, find(DEVICE))
    return Candidate(str(config), told.seconds * 1e6, told.registers, told.shared)


def swept(
    layers: Sequence[Sequence[Candidate]], choice: Choice, noise: float, sweeps: int
) -> dict[str, float]:
    """Return the flips, the mean regret in percent and the launches of so many sweeps of each layer."""
    flips, launches, regrets = 0, 0, []
    for number, entrants in enumerate(layers):
        least = min(one.us for one in entrants)
        gpus = [NoisyGpu(noise, seed=1000 * number + sweep) for sweep in range(sweeps)]
        chosen = [choice(entrants, gpu) for gpu in gpus]
        flips += sum(one != other for one, other in pairwise(chosen))
        launches += sum(gpu.launches for gpu in gpus)
        regrets += [one.us / least - 1 for one in chosen]
    return {"flips": flips, "regret_pct": round(100 * statistics.mean(regrets), 3), "launches": launches}


def main() -> None:
    """Sweep every layer at every noise both ways."""
    sweeps = int(sys.argv[1]) if len(sys.argv) > 1 else SWEEPS
    layers = [entrants_of(layer) for layer in LAYERS]
    found = [
        {
            "noise_pct": 100 * noise,
            "race": swept(layers, by_race, noise, sweeps),
            "median": swept(layers, by_median, noise, sweeps),
        }
        for noise in NOISES
    ]
    made = {"device": DEVICE, "layers": len(LAYERS), "sweeps": sweeps, "python": platform.python_version()}
    print(json.dumps({**made, "simulated": found}))


if __name__ == "__main__":
    main()
