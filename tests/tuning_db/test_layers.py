from __future__ import annotations

from pathlib import Path

from tuning_db import EnvironmentRecord, Layers, ProblemRecord, Trial, TuningDB

ENVIRONMENT = EnvironmentRecord({}, {})


def layer(path: Path, **microseconds: float) -> TuningDB:
    """A database with one measured winner per problem."""
    db = TuningDB.open(path, columns={})
    for key, time in microseconds.items():
        db.record(ENVIRONMENT, ProblemRecord(key), [Trial({"us": time}, "ok", measured_us=time)], origin="x")
    return db


def test_precedence_goes_before_speed(tmp_path: Path) -> None:
    warnings: list[str] = []
    user, packaged = layer(tmp_path / "u", both=9.0), layer(tmp_path / "p", both=1.0, packaged=2.0)
    layers = Layers([("user", user), ("prebuilt", packaged)], warnings.append)
    found = [(name, winner.measured_us) for name, winner in layers.winners("both")]
    assert found == [("user", 9.0), ("prebuilt", 1.0)]
    assert [name for name, _ in layers.winners("packaged")] == ["prebuilt"]
    assert layers.winners("neither") == []
    assert layers.names == ("user", "prebuilt") and warnings == []
    layers.close()


def test_a_layer_that_breaks_is_skipped_with_one_warning(tmp_path: Path) -> None:
    warnings: list[str] = []
    user, packaged = layer(tmp_path / "u", key=9.0), layer(tmp_path / "p", key=1.0)
    layers = Layers([("user", user), ("prebuilt", packaged)], warnings.append)
    (tmp_path / "u").write_bytes(b"overwritten" * 5000)
    for _ in range(3):
        assert [name for name, _ in layers.winners("key")] == ["prebuilt"]
    assert len(warnings) == 1 and "'user'" in warnings[0] and str(tmp_path / "u") in warnings[0]
    layers.close()


def test_a_layer_that_does_not_open_is_left_out_with_a_warning(tmp_path: Path) -> None:
    warnings: list[str] = []
    layers = Layers.opened(
        [
            ("site", lambda: TuningDB.open_readonly(tmp_path / "missing", columns={})),
            ("user", lambda: layer(tmp_path / "u", key=9.0)),
        ],
        warnings.append,
    )
    assert layers.names == ("user",) and [name for name, _ in layers.winners("key")] == ["user"]
    assert len(warnings) == 1 and "'site'" in warnings[0]
    layers.close()
