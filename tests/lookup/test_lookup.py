"""Grades, the order of layers, and what is said of a miss: with real databases, filled by hand."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from autoconv import lookup
from autoconv.config import Config
from autoconv.device import find as find_device
from autoconv.environment import Environment
from autoconv.errors import MissError
from autoconv.kernels.aten import ATEN
from autoconv.kernels.registry import kernels
from autoconv.lookup import COLUMNS, Found, open_layers, priors, records, refusal
from autoconv.problem import Problem
from autoconv.settings import Settings
from tests.lookup.conftest import HERE, MODEL, OLD_MODEL, PROBLEM, TILES, Database, config, predictor_of
from tuning_db import EnvironmentRecord, Layers, ProblemRecord, Trial, TuningDB

find = partial(lookup.find, predictor_of=predictor_of)
transferred = partial(lookup.transferred, predictor_of=predictor_of)
why_missing = partial(lookup.why_missing, predictor_of=predictor_of)

# --- grades ---------------------------------------------------------------------------------------


def test_an_entry_of_this_very_environment_is_exact(user: Database, layers: Callable[[], Layers]) -> None:
    user.add(config(4), measured_us=6500.0, predicted_us=6400.0)
    assert find(layers(), PROBLEM, HERE) == Found(config(4), "measured", "exact", "user", 6500.0, 6400.0)


@pytest.mark.parametrize(
    "soft",
    [{"cuda_driver": "580.1"}, {"power_limit_w": 300}, {"triton_patch": "3.7.2"}, {"protocol": 1}],
    ids=str,
)
def test_a_soft_difference_is_served_and_graded(
    soft: dict[str, object], user: Database, layers: Callable[[], Layers]
) -> None:
    user.add(config(4), environment=replace(HERE, **soft), measured_us=6500.0)
    found = find(layers(), PROBLEM, HERE)
    assert found is not None
    assert (found.grade, found.config) == ("soft", config(4))


@pytest.mark.parametrize(
    ("soft", "grade"),
    [
        ({"cuda_driver": None, "power_limit_w": None}, "exact"),  # predicted where there was no GPU
        ({"protocol": 1}, "exact"),
        ({"triton_patch": "3.7.2"}, "soft"),  # another compiler may give other registers
    ],
    ids=str,
)
def test_a_prediction_does_not_depend_on_the_driver(
    soft: dict[str, object], grade: str, user: Database, layers: Callable[[], Layers]
) -> None:
    user.add(config(4), environment=replace(HERE, **soft), predicted_us=6400.0)
    found = find(layers(), PROBLEM, HERE)
    assert found is not None
    assert (found.provenance, found.grade, found.measured_us) == ("predicted", grade, None)


@pytest.mark.parametrize(
    "hard",
    [
        {"arch": "sm_90"},
        {"device": "l4", "sms": 58},  # the same architecture, another device
        {"sms": 114},  # a board cut down, or a slice of it, under the same name
        {"memory_gib": 12},
    ],
    ids=str,
)
def test_a_hard_difference_is_a_miss(
    hard: dict[str, object], user: Database, layers: Callable[[], Layers]
) -> None:
    user.add(config(4), environment=replace(HERE, **hard), measured_us=6500.0)
    assert find(layers(), PROBLEM, HERE) is None


@pytest.mark.parametrize(
    "other",
    [replace(PROBLEM, N=16), replace(PROBLEM, bias=True), replace(PROBLEM, precision="ieee")],
    ids=str,
)
def test_another_problem_is_a_miss(other: Problem, user: Database, layers: Callable[[], Layers]) -> None:
    user.add(config(4), measured_us=6500.0)
    assert find(layers(), other, HERE) is None


# --- which entry wins -----------------------------------------------------------------------------


def test_the_user_s_comes_before_the_site_s_before_the_packaged(
    user: Database,
    site: Database,
    second_site: Database,
    packaged: Database,
    layers: Callable[[], Layers],
) -> None:
    """However much faster the one below says it is."""
    site.add(config(1), problem=replace(PROBLEM, N=1), measured_us=1.0)  # so that it exists
    for database, name, warps, time in (
        (packaged, "prebuilt", 8, 1.0),
        (second_site, "site 2", 4, 2.0),
        (site, "site 1", 2, 3.0),
        (user, "user", 1, 4.0),
    ):
        database.add(config(warps), measured_us=time)
        found = find(layers(), PROBLEM, HERE)
        assert found is not None
        assert (found.layer, found.config, found.measured_us) == (name, config(warps), time)


def test_measured_comes_before_predicted_at_the_same_grade(
    user: Database, site: Database, layers: Callable[[], Layers]
) -> None:
    user.add(config(1), predicted_us=1.0)
    site.add(config(2), measured_us=9.0)
    found = find(layers(), PROBLEM, HERE)
    assert found is not None
    assert (found.layer, found.provenance) == ("site 1", "measured")


def test_measured_comes_before_predicted_of_a_better_grade(
    user: Database, site: Database, layers: Callable[[], Layers]
) -> None:
    site.add(config(1), environment=replace(HERE, cuda_driver="1.0"), measured_us=9.0)
    user.add(config(2), predicted_us=1.0)
    found = find(layers(), PROBLEM, HERE)
    assert found is not None
    assert (found.layer, found.grade, found.provenance) == ("site 1", "soft", "measured")


def test_the_better_grade_comes_first(user: Database, site: Database, layers: Callable[[], Layers]) -> None:
    user.add(config(1), environment=replace(HERE, cuda_driver="1.0"), measured_us=1.0)
    site.add(config(2), measured_us=9.0)
    found = find(layers(), PROBLEM, HERE)
    assert found is not None
    assert (found.layer, found.grade) == ("site 1", "exact")


# --- sources, models, interrupted runs --------------------------------------------------------------

ROWS = Config("im2col_rows", {"BLOCK_M": 64, "BLOCK_N": 64, "BLOCK_K": 32}, num_warps=4, num_stages=2)
OLD, NEW = "0" * 16, "f" * 16  # of the kernel `dense`, in two versions of this package


@pytest.fixture
def version(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Makes this process the version of the package whose kernel `dense` has the source given."""

    def be(dense: str) -> None:
        now = {"dense": dense, "im2col_rows": "5" * 16}
        for module in ("bests", "elsewhere", "families"):
            monkeypatch.setattr(f"autoconv.lookup.{module}.source_of", now.get)

    return be


