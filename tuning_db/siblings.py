"""Siblings: problems that differ in their sizes alone, with the winners and all that was tried of each."""

from __future__ import annotations

import math
import sqlite3
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice

from .ranking import Ranked, rank, ranked_from, ranked_of, winners
from .records import EnvironmentRecord, ProblemRecord, Trial, Winner
from .rows import StoredTrial, quoted, trial_values, winners_of

MOST_SIBLINGS = 32  # read at a time, some 0.5 ms each: a sweep leaves a score of trials
MOST_EXAMINED = 256  # keys, the nearest by their columns: which of them are siblings, the caller knows
UNTRIED = ("started", "compiled")  # outcomes of a trial that was begun, and no more
MOST_RANKED = 32  # configurations of one sibling and environment, the best ones


@dataclass(frozen=True)
class Sibling:
    """A problem, its winners, and the configurations of it that passed, best first in each environment."""

    key: str
    winners: tuple[Winner, ...]  # at least one
    ranked: tuple[Ranked, ...]
    tried: frozenset[tuple[str, str]]  # hash of an environment, and a source that was timed there, or failed


def sibling_of(environment: EnvironmentRecord, problem: ProblemRecord, trials: Iterable[Trial]) -> Sibling:
    """Return a problem as a database that held these trials would give it, had their runs ended."""
    trials = list(trials)
    ranked = tuple(
        ranked_from(environment, ranking, *placed)
        for ranking in rank(StoredTrial(trial_values(trial)) for trial in trials)
        for placed in enumerate(ranking.contenders[:MOST_RANKED])
    )
    tried = frozenset(
        (environment.hash, trial.source)
        for trial in trials
        if (trial.measured_us is not None if trial.outcome == "ok" else trial.outcome not in UNTRIED)
    )
    return Sibling(problem.key, tuple(winners(environment, problem, trials)), ranked, tried)


def siblings_of(
    connection: sqlite3.Connection,
    wanted: ProblemRecord,
    columns: Sequence[str],
    sizes: Collection[str],
    alike: Callable[[str], bool],
    among: Mapping[int, EnvironmentRecord],
) -> tuple[list[Sibling], int]:
    """Return the problems like `wanted` that have a winner there, itself first; and how many rows were bad.

    Args:
        connection: To the file.
        wanted: The problem.
        columns: All declared columns of the file.
        sizes: Those in which siblings may differ. The nearest by the product of them come first, and no more
            than MOST_SIBLINGS are looked at.
        alike: Says of a key whether it is a sibling's; columns need not tell all of a problem.
        among: The environments that count, by their ids.
    """
    found, bad = [], 0
    hashes = {environment.hash for environment in among.values()}
    for key in _keys(connection, wanted, columns, sizes, alike, list(among)):
        all_winners, unsound = winners_of(connection, key, columns)
        counted = tuple(winner for winner in all_winners if winner.environment.hash in hashes)
        environments = {winner.environment.hash: winner.environment for winner in counted}
        ranked, nonsense = ranked_of(connection, key, environments.values(), MOST_RANKED)
        bad += unsound + nonsense
        if counted:
            tried = frozenset(pair for pair in _tried(connection, key) if pair[0] in environments)
            found.append(Sibling(key, counted, tuple(ranked), tried))
    return found, bad


def _tried(connection: sqlite3.Connection, key: str) -> Iterable[tuple[str, str]]:
    return connection.execute(
        f"""SELECT DISTINCT e.hash, t.source FROM trials t JOIN problems p ON p.id = t.problem_id
        JOIN runs r ON r.id = t.run_id JOIN environments e ON e.id = r.environment_id
        WHERE p.key = ? AND t.outcome NOT IN {UNTRIED}
            AND (t.outcome <> 'ok' OR t.measured_us IS NOT NULL)""",
        (key,),
    )


def _keys(
    connection: sqlite3.Connection,
    wanted: ProblemRecord,
    columns: Sequence[str],
    sizes: Collection[str],
    alike: Callable[[str], bool],
    environments: Sequence[int],
) -> list[str]:
    """Return the keys of the siblings with a winner in one of the environments, nearest first.

    The index over the declared columns tells which are near. What was missed and not tuned has rows too, any
    number of them: those must not take the places of what was.
    """
    same = [name for name in columns if name not in sizes]
    factors = [name for name in columns if name in sizes]
    where = " AND ".join(["1", *(f"{quoted(name)} IS ?" for name in same)])
    product = " * ".join(["1.0", *(f"coalesce({quoted(name)}, 1)" for name in factors)])
    size = math.prod(float(wanted.columns.get(name, 1)) for name in factors)
    won = f"""EXISTS (SELECT 1 FROM winners w WHERE w.problem_id = problems.id
        AND w.environment_id IN ({", ".join("?" * len(environments))}))"""
    rows = connection.execute(
        f"""SELECT key FROM problems WHERE id IN (
            SELECT id FROM problems WHERE {where} AND {won} ORDER BY abs({product} - ?) LIMIT {MOST_EXAMINED})
        ORDER BY key <> ?, abs({product} - ?), key""",
        (*(wanted.columns.get(name) for name in same), *environments, size, wanted.key, size),
    )
    return list(islice((key for (key,) in rows if isinstance(key, str) and alike(key)), MOST_SIBLINGS))
