from __future__ import annotations

import json
import statistics
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tuning_db import EnvironmentRecord, ProblemRecord, Trial, Winner
from tuning_db.ranking import TIE_TOLERANCE, best, best_rows, winners
from tuning_db.records import canonical
from tuning_db.rows import StoredTrial, trial_values

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
            order = {}
            for name in {trial.config_hash for trial in sound}:
                same = [trial for trial in sound if trial.config_hash == name]
                its = [
                    (t.measured_us if measured else t.predicted_us, t)
                    for t in same
                    if (t in measured if measured else t.predicted_us and t.predictor == predictor)
                ]
                if its:
                    medians[name] = statistics.median(time for time, _ in its)
                    order[name] = {(t.detail["registers"], canonical(t.config)) for _, t in its}
            expected[source, predictor] = (named if measured else "predicted", medians, order)
    found = {(one.source, one.predictor): one for one in chosen(*tried)}
    assert found.keys() == expected.keys()
    for named, (provenance, medians, order) in expected.items():
        one = found[named]
        limit = min(medians.values()) * (1 + TIE_TOLERANCE[provenance])
        tied = {name for name, time in medians.items() if time <= limit}
        assert one.config_hash in tied and one.provenance == provenance
        assert all(min(order[one.config_hash]) <= max(order[name]) for name in tied)
        assert one.time_us == medians[one.config_hash]
        others = [time for name, time in medians.items() if name != one.config_hash]
        assert one.margin == (pytest.approx(min(others) / one.time_us - 1) if others else None)
        assert one.ties == len(tied) - 1


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


# --- ties -----------------------------------------------------------------------------------------


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


def told(block: int, registers: int, shared: int, **times: Any) -> Trial:
    return ok(block, detail={"registers": registers, "shared": shared}, **times)


@pytest.mark.parametrize(
    ("kind", "within", "beyond"), [("measured_us", 102.0, 102.1), ("predicted_us", 101.0, 101.1)]
)
def test_of_times_as_good_the_one_with_the_fewest_registers_wins(
    kind: str, within: float, beyond: float
) -> None:
    fastest, tie, slower = (
        told(1, 96, 0, **{kind: 100.0}), told(2, 64, 0, **{kind: within}), told(3, 32, 0, **{kind: beyond})
    )  # fmt: skip
    best = winner(fastest, tie, slower)
    assert (best.config, best.time_us, best.ties) == ({"B": 2}, within, 1)
    assert best.margin == pytest.approx(100.0 / within - 1), "below 0: another is faster, within the noise"


def test_ties_go_by_registers_then_shared_memory_then_name() -> None:
    tried = [told(5, 64, 8, measured_us=1), told(4, 64, 4, measured_us=1), told(3, 64, 4, measured_us=1)]
    assert winner(*tried).config == {"B": 3}
    assert winner(*tried, told(9, 63, 99, measured_us=1)).config == {"B": 9}


def test_a_library_s_own_wins_its_ties() -> None:
    """torch's convolution is compiled by nobody, so its trial tells no registers."""
    assert winner(told(1, 16, 0, measured_us=1.0), ok(2, measured_us=1.015)).config == {"B": 2}
    assert winner(told(1, 16, 0, measured_us=1.0), ok(2, measured_us=1.025)).config == {"B": 1}


@pytest.mark.parametrize("nonsense", ["many", None, [64], True, 1e999])
def test_registers_that_are_no_number_count_as_untold(nonsense: Any) -> None:
    values = trial_values(told(1, 64, 0, measured_us=1.0))
    forged = (*values[:-1], values[-1].replace("64", json.dumps(nonsense)))
    rows = best_rows([StoredTrial(forged), StoredTrial(trial_values(told(2, 1, 0, measured_us=1.0)))])
    assert [row[3] for row in rows] == ['{"B":1}']


def test_between_sources_the_rule_is_the_same() -> None:
    own = chosen(
        told(1, 96, 0, measured_us=100.0, source="a"), told(2, 64, 0, measured_us=101.5, source="b"),
        told(3, 32, 0, measured_us=102.5, source="c"),
    )  # fmt: skip
    assert [one.config for one in own] == [{"B": 1}, {"B": 2}, {"B": 3}]
    found = best(own)
    assert found is not None and found.config == {"B": 2}
    assert best([]) is None


def test_ties_within_a_source_and_between_sources_do_not_add_up() -> None:
    """A source's winner is a tie, 2 % slower than its fastest; another's, 2 % slower still, is none."""
    own = chosen(
        told(1, 96, 0, measured_us=100.0, source="a"), told(2, 64, 0, measured_us=102.0, source="a"),
        told(3, 32, 0, measured_us=103.9, source="b"),
    )  # fmt: skip
    assert [one.config for one in own] == [{"B": 2}, {"B": 3}]
    found = best(own)
    assert found is not None and found.config == {"B": 2}


def test_of_several_sources_what_was_measured_comes_first() -> None:
    own = chosen(told(1, 9, 0, measured_us=50, source="a"), told(2, 1, 0, predicted_us=1, source="b"))
    found = best(own)
    assert found is not None and found.config == {"B": 1}


@settings(deadline=None)  # of a busy machine
@given(
    st.lists(
        st.tuples(st.integers(0, 9), st.floats(0.991, 1.009)),
        min_size=1,
        max_size=9,
        unique_by=lambda t: t[0],
    )
)
def test_noise_within_the_tolerance_never_changes_the_winner(noisy: list[tuple[int, float]]) -> None:
    """Configurations as fast as each other, timed by two machines."""
    one = winner(*(told(block, 64 - block, 0, measured_us=1.0) for block, _ in noisy))
    other = winner(*(told(block, 64 - block, 0, measured_us=time) for block, time in noisy))
    assert one.config == other.config


def raced(block: int, registers: int, time: float, *, error: float, race: str = "a") -> Trial:
    detail = {"registers": registers, "shared": 0, "time_error": error, "race": race}
    return ok(block, measured_us=time, detail=detail)


@pytest.mark.parametrize(("error", "tied"), [(0.001, False), (0.004, True), (0.1, True)])
def test_of_times_taken_in_turn_the_noise_says_which_are_as_good(error: float, tied: bool) -> None:
    """1 % apart: 2.8 x 0.1 % does not explain that, 2.8 x 0.4 % does."""
    best = winner(raced(1, 96, 100.0, error=error), raced(2, 64, 101.0, error=error))
    assert (best.config, best.ties) == (({"B": 2}, 1) if tied else ({"B": 1}, 0))


def test_however_noisy_what_is_beyond_the_tolerance_is_no_tie() -> None:
    assert winner(raced(1, 96, 100.0, error=0.1), raced(2, 64, 102.1, error=0.1)).config == {"B": 1}


@pytest.mark.parametrize(
    "other", [raced(2, 64, 101.0, error=1e-4, race="b"), told(2, 64, 0, measured_us=101.0)]
)
def test_times_not_taken_in_turn_are_not_told_apart_by_their_noise(other: Trial) -> None:
    """Between two sweeps a GPU's clocks may have changed by more."""
    assert winner(raced(1, 96, 100.0, error=1e-4), other).config == {"B": 2}


def test_between_sources_too_the_noise_tells() -> None:
    for error, expected in ((0.001, {"B": 1}), (0.004, {"B": 2})):
        one, other = (
            replace(raced(1, 96, 100.0, error=error), source="a"),
            replace(raced(2, 64, 101.0, error=error), source="b"),
        )
        found = best(chosen(one, other))
        assert found is not None and found.config == expected
