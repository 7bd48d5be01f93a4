"""Files that are damaged, foreign, newer or unwritable: an error or fewer rows, never a wrong row."""

from __future__ import annotations

import os
import random
import shutil
import sqlite3
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from pathlib import Path

import pytest

from tuning_db import (
    BusyError,
    DamagedError,
    EnvironmentRecord,
    ForeignFileError,
    ProblemRecord,
    Trial,
    TuningDB,
    TuningDBError,
    UnwritableError,
)
from tuning_db.connection import without_waiting

Script = Callable[..., "subprocess.Popen[str]"]
OK = Trial({"B": 1}, "ok", predicted_us=1.0)


def refused(path: Path, columns: dict[str, type], application: str = "tests") -> TuningDBError:
    """The error that both ways of opening give, which leave the file as it is."""
    before = path.read_bytes() if path.is_file() else None
    with pytest.raises(TuningDBError) as writing:
        TuningDB.open(path, columns=columns, application=application)
    with pytest.raises(TuningDBError) as reading:
        TuningDB.open_readonly(path, columns=columns, application=application)
    assert type(writing.value) is type(reading.value)
    assert (path.read_bytes() if path.is_file() else None) == before
    message = str(writing.value)
    assert str(path) in message and "\n" not in message and writing.value.remedy in message
    return writing.value


def test_garbage_is_damaged(path: Path, columns: dict[str, type]) -> None:
    path.write_bytes(b"no database at all " * 1000)
    assert isinstance(refused(path, columns), DamagedError)


@pytest.mark.parametrize("size", [2, 50, 99])
def test_a_torn_header_is_damaged(db: TuningDB, path: Path, columns: dict[str, type], size: int) -> None:
    db.close()
    os.truncate(path, size)
    assert isinstance(refused(path, columns), DamagedError)


def test_an_empty_file_becomes_a_database(
    path: Path, columns: dict[str, type], environment: EnvironmentRecord, problem: ProblemRecord
) -> None:
    path.touch()
    with pytest.raises(DamagedError, match="empty"):
        TuningDB.open_readonly(path, columns=columns)
    with TuningDB.open(path, columns=columns) as db:
        db.record(environment, problem, [OK], origin="x")
        assert len(db.winners(problem.key)) == 1


def test_somebody_elses_file_is_left_alone(path: Path, columns: dict[str, type]) -> None:
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript("CREATE TABLE bookmarks (url TEXT); INSERT INTO bookmarks VALUES ('x')")
    assert isinstance(refused(path, columns), ForeignFileError)


def test_another_applications_tuning_database_is_left_alone(
    db: TuningDB, path: Path, columns: dict[str, type]
) -> None:
    db.close()
    error = refused(path, columns, application="others")
    assert isinstance(error, ForeignFileError) and "'tests', not to 'others'" in str(error)


def test_what_is_no_file_is_refused(tmp_path: Path, columns: dict[str, type]) -> None:
    with pytest.raises(TuningDBError, match="no such file"):
        TuningDB.open_readonly(tmp_path / "missing.db", columns=columns)
    assert not (tmp_path / "missing.db").exists()
    with pytest.raises(UnwritableError):
        TuningDB.open(tmp_path, columns=columns)
    (tmp_path / "file").touch()
    with pytest.raises(UnwritableError, match="folder"):
        TuningDB.open(tmp_path / "file" / "x.db", columns=columns)


def test_flipped_bytes_never_give_a_wrong_row(
    db: TuningDB, path: Path, environment: EnvironmentRecord, columns: dict[str, type]
) -> None:
    keys = [f"N={n},dtype=float16" for n in range(12)]
    for n, key in enumerate(keys):
        trials = [Trial({"B": b, "name": "x" * 40}, "ok", predicted_us=float(n + b)) for b in range(1, 9)]
        db.record(environment, ProblemRecord(key, {"N": n, "dtype": "float16"}), trials, origin="sweep")
    good_trials = {key: db.trials(key) for key in keys}
    good_winners = {key: db.winners(key)[0].config for key in keys}
    db.close()
    sound, rng, noticed = path.read_bytes(), random.Random(7), 0
    for _ in range(150):
        torn = bytearray(sound)
        for _ in range(rng.choice([1, 8, 64])):
            torn[rng.randrange(len(torn))] ^= rng.randrange(1, 256)
        path.write_bytes(torn[: rng.choice([len(torn), len(torn), rng.randrange(len(torn))])])
        seen = 0
        with suppress(TuningDBError), TuningDB.open(path, columns=columns) as torn_db:
            for key in keys:
                with suppress(TuningDBError):
                    winners, trials = torn_db.winners(key), torn_db.trials(key)
                    assert all(winner.config == good_winners[key] for winner in winners)
                    assert all(trial in good_trials[key] for trial in trials)
                    seen += len(trials)
        noticed += seen < 12 * 8
    assert noticed > 75  # the bytes did hit rows


