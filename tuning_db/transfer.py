"""Finished trials as text and back, and from file to file: sorted, the same bytes each time, in any order."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from .errors import ContradictionError, DamagedError, TuningDBError
from .jsonl import MAX_LINE_CHARS, BadLineError, Head, LineReader, head_text, kept_lines, sealed, trial_text
from .nearest import sound_problem
from .ranking import COMPETING_OUTCOMES
from .records import EnvironmentRecord, ProblemRecord, RunRecord, Trial, digest, storable
from .rows import BadRowError, StoredTrial, environment_from, run_from, select_trials, trial_from
from .store import TuningDB
from .writing import Intake

Accept = Callable[[EnvironmentRecord, ProblemRecord, Trial], "str | None"]
"""Says why a trial must not come in: its key, its columns or its config is none of today's; else None."""

MAX_QUARANTINED = 1000  # lines kept of one import; the rest are counted
MAX_REASONS = 20  # told of one import
_KEPT_CHARS = 10_000  # of a line too long to be one
_BATCH_LINES = 256
_LINES_A_STEP = 5000  # between two words of progress


@dataclass(frozen=True)
class ImportSummary:
    """What an import or a merge did."""

    inserted: int = 0  # trials that are new here
    known: int = 0  # trials that were here already
    quarantined: int = 0  # lines refused and kept in the table `quarantine`
    reasons: tuple[str, ...] = ()  # why, for the first of them
    bad_rows: int = 0  # rows of a merged file that were left out, since their checksum does not fit


def export_lines(db: TuningDB) -> Iterator[str]:
    """Yield every finished trial of `db` as a line, ended by a newline.

    Sorted by problem key, environment hash, run id, config hash and source. Bad rows are left out and counted
    in `db.bad_rows`. No lock is held between lines: a trial that comes in meanwhile may be in or not.
    """
    with db.reading() as connection:
        problems = connection.execute("SELECT id FROM problems ORDER BY key").fetchall()
    for (of_problem,) in problems:
        yield from _lines(db, of_problem, "t.outcome <> 'started'")


def entry_lines(
    db: TuningDB, problem_key: str, environment_hash: str, sources: Collection[str]
) -> Iterator[str]:
    """Yield, as `export_lines` does, what a problem's winners of these sources in an environment rest on.

    That is the trials that passed, and those that were wrong, whose configs must not win.
    """
    with db.reading() as connection:
        problems = connection.execute("SELECT id FROM problems WHERE key = ?", (problem_key,)).fetchall()
    which = f"""t.outcome IN {COMPETING_OUTCOMES} AND e.hash = ?
        AND t.source IN ({", ".join("?" * len(sources))})"""
    for (of_problem,) in problems:
        yield from _lines(db, of_problem, which, environment_hash, *sources)


def _lines(db: TuningDB, of_problem: int, which: str, *values: str) -> Iterator[str]:
    query = f"""{select_trials("e.doc, r.origin, r.info,")} WHERE t.problem_id = ? AND {which}
        ORDER BY e.hash, r.id, t.config_hash, t.source"""
    with db.reading() as connection:
        rows = connection.execute(query, (of_problem, *values)).fetchall()
        try:
            problem = sound_problem(connection, of_problem, db.columns)
        except BadRowError:
            db.bad_rows += len(rows)
            return
    heads: dict[str, str] = {}
    for document, origin, info, environment_hash, key, run_id, finished, *row in rows:
        try:
            StoredTrial.read(environment_hash, key, run_id, finished, *row)
            if run_id not in heads:
                environment = environment_from(environment_hash, document)
                run = run_from(environment, run_id, origin, info, finished)
                heads[run_id] = head_text(document, problem, run)
        except BadRowError:
            db.bad_rows += 1
        else:
            yield sealed(heads[run_id], trial_text(row[1:])) + "\n"


