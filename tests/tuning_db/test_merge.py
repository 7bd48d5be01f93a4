"""Merging: by files and by text, the same; in any order and grouping, once or often."""

from __future__ import annotations

import itertools
import json
import sqlite3
from collections.abc import Iterable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tuning_db import (
    DamagedError,
    EnvironmentRecord,
    ForeignFileError,
    NewerSchemaError,
    ProblemRecord,
    Trial,
    TuningDB,
    TuningDBError,
    Winner,
    check,
    export_lines,
    import_lines,
    merge,
    quarantined,
)
from tuning_db.records import RunRecord

COLUMNS = {"N": int}
ENVIRONMENTS = [EnvironmentRecord({"arch": "sm_89"}, {"device": name}) for name in ("L4", "RTX 4090")]

trials = st.builds(
    Trial,
    config=st.fixed_dictionaries({"B": st.integers(0, 2)}),
    outcome=st.sampled_from(["ok", "ok", "wrong", "crash", "started"]),
    measured_us=st.none() | st.sampled_from([1.0, 2.0]),
    predicted_us=st.none() | st.sampled_from([1.0, 2.0]),
    detail=st.sampled_from([{}, {"default": True}]),
    source=st.sampled_from(["", "a", "b"]),
    predictor=st.sampled_from(["", "m", "n"]),
)
# Runs of which each of three databases has some trials: what comes of merging, copying, and being cut short.
histories = st.lists(
    st.tuples(
        st.sampled_from(ENVIRONMENTS),
        st.sampled_from([ProblemRecord("p", {"N": 1}), ProblemRecord("q"), ProblemRecord("r", {"N": 3})]),
        st.lists(
            st.tuples(trials, st.sets(st.sampled_from("abc"), min_size=1)),
            max_size=3,
            unique_by=lambda pair: (pair[0].config_hash, pair[0].source),
        ),
        st.sets(st.sampled_from("abc")),  # which of them saw the run's end
    ),
    max_size=8,
)


def content(db: TuningDB) -> tuple[list[str], list[list[Winner]]]:
    """All that a database says: its finished trials as text, and its winners."""
    lines = list(export_lines(db))
    keys = sorted({key for key in ("p", "q", "r") if db.winners(key)})
    assert check(db).ok
    return lines, [db.winners(key) for key in keys]


def merged(path: Path, *donors: Path) -> tuple[list[str], list[list[Winner]]]:
    with TuningDB.open(path, columns=COLUMNS) as db:
        for donor in donors:
            merge(db, donor)
        return content(db)


def told(lines: Iterable[str]) -> tuple[set[str], dict[str, bool]]:
    """The trials told of, and which of their runs had ended for anybody who told."""
    trials, ended = set(), dict[str, bool]()
    for line in lines:
        fields = json.loads(line)
        run = fields["run"]
        ended[run["id"]] = run.pop("finished") or ended.get(run["id"], False)
        trials.add(json.dumps({**fields, "verify": None}))
    return trials, ended


@given(histories, st.data())
@settings(max_examples=25, deadline=None)
def test_merging_is_commutative_associative_and_idempotent(
    tmp_path_factory: pytest.TempPathFactory, history: list[Any], data: st.DataObject
) -> None:
    folder = tmp_path_factory.mktemp("merge")
    texts = []
    for name in "abc":
        with TuningDB.open(folder / name, columns=COLUMNS) as db:
            for place, (environment, problem, tried, ended) in enumerate(history):
                own = [trial for trial, owners in tried if name in owners]
                run = RunRecord(f"run {place}", environment, "x", finished=name in ended)
                with db.intake() as intake:
                    intake.put(intake.run(run), problem, own)
            texts.append(list(export_lines(db)))
    a, b, c = (folder / name for name in "abc")
    expected = merged(folder / "abc", a, b, c)
    assert merged(folder / "cba", c, b, a, a) == expected
    merged(folder / "bc", b, c)
    assert merged(folder / "(bc)a", folder / "bc", a) == expected
    assert merged(folder / "abc", folder / "cba", a) == expected
    assert told(expected[0]) == told(itertools.chain(*texts))
    assert len(set(expected[0])) == len(expected[0])
    lines = data.draw(st.permutations(expected[0]))
    with TuningDB.open(folder / "shuffled", columns=COLUMNS) as db:
        import_lines(db, lines)
        assert content(db) == expected


