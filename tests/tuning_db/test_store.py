from __future__ import annotations

import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tuning_db import (
    EnvironmentRecord,
    ProblemRecord,
    Trial,
    TuningDB,
    TuningDBError,
    UnwritableError,
    check,
    export_lines,
    import_lines,
    rebuild,
)

FAST = Trial(
    {"B": 128}, "ok", predicted_us=9.0, samples_us=(4.0, 5.0, 6.0), max_err=1e-7, detail={"spills": 0}
)
SLOW = Trial({"B": 64}, "ok", samples_us=(10.0,))
FAILED = Trial({"B": 256}, "resources", error="needs 120 KiB of shared memory")


def sql(path: Path, statement: str, *values: object) -> list[tuple[object, ...]]:
    """Run a statement as a stranger would, with no triggers of ours in the way."""
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("DROP TRIGGER IF EXISTS finished_trials_are_immutable")
        return connection.execute(statement, values).fetchall()


def test_recorded_trials_read_back(
    db: TuningDB, environment: EnvironmentRecord, problem: ProblemRecord
) -> None:
    db.record(environment, problem, [FAST, SLOW, FAILED], origin="sweep", info={"rigor": 1})
    assert db.trials(problem.key) == [FAST, SLOW, FAILED]
    assert list(db.problems()) == [problem]
    (winner,) = db.winners(problem.key)
    assert (winner.environment, winner.problem, winner.config) == (environment, problem, {"B": 128})
    assert (winner.provenance, winner.measured_us, winner.predicted_us) == ("measured", 5.0, 9.0)
    assert (winner.max_err, winner.margin, winner.ties, winner.detail) == (1e-7, 1.0, 0, {"spills": 0})


def test_each_environment_has_its_winner(
    db: TuningDB, environment: EnvironmentRecord, problem: ProblemRecord
) -> None:
    other = EnvironmentRecord(environment.hard, {**environment.soft, "driver": "580"})
    db.record(environment, problem, [FAST], origin="a")
    db.record(other, problem, [SLOW], origin="b")
    winners = {winner.environment.hash: winner.config for winner in db.winners(problem.key)}
    assert winners == {environment.hash: FAST.config, other.hash: SLOW.config}
    assert db.trials(problem.key, other.hash) == [SLOW]
    assert db.winners("another problem") == [] == db.trials("another problem")


def test_each_added_trial_is_committed_at_once(
    db: TuningDB, path: Path, environment: EnvironmentRecord, problem: ProblemRecord, columns: dict[str, type]
) -> None:
    run = db.start(environment, origin="sweep")
    with TuningDB.open_readonly(path, columns=columns) as reader:
        for count, trial in enumerate((SLOW, FAST, FAILED), start=1):
            db.add(run, problem, trial)
            assert len(reader.trials(problem.key)) == count
        assert reader.winners(problem.key)[0].config == FAST.config
        assert reader.info()["runs"] == 1


def test_a_started_trial_is_replaced_when_it_finishes(
    db: TuningDB, environment: EnvironmentRecord, problem: ProblemRecord
) -> None:
    run = db.start(environment, origin="sweep")
    started = Trial(FAST.config, "started")
    db.add(run, problem, started)
    assert db.trials(problem.key) == [started] and db.winners(problem.key) == []
    db.add(run, problem, FAST)
    db.add(run, problem, started)  # a resumed sweep may begin with what is finished already
    db.add(run, problem, FAST)
    assert db.trials(problem.key) == [FAST]


def test_a_finished_trial_never_changes(
    db: TuningDB, path: Path, environment: EnvironmentRecord, problem: ProblemRecord
) -> None:
    run = db.start(environment, origin="sweep")
    db.add(run, problem, FAST)
    faster = replace(FAST, samples_us=(1.0,), measured_us=1.0)
    with pytest.raises(TuningDBError, match="finished and cannot change"):
        db.add(run, problem, faster)
    with (
        closing(sqlite3.connect(path)) as connection,
        pytest.raises(sqlite3.IntegrityError, match="never changed"),
    ):
        connection.execute("UPDATE trials SET measured_us = 1.0")
    assert db.trials(problem.key) == [FAST]
    db.record(environment, problem, [faster], origin="again")  # a run of its own is welcome
    assert len(db.trials(problem.key)) == 2