def import_lines(
    db: TuningDB,
    lines: Iterable[str],
    accept: Accept | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> ImportSummary:
    """Add the trials of `export_lines` to `db` in one transaction, and derive the winners they may change.

    A line that is not as it was exported, that `accept` refuses, or that contradicts a finished trial is kept
    in quarantine, with the reason, until an import takes it; the others come in. Trials already here change
    nothing, so an import may be repeated, and the order of imports does not matter. Columns of a problem that
    `db` was not opened with are dropped.

    All lines are read, into a temporary file, before the file is locked: they may come from a pipe that
    stalls. `progress` is then told, now and again, how many of their bytes are done, of how many.

    Raises:
        TuningDBError: `db` cannot be written, or there is no room for the temporary file.
    """
    with kept_lines(lines, db.path) as kept, db.intake(bulk=True) as intake:
        size = kept.tell()
        kept.seek(0)
        importing = Importing(intake, db.columns, accept)
        for number, raw in enumerate(kept, start=1):
            line = json.loads(raw)
            if line.strip():
                importing.take(number, line)
            if progress is not None and number % _LINES_A_STEP == 0:
                progress(kept.tell(), size)
        return importing.summary()


class Importing:
    """An import under way: lines that begin alike are taken in together."""

    def __init__(self, intake: Intake, columns: Mapping[str, type], accept: Accept | None) -> None:
        """Take into `intake`, whose problems have `columns`, what `accept` does not refuse."""
        self._intake = intake
        self._accept = accept
        self._reader = LineReader(columns)
        self._batch: list[tuple[int, str, tuple[Any, ...]]] = []  # line number, line, row
        self._head: Head | None = None  # of the lines in the batch
        self._inserted = self._known = self._refused = 0
        self._reasons: list[str] = []
        held = intake.connection.execute("SELECT line_hash FROM quarantine")
        self._held = {name for (name,) in held}

    def take(self, number: int, line: str) -> None:
        """Take the trial of a line in, or keep the line in quarantine."""
        try:
            head, trial, values = self._reader.read(line)
            if self._accept is not None:
                reason = self._accept(head.run.environment, head.problem, trial)
                if reason is not None:
                    raise BadLineError(reason)
        except BadLineError as error:
            self._refuse(number, line, str(error))
            return
        if head is not self._head or len(self._batch) == _BATCH_LINES:
            self._flush()
            self._head = head
        self._batch.append((number, line, values))

    def begin(self, run: RunRecord) -> None:
        """Take a run in, with trials to come or without."""
        with suppress(ContradictionError):  # of several candidates for one id, the first
            self._intake.run(run)

    def salvage(self, number: int, run: RunRecord, problem: ProblemRecord, values: tuple[Any, ...]) -> None:
        """Take a trial in as if it had been exported; one that was only started too, unless it is refused."""
        if StoredTrial(values).outcome != "started":
            text = head_text(run.environment.document, problem, run)
            self.take(number, sealed(text, trial_text(values)))
        elif self._accept is None or self._accept(run.environment, problem, trial_from(values)) is None:
            with suppress(ContradictionError):
                self._intake.trials(self._intake.run(run), problem, [values])

    def _flush(self) -> None:
        batch, self._batch = self._batch, []
        if self._head is None or not batch:
            return
        try:
            run = self._intake.run(self._head.run)
        except ContradictionError as error:
            for number, line, _ in batch:
                self._refuse(number, line, error.reason)
            return
        taken = self._intake.trials(run, self._head.problem, [values for _, _, values in batch])
        for place, (number, line, _) in enumerate(batch):
            if place in taken.refused:
                self._refuse(number, line, "its trial is finished already, with another result")
            elif self._held:
                self._release(line)
        self._inserted += taken.new
        self._known += len(batch) - taken.new - len(taken.refused)

    def _refuse(self, number: int, line: str, reason: str) -> None:
        self._refused += 1
        if len(self._reasons) < MAX_REASONS:
            self._reasons.append(f"line {number}: {reason}")
        if self._refused <= MAX_QUARANTINED:
            kept = line if len(line) <= MAX_LINE_CHARS else line[:_KEPT_CHARS]
            self._intake.connection.execute(
                "INSERT OR REPLACE INTO quarantine (line_hash, reason, line) VALUES (?, ?, ?)",
                (_line_hash(line), storable(reason), storable(kept)),
            )

    def _release(self, line: str) -> None:
        if _line_hash(line) in self._held:
            self._intake.connection.execute("DELETE FROM quarantine WHERE line_hash = ?", (_line_hash(line),))

    def summary(self) -> ImportSummary:
        """Take in what is left, and return what was done."""
        self._flush()
        return ImportSummary(self._inserted, self._known, self._refused, tuple(self._reasons))


def _line_hash(line: str) -> str:
    return digest(storable(line.rstrip("\r\n")))


def quarantined(db: TuningDB) -> list[tuple[str, str]]:
    """Return each line in quarantine after the reason. `import_lines` of the lines tries them again."""
    with db.reading() as connection:
        rows = connection.execute("SELECT reason, line FROM quarantine ORDER BY reason, line_hash")
        return [(reason, line) for reason, line in rows]


def merge(db: TuningDB, donor: Path | str, accept: Accept | None = None) -> ImportSummary:
    """Add every finished trial of the database at `donor` to `db`, as if exported and imported.

    So merging is idempotent, and neither order nor grouping matters. The donor is only read. Rows whose
    checksum does not fit are left out; a file whose structure is damaged is refused whole.

    Raises:
        TuningDBError: the donor cannot be used (damaged, foreign, older, newer) or is `db` itself; nothing
            was changed.
    """
    with TuningDB.open_readonly(donor, columns=db.columns, application=db.application) as source:
        if source.path.samefile(db.path):
            raise TuningDBError(donor, "it is the database to merge into", "name another file")
        with source.reading() as connection:
            (found,) = connection.execute("PRAGMA quick_check(1)").fetchone()
        if found != "ok":
            raise DamagedError(donor, f"the file is damaged ({found})", "restore a copy of it")
        summary = import_lines(db, export_lines(source), accept)
        return replace(summary, bad_rows=source.bad_rows)
