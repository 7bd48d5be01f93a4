"""What docs/database.md shows works as shown."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tuning_db import EnvironmentRecord, ProblemRecord, Trial, TuningDB, import_lines

TEXT = (Path(__file__).parents[2] / "docs" / "database.md").read_text(encoding="utf-8")


def test_the_example_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (example,) = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)
    exec(example, {})
    assert capsys.readouterr().out == "{'BLOCK': 128}\n"


@pytest.mark.parametrize("query", re.findall(r"```sql\n(.*?)```", TEXT, re.DOTALL))
def test_each_query_answers(path: Path, query: str) -> None:
    environment = EnvironmentRecord({"arch": "sm_89"}, {"device": "L4"})
    with TuningDB.open(path, columns={"N": int}) as db:
        for n in range(12):
            trials = [
                Trial({"BLOCK": b}, "ok", measured_us=100 + n * b, detail={"default": b == 64})
                for b in (32, 64)
            ]
            near = Trial({"BLOCK": 64, "near": True}, "ok", measured_us=101 + n * 32)
            failed = Trial({"BLOCK": 256}, "resources", error="shared memory")
            problem = ProblemRecord(f"N={n:02}", {"N": n})
            db.record(environment, problem, [*trials, near, failed], origin="sweep")
            slower = Trial({"BLOCK": 8}, "ok", measured_us=9999.0, source="b")
            db.add(db.start(environment, origin="sweep"), problem, slower)
        import_lines(db, ["no trial\n"])
    shown = subprocess.run(
        [sys.executable, "-m", "sqlite_utils", "query", str(path), query],
        capture_output=True,
        text=True,
        check=True,
    )
    rows = json.loads(shown.stdout)
    assert rows
    if "LIMIT 10" in query:
        assert len(rows) == 10
        assert rows[0] == {
            "problem": "N=11", "device": "L4", "provenance": "measured",
            "default_us": 804.0, "best_us": 452.0, "gain": 1.78,
        }  # fmt: skip
        assert [row["gain"] for row in rows] == sorted([row["gain"] for row in rows], reverse=True)
