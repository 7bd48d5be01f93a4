"""One tuning database: a SQLite file with environments, problems, runs, trials and winners."""

from __future__ import annotations

import sqlite3
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from . import schema
from .file import DatabaseFile, mended
from .nearest import Neighbour, search
from .reading import (
    Ranked,
    collect_trials,
    environments_of,
    problem_from,
    ranked_of,
    runs_of,
    select_problem_columns,
    select_trials,
    winners_of,
)
from .records import EnvironmentRecord, ProblemRecord, RunRecord, Trial, Winner
from .rows import BadRowError

Choice = Callable[[EnvironmentRecord], bool]  # which environments an answer may come from

_COUNTED = ("runs", "trials", "winners", "problems", "environments")


class TuningDB(DatabaseFile):
    """A tuning database, open for reading and, unless opened read-only, for writing.

    It may be shared by threads, and used on in a forked child: every thread of every process gets a
    connection of its own. Every method raises TuningDBError, or a subclass that says more, where the file
    does not serve.
    """

    @mended
    def start(
        self, environment: EnvironmentRecord, *, origin: str, info: Mapping[str, Any] | None = None
    ) -> str:
        """Begin a run and return its id; its trials follow one by one with `add`, and in the end `finish`."""
        run = RunRecord(str(uuid.uuid4()), environment, origin, info or {})
        with self.intake() as intake:
            intake.run(run)
        self.started[run.id] = run
        return run.id

    @mended
    def add(self, run_id: str, problem: ProblemRecord, trial: Trial) -> None:
        """Commit one trial of a run that was started, and derive the winner anew.

        When this returns the trial is on the disk. Adding the same trial again changes nothing; a "started"
        one is replaced by the finished one of the same configuration.

        Raises:
            ValueError: the problem has a column that was not declared.
            TuningDBError: there is no such run, or the trial is finished already with another result.
        """
        with self.intake() as intake:
            # A run begun here outlives its file: that may have been damaged, or deleted, in the meantime.
            run = intake.find_run(run_id, self.started.get(run_id))
            self.bad_rows += intake.put(run, problem, [trial])

    @mended
    def finish(self, run_id: str) -> None:
        """Note that a run came to its end; the winners that rest on it tell so.

        Raises:
            TuningDBError: there is no such run.
        """
        with self.intake() as intake:
            intake.finish(intake.find_run(run_id, self.started.get(run_id)))

    def record(
        self,
        environment: EnvironmentRecord,
        problem: ProblemRecord,
        trials: Iterable[Trial],
        *,
        origin: str,
        info: Mapping[str, Any] | None = None,
        run_id: str | None = None,
    ) -> str:
        """Commit a run that has ended, with its trials, in one transaction; return the run's id.

        Raises:
            ValueError: the problem has a column that was not declared.
            TuningDBError: `run_id` is taken by a run of another environment or holds other results.
        """
        run = RunRecord(run_id or str(uuid.uuid4()), environment, origin, info or {}, finished=True)
        self._record(run, problem, list(trials))
        return run.id

    @mended
    def _record(self, run: RunRecord, problem: ProblemRecord, trials: list[Trial]) -> None:
        with self.intake() as intake:
            self.bad_rows += intake.put(intake.run(run), problem, trials)

    @mended
    def winners(self, problem_key: str) -> list[Winner]:
        """Return the winners for one problem, those of every environment and source.

        They come in the order of the environments' hashes, the sources and the predictors.
        A row whose checksum does not fit is skipped and counted in `bad_rows`.
        """
        winners: list[Winner] = []
        with self.reading() as connection:
            self.bad_rows += winners_of(connection, problem_key, list(self.columns), winners)
        return winners

    @mended
    def trials(self, problem_key: str, environment_hash: str | None = None) -> list[Trial]:
        """Return the trials of one problem, in one environment or in all, in the order they were recorded.

        A row whose checksum does not fit is skipped and counted in `bad_rows`.
        """
        trials: list[Trial] = []
        where = "WHERE p.key = ? AND (? IS NULL OR e.hash = ?) ORDER BY t.id"
        with self.reading() as connection:
            rows = connection.execute(
                f"{select_trials()} {where}", (problem_key, environment_hash, environment_hash)
            )
            self.bad_rows += collect_trials(rows, trials)
        return trials

    @mended
    def runs(self, problem_key: str) -> list[RunRecord]:
        """Return the runs that have trials of one problem, in the order of their ids."""
        runs: list[RunRecord] = []
        with self.reading() as connection:
            self.bad_rows += runs_of(connection, problem_key, runs)
        return runs

    @mended
    def ranked(self, problem_key: str, *, among: Choice | None = None, limit: int = 4) -> list[Ranked]:
        """Return the best configurations of a problem, `limit` an environment, of the environments `among`.

        All sources compete here; where nothing was measured, there are so many of each predictor.
        They are what to try first where the environment is new: those of the same device under an older
        toolchain, say, or of another device of the same architecture. Ordered by environment hash, place.
        """
        found: list[Ranked] = []
        with self.reading() as connection:
            chosen = self._environments(connection, among)
            self.bad_rows += ranked_of(connection, problem_key, chosen.values(), limit, found)
        return found

    @mended
    def nearest(
        self, problem: ProblemRecord, *, among: Choice | None = None, limit: int = 4
    ) -> list[Neighbour]:
        """Return the problems nearest to this one, itself left out, that have a winner `among` environments.

        Those with the fewest differing text columns come first, then the least distance: the sum over the
        integer columns of |log2(one / other)|. The index bounds the work; see `tuning_db.nearest`.
        """
        found: list[Neighbour] = []
        with self.reading() as connection:
            columns = list(schema.problem_columns(connection))
            chosen = list(self._environments(connection, among))
            self.bad_rows += search(connection, problem, columns, chosen, limit, found)
        return found

    @mended
    def environments(self) -> list[EnvironmentRecord]:
        """Return every environment, in the order of their hashes."""
        with self.reading() as connection:
            return sorted(self._environments(connection, None).values(), key=lambda one: one.hash)

    def _environments(
        self, connection: sqlite3.Connection, among: Choice | None
    ) -> dict[int, EnvironmentRecord]:
        found: dict[int, EnvironmentRecord] = {}
        self.bad_rows += environments_of(connection, found)
        return {number: one for number, one in found.items() if among is None or among(one)}

    def problems(self) -> Iterator[ProblemRecord]:
        """Yield every problem, in the order of their keys; bad rows are skipped and counted in `bad_rows`."""
        query = f"SELECT p.key {select_problem_columns(list(self.columns))} FROM problems p ORDER BY p.key"
        with self.reading() as connection:
            rows = connection.execute(query).fetchall()
        for key, *values in rows:
            try:
                yield problem_from(key, list(self.columns), values)
            except BadRowError:
                self.bad_rows += 1

    @mended
    def info(self) -> dict[str, Any]:
        """Return the counts of runs, trials, winners, problems and environments; path, schema and size."""
        with self.reading() as connection:
            counts = {
                name: connection.execute(f"SELECT count(*) FROM {name}").fetchone()[0] for name in _COUNTED
            }
            (version,) = connection.execute("PRAGMA user_version").fetchone()
            (size,) = connection.execute(
                "SELECT page_count * page_size FROM pragma_page_count, pragma_page_size"
            ).fetchone()
        return {**counts, "path": str(self.path), "schema_version": version, "size_bytes": size}
