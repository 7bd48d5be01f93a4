"""The rule that derives winners from trials: a pure function of the set of trials, not of order or clock."""

from __future__ import annotations

import math
import sqlite3
import statistics
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from .records import PROVENANCES, EnvironmentRecord, ProblemRecord, Trial, Winner, canonical
from .rows import StoredTrial, select_trials, sound, trial_values, winner_from

# Times that lie so close are as good as each other. Identical sweeps repeated elsewhere flip between
# configurations 0.1 to 2 % apart (flashinfer#3920); a prediction has no noise but its compiler's last digits.
TIE_TOLERANCE = {"measured": 0.02, "contended": 0.02, "predicted": 0.01}
BEYOND_NOISE = 2.0  # standard errors that set two apart which were timed in turn
COMPETING_OUTCOMES = ("ok", "wrong")  # what the rule looks at
NOISE_SAMPLES = 3  # fewer tell nothing about noise


@dataclass(slots=True)  # not frozen, which would take four times as long to make, and there are many
class Contender:
    """One configuration of one source, with the trials that its time rests on."""

    time: float  # microseconds, the median over its runs
    config_hash: str
    source: str
    trials: list[StoredTrial]

    @property
    def max_err(self) -> float | None:
        """The largest over its runs."""
        return max((trial.max_err for trial in self.trials if trial.max_err is not None), default=None)

    @property
    def noise(self) -> float | None:
        """The median deviation of all its samples from their median, over that median."""
        samples = [sample for trial in self.trials for sample in trial.samples_us]
        if len(samples) < NOISE_SAMPLES:
            return None
        middle = statistics.median(samples)
        return statistics.median([abs(sample - middle) for sample in samples]) / middle

    def typical(self, provenance: str) -> StoredTrial:
        """The trial at the (low) median, so that its details belong to a time like the winner's."""
        ranked = sorted(self.trials, key=lambda trial: (_time(trial, provenance), _spelled(trial)))
        return ranked[(len(ranked) - 1) // 2]

    def preference(self, provenance: str) -> tuple[float, float, str, str]:
        """Its place among ties."""
        typical = self.typical(provenance)
        return (*preference(typical.config_text, typical.detail), self.source)

    @property
    def details(self) -> list[Mapping[str, Any]]:
        """What else is known of its trials."""
        return [trial.detail for trial in self.trials]


@dataclass(frozen=True)
class Ranking:
    """The configurations that compete, best first."""

    provenance: str  # what their times rest on, one of PROVENANCES
    predictor: str  # which predicted; empty where timed
    contenders: list[Contender]  # at least one
    ties: int  # how many others the winner was chosen from by the fixed order, their times being as good

    @property
    def margin(self) -> float | None:
        """The least time of the others over the winner's, less 1: below 0 where one of its ties is faster.

        None without another.
        """
        winner, *others = (one.time for one in self.contenders)
        return min(others) / winner - 1 if others else None

    @property
    def default_us(self) -> float | None:
        """The time of the default configuration; of several, the least, so no gain is overstated."""
        defaults = (one.time for one in self.contenders if any(trial.is_default for trial in one.trials))
        return min(defaults, default=None)

    @property
    def finished(self) -> bool:
        """Whether a run that came to its end is among those that the ranking rests on."""
        return any(trial.finished for one in self.contenders for trial in one.trials)


def rank(trials: Iterable[StoredTrial]) -> list[Ranking]:
    """Rank the configurations among `trials` of one problem in one environment; empty where none competes.

    Only configurations with an "ok" trial and a time compete, and none that was "wrong" in any run of the
    same source. Where any was measured, only measured ones compete; else those timed beside other work, if
    there are some; else those of each predictor among themselves, and there are as many rankings as
    predictors, in the order of their names.

    The least median over the runs comes first. Those as good, within TIE_TOLERANCE of it at most, are ties,
    which `preference` orders; they stand before all others.
    """
    trials = list(trials)
    wrong = {(trial.config_hash, trial.source) for trial in trials if trial.outcome == "wrong"}
    sound = [
        trial
        for trial in trials
        if trial.outcome == "ok" and (not wrong or (trial.config_hash, trial.source) not in wrong)
    ]
    timed = [trial for trial in sound if trial.measured_us is not None]
    quiet = [trial for trial in timed if not trial.contended]
    if timed:
        provenance = "measured" if quiet else "contended"
        return [Ranking(provenance, "", *_contenders(quiet or timed, provenance))]
    predicted = [trial for trial in sound if trial.predicted_us is not None]
    return [
        Ranking(
            "predicted",
            one,
            *_contenders([trial for trial in predicted if trial.predictor == one], "predicted"),
        )
        for one in sorted({trial.predictor for trial in predicted})
    ]


def _contenders(trials: list[StoredTrial], provenance: str) -> tuple[list[Contender], int]:
    """Return the configurations with these trials, which all have such a time, best first; and its ties."""
    groups: dict[tuple[str, str], list[StoredTrial]] = {}
    for trial in trials:
        groups.setdefault((trial.config_hash, trial.source), []).append(trial)
    found = [
        Contender(_median([_time(trial, provenance) for trial in group]), *named, group)
        for named, group in groups.items()
    ]
    found.sort(key=lambda one: (one.time, one.config_hash, one.source))
    least = found[0].time
    near = [one for one in found if one.time <= least * (1 + TIE_TOLERANCE[provenance])]
    if len(near) == 1:
        return found, 0
    fastest = near[0].details
    tied = [one for one in near if one.time <= least * (1 + _tolerance(provenance, one.details, fastest))]
    first = sorted(tied, key=lambda one: one.preference(provenance))
    placed = set(map(id, first))
    return first + [one for one in found if id(one) not in placed], len(tied) - 1


def _tolerance(provenance: str, one: list[Mapping[str, Any]], other: list[Mapping[str, Any]]) -> float:
    """Return by how much times with these details may differ, as a part of the lesser, and be as good.

    It is TIE_TOLERANCE, for times taken apart differ by the drift of a machine's clocks. Where the same
    "race" in both details says that they were timed in turn, that drift is out of them: then it is
    BEYOND_NOISE standard errors, if that is less, as "time_error" tells them, a part of the time.
    """
    most = TIE_TOLERANCE[provenance]
    races = [{detail.get("race") for detail in details if "race" in detail} for details in (one, other)]
    errors = [_figure(detail.get("time_error")) for detail in (*one, *other)]
    together = len(one) == len(other) == 1 and races[0] == races[1] != set()
    return min(most, BEYOND_NOISE * math.hypot(*errors)) if provenance == "measured" and together else most


def preference(config: str, detail: Mapping[str, Any]) -> tuple[float, float, str]:
    """Return the place among ties of a configuration, given as canonical JSON, whose trial has this detail.

    Fewer "registers" come first, then less "shared" memory, as the detail tells them: what takes less of a
    processor has less to lose elsewhere. Then the configuration's text decides. One that tells neither, such
    as a library's own, comes before all.
    """
    return _figure(detail.get("registers")), _figure(detail.get("shared")), config


def _figure(value: object) -> float:
    return float(value) if isinstance(value, (int, float)) and -math.inf < value < math.inf else 0.0


def best(found: Iterable[Winner]) -> Winner | None:
    """Return the best of several sources' winners, in the order of PROVENANCES; None where there is none.

    As among the configurations of one source, times as good as the least are ties. The least is that of all
    configurations, not of the winners alone, so that two rounds of ties do not add up.
    """
    found = sorted(found, key=_standing)
    if not found:
        return None
    rivals = [one for one in found if one.provenance == found[0].provenance]
    fastest = min(rivals, key=_least)

    def as_good(one: Winner) -> bool:
        tolerance = _tolerance(one.provenance, [one.detail], [fastest.detail])
        return one is fastest or one.time_us <= _least(fastest) * (1 + tolerance)

    return min(
        filter(as_good, rivals),
        key=lambda one: (*preference(canonical(one.config), one.detail), one.source),
    )


def _standing(winner: Winner) -> int:
    return PROVENANCES.index(winner.provenance)


def _least(winner: Winner) -> float:
    """Return the least time among the configurations that a winner was chosen from."""
    return winner.time_us * (1 + min(winner.margin or 0.0, 0.0))


def _median(times: list[float]) -> float:
    return times[0] if len(times) == 1 else statistics.median(times)


def _time(trial: StoredTrial, provenance: str) -> float:
    time = trial.predicted_us if provenance == "predicted" else trial.measured_us
    return float("inf") if time is None else time


def _spelled(trial: StoredTrial) -> tuple[str, ...]:
    values = (trial.samples_text, trial.predicted_us, trial.predictor, trial.max_err, trial.detail_text)
    return tuple(map(str, values))


@dataclass(frozen=True)
class Ranked:
    """A configuration of one problem with its place in one environment, among those of all sources."""

    environment: EnvironmentRecord
    place: int  # 0 is the best
    config: dict[str, Any]
    source: str
    provenance: str  # what its place rests on, one of PROVENANCES
    predictor: str  # which predicted; places are among the predictions of one predictor
    time_us: float  # microseconds, median over the runs


def ranked_of(
    connection: sqlite3.Connection, problem_key: str, environments: Iterable[EnvironmentRecord], limit: int
) -> tuple[list[Ranked], int]:
    """Return the best configurations of a problem in each environment, and how many rows were bad."""
    found: list[Ranked] = []
    bad = 0
    query = f"{select_trials()} WHERE p.key = ? AND e.hash = ? AND t.outcome IN {COMPETING_OUTCOMES}"
    for environment in sorted(environments, key=lambda one: one.hash):
        rows = connection.execute(query, (problem_key, environment.hash))
        trials, unsound = sound(rows, StoredTrial.read)
        best = [
            (environment, ranking, *placed)
            for ranking in rank(trials)
            for placed in enumerate(ranking.contenders[:limit])
        ]
        ranked, nonsense = sound(best, ranked_from)
        found += ranked
        bad += unsound + nonsense
    return found, bad


def ranked_from(environment: EnvironmentRecord, ranking: Ranking, place: int, contender: Contender) -> Ranked:
    """Return a contender of a ranking, at its place; raises BadRowError where its config is none."""
    config = dict(contender.trials[0].config)
    named = contender.source, ranking.provenance, ranking.predictor, contender.time
    return Ranked(environment, place, config, *named)


def best_rows(trials: Iterable[StoredTrial]) -> list[tuple[Any, ...]]:
    """Return the winners among `trials` of one problem in one environment, as rows, in the order of sources.

    Each row is in the order of WINNER_COLUMNS; which winners there are is told by `Winner`.

    Raises:
        BadRowError: the winner's samples are nonsense, in a row that fits its checksum.
    """
    groups: dict[str, list[StoredTrial]] = {}
    for trial in trials:
        groups.setdefault(trial.source, []).append(trial)
    return [_row(source, ranking) for source in sorted(groups) for ranking in rank(groups[source])]


def _row(source: str, ranking: Ranking) -> tuple[Any, ...]:
    best = ranking.contenders[0]
    typical = best.typical(ranking.provenance)
    timed = ranking.provenance != "predicted"
    return (
        source, ranking.predictor, best.config_hash, typical.config_text, ranking.provenance,
        best.time if timed else None, typical.predicted_us if timed else best.time, best.max_err,
        ranking.margin, ranking.ties, best.noise if timed else None, ranking.default_us,
        int(ranking.finished), typical.detail_text,
    )  # fmt: skip


def winners(environment: EnvironmentRecord, problem: ProblemRecord, trials: Iterable[Trial]) -> list[Winner]:
    """Return the winners among `trials`, as a database that held them would, had their runs ended."""
    rows = best_rows(StoredTrial(trial_values(trial)) for trial in trials)
    return [winner_from(environment, problem, row) for row in rows]
