from __future__ import annotations

import statistics
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tuning_db import EnvironmentRecord, ProblemRecord, Trial, Winner
from tuning_db.ranking import winners

ENVIRONMENT = EnvironmentRecord({}, {})
PROBLEM = ProblemRecord("p")
times = st.none() | st.sampled_from([1.0, 1.01, 2.0, 3.0, 5.0])  # few values, so that ties come up
trials = st.builds(
    Trial,
    config=st.fixed_dictionaries({"B": st.integers(0, 4)}),
    outcome=st.sampled_from(["ok", "ok", "ok", "compiled", "wrong", "crash", "started"]),
    predicted_us=times,
    measured_us=times,
    max_err=st.none() | st.floats(0, 1),
    detail=st.fixed_dictionaries({"registers": st.integers(0, 3)}, optional={"contended": st.booleans()}),
    source=st.sampled_from(["", "a", "a", "b"]),
    predictor=st.sampled_from(["", "m", "n"]),
)


def chosen(*tried: Trial) -> list[Winner]:
    return winners(ENVIRONMENT, PROBLEM, tried)


def winner(*tried: Trial) -> Winner:
    (found,) = chosen(*tried)
    return found


def ok(block: int, **times: Any) -> Trial:
    return Trial({"B": block}, "ok", **times)


@given(st.lists(trials, max_size=12), st.randoms())
def test_the_order_of_trials_does_not_matter(tried: list[Trial], random: Any) -> None:
    shuffled = list(tried)
    random.shuffle(shuffled)
    assert chosen(*tried) == chosen(*shuffled)


@given(st.lists(trials, max_size=12))
def test_no_competitor_is_better(tried: list[Trial]) -> None:
    """Against the rule said a second time, over all configurations of each source."""
    expected = {}
    for source in {trial.source for trial in tried}:
        own = [trial for trial in tried if trial.source == source]
        wrong = {trial.config_hash for trial in own if trial.outcome == "wrong"}
        sound = [trial for trial in own if trial.outcome == "ok" and trial.config_hash not in wrong]
        timed = [trial for trial in sound if trial.measured_us is not None]
        measured = [trial for trial in timed if not trial.contended] or timed
        named = "contended" if all(trial.contended for trial in measured) else "measured"
        for predictor in [""] if measured else {t.predictor for t in sound if t.predicted_us is not None}:
            medians: dict[str, float] = {}
            for name in {trial.config_hash for trial in sound}:
                same = [trial for trial in sound if trial.config_hash == name]
                if measured:
                    times = [t.measured_us for t in same if t in measured and t.measured_us is not None]
                else:
                    times = [t.predicted_us for t in same if t.predictor == predictor and t.predicted_us]
                if times:
                    medians[name] = statistics.median(times)
            expected[source, predictor] = (named if measured else "predicted", medians)
    found = {(one.source, one.predictor): one for one in chosen(*tried)}
    assert found.keys() == expected.keys()
    for named, (provenance, medians) in expected.items():
        best = found[named]
        time, config_hash = min((time, name) for name, time in medians.items())
        assert (best.provenance, best.config_hash) == (provenance, config_hash)
        assert (best.predicted_us if provenance == "predicted" else best.measured_us) == time
        others = sorted(t for name, t in medians.items() if name != config_hash)
        assert best.margin == (pytest.approx(others[0] / time - 1) if others else None)
        assert best.ties == sum(t <= time * 1.02 for t in others)


def test_each_source_has_its_best() -> None:
    tried = [
        ok(1, measured_us=9, source="a"),
        ok(2, measured_us=5, source="b"),
        ok(3, measured_us=6, source="b"),
    ]
    found = chosen(*tried)
    assert [(one.source, one.config, one.margin) for one in found] == [
        ("a", {"B": 1}, None), ("b", {"B": 2}, pytest.approx(0.2)),
    ]  # fmt: skip


def test_a_config_that_was_wrong_of_one_source_may_win_of_another() -> None:
    found = chosen(
        ok(1, measured_us=1, source="a"), Trial({"B": 1}, "wrong", source="a"), ok(1, measured_us=2)
    )
    assert [(one.source, one.measured_us) for one in found] == [("", 2.0)]


