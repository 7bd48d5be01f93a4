"""Check, rebuild, prune and vacuum."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tuning_db import (
    EnvironmentRecord,
    ProblemRecord,
    Pruned,
    Trial,
    TuningDB,
    UnwritableError,
    check,
    export_lines,
    import_lines,
    prune,
    quarantined,
    rebuild,
    vacuum,
)

COLUMNS = {"N": int, "dtype": str}
OLD, NEW = (EnvironmentRecord({"toolchain": version}, {"device": "L4"}) for version in ("3.6", "3.7"))


@pytest.fixture
def full(db: TuningDB) -> TuningDB:
    for environment in (OLD, NEW):
        for n in (1, 2):
            tried = [Trial({"B": b}, "ok", measured_us=10.0 * b) for b in range(1, 9)]
            tried += [Trial({"B": 90}, "wrong"), Trial({"B": 91}, "crash"), Trial({"B": 92}, "started")]
            tried += [Trial({"B": 0}, "ok", measured_us=85.0, detail={"default": True})]
            db.record(environment, ProblemRecord(f"p{n}", {"N": n}), tried, origin="sweep")
    return db


def sql(db: TuningDB, statement: str) -> None:
    with db.writing() as connection:
        connection.execute("DROP TRIGGER IF EXISTS finished_trials_are_immutable")
        connection.execute("PRAGMA defer_foreign_keys = ON")
        connection.execute(statement)


def test_a_sound_database_checks(full: TuningDB) -> None:
    report = check(full)
    assert report.ok and (report.trials, report.winners) == (48, 4)
    assert (report.structure, report.bad_rows, report.stale_winners, report.refused) == ([], 0, 0, 0)


@pytest.mark.parametrize(
    ("statement", "bad_rows", "stale_winners"),
    [
        ("UPDATE trials SET measured_us = 1.0 WHERE id = 3", 1, 0),
        ("UPDATE trials SET measured_us = 99.0 WHERE id = 1", 1, 1),
        ("UPDATE trials SET config = '[' WHERE id = 3", 1, 0),
        ("UPDATE winners SET config = '{}' WHERE id = 1", 1, 1),
        ("DELETE FROM winners WHERE id = 1", 0, 1),
        ("DELETE FROM trials WHERE id IN (1, 2)", 0, 1),
        ("UPDATE environments SET doc = '{}' WHERE id = 1", 24, 2),
        ("UPDATE problems SET N = 7 WHERE id = 1", 1, 0),
        ("DELETE FROM problem_sizes WHERE problem_id = 1", 1, 0),
    ],
)
def test_a_check_finds(full: TuningDB, statement: str, bad_rows: int, stale_winners: int) -> None:
    sql(full, statement)
    report = check(full)
    assert not report.ok and report.structure == []
    assert (report.bad_rows, report.stale_winners) == (bad_rows, stale_winners)
    rebuild(full)
    assert check(full).stale_winners == 0


def test_a_check_finds_what_sqlite_finds(full: TuningDB) -> None:
    with full.reading() as connection:
        connection.execute("PRAGMA foreign_keys = OFF")
        sql(full, "DELETE FROM runs WHERE rowid = 1")
        connection.execute("PRAGMA foreign_keys = ON")
    report = check(full)
    assert "of trials refers to a row of runs" in report.structure[0] and len(report.structure) == 12
    assert report.bad_rows == 12 and not report.ok


def test_a_check_asks_the_caller_about_each_trial(full: TuningDB) -> None:
    def accept(environment: EnvironmentRecord, problem: ProblemRecord, trial: Trial) -> str | None:
        assert environment in (OLD, NEW) and problem.columns["N"] in (1, 2)
        return f"B={trial.config['B']} is no more" if trial.config["B"] == 3 else None

    report = check(full, accept)
    assert (report.refused, report.ok, report.bad_rows) == (4, False, 0)
    assert report.reasons[0] == "p1: B=3 is no more"


def test_pruning_keeps_the_best_and_all_that_the_winner_rests_on(full: TuningDB) -> None:
    winners = [full.winners(key) for key in ("p1", "p2")]
    assert prune(full, best=3) == Pruned(
        trials=24, runs=0, problems=0, environments=0, quarantined=0, misses=0
    )
    assert sorted(trial.config["B"] for trial in full.trials("p1", NEW.hash)) == [0, 1, 2, 3, 90, 92]
    assert [full.winners(key) for key in ("p1", "p2")] == winners
    rebuild(full)
    assert [full.winners(key) for key in ("p1", "p2")] == winners and winners[0][0].default_us == 85.0
    assert check(full).ok


def test_a_dry_run_of_pruning_counts_and_changes_nothing(full: TuningDB) -> None:
    import_lines(full, ["garbage"])
    lines, wanted = list(export_lines(full)), {"best": 2, "quarantine": True, "misses": True}
    told = prune(full, dry_run=True, **wanted)
    assert told.trials > 0 and told.quarantined == 1
    assert list(export_lines(full)) == lines and len(quarantined(full)) == 1 and check(full).ok
    assert prune(full, **wanted) == told


def test_pruning_drops_environments(full: TuningDB) -> None:
    full.record(OLD, ProblemRecord("p3", {"N": 3}), [Trial({"B": 1}, "ok", measured_us=1.0)], origin="x")
    import_lines(full, ["garbage"])
    gone = prune(full, drop=lambda environment, _: environment.hard["toolchain"] == "3.6", quarantine=True)
    assert gone == Pruned(trials=25, runs=3, problems=1, environments=1, quarantined=1, misses=0)
    assert full.environments() == [NEW] and [p.key for p in full.problems()] == ["p1", "p2"]
    assert check(full).ok and len(full.nearest(ProblemRecord("p", {"N": 3}))) == 2


def test_pruning_drops_sources(full: TuningDB) -> None:
    """Of an environment that has another source's trials, too, those and its runs stay."""
    tried = [Trial({"B": 1}, "ok", measured_us=1.0, source=source) for source in ("old", "new")]
    full.record(NEW, ProblemRecord("p1"), tried, origin="x")
    before = [winner for winner in full.winners("p1") if winner.source != "old"]
    asked = set()

    def drop(environment: EnvironmentRecord, source: str | None) -> bool:
        asked.add((environment.hash, source))
        return source == "old"

    assert prune(full, drop=drop) == Pruned(
        trials=1, runs=0, problems=0, environments=0, quarantined=0, misses=0
    )
    assert {source for environment, source in asked if environment == NEW.hash} == {"", "old", "new"}
    assert full.winners("p1") == before and check(full).ok