@pytest.fixture
def public(db: TuningDB, environment: EnvironmentRecord, problem: ProblemRecord) -> Iterator[Path]:
    """A database in a folder that every user can reach, which pytest's own is not."""
    db.record(environment, problem, [OK], origin="x")
    db.close()
    folder = Path(tempfile.mkdtemp())
    shutil.copy(db.path, folder / "tuning.db")
    (folder / "tuning.db").chmod(0o444)
    folder.chmod(0o555)
    yield folder
    folder.chmod(0o755)
    shutil.rmtree(folder)


AS_ORDINARY_USER = """
import os, sys, urllib.parse, filelock, sqlite_utils  # what is imported late may lie where only root can read
from pathlib import Path
from tuning_db import *
if os.geteuid() == 0:
    os.setuid(65534)  # permissions do not hold for root
folder = Path(sys.argv[1])
columns = {"N": int, "dtype": str}
"""


def test_a_read_only_file_serves_reads(public: Path, script: Script) -> None:
    code = """
for db in (
    TuningDB.open(folder / "tuning.db", columns={**columns, "stride": int}),
    TuningDB.open_readonly(folder / "tuning.db", columns=columns),
    TuningDB.open_readonly(folder / "tuning.db", columns=columns, immutable=True),
):
    with db:
        (winner,) = db.winners("N=64,dtype=float16")
        try:
            db.record(winner.environment, winner.problem, [Trial({}, "ok")], origin="x")
        except UnwritableError as error:
            print(error)
try:
    TuningDB.open(folder / "new" / "x.db", columns=columns)
except UnwritableError as error:
    print(error)
try:
    TuningDB.open(folder / "new.db", columns=columns)
except UnwritableError as error:
    print(error)
"""
    out, err = script(AS_ORDINARY_USER + code, public).communicate()
    assert err == ""
    assert len(out.splitlines()) == 5 and all(str(public) in line for line in out.splitlines())


@pytest.mark.parametrize(("of_file", "of_folder"), [(0o444, 0o555), (0o444, 0o777), (0o666, 0o555)])
def test_what_takes_no_writes_is_told_before_any_work(
    public: Path, script: Script, of_file: int, of_folder: int
) -> None:
    (public / "tuning.db").chmod(of_file)
    public.chmod(of_folder)
    code = """
try:
    TuningDB.open(folder / "tuning.db", columns=columns).check_writable()
except UnwritableError as error:
    print(error)
"""
    out, err = script(AS_ORDINARY_USER + code, public).communicate()
    assert err == "" and str(public) in out


def test_what_takes_writes_is_left_as_it_was(
    db: TuningDB, path: Path, environment: EnvironmentRecord, problem: ProblemRecord
) -> None:
    db.record(environment, problem, [OK], origin="x")
    before = path.read_bytes()
    db.check_writable()
    db.close()
    assert path.read_bytes() == before and [one.name for one in path.parent.iterdir()] == [path.name]


def test_a_file_that_others_keep_locked_is_busy(db: TuningDB, path: Path) -> None:
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with without_waiting(), pytest.raises(BusyError):
            db.check_writable()
        other.execute("ROLLBACK")
    db.check_writable()


def test_a_full_disk_loses_only_what_was_not_acknowledged(path: Path, script: Script) -> None:
    """RLIMIT_FSIZE stands in for the disk: SQLite sees its writes fail at some point of the file's growth."""
    code = """
import resource, signal, sys
from tuning_db import *
db = TuningDB.open(sys.argv[1], columns={})
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (120_000, 120_000))
run = db.start(EnvironmentRecord({}, {}), origin="sweep")
done = 0
try:
    for done in range(1000):
        trial = Trial({"B": done}, "ok", predicted_us=1 + done, detail={"x": "y" * 500})
        db.add(run, ProblemRecord("p"), trial)
except UnwritableError as error:
    print(done, len(db.trials("p")), len(db.winners("p")))
"""
    out, err = script(code, path).communicate()
    assert err == ""
    acknowledged, seen, winners = map(int, out.split())
    assert acknowledged == seen > 10 and winners == 1
    with TuningDB.open(path, columns={}) as db:
        assert len(db.trials("p")) == seen
        db.record(EnvironmentRecord({}, {}), ProblemRecord("p"), [OK], origin="more room")
        assert len(db.trials("p")) == seen + 1
