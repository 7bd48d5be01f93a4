from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tuning_db import (
    DamagedError,
    EnvironmentRecord,
    ImportSummary,
    ProblemRecord,
    Trial,
    TuningDB,
    TuningDBError,
    export_lines,
    import_lines,
)
from tuning_db.transfer import MAX_LINE_CHARS

COLUMNS = {"N": int, "dtype": str}
ENVIRONMENTS = [EnvironmentRecord({"arch": "sm_89"}, {"device": name}) for name in ("L4", "RTX 4090")]


def fill(db: TuningDB) -> None:
    for number, environment in enumerate(ENVIRONMENTS):
        for n in (2, 1):
            problem = ProblemRecord(f"N={n}", {"N": n, "dtype": "float16"})
            trials = [Trial({"B": b, "e": number}, "ok", samples_us=(n + b, n + b + 0.5)) for b in (1, 2)]
            failed = Trial(
                {"B": 3}, "compile", error="ptxas: \u201cregisters\u201d\n", detail={"log": ["a", None]}
            )
            db.record(environment, problem, [*trials, failed], origin="sweep", info={"rigor": n})
    run = db.start(ENVIRONMENTS[0], origin="interrupted")
    db.add(run, ProblemRecord("N=9"), Trial({"B": 1}, "started"))


def lines_of(db: TuningDB) -> list[str]:
    return list(export_lines(db))


def copied(path: Path, *sources: Iterable[str]) -> list[str]:
    """What a new database at `path` exports after importing the sources."""
    with TuningDB.open(path, columns=COLUMNS) as db:
        for source in sources:
            import_lines(db, source)
        exported, winners = lines_of(db), [db.winners(p.key) for p in db.problems()]
        db.rebuild()
        assert winners == [db.winners(p.key) for p in db.problems()]
        return exported


def test_a_round_trip_gives_the_same_bytes(db: TuningDB, tmp_path: Path) -> None:
    fill(db)
    lines = lines_of(db)
    assert (
        lines
        == lines_of(db)
        == copied(tmp_path / "copy", lines)
        == copied(tmp_path / "other", reversed(lines))
    )
    assert len(lines) == 12 and all(line.endswith("\n") and line.isascii() for line in lines)
    keys = [json.loads(line)["problem"]["key"] for line in lines]
    assert keys == sorted(keys)
    with TuningDB.open_readonly(tmp_path / "copy", columns=COLUMNS) as copy:
        for key in ("N=1", "N=2"):
            assert copy.winners(key) == db.winners(key) != []
        assert list(copy.problems()) == [p for p in db.problems() if p.key != "N=9"]


def test_an_import_may_be_repeated(db: TuningDB, tmp_path: Path) -> None:
    fill(db)
    lines = lines_of(db)
    with TuningDB.open(tmp_path / "copy", columns=COLUMNS) as copy:
        assert import_lines(copy, lines[:5]) == ImportSummary(inserted=5)
        assert import_lines(copy, [*lines, "\n"]) == ImportSummary(inserted=7, known=5)
        assert lines_of(copy) == lines


trials = st.builds(
    Trial,
    config=st.fixed_dictionaries({"B": st.integers(0, 2)}),
    outcome=st.sampled_from(["ok", "wrong", "crash"]),
    measured_us=st.none() | st.sampled_from([1.0, 2.0]),
)
runs = st.lists(
    st.tuples(
        st.sampled_from(ENVIRONMENTS),
        st.sampled_from(["p", "q"]),
        st.lists(trials, max_size=3, unique_by=lambda t: t.config_hash),
    ),
    max_size=4,
)


@given(st.lists(runs, min_size=3, max_size=3))
@settings(max_examples=12, deadline=None)
def test_merging_is_commutative_associative_and_idempotent(
    tmp_path_factory: pytest.TempPathFactory, histories: list[Any]
) -> None:
    folder = tmp_path_factory.mktemp("merge")
    parts = []
    for number, history in enumerate(histories):
        with TuningDB.open(folder / f"part{number}", columns=COLUMNS) as db:
            for place, (environment, key, tried) in enumerate(history):
                db.record(environment, ProblemRecord(key), tried, origin="x", run_id=f"{number}.{place}")
            parts.append(lines_of(db))
    a, b, c = parts
    merged = copied(folder / "abc", a, b, c)
    assert merged == copied(folder / "cba", c, b, a, a)
    assert merged == copied(folder / "(bc)a", copied(folder / "bc", b, c), a)
    assert merged == sorted({*a, *b, *c}, key=lambda line: merged.index(line))


def changed(line: str, change: Callable[[dict[str, Any]], None], *, resealed: bool) -> str:
    fields = json.loads(line)
    change(fields)
    if resealed:
        del fields["checksum"]
        text = json.dumps(fields, sort_keys=True, separators=(",", ":"))
        fields["checksum"] = hashlib.sha256(text.encode()).hexdigest()
    return json.dumps(fields)