def test_two_versions_of_the_package_share_a_file(
    user: Database, layers: Callable[[], Layers], version: Callable[[str], None]
) -> None:
    """Each finds its own kernels' best, whichever wrote last, and both what did not change between them."""
    for _ in range(2):  # the second time, after the other has written
        user.add(config(4), measured_us=2.0, source=OLD)
        user.add(config(8), measured_us=3.0, source=NEW)
        for dense, warps, time in ((OLD, 4, 2.0), (NEW, 8, 3.0)):
            version(dense)
            found = find(layers(), PROBLEM, HERE)
            assert found == Found(config(warps), "measured", "exact", "user", time, None)
    user.add(ROWS, measured_us=2.5, source="5" * 16)  # faster than the new one, not than the old one
    found = find(layers(), PROBLEM, HERE)
    assert found is not None and found.config == ROWS
    version(OLD)
    found = find(layers(), PROBLEM, HERE)
    assert found is not None and found.config == config(4)


@pytest.mark.parametrize("runner_up", [ATEN, ROWS])
def test_a_kernel_that_led_before_it_changed_is_carried_until_it_is_timed_anew(
    runner_up: Config, user: Database, layers: Callable[[], Layers], version: Callable[[str], None]
) -> None:
    version(NEW)
    user.add(config(4), measured_us=1.0, source=OLD)
    user.add(runner_up, measured_us=2.0, source="5" * 16)
    assert find(layers(), PROBLEM, HERE) == Found(config(4), "transferred", "carried", "user", None, None)
    assert priors(layers(), PROBLEM, HERE) == [config(4)]
    user.add(config(4), measured_us=3.0, source=NEW)
    assert find(layers(), PROBLEM, HERE) == Found(runner_up, "measured", "exact", "user", 2.0, None)


