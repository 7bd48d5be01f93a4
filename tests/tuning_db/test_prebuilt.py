from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

import tuning_db
from tuning_db import (
    DamagedError,
    EnvironmentRecord,
    ForeignFileError,
    ProblemRecord,
    Trial,
    TuningDB,
    export_lines,
)
from tuning_db.prebuilt import build, is_intact

COLUMNS = {"N": int}


@pytest.fixture
def texts(tmp_path: Path) -> list[Path]:
    """The same problem from two devices, one text each."""
    files = []
    for name in ("l4", "rtx4090"):
        with TuningDB.open(tmp_path / f"{name}.db", columns=COLUMNS) as db:
            environment = EnvironmentRecord({"arch": "sm_89"}, {"device": name})
            trials = [Trial({"B": b}, "ok", predicted_us=float(b)) for b in (1, 2)]
            db.record(environment, ProblemRecord("N=1", {"N": 1}), trials, origin="prebuilt", run_id=name)
            files.append(tmp_path / f"{name}.jsonl")
            files[-1].write_text("".join(export_lines(db)), encoding="utf-8")
    return files


def test_the_built_database_holds_the_text(texts: list[Path], tmp_path: Path) -> None:
    target = tmp_path / "built.db"
    assert build(texts, target, COLUMNS, application="tests") == 4
    before = target.read_bytes()
    with TuningDB.open_readonly(target, columns=COLUMNS, application="tests", immutable=True) as db:
        assert {winner.environment.soft["device"] for winner in db.winners("N=1")} == {"l4", "rtx4090"}
        assert sorted(export_lines(db)) == sorted(
            "".join(text.read_text() for text in texts).splitlines(True)
        )
    assert target.read_bytes() == before
    with pytest.raises(ForeignFileError):
        TuningDB.open_readonly(target, columns=COLUMNS, application="other", immutable=True)


def test_the_same_text_gives_the_same_bytes(texts: list[Path], tmp_path: Path) -> None:
    build(texts, tmp_path / "one.db", COLUMNS)
    build(reversed(texts), tmp_path / "two.db", COLUMNS)
    assert (tmp_path / "one.db").read_bytes() == (tmp_path / "two.db").read_bytes()


def test_a_digest_lies_beside_it(texts: list[Path], tmp_path: Path) -> None:
    target = tmp_path / "built.db"
    build(texts, target, COLUMNS)
    expected = f"{hashlib.sha256(target.read_bytes()).hexdigest()}  built.db\n"
    assert (tmp_path / "built.db.sha256").read_text() == expected
    assert is_intact(target)
    target.write_bytes(target.read_bytes()[:-1] + b"\x01")
    assert not is_intact(target)
    build(texts, target, COLUMNS)  # replaces what is there
    assert is_intact(target)


def test_damaged_text_builds_nothing(texts: list[Path], tmp_path: Path) -> None:
    texts[1].write_text(texts[1].read_text().replace('"predicted_us":2.0', '"predicted_us":0.2'))
    files = set(tmp_path.iterdir())
    with pytest.raises(DamagedError, match="line 2"):
        build(texts, tmp_path / "built.db", COLUMNS)
    assert set(tmp_path.iterdir()) == files


def test_no_text_builds_an_empty_database(tmp_path: Path) -> None:
    assert build([], tmp_path / "built.db", COLUMNS) == 0
    with TuningDB.open_readonly(tmp_path / "built.db", columns=COLUMNS, immutable=True) as db:
        assert db.info()["trials"] == 0


def test_the_public_names_are_there() -> None:
    assert sorted(tuning_db.__all__) == tuning_db.__all__
    assert all(hasattr(tuning_db, name) for name in tuning_db.__all__)