def test_a_config_of_another_source_is_another_trial(
    db: TuningDB, environment: EnvironmentRecord, problem: ProblemRecord
) -> None:
    """Two versions of a program on one file: neither takes the other's winner away."""
    old, new = replace(SLOW, source="old"), replace(SLOW, source="new", samples_us=(3.0,), measured_us=3.0)
    run = db.start(environment, origin="sweep")
    for trial in (old, new, old):
        db.add(run, problem, trial)
        assert trial in db.trials(problem.key)
    found = {winner.source: winner.measured_us for winner in db.winners(problem.key)}
    assert found == {"old": 10.0, "new": 3.0}
    assert [(one.place, one.source) for one in db.ranked(problem.key)] == [(0, "new"), (1, "old")]


def test_a_run_that_has_not_ended_is_told_of_its_winners_and_of_itself(
    db: TuningDB, environment: EnvironmentRecord, problem: ProblemRecord
) -> None:
    run = db.start(environment, origin="sweep", info={"x": 1})
    db.add(run, problem, FAST)
    assert [winner.finished for winner in db.winners(problem.key)] == [False]
    assert [(one.id, one.info, one.finished) for one in db.runs(problem.key)] == [(run, {"x": 1}, False)]
    lines = list(export_lines(db))
    assert db.started.keys() == {run}
    for _ in range(2):
        db.finish(run)
        assert db.started == {}
        assert [winner.finished for winner in db.winners(problem.key)] == [True]
        assert [one.finished for one in db.runs(problem.key)] == [True]
        assert check(db).ok
        import_lines(db, lines)  # of the time before: what has ended has ended
    with pytest.raises(TuningDBError, match=r"no run 'nine'; begin one with start\(\)"):
        db.finish("nine")


def test_the_end_of_a_run_may_come_with_an_import(
    db: TuningDB, environment: EnvironmentRecord, problem: ProblemRecord, path: Path
) -> None:
    run = db.start(environment, origin="sweep")
    db.add(run, problem, FAST)
    early = list(export_lines(db))
    db.finish(run)
    for name, order in (("a", [early, list(export_lines(db))]), ("b", [list(export_lines(db)), early])):
        with TuningDB.open(path.with_name(name), columns=db.columns) as copy:
            for lines in order:
                import_lines(copy, lines)
            assert [winner.finished for winner in copy.winners(problem.key)] == [True] and check(copy).ok


def test_a_record_is_all_or_nothing(
    db: TuningDB, environment: EnvironmentRecord, problem: ProblemRecord
) -> None:
    contradiction = [FAST, SLOW, replace(FAST, samples_us=(1.0,), measured_us=1.0)]
    with pytest.raises(TuningDBError):
        db.record(environment, problem, contradiction, origin="sweep")
    info = db.info()
    assert [info[name] for name in ("runs", "trials", "winners", "problems", "environments")] == [0] * 5


def test_a_run_can_be_recorded_twice_but_not_elsewhere(
    db: TuningDB, environment: EnvironmentRecord, problem: ProblemRecord
) -> None:
    for _ in range(2):
        assert db.record(environment, problem, [FAST], origin="sweep", run_id="r1") == "r1"
    assert db.trials(problem.key) == [FAST]
    with pytest.raises(TuningDBError, match="another environment"):
        db.record(EnvironmentRecord({}, {}), problem, [SLOW], origin="sweep", run_id="r1")


def test_an_unknown_run_is_refused(db: TuningDB, problem: ProblemRecord) -> None:
    with pytest.raises(TuningDBError, match=r"no run 'nine'; begin one with start\(\)"):
        db.add("nine", problem, FAST)


def test_columns_are_there_for_people_to_query(
    db: TuningDB, path: Path, environment: EnvironmentRecord, problem: ProblemRecord
) -> None:
    db.record(environment, problem, [FAST], origin="sweep")
    query = """SELECT p.N, p.dtype, e.arch, e.device, w.config FROM winners w
        JOIN problems p ON p.id = w.problem_id JOIN environments e ON e.id = w.environment_id"""
    assert sql(path, query) == [(64, "float16", "sm_89", "RTX 4090", '{"B":128}')]


