"""A finished trial as a line of JSON and back: whole by itself, canonical, ending in its own checksum.

    {"environment":{..},"problem":{..},"run":{..},"trial":{..},"verify":"<SHA-256 of the line before this>"}

Fields are sorted, so lines that share environment, problem and run begin alike, and the reader parses what
they share but once.
"""

from __future__ import annotations

import io
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from functools import lru_cache
from pathlib import Path
from typing import Any, TextIO, cast

from .errors import TuningDBError
from .records import (
    FINISHED_OUTCOMES,
    EnvironmentRecord,
    ProblemRecord,
    RunRecord,
    Trial,
    canonical,
    digest,
    storable,
)
from .rows import UNPARSABLE, check_declared

MAX_LINE_CHARS = 1_000_000  # a trial takes about 1,000; a longer line is no trial of ours
TRIAL_FIELDS = tuple(field.name for field in fields(Trial))
_RUN_FIELDS = {"finished", "id", "info", "origin"}
JSON_SCALARS = frozenset({str, int, float, bool, type(None)})
_decode = json.JSONDecoder().raw_decode
_SEAL = ',"verify":"'
_DATABASE = b"SQLite format 3\0"


class BadLineError(Exception):
    """A line is not as it was exported."""


def head_text(environment: str, problem: ProblemRecord, run: RunRecord) -> str:
    """Return how a line begins, up to its trial; the environment is given as canonical JSON."""
    of_problem = canonical({"columns": problem.columns, "key": problem.key})
    of_run = canonical({name: getattr(run, name) for name in _RUN_FIELDS})
    return f'{{"environment":{environment},"problem":{of_problem},"run":{of_run},"trial":'


def trial_text(values: Sequence[Any]) -> str:
    """Return a trial's row, whose texts are canonical JSON already, as one canonical JSON object."""
    _, config, source, predictor, outcome, predicted_us, measured_us, samples_us, max_err, error, detail = (
        values
    )
    return (
        f'{{"config":{config},"detail":{detail},"error":{"null" if error is None else canonical(error)},'
        f'"max_err":{_number(max_err)},"measured_us":{_number(measured_us)},"outcome":"{outcome}",'
        f'"predicted_us":{_number(predicted_us)},"predictor":{canonical(predictor)},'
        f'"samples_us":{samples_us},"source":{canonical(source)}}}'
    )


def _number(value: float | None) -> str:
    return "null" if value is None else repr(value)  # as JSON's encoder writes a float


def sealed(head: str, trial: str) -> str:
    """Return the line of a head and a trial, without the newline."""
    body = head + trial
    return f'{body}{_SEAL}{digest(body)}"}}'


def open_text(path: Path) -> TextIO:
    """Open exported text for reading.

    Raises:
        TuningDBError: it is a database, of which each page would be taken for a bad line.
    """
    file = path.open(encoding="utf-8", errors="surrogateescape")
    if cast(io.BufferedReader, file.buffer).peek(len(_DATABASE)).startswith(_DATABASE):
        file.close()
        raise TuningDBError(path, "this is a database, not exported text", "use `autoconv db merge`")
    return file


@dataclass(frozen=True, eq=False)
class Head:
    """What lines that begin alike share."""

    text: str
    run: RunRecord
    problem: ProblemRecord


