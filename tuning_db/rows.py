"""Records to rows and back, with the checksum that every trial and winner carries; and the queries for them.

A checksum covers the row's own texts and numbers, as stored, and what the row refers to (environment hash,
problem key, run), so a flipped bit in either is seen when the row is read, before any of it is parsed.
"""

from __future__ import annotations

import json
import math
import sqlite3
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Any, TypeVar

from .records import (
    EnvironmentRecord,
    ProblemRecord,
    RunRecord,
    Trial,
    Winner,
    cached_property,
    canonical,
    digest,
    is_duration,
    is_figure,
    plain,
)

TRIAL_COLUMNS = (
    "config_hash", "config", "source", "predictor", "outcome", "predicted_us", "measured_us", "samples_us",
    "max_err", "error", "detail",
)  # fmt: skip
WINNER_COLUMNS = (
    "source", "predictor", "config_hash", "config", "provenance", "measured_us", "predicted_us", "max_err",
    "margin", "ties", "noise", "default_us", "finished", "detail",
)  # fmt: skip
_JSON_OF_TRIAL = ("config", "samples_us", "detail")
UNPARSABLE = (ValueError, TypeError, KeyError, RecursionError)  # what text that is not ours raises


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"{text} is no finite number")
    return number


# json.loads looks at its arguments first, each time, and takes what `canonical` cannot write.
_decode = json.JSONDecoder(parse_float=_finite, parse_constant=_finite).decode

T = TypeVar("T")


class BadRowError(Exception):
    """A stored row is not what was written; it counts as absent."""


def quoted(name: str) -> str:
    """Return a declared column's name as SQL; `check_columns` admits no quotes in it."""
    return f'"{name}"'


def insert(table: str, columns: Sequence[str]) -> str:
    """Return the statement that inserts these columns."""
    return f"INSERT INTO {table} ({', '.join(columns)}) VALUES ({', '.join('?' * len(columns))})"


def checksum(references: Sequence[str], values: Sequence[Any]) -> str:
    """Return the checksum of a row's `values` and of what it refers to."""
    # Not JSON: that would cost each lookup 8 us more, and nothing reads it back.
    return digest("\x1f".join(map(str, (*references, *values))))


def verify(references: Sequence[str], values: Sequence[Any], stored: str) -> None:
    """Raise BadRowError unless `stored` is the checksum of the row."""
    if checksum(references, values) != stored:
        raise BadRowError(f"checksum {stored} does not fit its row")


def sound(rows: Iterable[Sequence[Any]], read: Callable[..., T]) -> tuple[list[T], int]:
    """Return what `read` makes of the columns of each row, and for how many it raised BadRowError."""
    found, bad = [], 0
    for row in rows:
        try:
            found.append(read(*row))
        except BadRowError:
            bad += 1
    return found, bad


def parsed(parse: Callable[[], T]) -> T:
    """Return what `parse` does; a row may fit its checksum and still be nonsense, if that was made to fit."""
    try:
        return parse()
    except UNPARSABLE as error:
        raise BadRowError(f"{type(error).__name__}: {error}") from None


def trial_values(trial: Trial) -> tuple[Any, ...]:
    """Return the row of `trial`, in the order of TRIAL_COLUMNS."""
    config = canonical(trial.config)
    return (
        digest(config),
        config,
        trial.source,
        trial.predictor,
        trial.outcome,
        trial.predicted_us,
        trial.measured_us,
        canonical(trial.samples_us),
        trial.max_err,
        trial.error,
        canonical(trial.detail),
    )


def check_types(values: Sequence[Any]) -> None:
    """Raise BadRowError unless a trial's row has texts, times and figures where they belong.

    The schema says so too; but whoever made a site's file may have had SQLite look away.
    """
    row = dict(zip(TRIAL_COLUMNS, values, strict=True))
    durations, figure = (row.pop("predicted_us"), row.pop("measured_us")), row.pop("max_err")
    for text in {**row, "error": row["error"] or ""}.values():
        if type(text) is not str:
            raise BadRowError(f"{text!r} stands where a text belongs")
    if not (all(map(is_duration, durations)) and is_figure(figure)):
        raise BadRowError(f"one of {durations}, {figure!r} is no such number")


