"""What `autoconv doctor` says of versions that do not go together."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from autoconv import diagnosis


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
