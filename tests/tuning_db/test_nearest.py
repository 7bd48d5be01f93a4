"""Near problems, and the best configurations from elsewhere."""

from __future__ import annotations

import math
import random
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tuning_db import EnvironmentRecord, Layers, Neighbour, ProblemRecord, Trial, TuningDB, rebuild
from tuning_db.nearest import logarithm
from tuning_db.records import RunRecord
from tuning_db.rows import trial_values

COLUMNS = {"N": int, "K": int, "dtype": str, "op": str}
L4 = EnvironmentRecord({"arch": "sm_89", "toolchain": "3.7"}, {"device": "L4"})
RTX = EnvironmentRecord({"arch": "sm_89", "toolchain": "3.7"}, {"device": "RTX 4090"})
OLD = EnvironmentRecord({"arch": "sm_89", "toolchain": "3.6"}, {"device": "L4"})

columns = st.fixed_dictionaries(
    {"dtype": st.sampled_from(["f16", "f32"])},
    optional={
        "N": st.integers(-3, 2000),
        "K": st.sampled_from([1, 2, 3, 64]),
        "op": st.sampled_from(["", "conv"]),
    },
)


def problem(**columns: Any) -> ProblemRecord:
    return ProblemRecord(",".join(f"{name}={value}" for name, value in sorted(columns.items())), columns)


def put(db: TuningDB, one: ProblemRecord, environment: EnvironmentRecord = L4) -> None:
    db.record(environment, one, [Trial({"B": 1}, "ok", measured_us=1.0)], origin="x")


def place(one: ProblemRecord, other: ProblemRecord) -> tuple[int, float]:
    """The order of `nearest`, said a second time."""
    texts = sum((one.columns.get(name) or "") != (other.columns.get(name) or "") for name in ("dtype", "op"))
    sizes = [(one.columns.get(name, 1), other.columns.get(name, 1)) for name in ("N", "K")]
    return texts, sum(abs(logarithm(int(a)) - logarithm(int(b))) for a, b in sizes)


@given(st.lists(columns, max_size=25), columns, st.integers(1, 5))
@settings(max_examples=25, deadline=None)
def test_the_nearest_are_those_of_a_search_through_all(
    tmp_path_factory: pytest.TempPathFactory, known: list[Any], wanted: Any, limit: int
) -> None:
    with TuningDB.open(tmp_path_factory.mktemp("near") / "x.db", columns=COLUMNS) as db:
        others = {one.key: one for one in (problem(**columns) for columns in known)}
        with db.intake() as intake:
            run = intake.run(RunRecord("r", L4, "x"))
            for one in others.values():
                intake.trials(run, one, [trial_values(Trial({"B": 1}, "ok", measured_us=1.0))])
        here = problem(**wanted)
        found = db.nearest(here, limit=limit)
    others.pop(here.key, None)
    expected = sorted(place(here, one) for one in others.values())[:limit]
    assert [len(one.differing) for one in found] == [texts for texts, _ in expected]
    assert [one.distance for one in found] == pytest.approx([distance for _, distance in expected])
    for one in found:
        assert others[one.problem.key] == one.problem
        assert (len(one.differing), one.distance) == pytest.approx(place(here, one.problem))


def test_a_neighbour_says_how_far_it_is(db: TuningDB) -> None:
    put(db, ProblemRecord("a", {"N": 32, "dtype": "f16"}))
    put(db, ProblemRecord("b", {"N": 64, "dtype": "f32"}))
    wanted = ProblemRecord("w", {"N": 64, "dtype": "f16"})
    a, b = db.nearest(wanted)
    assert (a, b) == (
        Neighbour(ProblemRecord("a", {"N": 32, "dtype": "f16"}), (), 1.0),
        Neighbour(ProblemRecord("b", {"N": 64, "dtype": "f32"}), ("dtype",), 0.0),
    )
    assert db.nearest(wanted, limit=1) == [a]


def test_only_problems_with_a_winner_there_are_near(db: TuningDB) -> None:
    put(db, ProblemRecord("l4", {"N": 8}), L4)
    put(db, ProblemRecord("rtx", {"N": 4}), RTX)
    db.record(L4, ProblemRecord("failed", {"N": 2}), [Trial({"B": 1}, "crash")], origin="x")
    wanted = ProblemRecord("w", {"N": 2})
    assert [one.problem.key for one in db.nearest(wanted)] == ["rtx", "l4"]
    assert [one.problem.key for one in db.nearest(wanted, among=lambda e: e == L4)] == ["l4"]
    assert db.nearest(wanted, among=lambda _: False) == []
    assert db.nearest(ProblemRecord("l4", {"N": 8}), among=lambda e: e == L4) == []  # itself left out


