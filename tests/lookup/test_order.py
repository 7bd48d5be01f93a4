"""What serves: the order of grades, provenances and layers, pins, and what is carried from another Triton."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from itertools import product
from pathlib import Path

import pytest

from autoconv import lookup
from autoconv.environment import Environment
from autoconv.kernels.aten import ATEN
from autoconv.lookup import OWN, Found
from autoconv.problem import Problem
from autoconv.settings import Settings
from tests.lookup.conftest import HERE, PROBLEM, Database, config, predictor_of
from tuning_db import Layers, Pin
from tuning_db.schema import mark_pinned

NEAR = replace(PROBLEM, N=48)
LAYERS = ("process", "user", "site 1", "prebuilt")
ORDER = [
    *product(("measured", "predicted"), ("exact", "soft", "bucket"), LAYERS),
    *product(("transferred",), ("carried",), LAYERS),
]
"""All that may serve, best first."""


@pytest.fixture
def database_of(tmp_path: Path) -> Callable[[str], Database]:
    return lambda layer: Database(tmp_path / f"{layer}.db")


@pytest.fixture
def opened(
    database_of: Callable[[str], Database], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[[], Layers]:
    """Opens the databases of all four layers."""
    monkeypatch.setattr(lookup, "PREBUILT", database_of("prebuilt").path)

    def layers() -> Layers:
        for name in LAYERS:
            if not database_of(name).path.exists():
                database_of(name).add(config(1), problem=replace(PROBLEM, Cin=32), measured_us=1.0)
        sites, process = (database_of("site 1").path,), database_of("process").path
        settings = Settings(database_of("user").path, sites, "sweep", tmp_path, 60.0, override=process)
        return lookup.open_layers(settings, pytest.fail)

    return layers


def found_in(layers: Layers, environment: Environment = HERE) -> Found | None:
    return lookup.find(layers, PROBLEM, environment, predictor_of)


def pin(database: Database) -> None:
    with closing(sqlite3.connect(database.path)) as connection, connection:
        mark_pinned(connection, Pin("rtx4090", "2026-11-26T12:00:00+00:00"))


def test_what_serves(database_of: Callable[[str], Database], opened: Callable[[], Layers]) -> None:
    """From nothing, each better entry in its turn, however much slower it is."""
    assert found_in(opened()) is None
    for time_us, (provenance, grade, layer) in enumerate(reversed(ORDER), start=1):
        times = {"measured_us": float(time_us), "predicted_us": float(time_us)}
        if provenance == "predicted":
            del times["measured_us"]
        environment = {
            "soft": replace(HERE, triton_patch="3.7.2"),
            "carried": replace(HERE, triton="3.6", triton_patch="3.6.0"),
        }.get(grade, HERE)
        problem = NEAR if grade == "bucket" else PROBLEM
        database_of(layer).add(config(4), problem=problem, environment=environment, **times)
        found = found_in(opened())
        assert found is not None
        assert (found.provenance, found.grade, found.layer) == (provenance, grade, layer)
        assert found.hit == (grade != "carried")
        own = grade in OWN
        assert found.measured_us == (time_us if own and provenance == "measured" else None)
        assert found.predicted_us == (time_us if own else None)
        assert found.tuned == (NEAR if grade == "bucket" else None)
        assert not found.pinned


def test_what_was_timed_beside_other_work_is_no_measurement(
    database_of: Callable[[str], Database], opened: Callable[[], Layers]
) -> None:
    """Of one problem a measurement comes first, whatever its layer; a nearer size's time comes before it."""
    database_of("user").add(config(8), predicted_us=0.5)
    database_of("site 1").add(config(4), measured_us=2.0, predicted_us=9.0, contended=True)
    expected = Found(config(4), "contended", "exact", "site 1", None, 9.0, contended_us=2.0)
    assert found_in(opened()) == expected
    database_of("user").add(config(2), problem=NEAR, measured_us=1.0)
    assert found_in(opened()) == expected
    database_of("prebuilt").add(config(1), measured_us=3.0, environment=replace(HERE, cuda_driver="1.0"))
    assert found_in(opened()) == Found(config(1), "measured", "soft", "prebuilt", 3.0, None)


# --- carried --------------------------------------------------------------------------------------


def under(triton: str) -> Environment:
    return replace(HERE, triton=triton, triton_patch=f"{triton}.0")


@pytest.mark.parametrize("problem", [PROBLEM, NEAR], ids=["this problem", "its bucket"])
def test_what_was_tuned_under_another_triton_is_carried_whatever_was_measured(
    problem: Problem, user: Database, layers: Callable[[], Layers]
) -> None:
    user.add(config(4), problem=problem, environment=under("3.6"), measured_us=1.0)
    tuned = None if problem == PROBLEM else NEAR
    expected = Found(config(4), "transferred", "carried", "user", None, None, tuned=tuned)
    assert found_in(layers()) == expected
    assert not expected.hit


