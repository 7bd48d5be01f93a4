"""A damaged file is moved aside, what it still has is taken over, and whoever has it open goes on."""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from tests.tuning_db.later import STEPS as LATER_STEPS
from tuning_db import (
    DamagedError,
    EnvironmentRecord,
    ForeignFileError,
    ProblemRecord,
    Trial,
    TuningDB,
    TuningDBError,
    check,
    export_lines,
    import_lines,
    open_healed,
    quarantined,
    rebuild,
    schema,
    vacuum,
)

Script = Callable[..., "subprocess.Popen[str]"]
COLUMNS = {"N": int, "dtype": str}
ENVIRONMENT = EnvironmentRecord({"arch": "sm_89"}, {"device": "L4"})
PAGE = 4096
KEYS = [f"p{n}" for n in range(40)]


def fill(path: Path) -> list[Trial]:
    with TuningDB.open(path, columns=COLUMNS, application="tests") as db:
        for n, key in enumerate(KEYS):
            tried = [Trial({"B": b}, "ok", measured_us=float(n + b), detail={"x": "y" * 99}) for b in (1, 2)]
            db.record(ENVIRONMENT, ProblemRecord(key, {"N": n, "dtype": "f"}), tried, origin="sweep")
        return db.trials(KEYS[7])


def healed(path: Path, warnings: list[str]) -> TuningDB:
    return open_healed(path, columns=COLUMNS, application="tests", warn=warnings.append)


def tear(path: Path, *pages: int) -> None:
    """Overwrite some pages, but without opening the file in this process: that would drop SQLite's locks."""
    pid = os.fork()
    if pid == 0:
        with path.open("r+b") as file:
            for page in pages:
                file.seek((page - 1) * PAGE)
                file.write(b"\xa5" * PAGE)
        os._exit(0)
    os.waitpid(pid, 0)


def root_page(path: Path, name: str) -> int:
    with closing(sqlite3.connect(path)) as connection:
        (page,) = connection.execute("SELECT rootpage FROM sqlite_schema WHERE name = ?", (name,)).fetchone()
        return int(page)


def test_a_sound_file_is_left_alone(path: Path) -> None:
    fill(path)
    warnings: list[str] = []
    with healed(path, warnings) as db:
        assert db.trials(KEYS[7])
    assert warnings == [] and sorted(path.parent.iterdir()) == [path]


def test_a_file_with_no_header_is_moved_aside_and_its_rows_salvaged(path: Path) -> None:
    trials = fill(path)
    raw = path.read_bytes()
    pages = [raw[start : start + PAGE] for start in range(0, len(raw), PAGE)]
    schema = [number for number, page in enumerate(pages, start=1) if b"CREATE TABLE problems" in page]
    tear(path, 1, *schema)
    torn = path.read_bytes()
    warnings: list[str] = []
    with healed(path, warnings) as db:
        assert db.trials(KEYS[7]) == trials and db.winners(KEYS[7])[0].measured_us == 8.0
        assert len([key for key in KEYS if db.winners(key)]) == 40
        assert check(db).ok and list(db.problems())[7].columns == {}
        db.record(ENVIRONMENT, ProblemRecord(KEYS[7], {"N": 7}), trials, origin="again")
        assert {p.key: p.columns for p in db.problems()}[KEYS[7]] == {"N": 7}  # filled where it is met again
    aside = path.with_name("tuning.db.damaged-1")
    assert aside.read_bytes() == torn
    assert len(warnings) == 1 and str(path) in warnings[0] and "80 trials" in warnings[0]
    assert aside.name in warnings[0]
    with healed(path, warnings) as db:
        assert len(db.trials(KEYS[7])) == 4
    assert len(warnings) == 1


def test_columns_are_salvaged_where_the_schema_can_be_read(path: Path) -> None:
    fill(path)
    tear(path, root_page(path, "trials"))
    with healed(path, []) as db:
        assert db.trials(KEYS[7])
        assert {p.key: dict(p.columns) for p in db.problems()} == {
            key: {"N": n, "dtype": "f"} for n, key in enumerate(KEYS)
        }