@pytest.mark.parametrize("outcome", ["wrong", "launch", "timeout"])
def test_a_changed_kernel_that_failed_since_is_not_carried(
    outcome: str, user: Database, layers: Callable[[], Layers], version: Callable[[str], None]
) -> None:
    version(NEW)
    user.add(config(4), measured_us=1.0, source=OLD)
    user.add(ROWS, measured_us=2.0, source="5" * 16)
    user.add(config(4), source=NEW, outcome=outcome)
    assert find(layers(), PROBLEM, HERE) == Found(ROWS, "measured", "exact", "user", 2.0, None)


def test_a_changed_kernel_that_was_not_timed_since_is_carried_still(
    user: Database, layers: Callable[[], Layers], version: Callable[[str], None]
) -> None:
    version(NEW)
    user.add(config(4), measured_us=1.0, source=OLD)
    user.add(ROWS, measured_us=2.0, source="5" * 16)
    user.add(config(4), source=NEW, outcome="compiled")
    assert find(layers(), PROBLEM, HERE) == Found(config(4), "transferred", "carried", "user", None, None)
    user.add(config(8), source=NEW, predicted_us=1.0)  # a hit, if only a predicted one
    assert find(layers(), PROBLEM, HERE) == Found(config(8), "predicted", "exact", "user", None, 1.0)


@pytest.mark.parametrize("led_by", [0.99, 1.0, 1.01])
def test_a_changed_kernel_that_was_no_faster_is_not_carried(
    led_by: float, user: Database, layers: Callable[[], Layers], version: Callable[[str], None]
) -> None:
    version(NEW)
    user.add(config(4), measured_us=1.0, source=OLD)
    user.add(ROWS, measured_us=led_by, source="5" * 16)
    assert find(layers(), PROBLEM, HERE) == Found(ROWS, "measured", "exact", "user", led_by, None)


def test_a_prediction_for_an_older_source_is_not_carried(
    user: Database, layers: Callable[[], Layers], version: Callable[[str], None]
) -> None:
    version(NEW)
    user.add(config(4), predicted_us=1.0, source=OLD)
    assert find(layers(), PROBLEM, HERE) is None


def test_why_missing_tells_of_a_changed_kernel(
    user: Database, layers: Callable[[], Layers], version: Callable[[str], None]
) -> None:
    version(NEW)
    user.add(config(4), measured_us=1.0, source=OLD)
    assert why_missing(layers(), PROBLEM, HERE) == [
        "nearest: this problem in another environment, layer user",
        f"source of dense: {NEW} here, {OLD} there",
    ]


def test_torch_s_own_time_of_another_version_keeps_a_slower_kernel_from_serving(
    user: Database, layers: Callable[[], Layers]
) -> None:
    user.add(config(4), measured_us=2.0)
    user.add(ATEN, measured_us=1.0, source="torch 2.0.0, cuDNN 1")
    found = find(layers(), PROBLEM, HERE)
    assert found == Found(ATEN, "measured", "soft", "user", 1.0, None)
    user.add(ATEN, measured_us=3.0)  # today's is slower
    found = find(layers(), PROBLEM, HERE)
    assert found == Found(config(4), "measured", "exact", "user", 2.0, None)


OTHER = Config("im2col_rows", {"BLOCK_M": 64, "BLOCK_N": 64, "BLOCK_K": 32}, num_warps=4, num_stages=2)


