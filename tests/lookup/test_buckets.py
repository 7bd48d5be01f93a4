"""Buckets: which sizes an entry serves, which entry does and by which config, and all of it from memory."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from autoconv.config import Config
from autoconv.cost.predict import estimate_seconds
from autoconv.cost.version import predictor_of
from autoconv.device import find as find_device
from autoconv.environment import Environment
from autoconv.errors import ProblemError
from autoconv.kernels.aten import ATEN
from autoconv.kernels.soundness import refusal as unsound
from autoconv.kernels.source import source_of
from autoconv.lookup import Found, Shelf, find, records
from autoconv.lookup.buckets import module_shape, serves
from autoconv.problem import Problem
from autoconv.sweep.candidates import candidates
from autoconv.sweep.pool import Workers
from autoconv.tuning.tuner import MODEL_ERROR, Tuner
from scripts.bench.buckets import run
from tests.lookup.conftest import HERE, PROBLEM, Database, config
from tests.lookup.conftest import predictor_of as predictor_in_files
from tuning_db import Layers, Sibling, Trial
from tuning_db.siblings import MOST_SIBLINGS, sibling_of

RTX4090 = find_device("rtx4090")
NOW = Environment.current(RTX4090)
SHAPES = (
    Problem(1, 80, 64, 3, 1000, padding=1, bias=True),
    Problem(1, 64, 64, 7, 1000, stride=3, dilation=2, padding=(3, 0), dtype="float16"),
    Problem(1, 32, 32, 5, 1000, groups=32, layout="nlc"),
    Problem(1, 32, 16, 8, 1000, op="conv_transpose", stride=4, padding=2),
    Problem(1, 32, 32, 3, 1000, op="conv_weight", stride=2, padding=1),
)


def some_configs(problem: Problem, count: int = 4) -> list[Config]:
    """A few of the configs that the kernels offer, of different kernels where there are several."""
    configs = candidates(problem, RTX4090)
    return configs[:: max(1, len(configs) // count)][:count]


def entry(problem: Problem, configs: list[Config], **options: object) -> Sibling:
    """What a sweep leaves in which all of these passed, the first fastest."""
    trials = [
        Trial(
            one.document(),
            "ok",
            predicted_us=10.0 + place,
            source=source_of(one.kernel) or "",
            predictor=predictor_of(one.kernel),
        )
        for place, one in enumerate(configs)
    ]
    problem_record, environment_record = records(problem, NOW)
    return sibling_of(environment_record, problem_record, trials)


class Held(Layers):
    """Layers that hold these entries, and count how often they were asked."""

    def __init__(self, *entries: Sibling) -> None:
        super().__init__([], pytest.fail)
        self.entries = list(entries)
        self.asked = 0

    def siblings(self, *_: object) -> list[tuple[str, Sibling]]:
        self.asked += 1
        return [("user", one) for one in self.entries]


# --- which sizes, which entry -----------------------------------------------------------------------


sizes = st.tuples(st.integers(1, 8), st.integers(40, 3000), st.integers(0, 1))


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(shape=st.sampled_from(SHAPES), tuned=st.lists(sizes, max_size=5, unique=True), asked=sizes)
def test_the_nearest_entry_within_a_factor_of_two_serves_with_a_legal_config(
    shape: Problem, tuned: list[tuple[int, int, int]], asked: tuple[int, int, int]
) -> None:
    def sized(size: tuple[int, int, int]) -> Problem:
        extra = size[2] if shape.op == "conv_transpose" else 0
        return replace(shape, N=size[0], L=size[1], output_padding=extra)

    problem, problems = sized(asked), {sized(one) for one in tuned}
    holding = Held(*(entry(one, some_configs(one)) for one in problems))
    found = find(holding, problem, NOW, predictor_of)
    if problem in problems:
        assert found is not None and (found.grade, found.tuned) == ("exact", None)
        return

    def doublings(one: Problem) -> tuple[float, float]:
        return (
            round(abs(math.log2(one.N * one.L_out / (problem.N * problem.L_out))), 9),
            round(abs(math.log2(one.L_out / problem.L_out)), 9),
        )

    inside = [one for one in problems if max(doublings(one)) <= 1]
    if not inside:
        assert found is None
        return
    assert found is not None and found.tuned is not None
    assert (found.grade, found.measured_us, found.predicted_us) == ("bucket", None, None)
    assert module_shape(found.tuned) == module_shape(problem)
    nearest = min(map(doublings, inside))
    ties = [one for one in inside if doublings(one) == nearest]
    assert found.tuned in ties
    assert found.tuned.N * found.tuned.L_out == max(one.N * one.L_out for one in ties)
    assert unsound(problem, found.config, RTX4090.arch) is None
    assert found.config in some_configs(found.tuned)


@pytest.mark.parametrize(
    ("asked", "tuned"),
    [
        ({"L": 1000}, {"L": 500}),
        ({"L": 1000}, {"L": 2000}),
        ({"N": 2, "L": 1000}, {"N": 1, "L": 1000}),
        ({"N": 2, "L": 1000}, {"N": 1, "L": 2000}),
    ],
    ids=str,
)
def test_the_bounds_belong_to_the_bucket(asked: dict[str, int], tuned: dict[str, int]) -> None:
    assert serves(replace(SHAPES[0], **tuned), replace(SHAPES[0], **asked))


@pytest.mark.parametrize(
    "other",
    [{"L": 499}, {"L": 2001}, {"N": 3}, {"N": 5, "L": 500}, {"N": 2, "L": 499}],
    ids=str,
)
def test_beyond_them_nothing_serves(other: dict[str, int]) -> None:
    assert not serves(replace(SHAPES[0], **other), SHAPES[0])


@pytest.mark.parametrize(
    "other",
    [{"Cin": 40}, {"K": 5}, {"stride": 2}, {"dilation": 2}, {"padding": 2}, {"groups": 2}, {"bias": False},
     {"activation": "relu"}, {"precision": "ieee"}, {"dtype": "float16", "precision": ""}, {"layout": "nlc"}],
    ids=str,
)  # fmt: skip
def test_another_module_shape_is_in_no_bucket(
    other: dict[str, object], user: Database, layers: Callable[[], Layers]
) -> None:
    """Out of a file: the columns of the database do not tell all of these apart."""
    user.add(config(4), problem=replace(PROBLEM, bias=True), measured_us=1.0)
    asked = replace(PROBLEM, bias=True, N=60, **other) if other != {"bias": False} else replace(PROBLEM, N=60)
    assert find(layers(), asked, HERE, predictor_in_files) is None
    same = find(layers(), replace(PROBLEM, bias=True, N=60), HERE, predictor_in_files)
    assert same is not None and same.grade == "bucket"


def test_of_two_entries_equally_near_the_larger_serves() -> None:
    asked = replace(SHAPES[0], L=1000)
    smaller, larger = replace(asked, L=500), replace(asked, L=2000)
    found = find(
        Held(*(entry(one, some_configs(one)) for one in (smaller, larger))), asked, NOW, predictor_of
    )
    assert found is not None and found.tuned == larger


# --- which config -----------------------------------------------------------------------------------


def by_estimate(problem: Problem, count: int) -> list[Config]:
    """Configs whose estimates for `problem` lie well apart, the least first."""
    configs = candidates(problem, RTX4090)
    order = estimate_seconds(problem, configs, RTX4090).argsort(kind="stable")
    return [configs[order[(len(order) - 1) * place // (count - 1)]] for place in range(count)]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_of_an_entry_s_configs_the_model_s_first_serves(shape: Problem) -> None:
    asked = replace(shape, L=900)
    best, *others = by_estimate(asked, 4)
    found = find(Held(entry(shape, [*others, best])), asked, NOW, predictor_of)
    assert found is not None and (found.config, found.provenance) == (best, "predicted")
    found = find(Held(entry(shape, others)), asked, NOW, predictor_of)
    assert found is not None and found.config == others[0]


def test_a_config_that_may_not_run_at_that_size_gives_way(monkeypatch: pytest.MonkeyPatch) -> None:
    """By the rule that everything out of a file is held to."""
    asked = replace(SHAPES[0], L=900)
    best, second, _ = by_estimate(asked, 3)
    from autoconv.lookup import buckets

    sound = buckets.check_sound

    def check_sound(problem: Problem, chosen: Config, arch: object) -> None:
        if (problem, chosen) == (asked, best):
            raise buckets.ConfigError("grid", "1", "is too large", "give larger tiles")
        sound(problem, chosen, arch)  # type: ignore[arg-type]

    monkeypatch.setattr(buckets, "check_sound", check_sound)
    found = find(Held(entry(SHAPES[0], [best, second])), asked, NOW, predictor_of)
    assert found is not None and found.config == second
    assert find(Held(entry(SHAPES[0], [best])), asked, NOW, predictor_of) is None


def test_where_torch_won_torch_serves_and_what_it_beat_never_does(
    user: Database, layers: Callable[[], Layers]
) -> None:
    asked = replace(PROBLEM, N=60)
    best, second, _ = by_estimate(asked, 3)
    user.add(best, measured_us=3.0).add(ATEN, measured_us=2.0)
    found = find(layers(), asked, HERE, predictor_in_files)
    assert found == Found(ATEN, "measured", "bucket", "user", None, None, tuned=PROBLEM)
    user.add(second, measured_us=1.0)
    found = find(layers(), asked, HERE, predictor_in_files)
    assert found == Found(second, "measured", "bucket", "user", None, None, tuned=PROBLEM)
    user.add(best, measured_us=1.5, problem=replace(PROBLEM, N=59))  # nearer, and there it beat torch
    found = find(layers(), asked, HERE, predictor_in_files)
    assert found is not None and found.config == best


def test_what_was_wrong_or_of_old_sources_does_not_serve(
    user: Database, layers: Callable[[], Layers]
) -> None:
    asked = replace(PROBLEM, N=60)
    best, second, _ = by_estimate(asked, 3)
    user.add(best, measured_us=2.0, source="0" * 16).add(second, measured_us=3.0)
    found = find(layers(), asked, HERE, predictor_in_files)
    assert found is not None and found.config == second


# --- from memory ------------------------------------------------------------------------------------


@pytest.fixture
def held() -> Held:
    return Held(*(entry(replace(SHAPES[0], L=length), some_configs(SHAPES[0])) for length in (500, 1000)))


def test_a_known_module_shape_answers_any_size_without_the_layers(held: Held) -> None:
    shelf = Shelf(held, predictor_of)
    lengths = (1000, 1001, 600, 300, 1000)
    grades = [
        found and found.grade for found in (shelf.find(replace(SHAPES[0], L=one), NOW) for one in lengths)
    ]
    assert grades == ["exact", "bucket", "bucket", "bucket", "exact"]
    assert held.asked == 1
    for other in (replace(SHAPES[0], bias=False), replace(SHAPES[0], Cin=81)):
        shelf.find(other, NOW)
    shelf.find(SHAPES[0], replace(NOW, cuda_driver="580.1"))
    assert held.asked == 4


def test_what_others_record_is_seen_soon_where_nothing_served_else_after_a_while(
    held: Held, monkeypatch: pytest.MonkeyPatch
) -> None:
    shelf, far, near = Shelf(held, predictor_of), replace(SHAPES[0], L=3000), replace(SHAPES[0], L=3100)
    assert shelf.find(far, NOW) is None
    monkeypatch.setattr("autoconv.lookup.shelf.MISSED_SECONDS", 0.0)
    held.entries.append(entry(far, some_configs(SHAPES[0])))
    grades = [found.grade for one in (far, near) if (found := shelf.find(one, NOW))]
    assert grades == ["exact", "bucket"]
    held.entries.append(entry(near, some_configs(SHAPES[0])))
    found = shelf.find(near, NOW)
    assert found is not None and found.grade == "bucket"
    monkeypatch.setattr("autoconv.lookup.shelf.FRESH_SECONDS", 0.0)
    found = shelf.find(near, NOW)
    assert found is not None and found.grade == "exact"


def test_misses_of_a_known_module_shape_read_the_layers_once(
    held: Held, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A network asks for a size of its own in each layer, and a read takes longer than the rest of a miss."""
    monkeypatch.setattr("autoconv.lookup.shelf.MISSED_SECONDS", 60.0)
    shelf = Shelf(held, predictor_of)
    for length in (3000, 3100, 9000, 3000):
        assert shelf.find(replace(SHAPES[0], L=length), NOW) is None
    assert held.asked == 1
    shelf.forget()
    assert shelf.find(replace(SHAPES[0], L=3000), NOW) is None
    assert held.asked == 2