def test_damage_met_while_reading_is_mended_at_once(path: Path) -> None:
    trials = fill(path)
    warnings: list[str] = []
    with healed(path, warnings) as db:
        tear(path, root_page(path, "trials"))
        assert db.trials(KEYS[7]) == trials
        assert len(warnings) == 1
        assert db.winners(KEYS[7])[0].measured_us == 8.0


def test_damage_met_while_writing_loses_neither_the_run_nor_the_trial(path: Path) -> None:
    fill(path)
    warnings: list[str] = []
    with healed(path, warnings) as db:
        run = db.start(ENVIRONMENT, origin="sweep")
        db.add(run, ProblemRecord("new"), Trial({"B": 1}, "ok", measured_us=2.0))
        tear(path, *range(1, path.stat().st_size // PAGE + 1))  # every row is lost
        db.add(run, ProblemRecord("new"), Trial({"B": 2}, "ok", measured_us=1.0))
        assert [trial.config for trial in db.trials("new")] == [{"B": 2}]
    assert len(warnings) == 1 and " 0 trials" in warnings[0]


def test_a_header_that_promises_free_pages_is_damage_too(path: Path) -> None:
    """Which SQLite's own check does not see."""
    fill(path)
    content = bytearray(path.read_bytes())
    assert content[36:40] == bytes(4)
    content[38] = 125  # of the number of free pages; there is none
    path.write_bytes(content)
    warnings: list[str] = []
    with healed(path, warnings) as db:
        db.record(
            ENVIRONMENT,
            ProblemRecord("new"),
            [Trial({"tile": 99, "text": 4000 * "x"}, "ok", measured_us=0.5)],
            origin="o",
        )
        (winner,) = db.winners("new")
        assert winner.config["tile"] == 99
    assert len(warnings) == 1


def test_a_trial_whose_environment_reads_as_another_is_not_acknowledged(path: Path) -> None:
    """One table's page in the place of another's: every index finds its rows, and they are wrong."""
    fill(path)
    pages = root_page(path, "runs"), root_page(path, "environments")
    whole = bytearray(path.read_bytes())
    source, target = ((page - 1) * PAGE for page in pages)
    whole[target : target + PAGE] = whole[source : source + PAGE]
    path.write_bytes(whole)
    added = Trial({"B": 1}, "ok", measured_us=1.0)
    with (
        TuningDB.open(path, columns=COLUMNS, application="tests") as db,
        pytest.raises(DamagedError, match="cannot be found"),
    ):
        db.record(ENVIRONMENT, ProblemRecord("new"), [added], origin="x")
    warnings: list[str] = []
    with healed(path, warnings) as db:
        db.record(ENVIRONMENT, ProblemRecord("new"), [added], origin="x")
        assert db.trials("new") == [added] and check(db).ok
    assert len(warnings) == 1


@pytest.mark.parametrize("place", [18, 19])
def test_a_damaged_byte_that_seals_the_file_is_no_matter_of_permissions(path: Path, place: int) -> None:
    """SQLite takes a file whose format it does not know for a read-only one, or for none."""
    trials = fill(path)
    whole = bytearray(path.read_bytes())
    whole[place] = 200
    path.write_bytes(whole)
    warnings: list[str] = []
    with healed(path, warnings) as db:
        db.record(ENVIRONMENT, ProblemRecord("new"), [Trial({"B": 1}, "ok", measured_us=1.0)], origin="x")
        assert db.trials(KEYS[7]) == trials and db.winners("new")
    assert len(warnings) == 1 and f"{2 * len(KEYS)} trials were salvaged" in warnings[0]


def test_others_who_have_the_file_open_go_on_with_the_new_one(path: Path) -> None:
    trials = fill(path)
    with (
        TuningDB.open(path, columns=COLUMNS, application="tests") as writer,
        TuningDB.open_readonly(path, columns=COLUMNS, application="tests") as reader,
    ):
        run = writer.start(ENVIRONMENT, origin="sweep")
        assert reader.trials(KEYS[7])
        tear(path, 1)
        with healed(path, []) as db:
            writer.add(run, ProblemRecord("new"), Trial({"B": 1}, "ok", measured_us=2.0))
            assert len(db.trials("new")) == len(reader.trials("new")) == 1
            assert reader.trials(KEYS[7]) == trials


def test_threads_that_meet_damage_together_mend_it_once(path: Path) -> None:
    trials = fill(path)
    warnings: list[str] = []
    results = []
    with healed(path, warnings) as db:
        tear(path, root_page(path, "trials"))

        def read() -> None:
            results.append(db.trials(KEYS[7]))

        threads = [threading.Thread(target=read) for _ in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert db.trials(KEYS[7]) == trials and len(warnings) == 1
    assert all(result in ([], trials) for result in results)  # a miss, while the rows are on their way


def test_an_interrupted_salvage_is_taken_up_again(path: Path) -> None:
    trials = fill(path)
    tear(path, 1)

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        open_healed(path, columns=COLUMNS, application="tests", warn=[].append, accept=killed)
    warnings: list[str] = []
    for _ in range(2):  # once taken over, it is not taken over again
        with healed(path, warnings) as db:
            assert db.trials(KEYS[7]) == trials and len(warnings) == 1


def test_a_second_damage_is_kept_beside_the_first(path: Path) -> None:
    fill(path)
    for number in (1, 2):
        tear(path, 1)
        with healed(path, []) as db:
            assert len(db.trials(KEYS[7])) == 2
        assert path.with_name(f"tuning.db.damaged-{number}").exists()


@pytest.mark.parametrize("torn", [(), (1,)])
def test_what_a_crash_left_half_written_is_rolled_back_first(path: Path, torn: tuple[int, ...]) -> None:
    fill(path)
    crashed = path.with_name("crashed.db")
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("PRAGMA cache_size = 1")  # writes into the file before it commits
        connection.execute("BEGIN IMMEDIATE")
        connection.execute("UPDATE runs SET origin = 'half done'")
        connection.execute("UPDATE problems SET key = key || 'x'")
        for suffix in ("", "-journal"):
            subprocess.run(["cp", f"{path}{suffix}", f"{crashed}{suffix}"], check=True)
        connection.execute("ROLLBACK")
    assert b"half done" in crashed.read_bytes()
    tear(crashed, *torn)
    with healed(crashed, []) as db:
        assert {json.loads(line)["run"]["origin"] for line in export_lines(db)} == {"sweep"}
        assert [len(db.trials(key)) for key in KEYS] == [2] * 40 and check(db).ok
    assert not path.with_name("crashed.db-journal").exists()


def test_a_file_that_is_whole_is_not_moved_whatever_the_error(path: Path) -> None:
    fill(path)
    with healed(path, []) as db:
        db.columns = {"N": int, "missing": int}
        with pytest.raises(DamagedError, match="no such column"):
            db.winners(KEYS[7])
    assert sorted(p.name for p in path.parent.iterdir()) == ["tuning.db", "tuning.db.locks"]


def test_a_newer_file_is_left_alone_and_another_used_beside_it(path: Path) -> None:
    trials = fill(path)
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript(f"PRAGMA user_version = {schema.newest() + 1}")
    before = path.read_bytes()
    warnings: list[str] = []
    beside = path.with_name(f"tuning.v{schema.newest()}.db")
    with healed(path, warnings) as db:
        assert db.path == beside and db.trials(KEYS[7]) == []
        db.record(ENVIRONMENT, ProblemRecord(KEYS[7]), trials, origin="x")
    with healed(path, warnings) as db:
        assert db.trials(KEYS[7]) == trials
    assert path.read_bytes() == before
    assert len(warnings) == 2 and all(str(path) in text and str(beside) in text for text in warnings)


@pytest.mark.parametrize("script", ["CREATE TABLE bookmarks (url)", "PRAGMA application_id = 7"])
def test_a_foreign_file_is_left_alone(path: Path, script: str) -> None:
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript(script)
    before = path.read_bytes()
    with pytest.raises(ForeignFileError):
        healed(path, [])
    assert path.read_bytes() == before


def test_another_applications_file_is_left_alone_damaged_or_not(path: Path) -> None:
    fill(path)
    tear(path, root_page(path, "winners"))
    with pytest.raises(ForeignFileError, match="belongs to 'tests'"):
        open_healed(path, columns=COLUMNS, application="others", warn=[].append)
    assert not path.with_name("tuning.db.damaged-1").exists()


def test_a_file_that_cannot_be_moved_is_an_error(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(path)
    tear(path, 1)

    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "replace", refuse)
    with pytest.raises(TuningDBError, match="cannot be moved") as caught:
        healed(path, [])
    assert str(path) in str(caught.value)


def test_a_deleted_file_is_begun_anew(path: Path) -> None:
    fill(path)
    with TuningDB.open(path, columns=COLUMNS) as db:
        run = db.start(ENVIRONMENT, origin="sweep")
        path.unlink()
        db.add(run, ProblemRecord("new"), Trial({"B": 1}, "ok", measured_us=2.0))
        assert len(db.trials("new")) == 1 and db.trials(KEYS[7]) == []


# --- files in WAL mode, which other programs have open --------------------------------------------


@pytest.fixture
def in_wal_mode(path: Path, script: Script) -> Iterator[list[Trial]]:
    """A filled file that another program put in WAL mode and has open; all since then is in the log alone."""
    trials = fill(path)
    code = """
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1], isolation_level=None)
mode = connection.execute("PRAGMA journal_mode = WAL").fetchone()
connection.execute("PRAGMA wal_autocheckpoint = 0")
connection.execute("SELECT count(*) FROM trials").fetchall()  # from now on it has the log open
print(*mode, flush=True)
sys.stdin.read()
"""
    with script(code, path, stdin=subprocess.PIPE) as program:
        assert program.stdout is not None and program.stdout.readline() == "wal\n"
        yield trials
        program.communicate("")


def test_a_file_in_wal_mode_that_another_program_has_open_is_used_as_it_is(
    path: Path, in_wal_mode: list[Trial]
) -> None:
    added = Trial({"B": 1}, "ok", measured_us=1.0)
    warnings: list[str] = []
    with healed(path, warnings) as db:
        assert db.trials(KEYS[7]) == in_wal_mode
        db.record(ENVIRONMENT, ProblemRecord("new"), [added], origin="x")
        with TuningDB.open_readonly(path, columns=COLUMNS) as reader:
            assert reader.trials("new") == [added]
        assert check(db).ok and vacuum(db) >= 0 and rebuild(db) == 41
    assert warnings == [] and path.with_name("tuning.db-wal").stat().st_size > 0
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)


def test_what_only_the_log_of_a_damaged_file_holds_is_salvaged(path: Path, in_wal_mode: list[Trial]) -> None:
    added = [Trial({"B": b}, "ok", measured_us=1.0 + b, detail={"x": "y" * 9000}) for b in (1, 2)]
    with TuningDB.open(path, columns=COLUMNS, application="tests") as db:
        for key in ("new", "newer"):
            db.record(EnvironmentRecord({"arch": "sm_90"}, {}), ProblemRecord(key), added, origin="x")
    assert b"newer" not in path.read_bytes()
    tear(path, *range(1, path.stat().st_size // PAGE + 1))
    warnings: list[str] = []
    with healed(path, warnings) as db:
        assert db.trials("new") == db.trials("newer") == added and check(db).ok
        with TuningDB.open_readonly(path, columns=COLUMNS) as reader:
            assert reader.trials("new") == added
    assert len(warnings) == 1 and "trials were salvaged" in warnings[0]
    names = sorted(one.name for one in path.parent.iterdir() if "damaged" in one.name)
    assert names == [f"tuning.db.damaged-1{suffix}" for suffix in ("", "-shm", "-wal")]


# --- links, and names of ours under which something else lies -------------------------------------


def test_the_file_behind_a_link_is_moved_and_begun_anew_not_the_link(path: Path, tmp_path: Path) -> None:
    trials = fill(path)
    path.chmod(0o660)
    link = tmp_path / "elsewhere" / "link.db"
    link.parent.mkdir()
    link.symlink_to(path)
    tear(path, 1)
    warnings: list[str] = []
    with healed(link, warnings) as db:
        assert db.trials(KEYS[7]) == trials
        db.record(ENVIRONMENT, ProblemRecord("new"), trials, origin="x")
    assert len(warnings) == 1 and link.is_symlink() and list(link.parent.iterdir()) == [link]
    assert path.with_name("tuning.db.damaged-1").exists() and path.stat().st_mode & 0o777 == 0o660
    with healed(path, warnings) as db:
        assert db.trials("new") == trials
    assert len(warnings) == 1


def test_a_link_to_a_file_that_is_not_there_yet_begins_it(tmp_path: Path) -> None:
    target, link = tmp_path / "new" / "tuning.db", tmp_path / "link.db"
    link.symlink_to(target)
    healed(link, []).close()
    assert link.is_symlink() and target.is_file()


FOREIGN: dict[str, Callable[[Path, Path], object]] = {
    "pipe": lambda name, _: os.mkfifo(name),
    "folder": lambda name, _: name.mkdir(),
    "link": lambda name, other: name.symlink_to(other),
    "link to nowhere": lambda name, other: name.symlink_to(other.with_name("nowhere")),
    "another's": lambda name, other: (shutil.copy(other, name), os.chown(name, 65534, 65534)),
}


@pytest.mark.parametrize("kind", FOREIGN)
def test_what_is_not_ours_under_a_name_of_ours_is_left_alone(path: Path, tmp_path: Path, kind: str) -> None:
    if kind == "another's" and os.geteuid() != 0:
        pytest.skip("only root gives files away")
    other = tmp_path / "others" / "tuning.db"
    other.parent.mkdir()
    fill(other)
    fill(path)
    for number in (1, 3):
        FOREIGN[kind](path.with_name(f"tuning.db.damaged-{number}"), other)
    before = {one.name: one.lstat() for one in path.parent.iterdir() if one != path}
    warnings: list[str] = []
    with healed(path, warnings) as db:
        assert len(db.trials(KEYS[7])) == 2 and warnings == []  # nothing was taken over
    tear(path, *range(1, path.stat().st_size // PAGE + 1))
    with healed(path, warnings) as db:
        assert db.trials(KEYS[7]) == []  # nor is it now
    assert len(warnings) == 1 and "tuning.db.damaged-2, 0 trials" in warnings[0]
    for name, status in before.items():
        now = path.with_name(name).lstat()
        assert (now.st_ino, now.st_size, now.st_mtime_ns) == (
            status.st_ino,
            status.st_size,
            status.st_mtime_ns,
        )


@pytest.mark.parametrize("suffix", ["", ".part"])
def test_a_backup_overwrites_nothing_that_is_not_ours(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str
) -> None:
    fill(path)
    monkeypatch.setattr(schema, "STEPS", LATER_STEPS)
    path.chmod(0o600)
    other = tmp_path / "other"
    other.write_text("somebody's")
    link = path.with_name(f"tuning.db.v1.backup{suffix}")
    link.symlink_to(other)
    healed_any = open_healed(path, columns=COLUMNS, warn=[].append)
    healed_any.close()
    assert link.is_symlink() and other.read_text() == "somebody's"
    backup = path.with_name("tuning.db.v1.backup-2")
    assert backup.read_bytes()[:6] == b"SQLite" and backup.stat().st_mode & 0o777 == 0o600


def test_what_is_salvaged_passes_the_check_of_an_import(path: Path) -> None:
    fill(path)
    with TuningDB.open(path, columns=COLUMNS, application="tests") as db:
        run = db.start(ENVIRONMENT, origin="x")
        for b in (1, 2):
            db.add(run, ProblemRecord("begun"), Trial({"B": b}, "started"))
    tear(path, 1)

    def accept(_: EnvironmentRecord, __: ProblemRecord, trial: Trial) -> str | None:
        return "B=2 is none of today's" if trial.config["B"] == 2 else None

    warnings: list[str] = []
    opened = open_healed(path, columns=COLUMNS, application="tests", warn=warnings.append, accept=accept)
    with opened as db:
        assert {trial.config["B"] for key in (*KEYS, "begun") for trial in db.trials(key)} == {1}
        assert [reason for reason, _ in quarantined(db)] == ["B=2 is none of today's"] * 40
        assert import_lines(db, [line for _, line in quarantined(db)]).inserted == 40
        assert quarantined(db) == [] and len(db.trials(KEYS[7])) == 2
    assert len(warnings) == 1 and "40 trials were salvaged, 40 are in quarantine" in warnings[0]