def test_columns_may_be_added_later_and_are_not_needed(
    db: TuningDB, path: Path, environment: EnvironmentRecord, problem: ProblemRecord, columns: dict[str, type]
) -> None:
    db.record(environment, problem, [FAST], origin="sweep")
    wide = ProblemRecord("N=1,stride=2", {"N": 1, "dtype": "int8", "stride": 2})
    with TuningDB.open_readonly(path, columns={**columns, "stride": int}) as older:
        assert list(older.problems()) == [problem]
    with TuningDB.open(path, columns={**columns, "stride": int}) as wider:
        wider.record(environment, wide, [FAST], origin="sweep")
        assert list(wider.problems()) == [wide, problem]
    with TuningDB.open(path, columns={}) as narrow:
        assert [found.columns for found in narrow.problems()] == [{}, {}]


@pytest.mark.parametrize(
    ("columns", "word"),
    [
        ({"id": int}, "id"),
        ({"KEY": str}, "KEY"),
        ({"N": int, "n": int}, "'n'"),
        ({"a b": int}, "a b"),
        ({'x"; DROP TABLE trials; --': int}, "DROP"),
        ({"N": float}, "float"),
    ],
)
def test_unfit_columns_are_refused(path: Path, columns: dict[str, type], word: str) -> None:
    with pytest.raises(ValueError, match=word):
        TuningDB.open(path, columns=columns)
    assert not path.exists()


@pytest.mark.parametrize("columns", [{"stride": 2}, {"N": "64"}])
def test_undeclared_columns_are_refused(
    db: TuningDB, environment: EnvironmentRecord, columns: dict[str, int | str]
) -> None:
    with pytest.raises(ValueError, match=next(iter(columns))):
        db.record(environment, ProblemRecord("p", columns), [FAST], origin="sweep")


TAMPER = [
    "UPDATE trials SET measured_us = 0.001 WHERE config LIKE '%64%'",
    "UPDATE trials SET config = '{\"B\":32}' WHERE config LIKE '%64%'",
    "UPDATE trials SET checksum = '' WHERE config LIKE '%64%'",
    "UPDATE trials SET outcome = 'ok' WHERE outcome = 'resources'",
    "UPDATE trials SET samples_us = 'not JSON' WHERE config LIKE '%64%'",
    "UPDATE trials SET config = CAST(x'ff00fe' AS TEXT) WHERE config LIKE '%64%'",
]


@pytest.mark.parametrize("statement", TAMPER)
def test_a_tampered_trial_is_skipped_and_never_wins(
    db: TuningDB, path: Path, environment: EnvironmentRecord, problem: ProblemRecord, statement: str
) -> None:
    db.record(environment, problem, [FAST, SLOW, FAILED], origin="sweep")
    before = db.winners(problem.key)
    sql(path, statement)
    assert len(db.trials(problem.key)) == 2 and db.bad_rows == 1
    assert FAST in db.trials(problem.key)
    assert rebuild(db) == 1
    (winner,) = db.winners(problem.key)
    assert winner.config == FAST.config and winner.measured_us == before[0].measured_us


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE winners SET config = '{\"B\":64}'",
        "UPDATE winners SET measured_us = 0.5",
        "UPDATE winners SET detail = '['",
        "UPDATE winners SET config = CAST(x'80' AS TEXT)",
        "UPDATE environments SET doc = replace(doc, 'sm_89', 'sm_90')",
    ],
)
def test_a_tampered_winner_is_a_miss(
    db: TuningDB, path: Path, environment: EnvironmentRecord, problem: ProblemRecord, statement: str
) -> None:
    db.record(environment, problem, [FAST, SLOW], origin="sweep")
    sql(path, statement)
    assert db.winners(problem.key) == [] and db.bad_rows == 1


