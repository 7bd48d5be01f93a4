"""A finished trial as a line of JSON and back: whole by itself, canonical, ending in its own checksum.

    {"environment":{..},"problem":{..},"run":{..},"trial":{..},"verify":"<SHA-256 of the line before this>"}

Fields are sorted, so lines that share environment, problem and run begin alike, and the reader parses what
they share but once.
"""

from __future__ import annotations

import io
import json
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import IO, Any, TextIO, cast

from .errors import TuningDBError, UnwritableError
from .records import EnvironmentRecord, ProblemRecord, RunRecord, Trial, canonical, digest
from .rows import UNPARSABLE, check_declared, trial_values

MAX_LINE_CHARS = 1_000_000  # a trial takes about 1,000; a longer line is no trial of ours
SPOOL_BYTES = 64 * 1024 * 1024  # of an import that are kept in memory, not in a temporary file
_RUN_FIELDS = {"finished", "id", "info", "origin"}
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

    def read(self, line: str) -> tuple[Head, Trial, tuple[Any, ...]]:
        """Return the head of a line, its trial, and that as a row.

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
            text = body[len(head.text) :]
            trial = Trial(**json.loads(text))
            values = trial_values(trial)
            if not trial.finished:
                raise BadLineError(f"its trial is no finished one: outcome={trial.outcome!r}")
            if trial_text(values) != text:
                raise BadLineError("its trial is not written as an export writes it")
            return head, trial, values
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


@contextmanager
def kept_lines(lines: Iterable[str], path: Path) -> Iterator[IO[bytes]]:
    """Read all of `lines`, which are meant for the database at `path`, into a temporary file.

    There each is a JSON string on a line: some end nowhere, or hold ends in their midst.
    """
    file = tempfile.SpooledTemporaryFile(max_size=SPOOL_BYTES)  # noqa: SIM115 - closed below, whatever it says
    try:
        for line in lines:
            with _room_for_lines(path):
                file.write(canonical(line).encode() + b"\n")
        with _room_for_lines(path):
            file.flush()
        yield file
    finally:
        with suppress(OSError):  # what found no room finds none now
            file.close()


@contextmanager
def _room_for_lines(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        reason = f"there is no room for the lines to import in the temporary folder ({error})"
        raise UnwritableError(path, reason, "name a larger one in TMPDIR") from None


def bounded_lines(file: TextIO) -> Iterator[str]:
    """Yield the lines of a text file; of one longer than any of ours the beginning, so memory suffices."""
    while line := file.readline(MAX_LINE_CHARS + 1):
        yield line
        while len(line) > MAX_LINE_CHARS and not line.endswith("\n"):
            line = file.readline(MAX_LINE_CHARS + 1)