def test_predictions_of_two_predictors_never_compete() -> None:
    tried = [ok(1, predicted_us=9, predictor="old"), ok(2, predicted_us=1, predictor="new")]
    tried += [ok(1, predicted_us=2, predictor="new")]
    found = chosen(*tried)
    assert [(one.predictor, one.config, one.predicted_us, one.margin) for one in found] == [
        ("new", {"B": 2}, 1.0, 1.0), ("old", {"B": 1}, 9.0, None),
    ]  # fmt: skip


def test_a_measured_winner_s_prediction_is_that_of_the_trial_told_about() -> None:
    old, new = (
        ok(1, measured_us=3, predicted_us=1, predictor="o"),
        ok(1, measured_us=4, predicted_us=9, predictor="n"),
    )
    best = winner(old, new)
    assert (best.predictor, best.measured_us, best.predicted_us) == ("", 3.5, 1.0)


def test_a_measured_config_comes_before_a_faster_predicted_one() -> None:
    best = winner(ok(1, measured_us=90), ok(2, predicted_us=10))
    assert (best.config, best.provenance, best.measured_us, best.predicted_us) == (
        {"B": 1},
        "measured",
        90.0,
        None,
    )
    assert best.margin is None  # a prediction is no runner-up of a measurement


def test_a_config_is_judged_by_the_median_over_its_runs() -> None:
    lucky = [ok(1, measured_us=time) for time in (1, 50, 60)]
    steady = [ok(2, measured_us=time) for time in (20, 21, 22)]
    best = winner(*lucky, *steady)
    assert (best.config, best.measured_us, best.margin) == ({"B": 2}, 21.0, 50 / 21 - 1)


def test_details_are_those_of_the_trial_at_the_median() -> None:
    runs = [ok(1, measured_us=time, detail={"time": time}) for time in (3, 1, 2)]
    untimed = ok(1, predicted_us=1, detail={"time": None})
    assert winner(*runs, untimed).detail == {"time": 2}


def test_the_largest_error_over_the_runs_is_told() -> None:
    assert winner(ok(1, measured_us=1, max_err=0.25), ok(1, measured_us=1, max_err=0.5)).max_err == 0.5


def test_a_config_that_was_wrong_once_never_wins() -> None:
    assert chosen(ok(1, measured_us=1), Trial({"B": 1}, "wrong")) == []
    assert winner(ok(1, measured_us=1), Trial({"B": 1}, "wrong"), ok(2, predicted_us=9)).config == {"B": 2}


@pytest.mark.parametrize(
    "outcome", ["compiled", "resources", "compile", "launch", "timeout", "crash", "started"]
)
def test_only_verified_configs_win(outcome: str) -> None:
    assert chosen(Trial({"B": 1}, outcome, predicted_us=1, measured_us=1)) == []


def test_a_config_without_a_time_does_not_win() -> None:
    assert chosen(ok(1)) == []


def test_equal_times_go_to_the_smaller_config_hash() -> None:
    tried = [ok(block, predicted_us=7) for block in range(8)]
    best = winner(*tried)
    assert best.config_hash == min(trial.config_hash for trial in tried)
    assert (best.margin, best.ties) == (0.0, 7)


def test_ties_are_those_within_two_percent() -> None:
    best = winner(ok(1, measured_us=100), ok(2, measured_us=102), ok(3, measured_us=102.1))
    assert best.ties == 1 and best.margin == pytest.approx(0.02)


def test_times_taken_beside_other_work_compete_only_where_there_are_no_others() -> None:
    beside = {"contended": True}
    quick, slow = ok(1, measured_us=1.0, detail=beside), ok(2, measured_us=2.0, detail=beside)
    alone = ok(3, measured_us=9.0)
    best = winner(quick, slow, ok(4, predicted_us=0.1))
    assert (best.config, best.provenance, best.measured_us, best.margin) == ({"B": 1}, "contended", 1.0, 1.0)
    best = winner(quick, slow, alone)
    assert (best.config, best.provenance, best.measured_us, best.margin) == ({"B": 3}, "measured", 9.0, None)