def test_predictions_of_today_compete_across_kernels(user: Database, layers: Callable[[], Layers]) -> None:
    user.add(config(1), predicted_us=2.0).add(OTHER, predicted_us=1.0)
    assert find(layers(), PROBLEM, HERE) == Found(OTHER, "predicted", "exact", "user", None, 1.0)
    user.add(config(2), predicted_us=0.5)
    assert find(layers(), PROBLEM, HERE) == Found(config(2), "predicted", "exact", "user", None, 0.5)


def test_predictions_of_another_model_are_soft_and_never_compete_with_todays(
    user: Database, site: Database, layers: Callable[[], Layers]
) -> None:
    user.add(config(1), predicted_us=1.0, predictor=predictor_of("dense", OLD_MODEL))
    user.add(config(4), predicted_us=9.0)
    found = find(layers(), PROBLEM, HERE)
    assert found == Found(config(4), "predicted", "exact", "user", None, 9.0)
    site.add(config(8), measured_us=99.0)
    found = find(layers(), PROBLEM, HERE)
    assert found is not None and found.config == config(8)


def test_predictions_of_one_older_model_compete_with_each_other_alone(
    user: Database, layers: Callable[[], Layers]
) -> None:
    user.add(config(1), predicted_us=3.0, predictor=predictor_of("dense", OLD_MODEL))
    user.add(OTHER, predicted_us=2.0, predictor=predictor_of(OTHER.kernel, OLD_MODEL))
    user.add(config(2), predicted_us=1.0, predictor=predictor_of("dense", "c" * 16))
    found = find(layers(), PROBLEM, HERE)
    assert found == Found(OTHER, "predicted", "soft", "user", None, 2.0)  # of two models, the first by name


def test_two_versions_of_one_kernel_never_compete(user: Database, layers: Callable[[], Layers]) -> None:
    user.add(config(1), predicted_us=1.0, predictor=f"{MODEL}-as it was")
    user.add(OTHER, predicted_us=7.0)
    found = find(layers(), PROBLEM, HERE)
    assert found == Found(OTHER, "predicted", "exact", "user", None, 7.0)
    user.add(config(2), predicted_us=9.0)
    found = find(layers(), PROBLEM, HERE)
    assert found == Found(OTHER, "predicted", "exact", "user", None, 7.0)


@pytest.mark.parametrize("own", ["of dense", "zz"])
def test_of_two_versions_of_an_older_model_todays_kernel_or_the_first_name_stays(
    own: str, user: Database, layers: Callable[[], Layers]
) -> None:
    user.add(config(1), predicted_us=1.0, predictor=f"{OLD_MODEL}-yy")
    user.add(config(2), predicted_us=2.0, predictor=f"{OLD_MODEL}-{own}")
    found = find(layers(), PROBLEM, HERE)
    assert found is not None and found.config == config(2 if own == "of dense" else 1)


def test_of_a_kernel_whose_source_has_changed_no_version_stands_for_it(
    user: Database, layers: Callable[[], Layers]
) -> None:
    user.add(config(1), predicted_us=1.0, predictor=f"{OLD_MODEL}-of dense", source="0" * 16)
    user.add(config(2), predicted_us=2.0, predictor=f"{OLD_MODEL}-yy")
    found = find(layers(), PROBLEM, HERE)
    assert found == Found(config(2), "predicted", "soft", "user", None, 2.0)


def test_a_measurement_does_not_depend_on_the_model(user: Database, layers: Callable[[], Layers]) -> None:
    user.add(config(1), measured_us=1.0, predicted_us=1.0, predictor=predictor_of("dense", OLD_MODEL))
    found = find(layers(), PROBLEM, HERE)
    assert found is not None and found.grade == "exact"


def test_what_interrupted_sweeps_alone_tried_is_soft(user: Database, layers: Callable[[], Layers]) -> None:
    user.add(config(1), measured_us=1.0, finished=False)
    found = find(layers(), PROBLEM, HERE)
    assert found is not None and found.grade == "soft"
    assert why_missing(layers(), PROBLEM, HERE) == [
        "nearest: this problem in another environment, layer user",
        "sweep: finished here, interrupted there",
    ]
    user.add(config(2), measured_us=2.0)
    found = find(layers(), PROBLEM, HERE)
    assert found is not None and (found.config, found.grade) == (config(1), "exact")