def trial_from(values: Sequence[Any]) -> Trial:
    """Return the trial of a verified row; raises BadRowError where it is none."""
    check_types(values)
    named = dict(zip(TRIAL_COLUMNS, values, strict=True))
    del named["config_hash"]
    return parsed(lambda: Trial(**named | {name: json.loads(named[name]) for name in _JSON_OF_TRIAL}))


class StoredTrial:
    """A verified row as the rule looks at it: the texts in it are parsed when asked for, which is seldom."""

    def __init__(self, values: Sequence[Any], *, finished: bool = True) -> None:
        """Take the row, in the order of TRIAL_COLUMNS, and whether its run came to its end.

        Raises:
            BadRowError: its types are others than a trial's.
        """
        check_types(values)
        (
            self.config_hash, self.config_text, self.source, self.predictor, self.outcome, self.predicted_us,
            self.measured_us, self.samples_text, self.max_err, _, self.detail_text,
        ) = values  # fmt: skip
        self.finished = finished

    @classmethod
    def read(
        cls, environment: str, key: str, run: str, finished: int, stored: str, *values: Any
    ) -> StoredTrial:
        """Return the trial of a row of `select_trials`; raises BadRowError where it is none."""
        verify((environment, key, run), values, stored)
        return cls(values, finished=bool(finished))

    @cached_property
    def config(self) -> Mapping[str, Any]:
        """The configuration."""
        return parsed(lambda: plain("config", _mapping(self.config_text), scalars=True))

    @cached_property
    def samples_us(self) -> tuple[float, ...]:
        """Microseconds, each one timed."""
        samples: tuple[float, ...] = parsed(lambda: tuple(json.loads(self.samples_text)))
        if None in samples or not all(map(is_duration, samples)):
            raise BadRowError(f"{self.samples_text[:40]} are no times")
        return samples

    @property
    def detail(self) -> Mapping[str, Any]:
        """What else is known of it; nothing where that is no JSON object, which a reader of it will say."""
        try:
            return _mapping(self.detail_text)
        except BadRowError:
            return {}

    @property
    def is_default(self) -> bool:
        """Whether it is the configuration in use without tuning."""
        return self._marked("default")

    @property
    def contended(self) -> bool:
        """Whether its time was taken beside other work."""
        return self._marked("contended")

    def _marked(self, name: str) -> bool:
        return f'"{name}":true' in self.detail_text and self.detail.get(name) is True


def _mapping(text: str) -> Mapping[str, Any]:
    try:
        found = _decode(text)
    except UNPARSABLE as error:
        raise BadRowError(f"{type(error).__name__}: {error}") from None
    if not isinstance(found, dict):
        raise BadRowError(f"{text[:40]} is no JSON object")
    return found


def winner_from(environment: EnvironmentRecord, problem: ProblemRecord, values: Sequence[Any]) -> Winner:
    """Return the winner of a verified row; raises BadRowError where it is none."""
    named = dict(zip(WINNER_COLUMNS, values, strict=True))
    del named["config_hash"]
    named |= {name: _mapping(named[name]) for name in ("config", "detail")}
    return parsed(lambda: Winner(environment, problem, **{**named, "finished": bool(named["finished"])}))


@lru_cache(maxsize=1024)  # there are few environments, and one stands in every row
def environment_from(stored_hash: str, document: str) -> EnvironmentRecord:
    """Return the environment of a row, checked against its hash.

    Raises:
        BadRowError: the document is not the one hashed, or is no environment.
    """
    if not isinstance(document, str) or digest(document) != stored_hash:
        raise BadRowError(f"environment {stored_hash} does not fit its document")
    environment = parsed(lambda: EnvironmentRecord(**json.loads(document)))
    if environment.document != document:
        raise BadRowError(f"environment {stored_hash} is not in canonical form")
    return environment


def run_from(environment: EnvironmentRecord, run_id: str, origin: str, info: str, finished: int) -> RunRecord:
    """Return the run of a row; raises BadRowError where it is none."""
    return parsed(lambda: RunRecord(run_id, environment, origin, json.loads(info), bool(finished)))


def problem_from(key: str, columns: Sequence[str], values: Sequence[Any]) -> ProblemRecord:
    """Return the problem of a row; raises BadRowError where a column holds what no problem can."""
    named = zip(columns, values, strict=True)
    return parsed(lambda: ProblemRecord(key, {name: value for name, value in named if value is not None}))


