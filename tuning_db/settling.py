"""The derived tables, winners and sizes: filled from trials and problems, one pair at a time or all."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable
from typing import Any

from .nearest import put_size, stored_columns
from .reading import select_trials, stored_trials
from .rows import WINNER_COLUMNS, BadRowError, StoredTrial, checksum, environment_from, insert
from .rule import rank

COMPETING_OUTCOMES = ("ok", "wrong")  # what the rule looks at

_PUT_WINNER = insert("winners", ("environment_id", "problem_id", *WINNER_COLUMNS, "checksum"))
_COMPETING = f"""
    {select_trials()}
    WHERE t.problem_id = ? AND r.environment_id = ? AND t.outcome IN {COMPETING_OUTCOMES}"""


def settle(connection: sqlite3.Connection, of_environment: int, of_problem: int) -> int:
    """Derive the winner of one problem in one environment from its trials; return how many rows were bad.

    A bad row never competes. Where the environment itself is bad, or nothing competes, there is no winner.
    """
    connection.execute(
        "DELETE FROM winners WHERE environment_id = ? AND problem_id = ?", (of_environment, of_problem)
    )
    pair = connection.execute(
        "SELECT e.hash, e.doc, p.key FROM environments e, problems p WHERE e.id = ? AND p.id = ?",
        (of_environment, of_problem),
    ).fetchone()
    if pair is None:  # only a damaged file has trials without them
        return 1
    stored_hash, document, key = pair
    try:
        environment_from(stored_hash, document)
    except BadRowError:
        return 1
    trials: list[StoredTrial] = []
    bad = stored_trials(connection.execute(_COMPETING, (of_problem, of_environment)), trials)
    return bad + put_winner(connection, (of_environment, of_problem), (stored_hash, key), trials)


def put_winner(
    connection: sqlite3.Connection, ids: tuple[int, int], names: tuple[str, str], trials: list[StoredTrial]
) -> int:
    """Insert the winner of all trials of an environment and a problem; return how many rows were bad.

    `ids` are theirs in the file, `names` the environment's hash and the problem's key.
    """
    try:
        values = winning_row(trials)
    except BadRowError:
        return 1
    if values is not None:
        connection.execute(_PUT_WINNER, (*ids, *values, checksum(names, values)))
    return 0


def winning_row(trials: Iterable[StoredTrial]) -> tuple[Any, ...] | None:
    """Return the row of the winner among `trials`, as `winner_values(choose(...))`, but without parsing.

    Raises:
        BadRowError: the winner's samples are nonsense, in a row that fits its checksum.
    """
    ranking = rank(trials)
    if ranking is None:
        return None
    best = ranking.contenders[0]
    typical = best.typical(ranking.provenance)
    return (
        typical.config_hash, typical.config_text, ranking.provenance, best.measured_us, best.predicted_us,
        best.max_err, ranking.margin, ranking.ties, typical.detail_text, ranking.noise, ranking.default_us,
    )  # fmt: skip


def derive(connection: sqlite3.Connection) -> int:
    """Fill both tables anew; return how many rows were bad."""
    connection.execute("DELETE FROM winners")
    connection.execute("DELETE FROM problem_sizes")
    for (of_problem,) in connection.execute("SELECT id FROM problems").fetchall():
        put_size(connection, of_problem, stored_columns(connection, of_problem))
    pairs = connection.execute(
        "SELECT DISTINCT r.environment_id, t.problem_id FROM trials t JOIN runs r ON r.id = t.run_id"
    ).fetchall()
    return sum(settle(connection, *pair) for pair in pairs)
