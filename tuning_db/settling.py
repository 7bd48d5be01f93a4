"""The derived tables, winners and sizes: filled from trials and problems, one pair at a time or all."""

from __future__ import annotations

import sqlite3

from .nearest import put_size, stored_columns
from .reading import select_trials, stored_trials
from .rows import WINNER_COLUMNS, BadRowError, StoredTrial, checksum, environment_from, insert
from .rule import best_rows

COMPETING_OUTCOMES = ("ok", "wrong")  # what the rule looks at

_PUT_WINNER = insert("winners", ("environment_id", "problem_id", *WINNER_COLUMNS, "checksum"))
_COMPETING = f"""
    {select_trials()}
    WHERE t.problem_id = ? AND r.environment_id = ? AND t.outcome IN {COMPETING_OUTCOMES}"""


def settle(connection: sqlite3.Connection, of_environment: int, of_problem: int) -> int:
    """Derive the winners of one problem in one environment from its trials; return how many rows were bad.

    A bad row never competes. Where the environment itself is bad, or nothing competes, there are no winners.
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
    trials: list[StoredTrial] = []
    try:
        environment_from(stored_hash, document)
        bad = stored_trials(connection.execute(_COMPETING, (of_problem, of_environment)), trials)
        rows = best_rows(trials)
    except BadRowError:
        return 1
    connection.executemany(
        _PUT_WINNER,
        [(of_environment, of_problem, *row, checksum((stored_hash, key), row)) for row in rows],
    )
    return bad


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
