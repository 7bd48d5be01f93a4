"""What the views show a person: short text, one best, every trial in its place."""

from __future__ import annotations

import json
import random
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from tuning_db import Application, EnvironmentRecord, Miss, ProblemRecord, Trial, TuningDB, ranking
from tuning_db.records import canonical

FIELDS = {"N": None, "K": None, "stride": 1, "op": "conv", "bias": False, "padding": 0}
APPLICATION = Application("views", FIELDS)
HERE = EnvironmentRecord({"arch": "sm_89", "triton": "3.7"}, {"device": "l4"})


def key(**fields: Any) -> str:
    document = {"v": 1, "stride": 1, "op": "conv", "bias": False, "padding": 0, **fields}
    return json.dumps(document, sort_keys=True, separators=(",", ":"))


def asked(path: Path, query: str) -> list[dict[str, Any]]:
    """What a tool of somebody else's, with SQLite as it comes, answers."""
    with closing(sqlite3.connect(path)) as connection:
        connection.row_factory = sqlite3.Row
        return [dict(row) for row in connection.execute(query)]


def opened(path: Path, application: str = APPLICATION) -> TuningDB:
    return TuningDB.open(path, columns={"N": int}, application=application)


@pytest.mark.parametrize(
    ("stored", "text"),
    [
        (key(N=64, K=3), "N=64,K=3"),
        (
            key(N=1, K=3, stride=3, bias=True, op="conv_transpose"),
            "N=1,K=3,stride=3,op=conv_transpose,bias=1",
        ),
        (key(N=1, K=4, padding=[1, 2]), "N=1,K=4,padding=1:2"),
        ("N=64,K=3", "N=64,K=3"),
        ("{no json", "{no json"),
    ],
)
def test_a_problem_reads_as_a_person_writes_it(path: Path, stored: str, text: str) -> None:
    with opened(path) as db:
        db.record(HERE, ProblemRecord(stored), [Trial({"B": 1}, "ok", measured_us=1.0)], origin="sweep")
    (row,) = asked(path, "SELECT problem FROM best")
    assert row == {"problem": text}


def test_a_file_learns_how_its_problems_read(path: Path) -> None:
    """One that was begun by a version that said nothing, or something else."""
    with opened(path, "views") as db:
        db.record(HERE, ProblemRecord(key(N=2, K=3)), [Trial({}, "ok", measured_us=1.0)], origin="sweep")
    (row,) = asked(path, "SELECT problem FROM problem_texts")
    assert row["problem"] == key(N=2, K=3)
    for fields, text in ((FIELDS, "N=2,K=3"), ({"K": None}, "K=3")):
        opened(path, Application("views", fields)).close()
        (row,) = asked(path, "SELECT problem FROM problem_texts")
        assert row["problem"] == text


def trial(b: int, **fields: Any) -> Trial:
    return Trial({"B": b, "kernel": f"k{b}"}, **{"outcome": "ok", **fields})


def test_best_is_one_row_over_all_sources(path: Path) -> None:
    with opened(path) as db:
        trials = [
            trial(1, measured_us=12.0, source="a", detail={"default": True}),
            trial(2, measured_us=10.0, source="a"),
            trial(3, measured_us=10.1, source="b"),
            trial(4, predicted_us=1.0, predictor="m-4", source="c"),
        ]
        info = {"begun": "2026-11-27T02:00:00+00:00"}
        db.record(HERE, ProblemRecord(key(N=1, K=3)), trials, origin="sweep", info=info)
    (row,) = asked(path, "SELECT * FROM best")
    assert (row["device"], row["triton"], row["kernel"], row["provenance"]) == ("l4", "3.7", "k2", "measured")
    assert (row["measured_us"], row["default_us"], row["margin_pct"]) == (10.0, 12.0, 1.0)
    assert row["when"] == info["begun"]


def test_best_is_what_the_rule_for_winners_says_of_ties_too(path: Path) -> None:
    draw = random.Random(7)
    with opened(path) as db:
        for number in range(60):
            tried = [drawn(draw, place) for place in range(draw.randint(1, 6))]
            db.record(HERE, ProblemRecord(key(N=number, K=3), {"N": number}), tried, origin="sweep")
        expected = {}
        for problem in db.problems():
            found = ranking.best(db.winners(problem.key))
            assert found is not None
            expected[f"N={problem.columns['N']},K=3"] = canonical(found.config)
    rows = asked(path, "SELECT problem, config FROM best")
    assert {row["problem"]: row["config"] for row in rows} == expected and len(rows) == 60