def test_of_several_tritons_the_nearest_is_carried(user: Database, layers: Callable[[], Layers]) -> None:
    for triton, warps in (("3.3", 1), ("3.9", 2), ("3.6", 4), ("4.7", 8), ("of Windows", 8)):
        user.add(config(warps), environment=under(triton), predicted_us=1.0)
    found = found_in(layers())
    assert found is not None and (found.grade, found.config) == ("carried", config(4))


@pytest.mark.parametrize(
    "elsewhere", [{"device": "l4", "sms": 58}, {"sms": 114}, {"memory_gib": 12}, {"arch": "sm_90"}], ids=str
)
def test_nothing_is_carried_from_another_device(
    elsewhere: dict[str, object], user: Database, layers: Callable[[], Layers]
) -> None:
    user.add(config(4), environment=replace(under("3.6"), **elsewhere), measured_us=1.0)
    assert found_in(layers()) is None


# --- pins -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("layer", ["process", "site 1"])
def test_a_pin_is_asked_before_all_others_and_its_buckets_are_final(
    layer: str, database_of: Callable[[str], Database], opened: Callable[[], Layers]
) -> None:
    others = [name for name in LAYERS if name != layer]
    for name in others:
        database_of(name).add(config(8), measured_us=1.0)
    database_of(layer).add(config(2), environment=under("3.6"), predicted_us=9.0)
    pin(database_of(layer))
    found = found_in(opened())
    assert found == Found(config(2), "transferred", "carried", layer, None, None, pinned=True)


def test_what_a_pin_lacks_is_torchs(
    database_of: Callable[[str], Database], opened: Callable[[], Layers]
) -> None:
    database_of("user").add(config(8), measured_us=1.0)
    database_of("site 1").add(config(4), problem=replace(PROBLEM, N=8), measured_us=1.0)
    pin(database_of("site 1"))
    found = found_in(opened())
    assert found == Found(ATEN, "default", "default", "site 1", None, None, pinned=True)
    assert not found.hit


def test_two_pins_stand_in_the_order_of_their_layers_and_nothing_else_serves(
    database_of: Callable[[str], Database], opened: Callable[[], Layers]
) -> None:
    for name, grown in (("process", NEAR), ("site 1", PROBLEM), ("user", PROBLEM)):
        database_of(name).add(config(2), problem=grown, predicted_us=9.0)
    for name in ("process", "site 1"):
        pin(database_of(name))
    found = found_in(opened())
    assert found is not None and (found.layer, found.grade, found.pinned) == ("site 1", "exact", True)


def test_a_problem_is_tuned_though_a_pin_lacks_it_and_the_pin_serves_all_the_same(
    database_of: Callable[[str], Database], opened: Callable[[], Layers]
) -> None:
    database_of("user").add(config(8), measured_us=1.0)
    database_of("site 1").add(config(4), problem=replace(PROBLEM, N=8), measured_us=1.0)
    pin(database_of("site 1"))
    shelf = lookup.Shelf(opened(), predictor_of)
    known = shelf.known(PROBLEM, HERE, ("exact",), ("measured",))
    assert known is not None and (known.layer, known.config) == ("user", config(8))
    found = shelf.find(PROBLEM, HERE)
    assert found is not None and found.config == ATEN


@pytest.mark.parametrize("content", [None, b"", b"x" * 10_000], ids=["missing", "empty", "garbage"])
def test_a_pin_that_cannot_be_read_leaves_all_to_torch(
    content: bytes | None, user: Database, tmp_path: Path
) -> None:
    user.add(config(8), measured_us=1.0)
    path, said = tmp_path / "run7.pin", []
    if content is not None:
        path.write_bytes(content)
    settings = Settings(user.path, (path,), "background", tmp_path, 60.0)
    layers = lookup.open_layers(settings, said.append)
    assert found_in(layers) == Found(ATEN, "default", "default", "site 1", None, None, pinned=True)
    why = lookup.why_missing(layers, PROBLEM, HERE, predictor_of)
    assert why[0] == "layer site 1 is a pin that cannot be read, so torch serves; `autoconv doctor` says why"
    assert why[1] == "nearest: this problem in this very environment, layer user"
    assert len(said) == 1 and said[0].startswith("pinned layer 'site 1' does not answer")
    other = tmp_path / "site.db"
    settings = replace(settings, site_databases=(other,))
    found = found_in(lookup.open_layers(settings, said.append))
    assert found is not None and found.layer == "user", "a file of another name is skipped"


def test_of_what_a_pin_lacks_the_pin_is_why(
    database_of: Callable[[str], Database], opened: Callable[[], Layers]
) -> None:
    database_of("user").add(config(8), measured_us=1.0)
    database_of("site 1").add(config(4), problem=replace(PROBLEM, Cin=8), measured_us=1.0)
    pin(database_of("site 1"))
    why = lookup.why_missing(opened(), PROBLEM, HERE, predictor_of)
    lacks = "layer site 1 is a pin without this problem, so torch serves; pin anew once it is tuned"
    assert why[:2] == [lacks, "nearest: this problem in this very environment, layer user"]
    assert lacks not in lookup.why_missing(opened(), PROBLEM, HERE, predictor_of, served=True)