def test_a_search_does_not_read_every_problem(path: Path) -> None:
    rng = random.Random(1)
    with TuningDB.open(path, columns=COLUMNS) as db:
        with db.intake(bulk=True) as intake:
            run = intake.run(RunRecord("r", L4, "x"))
            for n in range(3000):
                one = ProblemRecord(f"{n}", {"N": rng.randrange(1, 10**6), "K": rng.randrange(1, 100)})
                intake.trials(run, one, [])
            intake.connection.execute(
                """INSERT INTO winners (environment_id, problem_id, source, predictor, config_hash, config,
                provenance, ties, finished, detail, checksum)
                SELECT 1, id, '', '', '', '', 'measured', 0, 1, '', '' FROM problems"""
            )
        steps = 0

        def count() -> int:
            nonlocal steps
            steps += 1
            return 0

        with db.reading() as connection:
            connection.set_progress_handler(count, 1)
            wanted = ProblemRecord("w", {"N": 1000, "K": 10})
            near = db.nearest(wanted)
            near_steps, steps = steps, 0
            connection.execute("SELECT * FROM problems, winners WHERE problem_id = problems.id").fetchall()
            connection.set_progress_handler(None, 1)
        assert len(near) == 4 and near_steps < steps / 3
        every = sorted(place(wanted, one) for one in db.problems())
        assert [one.distance for one in near] == pytest.approx([distance for _, distance in every[:4]])


def test_damaged_columns_are_no_neighbour_until_they_are_mended(db: TuningDB) -> None:
    put(db, ProblemRecord("a", {"N": 32, "dtype": "f16"}))
    put(db, ProblemRecord("b", {"N": 64, "dtype": "f16"}))
    with db.writing() as connection:
        connection.execute("UPDATE problems SET N = 33 WHERE key = 'a'")
    wanted = ProblemRecord("w", {"N": 32, "dtype": "f16"})
    assert [one.problem.key for one in db.nearest(wanted)] == ["b"] and db.bad_rows == 1
    put(db, ProblemRecord("a", {"N": 32, "dtype": "f16"}))
    assert [one.problem.key for one in db.nearest(wanted)] == ["a", "b"]
    with db.writing() as connection:
        connection.execute("DELETE FROM problem_sizes")
    assert db.nearest(wanted) == []
    rebuild(db)
    assert len(db.nearest(wanted)) == 2


@pytest.mark.parametrize("value", [-5, 0, 1, 2, 3, 1000, 2**63 - 1])
def test_the_logarithm_goes_on_below_one(value: int) -> None:
    assert logarithm(value) == (math.log2(value) if value > 0 else value - 1)
    assert logarithm(value) > logarithm(value - 1) or value > 2**50


def test_ranked_gives_the_best_of_each_environment(db: TuningDB) -> None:
    one = ProblemRecord("p", {"N": 1})
    db.record(L4, one, [Trial({"B": b}, "ok", measured_us=10.0 + b) for b in range(6)], origin="x")
    db.record(OLD, one, [Trial({"B": b}, "ok", predicted_us=10.0 - b) for b in range(3)], origin="x")
    db.record(OLD, one, [Trial({"B": 2}, "wrong"), Trial({"B": 7}, "crash")], origin="y")
    db.record(RTX, one, [Trial({"B": 1}, "crash")], origin="x")
    found = db.ranked("p", limit=3)
    by_environment = {
        environment.hash: [
            (one.place, one.config["B"], one.provenance) for one in found if one.environment == environment
        ]
        for environment in (L4, OLD, RTX)
    }
    assert by_environment == {
        L4.hash: [(0, 0, "measured"), (1, 1, "measured"), (2, 2, "measured")],
        OLD.hash: [(0, 1, "predicted"), (1, 0, "predicted")],
        RTX.hash: [],
    }
    older = db.ranked("p", among=lambda e: e.hard["toolchain"] != "3.7", limit=1)
    assert [(one.environment, one.config, one.time_us) for one in older] == [(OLD, {"B": 1}, 9.0)]
    assert db.ranked("unknown") == []
    assert db.environments() == sorted([L4, OLD, RTX], key=lambda e: e.hash)


def test_layers_give_neighbours_by_distance_and_name_the_first_that_has_one(tmp_path: Path) -> None:
    warnings: list[str] = []
    databases = []
    for name, sizes in (("user", (8, 64)), ("prebuilt", (8, 16))):
        databases.append((name, TuningDB.open(tmp_path / name, columns=COLUMNS)))
        for n in sizes:
            put(databases[-1][1], ProblemRecord(f"N={n}", {"N": n}))
    layers = Layers(databases, warnings.append)
    near = layers.nearest(ProblemRecord("N=10", {"N": 10}), limit=2)
    assert [(name, one.problem.key) for name, one in near] == [("user", "N=8"), ("prebuilt", "N=16")]
    assert [(name, one.config) for name, one in layers.ranked("N=8")] == [
        ("user", {"B": 1}),
        ("prebuilt", {"B": 1}),
    ]
    assert [one.key for one in layers.problems()] == ["N=16", "N=64", "N=8"] and warnings == []
    layers.close()