def set_field(*place_and_value: Any) -> Callable[[dict[str, Any]], None]:
    *place, name, value = place_and_value

    def change(fields: dict[str, Any]) -> None:
        for step in place:
            fields = fields[step]
        fields[name] = value

    return change


BROKEN = [
    lambda line: line[: len(line) // 2],
    lambda _: "null",
    lambda _: "[]",
    lambda _: "[" * 100_000,
    lambda line: " " * MAX_LINE_CHARS + line,
    lambda line: changed(line, set_field("trial", "samples_us", [0.001]), resealed=False),
    lambda line: changed(line, set_field("problem", "columns", "N", 5), resealed=False),
    lambda line: changed(line, set_field("run", "origin", "elsewhere"), resealed=False),
    lambda line: changed(line, set_field("trial", "outcome", "started"), resealed=True),
    lambda line: changed(line, set_field("trial", "outcome", "perfect"), resealed=True),
    lambda line: changed(line, set_field("trial", "measured_us", -1), resealed=True),
    lambda line: changed(line, set_field("trial", "measured_us", {}), resealed=True),
    lambda line: changed(line, set_field("trial", "samples_us", 5), resealed=True),
    lambda line: changed(line, set_field("trial", "config", []), resealed=True),
    lambda line: changed(line, set_field("trial", "extra", 1), resealed=True),
    lambda line: changed(line, set_field("environment", "hard", {"x": {"y": 1}}), resealed=True),
    lambda line: changed(line, set_field("problem", "key", ""), resealed=True),
    lambda line: changed(line, set_field("problem", "columns", "N", "five"), resealed=True),
    lambda line: changed(line, set_field("problem", "columns", "N", 10**30), resealed=True),
    lambda line: changed(line, set_field("run", "id", None), resealed=True),
    lambda line: changed(line, set_field("run", "info", [1]), resealed=True),
    lambda line: changed(line, set_field("run", 5), resealed=True),
]


@pytest.mark.parametrize("breaking", BROKEN)
def test_a_damaged_line_rejects_the_whole_import(
    db: TuningDB, tmp_path: Path, breaking: Callable[[str], str]
) -> None:
    fill(db)
    lines = lines_of(db)
    with TuningDB.open(tmp_path / "copy", columns=COLUMNS) as copy:
        with pytest.raises(DamagedError, match="line 4 of the import") as caught:
            import_lines(copy, [*lines[:3], breaking(lines[3]), *lines[4:]])
        assert len(str(caught.value)) < 1000 and "\n" not in str(caught.value)
        assert copy.info()["trials"] == copy.info()["environments"] == 0


def test_a_contradiction_rejects_the_whole_import(db: TuningDB, tmp_path: Path) -> None:
    fill(db)
    lines = lines_of(db)
    forged = changed(lines[0], set_field("trial", "max_err", 0.5), resealed=True)
    with TuningDB.open(tmp_path / "copy", columns=COLUMNS) as copy:
        import_lines(copy, lines[:1])
        with pytest.raises(TuningDBError, match="cannot change"):
            import_lines(copy, [lines[1], forged])
        assert lines_of(copy) == lines[:1]


def test_the_caller_may_refuse_trials(db: TuningDB, tmp_path: Path) -> None:
    fill(db)

    def accept(environment: EnvironmentRecord, problem: ProblemRecord, trial: Trial) -> str | None:
        legal = environment in ENVIRONMENTS and problem.key in ("N=1", "N=2") and trial.config["B"] != 1
        return None if legal else f"B={trial.config['B']} is not legal today"

    with TuningDB.open(tmp_path / "copy", columns=COLUMNS) as copy:
        summary = import_lines(copy, export_lines(db), accept)
        assert (summary.inserted, summary.known, len(summary.rejected)) == (8, 0, 4)
        assert summary.rejected[0].endswith(": B=1 is not legal today")
        assert {trial.config["B"] for trial in copy.trials("N=1")} == {2, 3}
        assert copy.winners("N=1")[0].config["B"] == 2


def test_columns_unknown_here_are_dropped(db: TuningDB, tmp_path: Path) -> None:
    fill(db)
    line = changed(
        lines_of(db)[0], set_field("problem", "columns", 'x"; DROP TABLE runs; --', 1), resealed=True
    )
    with TuningDB.open(tmp_path / "copy", columns={"N": int}) as copy:
        assert import_lines(copy, [line]).inserted == 1
        assert list(copy.problems()) == [ProblemRecord("N=1", {"N": 1})]


def test_a_bad_row_is_not_exported(db: TuningDB) -> None:
    fill(db)
    with db.writing() as connection:
        connection.execute("DROP TRIGGER finished_trials_are_immutable")
        connection.execute("UPDATE trials SET measured_us = 0.1 WHERE id = 1")
    assert len(lines_of(db)) == 11 and db.bad_rows == 1