def drawn(draw: random.Random, number: int) -> Trial:
    """A trial that ties with others or not, and by its noise is told apart from them or not."""
    detail: dict[str, Any] = {"registers": draw.choice([32, 64]), "shared": draw.choice([0, 8])}
    if draw.random() < 0.6:
        detail |= {"race": draw.choice("ab"), "time_error": draw.choice([0.0, 0.001, 0.005])}
    if draw.random() < 0.2:
        detail["contended"] = True
    return trial(number, measured_us=draw.uniform(10.0, 10.3), source=draw.choice("abc"), detail=detail)


def test_best_is_one_row_for_each_model_where_nothing_was_measured(path: Path) -> None:
    with opened(path) as db:
        trials = [
            trial(1, predicted_us=9.0, predictor="new-1", source="a"),
            trial(2, predicted_us=8.0, predictor="new-2", source="b"),
            trial(3, predicted_us=7.0, predictor="old-3", source="c"),
        ]
        db.record(HERE, ProblemRecord(key(N=1, K=3)), trials, origin="sweep")
    rows = asked(path, "SELECT kernel, provenance, measured_us FROM best ORDER BY predicted_us")
    assert [row["kernel"] for row in rows] == ["k3", "k2"]
    assert {row["provenance"] for row in rows} == {"predicted"} and rows[0]["measured_us"] is None


def test_ranked_has_every_trial_and_places_for_those_that_compete(path: Path) -> None:
    problem = ProblemRecord(key(N=1, K=3))
    with opened(path) as db:
        trials = [
            trial(1, measured_us=10.0, source="a"),
            trial(2, measured_us=12.5, source="a"),
            trial(3, measured_us=1.0, source="a"),  # wrong in another run
            trial(4, outcome="resources", error="shared memory"),
            trial(5, predicted_us=0.5, predictor="m", source="a"),  # never timed
        ]
        db.record(HERE, problem, trials, origin="sweep")
        db.record(HERE, problem, [trial(3, outcome="wrong", source="a")], origin="sweep")
        best = db.winners(problem.key)[0].config["kernel"]
    rows = asked(path, "SELECT * FROM ranked ORDER BY place IS NULL, place, kernel, outcome")
    told = [(row["kernel"], row["place"], row["pct_of_best"], row["outcome"]) for row in rows]
    assert told == [
        ("k1", 1, 100.0, "ok"), ("k2", 2, 80.0, "ok"), ("k3", None, None, "ok"),
        ("k3", None, None, "wrong"), ("k4", None, None, "resources"), ("k5", None, None, "ok"),
    ]  # fmt: skip
    assert rows[0]["kernel"] == best
    assert rows[4]["error"] == "shared memory"


def test_missed_says_what_was_asked_for(path: Path) -> None:
    with opened(path) as db:
        problem = ProblemRecord(key(N=7, K=3))
        miss = Miss(problem, HERE, 12, "torch", "2026-11-01T00:00:00+00:00", "2026-11-02T00:00:00+00:00")
        db.note_misses([miss])
    (row,) = asked(path, "SELECT problem, device, triton, calls, served FROM missed")
    assert row == {"problem": "N=7,K=3", "device": "l4", "triton": "3.7", "calls": 12, "served": "torch"}


def test_a_time_taken_beside_other_work_is_told_apart(path: Path) -> None:
    beside = {"contended": True}
    trials = [
        trial(1, measured_us=8.0, source="a", detail=beside),
        trial(2, measured_us=9.0, source="a", detail=beside),
        trial(3, predicted_us=1.0, predictor="m-3", source="a"),
    ]
    with opened(path) as db:
        db.record(HERE, ProblemRecord(key(N=2, K=3)), trials, origin="sweep")
        asks = "SELECT kernel, provenance, measured_us, contended_us FROM best"
        (row,) = asked(path, asks)
        assert tuple(row.values()) == ("k1", "contended", None, 8.0)
        db.record(
            HERE, ProblemRecord(key(N=2, K=3)), [trial(2, measured_us=11.0, source="a")], origin="sweep"
        )
    (row,) = asked(path, asks)
    assert tuple(row.values()) == ("k2", "measured", 11.0, None), (
        "a quiet time alone counts, once there is one"
    )
    rows = asked(path, "SELECT kernel, place, measured_us, contended_us FROM ranked ORDER BY place, kernel")
    assert [tuple(row.values()) for row in rows if row["place"]] == [("k2", 1, 11.0, None)]
    assert [row["contended_us"] for row in rows if row["kernel"] == "k1"] == [8.0]