def test_what_this_process_records_is_seen_at_once(held: Held) -> None:
    shelf, near = Shelf(held, predictor_of), replace(SHAPES[0], L=1100)
    shelf.find(near, NOW)
    held.entries.append(entry(near, some_configs(SHAPES[0])))
    shelf.forget()
    found = shelf.find(near, NOW)
    assert found is not None and found.grade == "exact"


def test_what_no_file_took_serves_other_sizes_too(held: Held) -> None:
    shelf, other = Shelf(held, predictor_of), replace(SHAPES[0], L=4000)
    one, *_ = some_configs(other)
    named = {"source": source_of(one.kernel) or "", "predictor": predictor_of(one.kernel)}
    shelf.remember(other, NOW, [Trial(one.document(), "ok", 5.0, **named)])
    assert shelf.find(other, NOW) == Found(one, "predicted", "exact", "memory", None, 5.0)
    near = shelf.find(replace(other, L=5000), NOW)
    assert near == Found(one, "predicted", "bucket", "memory", None, None, tuned=other)


def test_a_layer_in_trouble_is_asked_again(held: Held, monkeypatch: pytest.MonkeyPatch) -> None:
    shelf = Shelf(held, predictor_of)
    monkeypatch.setattr(Held, "in_trouble", True)
    for asked in (1, 2):
        shelf.find(SHAPES[0], NOW)
        assert held.asked == asked