class LineReader:
    """Reads lines, remembering the head of the last one."""

    def __init__(self, columns: Mapping[str, type]) -> None:
        """Keep these columns of problems; a problem's others are dropped."""
        self._columns = columns
        self._head: Head | None = None

    def read(self, line: str) -> tuple[Head, tuple[Any, ...]]:
        """Return the head of a line, and its trial as a row.

        Raises:
            BadLineError: it is not as it was exported, or is no finished trial.
        """
        if len(line) > MAX_LINE_CHARS:
            raise BadLineError(f"it has more than {MAX_LINE_CHARS} characters")
        # An editor may have put a byte-order mark before the first line.
        body, _, seal = line.removeprefix("\ufeff").rstrip("\r\n").rpartition(_SEAL)
        try:
            if seal != digest(body) + '"}':
                raise BadLineError("its checksum does not fit")
            head = self._head
            if head is None or not body.startswith(head.text):
                head = self._head = self._read_head(body)
            trial, end = _decode(body, len(head.text))
            if end != len(body):
                raise BadLineError("something follows its trial")
            return head, _row(trial)
        except UNPARSABLE as error:
            raise BadLineError(f"{type(error).__name__}: {error}"[:300]) from None

    def _read_head(self, body: str) -> Head:
        text, parts = "", []
        for name in ('{"environment":', ',"problem":', ',"run":'):
            if not body.startswith(name, len(text)):
                raise BadLineError(f"it does not go on with {name}")
            part, end = _decode(body, len(text) + len(name))
            parts.append((part, body[len(text) + len(name) : end]))
            text = body[:end]
        text += ',"trial":'
        (_, environment), (problem, _), (run, _) = parts
        if not body.startswith(text) or set(problem) != {"columns", "key"} or set(run) != _RUN_FIELDS:
            raise BadLineError("it lacks a field, or has one too many")
        columns = {name: value for name, value in problem["columns"].items() if name in self._columns}
        record = ProblemRecord(problem["key"], columns)
        check_declared(record, self._columns)
        return Head(text, RunRecord(environment=_environment(environment), **run), record)


@lru_cache(maxsize=1024)
def _environment(text: str) -> EnvironmentRecord:
    return EnvironmentRecord(**json.loads(text))


def _row(given: dict[str, Any]) -> tuple[Any, ...]:
    """Return the row of an exported trial: as `trial_values(Trial(**fields))`, in a third of its time.

    Raises:
        ValueError, TypeError, KeyError: `Trial` would refuse it, or would make another of it.
    """
    if len(given) != len(TRIAL_FIELDS):
        raise ValueError(f"a trial has the fields {', '.join(TRIAL_FIELDS)}")
    config, detail, samples = given["config"], given["detail"], given["samples_us"]
    outcome, error, max_err = given["outcome"], given["error"], given["max_err"]
    if outcome not in FINISHED_OUTCOMES:
        raise ValueError(f"outcome={outcome!r} is none of a finished trial")
    if type(config) is not dict or type(detail) is not dict or type(samples) is not list:
        raise ValueError("config and detail are objects, samples_us is a list")
    if not JSON_SCALARS.issuperset(map(type, config.values())):
        raise ValueError("config has values that are no scalars")
    times = [time for time in (given["predicted_us"], given["measured_us"]) if time is not None] + samples
    if times and (set(map(type, times)) != {float} or not 0.0 < min(times) <= max(times) < math.inf):
        raise ValueError("a time is no duration")
    if not all(map(math.isfinite, times)) or (samples and given["measured_us"] is None):
        raise ValueError("a time is NaN, or there is no median of the samples")
    if not (max_err is None or (type(max_err) is float and math.isfinite(max_err))):
        raise ValueError(f"max_err={max_err!r} is no number")
    for name in ("error", "source", "predictor"):
        value = given[name]
        if not ((value is None and name == "error") or (isinstance(value, str) and storable(value) == value)):
            raise ValueError(f"{name} is no text that UTF-8 can hold")
    text, digest_of_text = _config_text(tuple(config.items()), tuple(map(type, config.values())))
    return (
        digest_of_text, text, given["source"], given["predictor"], outcome, given["predicted_us"],
        given["measured_us"], f"[{','.join(map(repr, samples))}]", max_err, error, canonical(detail),
    )  # fmt: skip


@lru_cache(maxsize=10_000)  # a file has few configs, and each in many lines
def _config_text(items: tuple[tuple[str, Any], ...], _: tuple[type, ...]) -> tuple[str, str]:
    """Return the canonical JSON of a config and its hash. The types keep 1, 1.0 and True apart."""
    text = canonical(dict(items))
    return text, digest(text)