@pytest.mark.parametrize(
    "illegal",
    [
        {"kernel": "retired", "BLOCK_L": 64, "num_warps": 4, "num_stages": 2},
        {"kernel": "dense", "BLOCK_L": 64, "num_warps": 4, "num_stages": 2},
        {"kernel": "dense", **TILES, "BLOCK_X": 16, "num_warps": 4, "num_stages": 2},
        {"kernel": "dense", **TILES, "num_warps": 3, "num_stages": 2},
        {"kernel": "dense", **TILES, "num_warps": "4", "num_stages": 2},
        {"kernel": "dense", **TILES, "num_stages": 2},
        {"kernel": None, **TILES, "num_warps": 4, "num_stages": 2},
        {**TILES, "num_warps": 4, "num_stages": 2},
        {},
    ],
    ids=str,
)
def test_a_config_that_is_none_today_is_passed_over(
    illegal: dict[str, object], user: Database, site: Database, layers: Callable[[], Layers]
) -> None:
    user.add(illegal, measured_us=1.0)
    assert find(layers(), PROBLEM, HERE) is None
    site.add(config(2), predicted_us=9.0)
    found = find(layers(), PROBLEM, HERE)
    assert found is not None and found.layer == "site 1"


def test_a_kernel_that_does_not_run_the_problem_is_passed_over(
    user: Database, layers: Callable[[], Layers]
) -> None:
    grouped = replace(PROBLEM, groups=2)
    rows = Config("im2col_rows", {"BLOCK_M": 64, "BLOCK_N": 64, "BLOCK_K": 32}, num_warps=4, num_stages=2)
    user.add(rows, problem=grouped, measured_us=1.0)
    assert find(layers(), grouped, HERE) is None


def test_a_layer_that_cannot_be_read_is_skipped_with_one_warning(
    user: Database, site: Database, layers: Callable[[], Layers], warnings: list[str]
) -> None:
    site.path.write_bytes(b"this is no database, whatever its name says" * 100)
    user.add(config(2), predicted_us=9.0)
    opened = layers()
    for _ in range(2):
        found = find(opened, PROBLEM, HERE)
        assert found is not None and found.layer == "user"
    assert len(warnings) == 1 and str(site.path) in warnings[0] and "\n" not in warnings[0]
    assert site.path.read_bytes().startswith(b"this is no database")


def test_the_user_s_damaged_file_is_moved_aside_and_its_rows_salvaged(
    user: Database, layers: Callable[[], Layers], warnings: list[str]
) -> None:
    user.add(config(2), predicted_us=9.0)
    torn = b"\xa5" * 100 + user.path.read_bytes()[100:]  # the header: SQLite opens no such file
    user.path.write_bytes(torn)
    opened = layers()
    for _ in range(2):
        found = find(opened, PROBLEM, HERE)
        assert found is not None and (found.layer, found.config) == ("user", config(2))
    assert warnings == [f"{user.path} was damaged; it is kept as user.db.damaged-1, 1 trials were salvaged"]
    assert user.path.with_name("user.db.damaged-1").read_bytes() == torn


# --- what serves until a sweep has ended ----------------------------------------------------------

L4 = replace(HERE, device="l4", sms=58)
RTX4090 = find_device("rtx4090")


def test_another_device_of_the_architecture_gives_a_scaled_config(
    user: Database, site: Database, layers: Callable[[], Layers]
) -> None:
    user.add(config(4), environment=L4, predicted_us=1.0)
    user.add(config(4), problem=replace(PROBLEM, N=32), measured_us=1.0)  # nearest: a lesser grade
    found = transferred(layers(), PROBLEM, HERE, RTX4090)
    assert found == Found(config(4), "transferred", "scaled", "user", None, None)
    assert not found.hit
    site.add(config(8), environment=L4, measured_us=9.0)  # measured comes before predicted
    found = transferred(layers(), PROBLEM, HERE, RTX4090)
    assert found is not None and (found.layer, found.config) == ("site 1", config(8))