def test_a_rebuild_restores_the_winners_from_the_trials(
    db: TuningDB, path: Path, environment: EnvironmentRecord, problem: ProblemRecord
) -> None:
    other = ProblemRecord("N=2", {"N": 2})
    db.record(environment, problem, [FAST, SLOW], origin="sweep")
    db.record(environment, other, [SLOW], origin="sweep")
    before = [db.winners(problem.key), db.winners(other.key)]
    sql(path, "DELETE FROM winners WHERE problem_id = 1")
    sql(path, "UPDATE winners SET config = '{}'")
    assert rebuild(db) == 2
    assert [db.winners(problem.key), db.winners(other.key)] == before


@given(order=st.permutations(range(6)))
@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_the_winner_does_not_depend_on_the_order_of_recording(
    tmp_path_factory: pytest.TempPathFactory, order: list[int]
) -> None:
    environment, problem = EnvironmentRecord({}, {}), ProblemRecord("p")
    runs = [
        [Trial({"B": i % 3}, "ok", measured_us=1 + i), Trial({"B": 9}, "ok", predicted_us=0.1)]
        for i in range(6)
    ]
    with TuningDB.open(tmp_path_factory.mktemp("order") / "x.db", columns={}) as db:
        for i in order:
            db.record(environment, problem, runs[i], origin="sweep", run_id=f"r{i}")
        (winner,) = db.winners("p")
    assert (winner.config, winner.measured_us) == ({"B": 0}, 2.5)
    assert winner.margin == pytest.approx(0.4)


def test_info_counts_everything(
    db: TuningDB, path: Path, environment: EnvironmentRecord, problem: ProblemRecord
) -> None:
    db.record(environment, problem, [FAST, FAILED], origin="sweep")
    assert db.info() == {
        "runs": 1, "trials": 2, "winners": 1, "problems": 1, "environments": 1, "misses": 0,
        "pin": None, "pinned_at": None,
        "path": str(path), "schema_version": 1, "size_bytes": path.stat().st_size,
    }  # fmt: skip


def test_odd_text_is_kept(db: TuningDB, environment: EnvironmentRecord) -> None:
    problem = ProblemRecord("N=1'; DROP TABLE trials; -- \u00e4\u4e2d\0", {"dtype": "\U0001f600"})
    trial = Trial({"B": "\ud800"}, "crash", error="bytes \udcff and \0")
    db.record(environment, problem, [trial], origin="\udc80", info={"\udc80": ["\ud800"]})
    assert list(db.problems()) == [problem]
    assert db.trials(problem.key) == [trial]


def test_reading_never_writes_a_byte(
    db: TuningDB, path: Path, environment: EnvironmentRecord, problem: ProblemRecord, columns: dict[str, type]
) -> None:
    db.record(environment, problem, [FAST], origin="sweep")
    db.close()
    before = (path.read_bytes(), path.stat().st_mtime_ns, sorted(path.parent.iterdir()))
    for immutable in (False, True):
        with TuningDB.open_readonly(path, columns=columns, immutable=immutable) as reader:
            assert reader.winners(problem.key) and reader.trials(problem.key) and reader.info()["trials"] == 1
            for write in writes(reader, environment, problem):
                with pytest.raises(UnwritableError):
                    write()
    assert (path.read_bytes(), path.stat().st_mtime_ns, sorted(path.parent.iterdir())) == before


def writes(
    db: TuningDB, environment: EnvironmentRecord, problem: ProblemRecord
) -> list[Callable[[], object]]:
    return [
        lambda: db.record(environment, problem, [SLOW], origin="x"),
        lambda: db.start(environment, origin="x"),
        lambda: db.add("x", problem, SLOW),
        lambda: rebuild(db),
    ]


def test_a_closed_database_says_so(db: TuningDB) -> None:
    db.close()
    db.close()
    with pytest.raises(TuningDBError, match="closed; open it again"):
        db.info()


WRITES_AT_EXIT = """
import atexit, sys

atexit.register(lambda: print(database.info()["runs"], end=""))  # first, so it comes last
from tuning_db import EnvironmentRecord, TuningDB

database = TuningDB.open(sys.argv[1], columns={})
atexit.register(lambda: database.start(EnvironmentRecord({}, {}), origin="exit"))
"""


def test_a_database_serves_until_the_very_end_of_the_process(path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", WRITES_AT_EXIT, str(path)],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "1", "")