def test_pruning_removes_bad_rows(full: TuningDB) -> None:
    sql(full, "UPDATE trials SET measured_us = 99.0 WHERE id = 5")
    assert prune(full, best=100).trials == 5 and check(full).bad_rows == 0


def test_a_run_under_way_survives_pruning(full: TuningDB, path: Path) -> None:
    run = full.start(NEW, origin="sweep")
    prune(full, best=2)
    with TuningDB.open(path, columns=COLUMNS) as other:
        other.add(run, ProblemRecord("p1"), Trial({"B": 1}, "ok", measured_us=1.0))


def test_too_few_to_keep_are_refused(full: TuningDB) -> None:
    with pytest.raises(ValueError, match="best=1 would lose"):
        prune(full, best=1)


trials = st.builds(
    Trial,
    config=st.fixed_dictionaries({"B": st.integers(0, 6)}),
    outcome=st.sampled_from(["ok", "ok", "ok", "wrong", "crash"]),
    measured_us=st.none() | st.sampled_from([100.0, 101.0, 103.0, 200.0]),
    predicted_us=st.none() | st.just(50.0),
    detail=st.sampled_from([{}, {"default": True}]),
    source=st.sampled_from(["a", "b"]),
    predictor=st.sampled_from(["m", "n"]),
)


@given(
    st.lists(st.lists(trials, max_size=6, unique_by=lambda t: (t.config_hash, t.source)), max_size=4),
    st.integers(2, 4),
)
@settings(max_examples=25, deadline=None)
def test_pruning_changes_no_winner_and_a_merge_undoes_it(
    tmp_path_factory: pytest.TempPathFactory, runs: list[Any], best: int
) -> None:
    with TuningDB.open(tmp_path_factory.mktemp("prune") / "x.db", columns={}) as db:
        for number, tried in enumerate(runs):
            db.record(NEW, ProblemRecord("p"), tried, origin="x", run_id=f"{number}")
        lines, winners = list(export_lines(db)), db.winners("p")
        prune(db, best=best)
        assert db.winners("p") == winners
        rebuild(db)
        assert db.winners("p") == winners and check(db).ok
        import_lines(db, lines)
        assert (list(export_lines(db)), db.winners("p")) == (lines, winners)


def test_vacuum_gives_the_space_back(full: TuningDB, path: Path) -> None:
    for n in range(50):
        tried = [Trial({"B": b}, "crash", error="x" * 2000) for b in range(5)]
        full.record(OLD, ProblemRecord(f"q{n}"), tried, origin="x")
    size = path.stat().st_size
    prune(full, best=2)
    assert path.stat().st_size == size
    freed = vacuum(full)
    assert freed > 400_000 and path.stat().st_size == size - freed and check(full).ok


def test_a_database_opened_for_reading_is_only_checked(full: TuningDB, path: Path) -> None:
    with TuningDB.open_readonly(path, columns=COLUMNS) as reader:
        assert check(reader).ok
        for change in (rebuild, vacuum, prune):
            with pytest.raises(UnwritableError):
                change(reader)