def test_the_nearest_problem_of_this_device_gives_its_config(
    user: Database, site: Database, layers: Callable[[], Layers]
) -> None:
    user.add(config(8), problem=replace(PROBLEM, N=32, K=2), predicted_us=1.0)
    site.add(config(4), problem=replace(PROBLEM, N=32), predicted_us=9.0)
    found = transferred(layers(), PROBLEM, HERE, RTX4090)
    near = replace(PROBLEM, N=32)
    assert found == Found(config(4), "transferred", "nearest", "site 1", None, None, tuned=near)
    user.add(config(8), problem=replace(PROBLEM, N=8), measured_us=9.0)  # farther, but measured
    found = transferred(layers(), PROBLEM, HERE, RTX4090)
    assert found is not None and (found.layer, found.config) == ("user", config(8))


@pytest.mark.parametrize("other", [{"sms": 114}, {"memory_gib": 12}], ids=str)
def test_a_board_of_the_same_name_with_other_sms_or_memory_is_scaled_at_best(
    other: dict[str, int], user: Database, layers: Callable[[], Layers]
) -> None:
    user.add(config(4), environment=replace(HERE, **other), measured_us=1.0)
    assert find(layers(), PROBLEM, HERE) is None
    found = transferred(layers(), PROBLEM, HERE, RTX4090)
    assert found == Found(config(4), "transferred", "scaled", "user", None, None)


@pytest.mark.parametrize(
    ("problem", "environment"),
    [
        (replace(PROBLEM, N=1), HERE),  # six doublings away
        (replace(PROBLEM, precision="ieee"), HERE),
        (replace(PROBLEM, dtype="float16", precision=""), HERE),
        (replace(PROBLEM, N=32), L4),
        (replace(PROBLEM, N=32), replace(HERE, triton="3.6")),
        (PROBLEM, replace(HERE, triton="3.6")),
        (PROBLEM, replace(L4, triton="3.6")),
    ],
    ids=str,
)
def test_nothing_is_transferred_from_too_far(
    problem: Problem, environment: Environment, user: Database, layers: Callable[[], Layers]
) -> None:
    user.add(config(4), problem=problem, environment=environment, measured_us=1.0)
    assert transferred(layers(), PROBLEM, HERE, RTX4090) is None


def test_only_what_the_kernel_offers_here_is_transferred(
    user: Database, layers: Callable[[], Layers]
) -> None:
    small = replace(PROBLEM, Cout=16)  # has no use for 128 rows
    user.add(config(4), problem=replace(small, N=32), measured_us=1.0)
    assert transferred(layers(), small, HERE, RTX4090) is None
    fitting = Config("dense", {**TILES, "BLOCK_CO": 16}, num_warps=4, num_stages=2)
    user.add(fitting, problem=replace(small, N=16), measured_us=9.0)
    found = transferred(layers(), small, HERE, RTX4090)
    assert found is not None and found.config == fitting


def test_older_and_other_results_of_the_architecture_are_tried_first(
    user: Database, site: Database, layers: Callable[[], Layers]
) -> None:
    user.add(config(1), measured_us=1.0)  # of this very environment: no news
    user.add(config(2), environment=replace(HERE, arch="sm_90"), measured_us=1.0)
    user.add({"kernel": "retired", "num_warps": 4, "num_stages": 2}, environment=L4, measured_us=1.0)
    assert priors(layers(), PROBLEM, HERE) == []
    user.add(config(8), environment=replace(HERE, triton="3.6"), predicted_us=1.0)
    site.add(config(4), source="f" * 16, measured_us=9.0)
    assert priors(layers(), PROBLEM, HERE) == [config(4), config(8)]


