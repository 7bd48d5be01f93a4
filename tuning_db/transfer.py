"""Finished trials as text and back: JSON Lines, one trial a line, sorted, the same bytes each time."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from dataclasses import fields as dataclass_fields
from typing import Any

from .errors import DamagedError
from .reading import problem_from, select_problem_columns, select_trials
from .records import EnvironmentRecord, ProblemRecord, Trial, canonical, digest, plain
from .rows import TRIAL_COLUMNS, BadRowError, check_declared, environment_from, problem_id, trial_from, verify
from .store import TuningDB
from .writing import put_run, put_trial, settle

MAX_LINE_CHARS = 1_000_000  # a trial takes about 1,000; a longer line is no trial of ours


@dataclass(frozen=True)
class ImportSummary:
    """What an import did."""

    inserted: int = 0  # trials that are new here
    known: int = 0  # trials that were here already
    rejected: tuple[str, ...] = ()  # why `accept` refused the others, one line each


@dataclass(frozen=True)
class _Line:
    environment: EnvironmentRecord
    problem: ProblemRecord
    run_id: str
    origin: str
    info: Mapping[str, Any]
    trial: Trial

    def text(self) -> str:
        fields = {
            "environment": {"hard": self.environment.hard, "soft": self.environment.soft},
            "problem": {"key": self.problem.key, "columns": self.problem.columns},
            "run": {"id": self.run_id, "origin": self.origin, "info": self.info},
            "trial": {name.name: getattr(self.trial, name.name) for name in dataclass_fields(Trial)},
        }
        return canonical({**fields, "checksum": digest(canonical(fields))})


def _parsed(text: str) -> _Line:
    """Return a line as values; ValueError, KeyError, TypeError or RecursionError where it is not ours."""
    if len(text) > MAX_LINE_CHARS:
        raise ValueError(f"it has more than {MAX_LINE_CHARS} characters")
    fields = json.loads(text)
    if not isinstance(fields, dict) or fields.pop("checksum") != digest(canonical(fields)):
        raise ValueError("its checksum does not fit")
    run, trial = fields["run"], Trial(**fields["trial"])
    if not (isinstance(run["id"], str) and isinstance(run["origin"], str) and trial.finished):
        raise ValueError("it is no finished trial of a run")
    return _Line(
        environment=EnvironmentRecord(**fields["environment"]),
        problem=ProblemRecord(**fields["problem"]),
        run_id=run["id"],
        origin=run["origin"],
        info=plain("info", run["info"], scalars=False),
        trial=trial,
    )


def export_lines(db: TuningDB) -> Iterator[str]:
    """Yield every finished trial of `db` as a line, ended by a newline.

    Sorted by problem key, environment hash, run id and config hash. Bad rows are left out and counted in
    `db.bad_rows`.
    """
    columns = list(db.columns)
    query = f"""{select_trials(", e.doc, r.origin, r.info" + select_problem_columns(columns))}
        WHERE t.outcome <> 'started' ORDER BY p.key, e.hash, r.id, t.config_hash"""
    with db.reading() as connection:
        for row in connection.execute(query):
            try:
                line = _line_from(row, columns)
            except BadRowError:
                db.bad_rows += 1
            else:
                yield line.text() + "\n"


def _line_from(row: tuple[Any, ...], columns: list[str]) -> _Line:
    own = 4 + len(TRIAL_COLUMNS)
    (environment_hash, key, run_id, stored), values = row[:4], row[4:own]
    document, origin, info = row[own : own + 3]
    verify((environment_hash, key, run_id), values, stored)
    return _Line(
        environment=environment_from(environment_hash, document),
        problem=problem_from(key, columns, row[own + 3 :]),
        run_id=run_id,
        origin=origin,
        info=json.loads(info),
        trial=trial_from(values),
    )


def import_lines(
    db: TuningDB,
    lines: Iterable[str],
    accept: Callable[[EnvironmentRecord, ProblemRecord, Trial], str | None] | None = None,
) -> ImportSummary:
    """Add the trials of `export_lines` to `db` in one transaction, and derive the winners they may change.

    Trials already here change nothing, so an import may be repeated, and the order of imports does not
    matter. `accept` may refuse a trial by returning why; the rest is imported. Columns of a problem that `db`
    was not opened with are dropped.

    Raises:
        DamagedError: a line is not as it was exported; nothing was imported.
        TuningDBError: a line contradicts a finished trial of the same run; nothing was imported.
    """
    inserted, known, rejected = 0, 0, []
    touched = set()
    with db.writing() as connection:
        for number, text in enumerate(lines, start=1):
            if not text.strip():
                continue
            line = _checked(db, number, text)
            reason = accept(line.environment, line.problem, line.trial) if accept else None
            if reason is not None:
                rejected.append(f"line {number}: {reason}")
                continue
            pair, new = _insert(db, connection, line)
            if new:
                touched.add(pair)
            inserted, known = inserted + new, known + (not new)
        for pair in sorted(touched):
            db.bad_rows += settle(connection, *pair)
    return ImportSummary(inserted, known, tuple(rejected))


def _checked(db: TuningDB, number: int, text: str) -> _Line:
    try:
        line = _parsed(text)
        columns = {name: value for name, value in line.problem.columns.items() if name in db.columns}
        line = replace(line, problem=ProblemRecord(line.problem.key, columns))
        check_declared(line.problem, db.columns)
        return line
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        reason = f"line {number} of the import is unusable: {type(error).__name__}: {error}"
        raise DamagedError(db.path, reason[:500], "nothing was imported; export the source again") from None


def _insert(db: TuningDB, connection: sqlite3.Connection, line: _Line) -> tuple[tuple[int, int], bool]:
    """Insert one line; return the ids of its environment and problem, and whether the trial is new."""
    run = put_run(connection, db.path, line.run_id, line.environment, line.origin, line.info)
    of_problem = problem_id(connection, line.problem, db.columns)
    new = put_trial(connection, db.path, run, line.problem.key, of_problem, line.trial)
    return (run.environment_id, of_problem), new
