from __future__ import annotations

import statistics
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tuning_db import EnvironmentRecord, ProblemRecord, Trial, Winner
from tuning_db.rule import choose

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
    detail=st.fixed_dictionaries({"registers": st.integers(0, 3)}),
)


def chosen(*tried: Trial) -> Winner | None:
    return choose(ENVIRONMENT, PROBLEM, tried)


def winner(*tried: Trial) -> Winner:
    found = chosen(*tried)
    assert found is not None
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
    """Against the rule said a second time, over all configurations."""
    wrong = {trial.config_hash for trial in tried if trial.outcome == "wrong"}
    medians: dict[str, dict[str, float]] = {"measured": {}, "predicted": {}}
    for trial in tried:
        for provenance, field in (("measured", "measured_us"), ("predicted", "predicted_us")):
            same = [t for t in tried if t.config_hash == trial.config_hash and t.outcome == "ok"]
            known = [getattr(t, field) for t in same if getattr(t, field) is not None]
            if known and trial.config_hash not in wrong:
                medians[provenance][trial.config_hash] = statistics.median(known)
    found = chosen(*tried)
    if not medians["measured"] and not medians["predicted"]:
        assert found is None
        return
    assert found is not None
    assert found.provenance == ("measured" if medians["measured"] else "predicted")
    pool = medians[found.provenance]
    time, config_hash = min((time, name) for name, time in pool.items())
    assert found.config_hash == config_hash
    assert (found.measured_us if found.provenance == "measured" else found.predicted_us) == time
    others = sorted(t for name, t in pool.items() if name != config_hash)
    assert found.margin == (pytest.approx(others[0] / time - 1) if others else None)
    assert found.ties == sum(t <= time * 1.02 for t in others)


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
    assert chosen(ok(1, measured_us=1), Trial({"B": 1}, "wrong")) is None
    assert winner(ok(1, measured_us=1), Trial({"B": 1}, "wrong"), ok(2, predicted_us=9)).config == {"B": 2}


@pytest.mark.parametrize(
    "outcome", ["compiled", "resources", "compile", "launch", "timeout", "crash", "started"]
)
def test_only_verified_configs_win(outcome: str) -> None:
    assert chosen(Trial({"B": 1}, outcome, predicted_us=1, measured_us=1)) is None


def test_a_config_without_a_time_does_not_win() -> None:
    assert chosen(ok(1)) is None


def test_equal_times_go_to_the_smaller_config_hash() -> None:
    tried = [ok(block, predicted_us=7) for block in range(8)]
    best = winner(*tried)
    assert best.config_hash == min(trial.config_hash for trial in tried)
    assert (best.margin, best.ties) == (0.0, 7)


def test_ties_are_those_within_two_percent() -> None:
    best = winner(ok(1, measured_us=100), ok(2, measured_us=102), ok(3, measured_us=102.1))
    assert best.ties == 1 and best.margin == pytest.approx(0.02)