# --- what may come in -----------------------------------------------------------------------------


def test_a_trial_of_today_is_accepted() -> None:
    problem, environment = records(PROBLEM, HERE)
    for chosen in (config(4).document(), ATEN.document()):
        assert refusal(environment, problem, Trial(chosen, "ok", measured_us=1.0)) is None
    unknown = replace(HERE, device="a GPU to come")
    assert refusal(records(PROBLEM, unknown)[1], problem, Trial(config(4).document(), "ok")) is None


@pytest.mark.parametrize(
    ("said", "key"),
    [
        ("is the key of no problem", "N=64"),
        ("is the key of no problem", "[" * 100_000),
        ("is the key of no problem", PROBLEM.key().replace('"N":64', '"N":0')),
        ("is the key of no problem", PROBLEM.key().replace('"N":64', '"N":64,"path":"/etc/passwd"')),
        ("is not a canonical key", PROBLEM.key().replace('"v":1', '"v":2')),
        ("is not a canonical key", PROBLEM.key().replace(":", ": ")),
        ("N=64: is not what the key says", PROBLEM.key().replace('"N":64', '"N":65')),
    ],
    ids=range(7),
)
def test_a_key_is_derived_anew(said: str, key: str) -> None:
    problem, environment = records(PROBLEM, HERE)
    reason = refusal(environment, replace(problem, key=key), Trial(config(4).document(), "ok"))
    assert reason is not None and said in reason and len(reason) < 500


@pytest.mark.parametrize(
    ("said", "document"),
    [
        ("kernel=retired: is not known", {**config(4).document(), "kernel": "retired"}),
        ("BLOCK_X=16: is not a tile of dense", {**config(4).document(), "BLOCK_X": 16}),
        ("BLOCK_L=48: must be a power of two", {**config(4).document(), "BLOCK_L": 48}),
        ("is more than 1048576", {**config(4).document(), "BLOCK_L": 2**5000}),
        ("BLOCK_L=4096: makes 128 x 4096 accumulators", {**config(4).document(), "BLOCK_L": 4096}),
        ("cannot run", {**config(4).document(), "kernel": "depthwise"}),
        ("is not a kernel's name", {**config(4).document(), "kernel": None}),
    ],
    ids=range(7),
)
def test_a_config_must_be_one_of_today(said: str, document: dict[str, object]) -> None:
    problem, environment = records(PROBLEM, HERE)
    if document["kernel"] == "depthwise":
        tiles = dict.fromkeys(kernels()["depthwise"].tiles, 16)
        document = {"kernel": "depthwise", **tiles, "num_warps": 4, "num_stages": 2}
    reason = refusal(environment, problem, Trial(document, "ok"))
    assert reason is not None and said in reason and "\n" not in reason


def test_an_environment_must_be_one_of_ours() -> None:
    problem, environment = records(PROBLEM, HERE)
    trial = Trial(config(4).document(), "ok")
    for other in (
        EnvironmentRecord({"arch": "sm_89"}, environment.soft),
        EnvironmentRecord(environment.hard, {}),
        records(PROBLEM, replace(HERE, arch="sm_90"))[1],  # which no rtx4090 is
    ):
        assert refusal(other, problem, trial) is not None


# --- why a lookup missed --------------------------------------------------------------------------


def test_an_environment_is_compared_field_by_field(user: Database, layers: Callable[[], Layers]) -> None:
    farther = replace(HERE, arch="sm_90", device="h100-sxm", sms=132, triton="3.6", triton_patch="3.6.0")
    user.add(config(4), environment=farther, measured_us=1.0)
    nearer = replace(HERE, triton="3.6", triton_patch="3.6.0")
    user.add(config(4), environment=nearer, measured_us=1.0)
    assert why_missing(layers(), PROBLEM, HERE) == [
        "nearest: this problem in another environment, layer user",
        "triton: 3.7 here, 3.6 there",
        "triton_patch: 3.7.1 here, 3.6.0 there",
    ]


