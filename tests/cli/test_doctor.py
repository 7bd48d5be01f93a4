"""What `autoconv doctor` says of versions that do not go together."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from autoconv import diagnosis, lookup, settings
from tuning_db import EnvironmentRecord, Miss, Pin, ProblemRecord, write_pin


@pytest.mark.parametrize(
    ("triton", "numpy", "status"),
    [
        ("3.6.0", "2.5.0", "warning"),
        ("3.6.0", "2.5.0rc1", "warning"),
        ("3.6.0", "2.4.0", "warning"),
        ("3.6.0", "2.3.5", "ok"),
        ("3.7.1", "2.5.0", "ok"),
        ("absent", "2.5.0", "ok"),
    ],
)
def test_a_numpy_that_breaks_triton_s_interpreter_is_told(
    triton: str, numpy: str, status: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = SimpleNamespace(triton=triton.rpartition(".")[0] or triton, triton_patch=triton)
    monkeypatch.setattr(diagnosis, "_toolchain", lambda: here)
    monkeypatch.setattr(diagnosis, "version", {"numpy": numpy, "torch": "2.11.0"}.__getitem__)
    (found,) = [finding for finding in diagnosis.diagnose() if finding.subject == "numpy"]
    assert found.status == status
    assert status == "ok" or "numpy<2.4" in found.remedy


def finding(subject: str) -> diagnosis.Finding:
    (found,) = [one for one in diagnosis.diagnose() if one.subject == subject]
    return found


def test_misses_are_told() -> None:
    assert finding("misses").status == "ok"
    environment, problem = EnvironmentRecord({"arch": "sm_89"}, {"device": "rtx4090"}), ProblemRecord("a key")
    with lookup.open_user(settings.load()) as database:
        time = "2026-01-01T00:00:00+00:00"
        database.note_misses([Miss(problem, environment, 7, "torch", time, time)])
    found = finding("misses")
    assert (found.status, found.detail) == (
        "warning", "1 problems were called for 7 times and are not tuned",
    )  # fmt: skip
    assert "autoconv tune --missed" in found.remedy


@pytest.mark.parametrize(
    ("name", "status", "serves"),
    [("run7.pin", "failure", "torch serves everything"), ("site.db", "warning", "nothing of it serves")],
)
def test_files_of_others_that_cannot_be_read_are_told(
    name: str, status: str, serves: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert finding("pins") == diagnosis.Finding("pins", "ok", "none")
    monkeypatch.setenv("AUTOCONV_SITE_DB", str(tmp_path / name))
    found = finding("pins")
    assert (found.status, found.remedy) == (status, "check the path")
    assert found.detail == f"{tmp_path / name}: there is no such file; {serves}"


def test_pins_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "run7.pin"
    write_pin(path, [], Pin("rtx4090", "2026-01-01T00:00:00+00:00"), lookup.COLUMNS, application="autoconv")
    monkeypatch.setenv("AUTOCONV_SITE_DB", str(path))
    detail = f"{path} pins rtx4090 since 2026-01-01T00:00:00+00:00"
    assert finding("pins") == diagnosis.Finding("pins", "ok", detail)
