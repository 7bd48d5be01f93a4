"""One tuning database: a SQLite file with environments, problems, runs, trials and winners."""

from __future__ import annotations

import functools
import sqlite3
import uuid
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, TypeVar

from . import schema
from .connection import Connections
from .errors import DamagedError, TuningDBError, UnwritableError, translated
from .files import real_path
from .misses import Miss, forget, misses_of, note
from .nearest import Neighbour, search
from .ranking import Ranked, ranked_of
from .records import EnvironmentRecord, Pin, ProblemRecord, RunRecord, Trial, Winner
from .rows import (
    counts,
    environments_of,
    problem_from,
    runs_of,
    select_problem_columns,
    sound,
    trials_of,
    winners_of,
)
from .siblings import Sibling, siblings_of
from .writing import Intake, derive

Choice = Callable[[EnvironmentRecord], bool]  # which environments an answer may come from

CACHE_KIB = 2000  # SQLite's default
BULK_CACHE_KIB = 256 * 1024
_COUNTED = ("runs", "trials", "problems", "environments", "misses")

_P = ParamSpec("_P")
_T = TypeVar("_T")


def _mended(method: Callable[Concatenate[Any, _P], _T]) -> Callable[Concatenate[Any, _P], _T]:
    """Let a method begin again, once, after the damage it met was mended."""

    @functools.wraps(method)
    def call(self: Any, /, *args: _P.args, **kwargs: _P.kwargs) -> _T:
        try:
            return method(self, *args, **kwargs)
        except DamagedError:
            if self.mend is None:
                raise
            self.mend()
            return method(self, *args, **kwargs)

    return call


class _TakenBackError(Exception):
    """Ends a transaction that is not to be kept."""