def test_a_config_that_does_not_run_is_shown(user: Database, layers: Callable[[], Layers]) -> None:
    user.add({"kernel": "retired", "num_warps": 4, "num_stages": 2}, measured_us=1.0)
    first, second = why_missing(layers(), PROBLEM, HERE)
    assert first.endswith("layer user")
    assert second.startswith("its config does not run today: ") and "kernel=retired" in second


def test_the_nearest_problem_differs_in_the_fewest_kinds_and_then_in_size(
    user: Database, layers: Callable[[], Layers]
) -> None:
    asked = replace(PROBLEM, N=48, bias=True)
    for other in (
        replace(PROBLEM, N=48),  # another kind: no bias
        replace(PROBLEM, N=1, bias=True),  # far in size
        replace(PROBLEM, N=64, bias=True, stride=4),
        replace(PROBLEM, N=64, bias=True),
    ):
        user.add(config(4), problem=other, measured_us=1.0)
    assert why_missing(layers(), asked, HERE) == ["nearest: another problem", "N: 48 here, 64 there"]


def test_an_empty_database_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, warnings: list[str]
) -> None:
    monkeypatch.setattr(lookup, "PREBUILT", tmp_path / "none.db")
    opened = open_layers(Settings(tmp_path / "new.db", (), "sweep", tmp_path, 60.0), warnings.append)
    assert why_missing(opened, PROBLEM, HERE) == [
        "the database has no entries; run `autoconv tune` for this problem"
    ]
    assert "'prebuilt' is skipped" in " ".join(warnings)


@pytest.mark.parametrize("key", ["not JSON", "[1, 2]", '"text"', '{"N": "many"}', '{"N": 0}'])
def test_a_foreign_key_in_the_database_does_no_harm(
    key: str, user: Database, layers: Callable[[], Layers]
) -> None:
    _, environment = records(PROBLEM, HERE)
    with TuningDB.open(user.path, columns=COLUMNS, application="autoconv") as database:
        problem = ProblemRecord(key, PROBLEM.columns())
        database.record(environment, problem, [Trial({"a": 1}, "ok", measured_us=1.0)], origin="import")
    user.add(config(4), problem=replace(PROBLEM, N=16), measured_us=1.0)
    assert find(layers(), PROBLEM, HERE) is None
    assert why_missing(layers(), PROBLEM, HERE) == ["nearest: another problem", "N: 64 here, 16 there"]


def test_reasons_fit_into_one_error(user: Database, layers: Callable[[], Layers]) -> None:
    user.add(config(4), environment=replace(HERE, triton="3.6"), measured_us=1.0)
    error = MissError(str(PROBLEM), why_missing(layers(), PROBLEM, HERE))
    assert "triton: 3.7 here, 3.6 there" in str(error) and "\n" not in str(error)


# --- the files ------------------------------------------------------------------------------------


def test_layers_are_opened_in_the_order_of_the_settings(
    user: Database, site: Database, second_site: Database, layers: Callable[[], Layers], tmp_path: Path
) -> None:
    site.add(config(2), predicted_us=9.0)
    second_site.add(config(2), predicted_us=9.0)
    assert layers().names == ("user", "site 1", "site 2", "prebuilt")
    before = {path: path.stat().st_mtime_ns for path in (site.path, second_site.path)}
    find(layers(), PROBLEM, HERE)
    assert {path: path.stat().st_mtime_ns for path in before} == before


def test_records_are_what_the_database_keys_by() -> None:
    problem, environment = records(PROBLEM, HERE)
    assert problem.key == PROBLEM.key()
    assert set(problem.columns) == set(COLUMNS)
    assert (dict(environment.hard), dict(environment.soft)) == (HERE.hard(), HERE.soft())
    there = replace(HERE, device=find_device("l4").name, sms=58)
    assert records(PROBLEM, there)[1].hard_hash == environment.hard_hash
