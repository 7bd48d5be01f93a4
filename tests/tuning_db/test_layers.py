from __future__ import annotations

import sqlite3
import subprocess
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from tuning_db import EnvironmentRecord, Layers, Pin, ProblemRecord, Trial, TuningDB, connection, schema

Script = Callable[..., "subprocess.Popen[str]"]
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


def test_a_layer_that_does_not_open_is_tried_again_with_one_warning(tmp_path: Path) -> None:
    warnings: list[str] = []
    layers = Layers(
        [
            ("site", lambda: TuningDB.open_readonly(tmp_path / "late", columns={})),
            ("user", lambda: layer(tmp_path / "u", key=9.0)),
        ],
        warnings.append,
    )
    assert layers.names == ("site", "user") and not (tmp_path / "u").exists()
    for _ in range(2):
        assert [name for name, _ in layers.winners("key")] == ["user"]
    assert layers.database("site") is None and layers.database("user") is not None
    assert len(warnings) == 1 and "'site'" in warnings[0]
    layer(tmp_path / "late", key=1.0).close()
    assert [name for name, _ in layers.winners("key")] == ["site", "user"]
    assert layers.database("site") is not None
    layers.close()


HOLD = """
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1], isolation_level=None)
connection.execute("BEGIN EXCLUSIVE")
print("locked", flush=True)
sys.stdin.read()
"""


@pytest.mark.parametrize("opened", [False, True])
def test_a_layer_that_is_busy_answers_when_it_is_free_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: Script, opened: bool
) -> None:
    """It is waited for once; then every lookup tries, at once, until it answers."""
    monkeypatch.setattr(connection, "READ_TIMEOUT_S", 0.2)
    path = tmp_path / "u"
    warnings: list[str] = []
    layer(path, key=9.0).close()
    layers = Layers([("user", lambda: TuningDB.open(path, columns={}))], warnings.append)
    if opened:
        assert layers.winners("key")
    with script(HOLD, path, stdin=subprocess.PIPE) as holder:
        assert holder.stdout is not None and holder.stdout.readline() == "locked\n"
        assert layers.winners("key") == []
        monkeypatch.setattr(connection, "READ_TIMEOUT_S", 3600.0)  # whoever waits now, hangs
        assert layers.winners("key") == layers.winners("key") == []
        holder.communicate("")
    assert [name for name, _ in layers.winners("key")] == ["user"]
    assert len(warnings) == 1 and "busy" in warnings[0]
    layers.close()


def pin(path: Path) -> Path:
    """Mark a database as a pin, as what builds one does."""
    with closing(sqlite3.connect(path, isolation_level=None)) as marking:
        schema.mark_pinned(marking, Pin("rtx4090", "2026-11-26T12:00:00+00:00"))
    return path


def test_a_pin_is_asked_before_all_others_and_is_opened_when_first_asked(tmp_path: Path) -> None:
    warnings: list[str] = []
    layer(tmp_path / "site", key=9.0, site=2.0).close()
    path = pin(tmp_path / "site")
    layers = Layers(
        [
            ("user", lambda: layer(tmp_path / "u", key=1.0, user=3.0)),
            ("late", lambda: TuningDB.open_readonly(tmp_path / "late", columns={})),
            ("site", lambda: TuningDB.open_readonly(path, columns={})),
        ],
        warnings.append,
    )
    assert not (tmp_path / "u").exists()
    assert [name for name, _ in layers.winners("key")] == ["site", "user"]
    assert [name for name, _ in layers.winners("user")] == ["user"]
    assert layers.pinned and layers.pins == ("site",)
    layer(tmp_path / "late", key=4.0).close()
    assert [name for name, _ in layers.winners("key")] == ["site", "user", "late"]
    pin(tmp_path / "late")
    assert layers.pins == ("site",), "what is open is not asked anew"
    assert len(warnings) == 1 and "'late'" in warnings[0]
    layers.close()
    again = Layers(
        [(name, TuningDB.open_readonly(tmp_path / name, columns={})) for name in ("u", "late", "site")], print
    )
    assert again.pins == ("late", "site")
    assert [name for name, _ in again.winners("key")] == ["late", "site", "u"]
    again.close()


def test_layers_without_a_pin_say_so(tmp_path: Path) -> None:
    layers = Layers([("user", layer(tmp_path / "u", key=1.0))], pytest.fail)
    assert not layers.pinned and layers.pins == ()
    layers.close()


def test_a_pin_that_cannot_be_read_is_a_pin_all_the_same(tmp_path: Path) -> None:
    warnings: list[str] = []
    path = tmp_path / "site"
    sources = [
        ("user", lambda: layer(tmp_path / "u", key=1.0)),
        ("site", lambda: TuningDB.open_readonly(path, columns={})),
    ]
    layers = Layers(sources, warnings.append, pins=["site"])
    assert layers.pins == layers.unread_pins == ("site",)
    assert [name for name, _ in layers.winners("key")] == ["user"], "it is for the reader to heed that"
    (warning,) = warnings
    assert warning.startswith("pinned layer 'site' does not answer, and no other stands in for it: ")
    layer(path, key=2.0).close()
    assert layers.pins == (), "it says itself what it is"
    layers.close()
    pin(path)
    layers = Layers(sources, warnings.append)
    assert layers.pins == ("site",) and layers.unread_pins == ()
    path.chmod(0o644)
    path.write_bytes(b"no database any more" * 4096)
    assert [name for name, _ in layers.winners("key")] == ["user"]
    assert layers.pins == layers.unread_pins == ("site",)
    assert "pinned layer 'site' does not answer" in warnings[1]


def test_trials_come_with_their_layer_and_environment(tmp_path: Path) -> None:
    user, packaged = layer(tmp_path / "u", both=9.0), layer(tmp_path / "p", both=1.0, packaged=2.0)
    layers = Layers([("user", user), ("prebuilt", packaged)], pytest.fail)
    found = [(name, environment, trial.measured_us) for name, (environment, trial) in layers.trials("both")]
    assert found == [("user", ENVIRONMENT, 9.0), ("prebuilt", ENVIRONMENT, 1.0)]
    assert layers.trials("neither") == []
    layers.close()
