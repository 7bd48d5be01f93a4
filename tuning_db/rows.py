"""Records to rows and back, with the checksum that every trial and winner carries.

A checksum covers the row's own texts and numbers, as stored, and what the row refers to (environment hash,
problem key, run), so a flipped bit in either is seen when the row is read, before any of it is parsed.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any, TypeVar

from .cached import cached_property
from .records import EnvironmentRecord, ProblemRecord, Trial, Winner, canonical, digest

TRIAL_COLUMNS = (
    "config_hash", "config", "outcome", "predicted_us", "measured_us", "samples_us", "max_err", "error",
    "detail",
)  # fmt: skip
WINNER_COLUMNS = (
    "config_hash", "config", "provenance", "measured_us", "predicted_us", "max_err", "margin", "ties",
    "detail", "noise", "default_us",
)  # fmt: skip
UNPARSABLE = (ValueError, TypeError, KeyError, RecursionError)  # what text that is not ours raises

_decode = json.JSONDecoder().decode  # json.loads looks at its arguments first, each time

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


def checksum_1(references: Sequence[str], values: Sequence[Any]) -> str:
    """Return the checksum as version 1 of the schema had it."""
    return digest(json.dumps([*references, *values], default=str))


def verify(references: Sequence[str], values: Sequence[Any], stored: str) -> None:
    """Raise BadRowError unless `stored` is the checksum of the row."""
    if checksum(references, values) != stored:
        raise BadRowError(f"checksum {stored} does not fit its row")


def _parsed(parse: Callable[[], T]) -> T:
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
        trial.outcome,
        trial.predicted_us,
        trial.measured_us,
        canonical(trial.samples_us),
        trial.max_err,
        trial.error,
        canonical(trial.detail),
    )


def trial_from(values: Sequence[Any]) -> Trial:
    """Return the trial of a verified row; raises BadRowError where it is none."""
    _, config, outcome, predicted_us, measured_us, samples_us, max_err, error, detail = values
    return _parsed(
        lambda: Trial(
            config=json.loads(config),
            outcome=outcome,
            predicted_us=predicted_us,
            samples_us=tuple(json.loads(samples_us)),
            measured_us=measured_us,
            max_err=max_err,
            error=error,
            detail=json.loads(detail),
        )
    )


class StoredTrial:
    """A verified row as the rule looks at it: the texts in it are parsed when asked for, which is seldom."""

    def __init__(self, values: Sequence[Any]) -> None:
        """Take the row, in the order of TRIAL_COLUMNS."""
        (
            self.config_hash, self.config_text, self.outcome, self.predicted_us, self.measured_us,
            self._samples, self.max_err, _, self.detail_text,
        ) = values  # fmt: skip

    @cached_property
    def config(self) -> Mapping[str, Any]:
        """The configuration."""
        return _mapping(self.config_text)

    @cached_property
    def samples_us(self) -> tuple[float, ...]:
        """Microseconds, each one timed."""
        return _parsed(lambda: tuple(map(float, json.loads(self._samples))))

    @cached_property
    def detail(self) -> Mapping[str, Any]:
        """What else was noted."""
        return _mapping(self.detail_text)

    @property
    def is_default(self) -> bool:
        """Whether it is the configuration in use without tuning."""
        return '"default":true' in self.detail_text and self.detail.get("default") is True


def _mapping(text: str) -> Mapping[str, Any]:
    try:
        found = _decode(text)
    except UNPARSABLE as error:
        raise BadRowError(f"{type(error).__name__}: {error}") from None
    if not isinstance(found, dict):
        raise BadRowError(f"{text[:40]} is no JSON object")
    return found


def winner_values(winner: Winner) -> tuple[Any, ...]:
    """Return the row of `winner`, in the order of WINNER_COLUMNS."""
    return (
        winner.config_hash,
        canonical(winner.config),
        winner.provenance,
        winner.measured_us,
        winner.predicted_us,
        winner.max_err,
        winner.margin,
        winner.ties,
        canonical(winner.detail),
        winner.noise,
        winner.default_us,
    )


def winner_from(environment: EnvironmentRecord, problem: ProblemRecord, values: Sequence[Any]) -> Winner:
    """Return the winner of a verified row; raises BadRowError where it is none."""
    _, config, provenance, measured, predicted, max_err, margin, ties, detail, noise, default_us = values
    return Winner(
        environment=environment,
        problem=problem,
        config=_mapping(config),
        provenance=provenance,
        measured_us=measured,
        predicted_us=predicted,
        max_err=max_err,
        margin=margin,
        ties=ties,
        noise=noise,
        default_us=default_us,
        detail=_mapping(detail),
    )


@lru_cache(maxsize=1024)  # there are few environments, and one stands in every row
def environment_from(stored_hash: str, document: str) -> EnvironmentRecord:
    """Return the environment of a row, checked against its hash.

    Raises:
        BadRowError: the document is not the one hashed, or is no environment.
    """
    if digest(document) != stored_hash:
        raise BadRowError(f"environment {stored_hash} does not fit its document")
    environment = _parsed(lambda: EnvironmentRecord(**json.loads(document)))
    if environment.document != document:
        raise BadRowError(f"environment {stored_hash} is not in canonical form")
    return environment


def check_declared(problem: ProblemRecord, declared: Mapping[str, type]) -> None:
    """Raise ValueError where a column of the problem was not declared, or not with its type."""
    for name, value in problem.columns.items():
        if name not in declared or not isinstance(value, declared[name]):
            raise ValueError(
                f"columns[{name!r}]={value!r} was not declared so; open the database with such a column"
            )