def test_what_is_kept_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("autoconv.lookup.shelf.MOST_FAMILIES", 2)
    shapes = [replace(SHAPES[0], Cin=channels) for channels in (1, 2, 3)]
    held = Held(*(entry(one, some_configs(one)) for one in shapes))
    shelf = Shelf(held, predictor_of)
    for shape in (*shapes, shapes[2], shapes[0]):  # the first had to go
        shelf.find(shape, NOW)
    assert held.asked == 4


def test_a_module_shape_of_more_sizes_than_are_read_at_once(
    user: Database, layers: Callable[[], Layers]
) -> None:
    many = [replace(PROBLEM, L=10_000 + 10 * number) for number in range(MOST_SIBLINGS + 8)]
    for one in many:
        user.add(config(4), problem=one, measured_us=1.0)
    shelf = Shelf(layers(), predictor_in_files)
    for one in (many[0], many[-1]):
        exact, near = shelf.find(one, HERE), shelf.find(replace(one, L=one.L + 3), HERE)
        assert exact is not None and exact.grade == "exact"
        assert near is not None and (near.grade, near.tuned) == ("bucket", one)


# --- what it comes to -------------------------------------------------------------------------------


def test_the_best_by_the_model_is_ahead_only_of_what_is_worse_by_twice_its_error() -> None:
    from autoconv import settings as settings_in_force

    problem = SHAPES[0]
    configs = candidates(problem, RTX4090)
    seconds = estimate_seconds(problem, configs, RTX4090)
    limit = seconds.min() * (1 + 2 * MODEL_ERROR)
    behind = configs[int((seconds > limit * 1.01).argmax())]
    beside = configs[int((seconds < limit * 0.99).argmax())]
    tuner = Tuner(settings_in_force.load())
    with Workers(1, limit=60.0) as workers:
        for chosen, ahead in ((behind, True), (beside, False), (ATEN, False)):
            found = Found(chosen, "predicted", "bucket", "user", None, None, tuned=problem)
            assert tuner.ahead(problem, found, RTX4090, workers) is ahead


def test_few_sweeps_serve_a_layer_at_random_lengths_and_lose_little() -> None:
    """A smaller form of scripts/bench/buckets.py, which has the figures of a thousand lengths."""
    import random

    figures = run(SHAPES[0], RTX4090, random.Random(1), lengths=200, losses=8)
    assert 1 < len(figures["sweeps"]) <= 6
    assert figures["compared"] == len(figures["losses"]) > 0
    assert figures["mean_loss_pct"] <= 3 and figures["p95_loss_pct"] <= 15


def test_sizes_too_short_for_their_rounded_length_are_estimated_as_they_are() -> None:
    shape = Problem(1, 16, 16, 5, 1025, dilation=256)
    with pytest.raises(ProblemError):
        replace(shape, L=1024)
    asked = replace(shape, N=2)
    found = find(Held(entry(replace(shape, N=3), some_configs(shape))), asked, NOW, predictor_of)
    assert found is not None and found.grade == "bucket"