@pytest.fixture
def donor(tmp_path: Path) -> Path:
    path = tmp_path / "donor.db"
    with TuningDB.open(path, columns=COLUMNS, application="tests") as db:
        for n in range(1, 40):
            tried = [
                Trial({"B": b}, "ok", measured_us=float(n + b), detail={"x": "y" * 99}) for b in range(3)
            ]
            db.record(ENVIRONMENTS[0], ProblemRecord(f"p{n}", {"N": n}), tried, origin="x", run_id=f"r{n}")
    return path


def test_a_merge_says_what_it_did(db: TuningDB, donor: Path) -> None:
    before = donor.read_bytes()
    first, second = merge(db, donor), merge(db, donor)
    assert (first.inserted, first.known, first.bad_rows) == (117, 0, 0)
    assert (second.inserted, second.known) == (0, 117)
    assert db.winners("p7")[0].measured_us == 7.0
    assert donor.read_bytes() == before


def test_what_the_caller_refuses_is_quarantined(db: TuningDB, donor: Path) -> None:
    summary = merge(db, donor, lambda _, __, trial: "no B=1 today" if trial.config["B"] == 1 else None)
    assert (summary.inserted, summary.quarantined, len(quarantined(db))) == (78, 39, 39)


def test_bad_rows_stay_behind(db: TuningDB, donor: Path) -> None:
    with TuningDB.open(donor, columns=COLUMNS) as source, source.writing() as connection:
        connection.execute("DELETE FROM trials WHERE id = 2")
        connection.execute(
            "INSERT INTO trials SELECT 2, run_id, problem_id, 'x', config, source, predictor, outcome,"
            " predicted_us, 0.001, samples_us, max_err, error, detail, checksum FROM trials WHERE id = 1"
        )
    assert (merge(db, donor).inserted, merge(db, donor).bad_rows) == (116, 1)


def test_a_damaged_donor_changes_nothing(db: TuningDB, donor: Path) -> None:
    whole = donor.read_bytes()
    for torn in (b"garbage" * 1000, whole[:5000], whole[:20000] + bytes(4096) + whole[24096:], b""):
        donor.write_bytes(torn)
        with pytest.raises(DamagedError):
            merge(db, donor)
    assert [db.info()[name] for name in ("trials", "runs", "problems", "environments")] == [0] * 4


@pytest.mark.parametrize(
    ("script", "error"),
    [
        ("PRAGMA user_version = 99", NewerSchemaError),
        ("PRAGMA application_id = 7", ForeignFileError),
        ("UPDATE meta SET value = 'other'", ForeignFileError),
        ("DROP TABLE runs", DamagedError),
        ("CREATE TRIGGER t AFTER INSERT ON runs BEGIN DELETE FROM trials; END", DamagedError),
    ],
)
def test_an_unfit_donor_is_refused(
    db: TuningDB, donor: Path, script: str, error: type[TuningDBError]
) -> None:
    with closing(sqlite3.connect(donor)) as connection:
        connection.executescript(script)
    with pytest.raises(error, match=str(donor)):
        merge(db, donor)
    assert db.info()["trials"] == 0


def test_a_database_is_not_merged_into_itself(db: TuningDB, path: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(path)
    for name in (path, tmp_path / "link"):
        with pytest.raises(TuningDBError, match="merge into"):
            merge(db, name)
    with pytest.raises(TuningDBError, match="no such file"):
        merge(db, tmp_path / "missing")