class TuningDB:
    """A tuning database, open for reading and, unless opened read-only, for writing.

    It may be shared by threads, and used on in a forked child: every thread of every process gets a
    connection of its own. Every method raises TuningDBError, or a subclass that says more, where the file
    does not serve.

    Attributes:
        path: the file.
        application: the name that files of this application carry; empty fits any.
        columns: the declared problem columns that the file has.
        pin: the file's mark as one that is never written again; None where it has none.
        bad_rows: how many rows were skipped so far because their checksum did not fit.
        started: the runs begun here that have not ended, by id.
        mend: called where a method meets damage, which then begins again, once. None: the error goes to the
            caller at once.
    """

    def __init__(
        self,
        path: Path | str,
        columns: Mapping[str, type],
        application: str,
        *,
        readonly: bool,
        immutable: bool = False,
    ) -> None:
        """Use `open` or `open_readonly`."""
        schema.check_columns(columns)
        self.path = Path(path)
        self.columns: Mapping[str, type] = {}
        self.pin: Pin | None = None
        self.bad_rows = 0
        self.started: dict[str, RunRecord] = {}
        self.mend: Callable[[], None] | None = None
        self._declared = columns
        self.application = application
        self.readonly = readonly
        self._connections = Connections(
            self.path, "ro" if readonly else "rwc", self._prepare, immutable=immutable
        )

    @classmethod
    def open(cls, path: Path | str, *, columns: Mapping[str, type], application: str = "") -> TuningDB:
        """Open the database at `path`, creating folders, file and tables as needed.

        `columns` (name to int or str) are the caller's columns for problems; ones the file lacks are added.
        An older file is upgraded, after a backup of it. A sound file that cannot be written opens all the
        same: reads work, writes raise UnwritableError.

        Raises:
            ValueError: a column's name or type is unfit.
            TuningDBError: DamagedError, ForeignFileError, NewerSchemaError or UnwritableError, as it is.
        """
        database = cls(path, columns, application, readonly=False)
        try:
            real_path(path).parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            reason = f"its folder cannot be made ({error})"
            raise UnwritableError(path, reason, "choose another path") from None
        return database._opened()

    @classmethod
    def open_readonly(
        cls,
        path: Path | str,
        *,
        columns: Mapping[str, type],
        application: str = "",
        immutable: bool = False,
    ) -> TuningDB:
        """Open the database at `path` without ever writing a byte.

        `immutable` says that nobody else writes it either: no locks are taken, so a read-only medium serves.

        Raises:
            ValueError: a column's name or type is unfit.
            TuningDBError: the file is missing, or one of the reasons `open` has.
        """
        database = cls(path, columns, application, readonly=True, immutable=immutable)
        if not database.path.is_file():
            raise TuningDBError(path, "there is no such file", "check the path")
        return database._opened()

    def _opened(self) -> TuningDB:
        with ExitStack() as on_failure:
            on_failure.callback(self.close)
            with self.reading():
                on_failure.pop_all()
        return self

    def _prepare(self, connection: sqlite3.Connection) -> None:
        """Look at the file through a new connection, and make it what it should be."""
        if self.readonly:
            schema.check_readable(connection, self.path, self.application)
        else:
            schema.prepare(connection, self.path, self._declared, self.application, derive)
        self.pin = schema.pin_of(connection, self.path)
        lacking = schema.lacks(connection, self._declared)
        self.columns = {name: kind for name, kind in self._declared.items() if name not in lacking}

    @contextmanager
    def reading(self) -> Iterator[sqlite3.Connection]:
        """Give this thread's connection for queries; SQLite's errors become this package's."""
        try:
            with self._connections as connection:
                yield connection
        except (sqlite3.Error, UnicodeDecodeError) as error:
            raise translated(self.path, error) from error

    @property
    def pinned(self) -> bool:
        """Whether the file is a pin: never written, and asked before all others."""
        return self.pin is not None

    @_mended
    def check_writable(self) -> None:
        """Write something and take it back: a permission or a full disk is met only in writing.

        Raises:
            TuningDBError: UnwritableError, also where the file is a pin or was opened to be read; BusyError.
        """
        with suppress(_TakenBackError), self.writing() as connection:
            connection.execute("INSERT OR REPLACE INTO meta VALUES ('writable', '')")
            raise _TakenBackError

    def _check_not_sealed(self) -> None:
        """Refuse to write a file that was opened to be read, or that is a pin.

        Raises:
            UnwritableError: it is one of these.
        """
        if self.pin is not None:
            reason = f"it is a pin of {self.pin.title} from {self.pin.made}, which is never written"
            raise UnwritableError(self.path, reason, "write to another file, and pin anew")
        if self.readonly:
            raise UnwritableError(self.path, "it was opened for reading only", "open it with TuningDB.open()")

    @contextmanager
    def writing(self) -> Iterator[sqlite3.Connection]:
        """Give this thread's connection inside a transaction: all of the block or nothing."""
        try:
            self._check_not_sealed()
            with self._connections.transaction() as connection:
                self._check_not_sealed()  # another file may have come to lie there
                yield connection
        except (sqlite3.Error, UnicodeDecodeError) as error:
            raise translated(self.path, error) from error

    @contextmanager
    def intake(self, *, bulk: bool = False) -> Iterator[Intake]:
        """Give what takes rows in, in a transaction that ends with the winners settled.

        `bulk` keeps up to BULK_CACHE_KIB of changed pages in memory: as long as they fit, readers are locked
        out only while the transaction commits.
        """
        with self.writing() as connection:
            if bulk:
                connection.execute(f"PRAGMA cache_size = -{BULK_CACHE_KIB}")
            intake = Intake(connection, self.path, self.columns)
            try:
                yield intake
                self.bad_rows += intake.settle()
            finally:
                if bulk:
                    connection.execute(f"PRAGMA cache_size = -{CACHE_KIB}")

    @_mended
    def start(
        self, environment: EnvironmentRecord, *, origin: str, info: Mapping[str, Any] | None = None
    ) -> str:
        """Begin a run and return its id; its trials follow one by one with `add`, and in the end `finish`."""
        run = RunRecord(str(uuid.uuid4()), environment, origin, info or {})
        with self.intake() as intake:
            intake.run(run)
        self.started[run.id] = run
        return run.id

    @_mended
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

    @_mended
    def finish(self, run_id: str) -> None:
        """Note that a run came to its end; the winners that rest on it tell so.

        Raises:
            TuningDBError: there is no such run.
        """
        with self.intake() as intake:
            intake.finish(intake.find_run(run_id, self.started.get(run_id)))
        self.started.pop(run_id, None)

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

    @_mended
    def _record(self, run: RunRecord, problem: ProblemRecord, trials: list[Trial]) -> None:
        with self.intake() as intake:
            self.bad_rows += intake.put(intake.run(run), problem, trials)

    def note_misses(self, misses: Iterable[Miss]) -> None:
        """Add calls that found no entry to those noted, in one transaction.

        Of one problem and environment the calls are added up, the first and last times kept, and what served
        last; so several processes may note theirs.

        Raises:
            ValueError: a problem has a column that was not declared.
        """
        self._note_misses(list(misses))

    @_mended
    def _note_misses(self, misses: list[Miss]) -> None:
        if misses:
            with self.intake() as intake:
                self.bad_rows += note(intake, misses)

    @_mended
    def misses(self) -> list[Miss]:
        """Return what was noted and not forgotten since, in the order of keys and environments' hashes.

        A row whose checksum does not fit is skipped and counted in `bad_rows`.
        """
        with self.reading() as connection:
            return self._noted(misses_of(connection, list(self.columns)))

    def forget_misses(self, keys: Iterable[tuple[str, str]]) -> None:
        """Forget what was noted of these problem keys and environment hashes, if anything was."""
        self._forget_misses(list(keys))

    @_mended
    def _forget_misses(self, keys: list[tuple[str, str]]) -> None:
        with self.writing() as connection:
            forget(connection, keys)

    def _noted(self, found: tuple[_T, int]) -> _T:
        """Return what was found, and count the rows that were bad."""
        self.bad_rows += found[1]
        return found[0]

    @_mended
    def winners(self, problem_key: str) -> list[Winner]:
        """Return the winners for one problem, those of every environment and source.

        They come in the order of the environments' hashes, the sources and the predictors.
        A row whose checksum does not fit is skipped and counted in `bad_rows`.
        """
        with self.reading() as connection:
            return self._noted(winners_of(connection, problem_key, list(self.columns)))

    @_mended
    def trials(self, problem_key: str, environment_hash: str | None = None) -> list[Trial]:
        """Return the trials of one problem, in one environment or in all, in the order they were recorded.

        A row whose checksum does not fit is skipped and counted in `bad_rows`.
        """
        with self.reading() as connection:
            return self._noted(trials_of(connection, problem_key, environment_hash))

    @_mended
    def runs(self, problem_key: str) -> list[RunRecord]:
        """Return the runs that have trials of one problem, in the order of their ids."""
        with self.reading() as connection:
            return self._noted(runs_of(connection, problem_key))

    @_mended
    def ranked(self, problem_key: str, *, among: Choice | None = None, limit: int = 4) -> list[Ranked]:
        """Return the best configurations of a problem, `limit` an environment, of the environments `among`.

        All sources compete here; where nothing was measured, there are so many of each predictor.
        They are what to try first where the environment is new: those of the same device under an older
        toolchain, say, or of another device of the same architecture. Ordered by environment hash, place.
        """
        with self.reading() as connection:
            chosen = self._environments(connection, among)
            return self._noted(ranked_of(connection, problem_key, chosen.values(), limit))

    @_mended
    def nearest(
        self, problem: ProblemRecord, *, among: Choice | None = None, limit: int = 4
    ) -> list[Neighbour]:
        """Return the problems nearest to this one, itself left out, that have a winner `among` environments.

        Those with the fewest differing text columns come first, then the least distance: the sum over the
        integer columns of |log2(one / other)|. The index bounds the work; see `tuning_db.nearest`.
        """
        with self.reading() as connection:
            chosen = list(self._environments(connection, among))
            return self._noted(search(connection, problem, schema.problem_columns(connection), chosen, limit))

    @_mended
    def siblings(
        self,
        problem: ProblemRecord,
        sizes: Collection[str],
        alike: Callable[[str], bool],
        among: Choice,
    ) -> list[Sibling]:
        """Return the problems that differ from this one in `sizes` alone; see `tuning_db.siblings`."""
        with self.reading() as connection:
            chosen = self._environments(connection, among)
            return self._noted(siblings_of(connection, problem, list(self.columns), sizes, alike, chosen))

    @_mended
    def environments(self) -> list[EnvironmentRecord]:
        """Return every environment, in the order of their hashes."""
        with self.reading() as connection:
            return sorted(self._environments(connection, None).values(), key=lambda one: one.hash)

    def _environments(
        self, connection: sqlite3.Connection, among: Choice | None
    ) -> dict[int, EnvironmentRecord]:
        found = self._noted(environments_of(connection))
        return {number: one for number, one in found.items() if among is None or among(one)}

    @_mended
    def problems(self) -> Iterator[ProblemRecord]:
        """Give every problem, in the order of their keys; bad rows are skipped and counted in `bad_rows`."""
        columns = list(self.columns)
        query = f"SELECT p.key {select_problem_columns(columns)} FROM problems p ORDER BY p.key"
        with self.reading() as connection:
            rows = connection.execute(query).fetchall()
        return iter(self._noted(sound(rows, lambda key, *values: problem_from(key, columns, values))))

    @_mended
    def info(self) -> dict[str, Any]:
        """Return how many runs, trials, winners, problems, environments and misses; path, schema and size.

        A problem has one winner in an environment, whatever sources and predictors have a best of their own.
        `pin` and `pinned_at` are the title and the time of a pin, None of any other file.
        """
        with self.reading() as connection:
            found = counts(connection, _COUNTED)
            distinct = "SELECT count(*) FROM (SELECT DISTINCT problem_id, environment_id FROM winners)"
            (found["winners"],) = connection.execute(distinct).fetchone()
            version, size = connection.execute(
                """SELECT user_version, page_count * page_size
                FROM pragma_user_version, pragma_page_count, pragma_page_size"""
            ).fetchone()
        described = {"path": str(self.path), "schema_version": version, "size_bytes": size}
        return {
            **found,
            **described,
            "pin": self.pin and self.pin.title,
            "pinned_at": self.pin and self.pin.made,
        }

    def close(self) -> None:
        """Close the connections of every thread; the database cannot be used afterwards."""
        self._connections.close()

    def __enter__(self) -> TuningDB:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
