"""Pins are built whole or not at all, compact, and the same for the same lines."""

from __future__ import annotations

import resource
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tuning_db import (
    EnvironmentRecord,
    ForeignFileError,
    Layers,
    Pin,
    ProblemRecord,
    Trial,
    TuningDB,
    TuningDBError,
    check,
    entry_lines,
    export_lines,
    write_pin,
)

COLUMNS = {"N": int, "dtype": str}
HERE, THERE = (EnvironmentRecord({"arch": "sm_89"}, {"device": name}) for name in ("L4", "L40S"))
MARK = Pin("L4", "2026-01-02T00:00:00Z")


@pytest.fixture
def lines(db: TuningDB) -> list[str]:
    for n in range(1, 40):
        tried = [
            Trial({"B": b}, "ok", measured_us=float(b), source="new", detail={"x": "y" * 400}) for b in (2, 1)
        ]
        db.record(HERE, ProblemRecord(f"p{n}", {"N": n}), tried, origin="sweep", run_id=f"r{n}")
    return list(export_lines(db))


def test_a_pin_holds_the_lines_and_the_same_lines_give_the_same_bytes(
    lines: list[str], tmp_path: Path
) -> None:
    one, two = tmp_path / "one.db", tmp_path / "two.db"
    assert [write_pin(path, lines, MARK, COLUMNS, application="tests") for path in (one, two)] == [78, 78]
    assert one.read_bytes() == two.read_bytes()
    with TuningDB.open_readonly(one, columns=COLUMNS, application="tests") as pin:
        assert list(export_lines(pin)) == lines and check(pin).ok and pin.pin == MARK
        assert [winner.config for winner in pin.winners("p7")] == [{"B": 1}]
        assert Layers([("site", pin)], pytest.fail).pinned
    with pytest.raises(ForeignFileError):
        write_pin(one, lines, MARK, COLUMNS, application="other", again=True)


def test_what_fails_leaves_what_was_there(lines: list[str], tmp_path: Path) -> None:
    folder = tmp_path / "pins"
    folder.mkdir()
    path = folder / "pin.db"

    def broken() -> Iterator[str]:
        yield from lines
        raise TuningDBError("a layer", "it went away", "try again")

    with pytest.raises(TuningDBError, match="went away"):
        write_pin(path, broken(), MARK, COLUMNS)
    assert list(folder.iterdir()) == []
    write_pin(path, lines[:5], MARK, COLUMNS)
    before = path.read_bytes()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        for size in (1 << 12, 1 << 16):  # stands in for a full disk, early and late
            resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
            with pytest.raises(TuningDBError):
                write_pin(path, lines, MARK, COLUMNS, again=True)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert list(folder.iterdir()) == [path] and path.read_bytes() == before


def test_the_lines_of_an_entry_are_what_its_winner_rests_on(db: TuningDB) -> None:
    problem = ProblemRecord("p", {"N": 1})
    tried = [
        Trial({"B": 1}, "ok", measured_us=1.0, source="new"),
        Trial({"B": 2}, "ok", measured_us=2.0, source="new"),
        Trial({"B": 3}, "wrong", source="new"),
        Trial({"B": 4}, "crash", source="new"),
        Trial({"B": 5}, "compiled", predicted_us=1.0, source="new"),
        Trial({"B": 6}, "started", source="new"),
        Trial({"B": 7}, "ok", measured_us=0.5, source="old"),
    ]
    db.record(HERE, problem, tried, origin="x", run_id="r1")
    db.record(THERE, problem, tried, origin="x", run_id="r2")
    db.record(HERE, ProblemRecord("q", {"N": 2}), tried, origin="x", run_id="r3")
    found = list(entry_lines(db, "p", HERE.hash, ["new"]))
    assert found == [
        line
        for line in export_lines(db)
        if '"id":"r1"' in line and any(f'"B":{b}' in line for b in (1, 2, 3))
    ]
    assert len(found) == 3
    assert list(entry_lines(db, "none", HERE.hash, ["new"])) == []
    assert list(entry_lines(db, "p", HERE.hash, [])) == []