def check_declared(problem: ProblemRecord, declared: Mapping[str, type]) -> None:
    """Raise ValueError where a column of the problem was not declared, or not with its type."""
    for name, value in problem.columns.items():
        if name not in declared or not isinstance(value, declared[name]):
            raise ValueError(
                f"columns[{name!r}]={value!r} was not declared so; open the database with such a column"
            )


# --- queries --------------------------------------------------------------------------------------


def select_trials(first: str = "") -> str:
    """Return a query for trials.

    Its columns: `first`, then hash of the environment, key of the problem, id of the run and whether that has
    finished, checksum, TRIAL_COLUMNS.
    """
    names = ", ".join(f"t.{name}" for name in TRIAL_COLUMNS)
    return f"""SELECT {first} e.hash, p.key, r.id, r.finished, t.checksum, {names}
        FROM trials t JOIN problems p ON p.id = t.problem_id
        JOIN runs r ON r.id = t.run_id JOIN environments e ON e.id = r.environment_id"""


def select_problem_columns(columns: Iterable[str]) -> str:
    """Return what a select list goes on with to ask for the problem's named columns."""
    return "".join(f", p.{quoted(name)}" for name in columns)


@lru_cache(maxsize=16)
def _select_winners(columns: tuple[str, ...]) -> str:
    return f"""SELECT e.hash, e.doc, w.checksum, {", ".join("w." + name for name in WINNER_COLUMNS)}
        {select_problem_columns(columns)}
        FROM problems p JOIN winners w ON w.problem_id = p.id JOIN environments e ON e.id = w.environment_id
        WHERE p.key = ?"""


def winners_of(
    connection: sqlite3.Connection, problem_key: str, columns: Sequence[str]
) -> tuple[list[Winner], int]:
    """Return a problem's sound winners, by environment hash, source and predictor; and how many were bad."""
    own = len(WINNER_COLUMNS)

    def read(environment_hash: str, document: str, stored: str, *rest: Any) -> Winner:
        verify((environment_hash, problem_key), rest[:own], stored)
        environment = environment_from(environment_hash, document)
        return winner_from(environment, problem_from(problem_key, columns, rest[own:]), rest[:own])

    found, bad = sound(connection.execute(_select_winners(tuple(columns)), (problem_key,)), read)
    return sorted(found, key=lambda one: (one.environment.hash, one.source, one.predictor)), bad


def trials_of(
    connection: sqlite3.Connection, problem_key: str, environment_hash: str | None
) -> tuple[list[Trial], int]:
    """Return the sound trials of a problem, in one environment or in all; and how many rows were bad."""

    def read(environment: str, key: str, run: str, _: int, stored: str, *values: Any) -> Trial:
        verify((environment, key, run), values, stored)
        return trial_from(values)

    query = f"{select_trials()} WHERE p.key = ? AND (? IS NULL OR e.hash = ?) ORDER BY t.id"
    return sound(connection.execute(query, (problem_key, environment_hash, environment_hash)), read)


def runs_of(connection: sqlite3.Connection, problem_key: str) -> tuple[list[RunRecord], int]:
    """Return the sound runs that have trials of a problem, by id; and how many rows were bad."""
    query = """SELECT DISTINCT e.hash, e.doc, r.id, r.origin, r.info, r.finished
        FROM trials t JOIN problems p ON p.id = t.problem_id
        JOIN runs r ON r.id = t.run_id JOIN environments e ON e.id = r.environment_id
        WHERE p.key = ? ORDER BY r.id"""
    return sound(
        connection.execute(query, (problem_key,)),
        lambda stored_hash, document, *run: run_from(environment_from(stored_hash, document), *run),
    )


def environments_of(connection: sqlite3.Connection) -> tuple[dict[int, EnvironmentRecord], int]:
    """Return every sound environment by its id, and how many rows were bad."""
    found, bad = sound(
        connection.execute("SELECT id, hash, doc FROM environments"),
        lambda number, *stored: (number, environment_from(*stored)),
    )
    return dict(found), bad


def counts(connection: sqlite3.Connection, tables: Iterable[str]) -> dict[str, int]:
    """Return how many rows each of the tables has."""
    return {name: connection.execute(f"SELECT count(*) FROM {name}").fetchone()[0] for name in tables}
