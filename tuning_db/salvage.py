"""Trials out of a damaged file: whatever lies in its pages and fits its checksum.

SQLite gives a table up at its first torn page, and a file with its header. Here it does not matter how a row
was found, whether its page is still in use, or what else a page may be: what fits its checksum is a trial.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from .nearest import size_and_kind
from .pages import Row, rows_of
from .records import EnvironmentRecord, ProblemRecord, RunRecord
from .rows import (
    TRIAL_COLUMNS,
    BadRowError,
    checksum,
    environment_from,
    run_from,
    trial_from,
)

_COLUMN = re.compile(r'["\[]?(\w+)["\]]? (?:INTEGER|TEXT)')
_TRIAL_WIDTH = 4 + len(TRIAL_COLUMNS)  # id, run, problem, those columns, checksum
_REALS = [3 + TRIAL_COLUMNS.index(name) for name in ("predicted_us", "measured_us", "max_err")]


class Salvaged(NamedTuple):
    """A trial that fits its checksum, with what it refers to."""

    run: RunRecord
    problem: ProblemRecord
    values: tuple[Any, ...]  # in the order of TRIAL_COLUMNS


class Wreck:
    """What a damaged file still tells. All rows that bear an id are kept: a checksum says which fits."""

    def __init__(self, path: Path, columns: Mapping[str, type]) -> None:
        """Gather environments, runs and problems; raises OSError where the file cannot be read."""
        self._path = path
        self._columns = columns
        self._problems: dict[int, list[list[Any]]] = {}
        self._sizes: dict[int, set[tuple[float, int]]] = {}  # as noted
        self._names: list[str] = []  # of the problems' columns, where the schema can still be read
        environments: dict[int, list[EnvironmentRecord]] = {}
        runs: list[tuple[str, int, str, str, int]] = []
        for row in rows_of(path):
            if _may_be_trial(row):
                continue
            match row.values():
                case [None, int(kind), int(log_size) | float(log_size)]:
                    self._sizes.setdefault(row.rowid, set()).add((float(log_size), kind))
                case [None, str(text), *rest]:
                    self._problems.setdefault(row.rowid, []).append([text, *rest])
                    if rest and isinstance(rest[-1], str):  # it may as well be an environment
                        self._note_environment(environments, row.rowid, text, rest[-1])
                case [str(run_id), int(environment_id), str(origin), str(info), 0 | 1 as finished]:
                    runs.append((run_id, environment_id, origin, info, finished))
                case ["table", "problems", "problems", int(), str(sql)]:
                    self._names = _COLUMN.findall(sql)[2:]
        self.runs: dict[str, list[RunRecord]] = {}
        for run_id, environment_id, origin, info, finished in runs:
            for environment in environments.get(environment_id, ()):
                with suppress(BadRowError):
                    run = run_from(run_id, environment, origin, info, finished)
                    self.runs.setdefault(run_id, []).append(run)

    @staticmethod
    def _note_environment(
        environments: dict[int, list[EnvironmentRecord]], rowid: int, stored_hash: str, document: str
    ) -> None:
        try:
            environments.setdefault(rowid, []).append(environment_from(stored_hash, document))
        except BadRowError:
            return

    def trials(self) -> Iterator[Salvaged]:
        """Yield every trial that fits its checksum; one that was moved between pages more than once."""
        for row in rows_of(self._path):
            if _may_be_trial(row):
                _, run_id, of_problem, *values, stored = row.values()
                found = self._fitting(run_id, of_problem, _with_reals(values), stored)
                if found is not None:
                    yield found

    def _fitting(self, run_id: Any, of_problem: Any, values: tuple[Any, ...], stored: Any) -> Salvaged | None:
        if not isinstance(run_id, str) or not isinstance(of_problem, int):
            return None
        for run in self.runs.get(run_id, ()):
            for key, *named in self._problems.get(of_problem, ()):
                references = (run.environment.hash, key, run_id)
                if stored == checksum(references, values):
                    try:
                        trial_from(values)
                        return Salvaged(run, self._problem(of_problem, key, named), values)
                    except (BadRowError, ValueError):
                        return None
        return None

    def _problem(self, number: int, key: str, named: list[Any]) -> ProblemRecord:
        there: dict[str, Any] = dict(zip(self._names, named, strict=False))  # older rows have fewer
        if self._sizes and size_and_kind(there) not in self._sizes.get(number, ()):
            return ProblemRecord(key)  # whoever brings it next fills its columns
        fitting = (name for name, kind in self._columns.items() if type(there.get(name)) is kind)
        return ProblemRecord(key, {name: there[name] for name in fitting})


def _may_be_trial(row: Row) -> bool:
    """Whether types are those of a trial: no other row has so many, an integer third and texts after it."""
    types = row.types
    return len(types) == _TRIAL_WIDTH and 0 < types[2] < 10 and types[3] >= 13 and types[4] >= 13


def _with_reals(values: list[Any]) -> tuple[Any, ...]:
    return tuple(
        float(value) if place + 3 in _REALS and isinstance(value, int) else value
        for place, value in enumerate(values)
    )
