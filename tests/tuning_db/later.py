"""A version of the schema that is still to come, so that this package's own is an older one."""

from __future__ import annotations

import sqlite3

from tuning_db import schema


def _index_outcomes(connection: sqlite3.Connection) -> None:
    connection.execute("CREATE INDEX trials_by_outcome ON trials (outcome)")
    connection.execute("DELETE FROM winners")  # as if they were to be derived by another rule
    connection.execute("DELETE FROM problem_sizes")


STEPS = (*schema.STEPS, (f"{len(schema.STEPS) + 1:04}_later", _index_outcomes))
"""For `tuning_db.schema.STEPS`."""
