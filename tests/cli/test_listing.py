"""`autoconv db list` and `autoconv db show`: what is tuned, and what was tried, over all layers."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from autoconv import lookup
from autoconv.config import Config
from autoconv.cost.version import predictor_of
from autoconv.device import find
from autoconv.environment import Environment
from autoconv.kernels.aten import ATEN
from autoconv.kernels.source import source_of
from autoconv.lookup.listing import placed
from autoconv.problem import Problem
from tests.cli.conftest import DEVICE, PROBLEM, Run, Tuned
from tests.cli.test_commands import SEED, documented
from tuning_db import Trial, TuningDB

pytestmark = pytest.mark.usefixtures("few_packaged")

ODD = Problem.parse(
    "N=2,Cin=8,Cout=16,K=4,L=61,op=conv_transpose,padding=1:2,activation=gelu,bias=1,dtype=float16"
)
IEEE = Problem.parse("N=1,Cin=4,Cout=4,K=3,L=9,precision=ieee")
L4 = Environment.current(find("l4"))
FOREIGN = Trial(
    {"kernel": "dense", "BLOCK_CO": 16, "BLOCK_L": 16, "BLOCK_R": 16, "num_warps": 4, "num_stages": 2},
    "ok", predicted_us=3.0, predictor="x-y", source="old",
)  # fmt: skip


def config(**numbers: int) -> dict[str, Any]:
    tiles = {"BLOCK_CO": 16, "BLOCK_L": 16, "BLOCK_R": 16, **numbers}
    return Config("dense", tiles, num_warps=4, num_stages=2).document()


def listed(shown: Any) -> list[dict[str, Any]]:
    return [json.loads(line) for line in shown.stdout.splitlines()]


def record(path: Path, problem: Problem, *trials: Trial) -> None:
    with TuningDB.open(path, columns=lookup.COLUMNS, application=lookup.APPLICATION) as db:
        problem_record, environment_record = lookup.records(problem, L4)
        db.record(environment_record, problem_record, trials, origin="sweep")


def test_list_has_the_best_of_every_layer(tuned: Tuned, run: Run) -> None:
    rows = listed(run("db", "list", "--json"))
    assert all(set(row) == documented("db list") for row in rows)
    (own,) = [row for row in rows if row["layer"] == "user"]
    for name in (
        "problem",
        "device",
        "kernel",
        "config",
        "provenance",
        "predicted_ms",
        "measured_ms",
        "floor_ms",
    ):
        assert own[name] == tuned.fields[name]
    assert own["outdated"] is False
    assert own["floor_pct"] == pytest.approx(100 * own["floor_ms"] / own["predicted_ms"])
    packaged = [row for row in rows if row["layer"] == "prebuilt"]
    assert {row["device"] for row in packaged} >= {"rtx4090", "h200"}
    assert len({(row["problem"], row["device"], row["triton"]) for row in packaged}) == len(packaged)
    assert {row["provenance"] for row in packaged} == {"measured", "predicted"}


def test_list_takes_filters_and_an_order(tuned: Tuned, run: Run) -> None:
    def rows(*arguments: str) -> list[dict[str, Any]]:
        return listed(run("db", "list", "--json", *arguments))

    assert {row["device"] for row in rows("--device", "h200")} == {"h200"}
    assert {row["kernel"] for row in rows("--kernel", "aten")} == {"aten"}
    assert {row["triton"] for row in rows("--triton", "3.9")} == {"3.9"}
    assert {row["provenance"] for row in rows("--provenance", "measured")} == {"measured"}
    assert all("op=conv_transpose" in row["problem"] for row in rows("--match", "op=conv_transpose"))
    assert [row["problem"] for row in rows("--layer", "user")] == [PROBLEM]
    floors = [row["floor_pct"] for row in rows("--sort", "floor")]
    assert floors == sorted(floors)
    slowest = [row["measured_ms"] or row["predicted_ms"] for row in rows("--sort", "time")]
    assert slowest == sorted(slowest, reverse=True)
    for alike in ("H200", " h200 "):
        assert rows("--device", alike) == rows("--device", "h200")
    assert {row["device"] for row in rows("--device", "auto")} == {"rtx4090"}
    nothing = run("db", "list", "--device", "b200")
    assert (nothing.exit_code, nothing.stdout) == (1, "nothing is tuned that is asked for\n")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("list", "--device", "rtx409"), "device"),
        (("show", PROBLEM, "--device", "rtx409"), "device"),
        (
            ("list", "--kernel", "densee"),
            "list: kernel=densee: is not a kernel, did you mean dense?;",
        ),
    ],
)
def test_a_name_of_nothing_is_a_wrong_call(run: Run, arguments: tuple[str, ...], message: str) -> None:
    shown = run("db", *arguments)
    assert (shown.exit_code, shown.stdout) == (2, "") and shown.stderr.startswith(f"Error: {message}")


def test_a_device_that_only_the_file_knows_is_one(run: Run, tmp_path: Path) -> None:
    elsewhere = replace(L4, device="prototype")
    with TuningDB.open(tmp_path / "o.db", columns=lookup.COLUMNS, application=lookup.APPLICATION) as db:
        problem_record, environment_record = lookup.records(ODD, elsewhere)
        db.record(environment_record, problem_record, [FOREIGN], origin="sweep")
    shown = run("db", "show", str(ODD), "--device", "Prototype", "--file", str(tmp_path / "o.db"), "--json")
    assert [row["device"] for row in listed(shown)] == ["prototype"]


def test_list_of_one_file_alone(tuned: Tuned, run: Run, tmp_path: Path) -> None:
    record(tmp_path / "other.db", ODD, FOREIGN)
    (row,) = listed(run("db", "list", "--file", str(tmp_path / "other.db"), "--json"))
    assert (row["problem"], row["device"], row["layer"], row["outdated"]) == (
        str(ODD),
        "l4",
        "other.db",
        True,
    )
    person = run("db", "list", "--file", str(tmp_path / "other.db")).stdout
    assert "outdated" in " ".join(person.split())


def test_a_problem_in_a_table_reads_back(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Folded between its fields."""
    monkeypatch.setenv("COLUMNS", "120")
    record(tmp_path / "other.db", ODD, FOREIGN)
    header, *lines = run("db", "list", "--file", str(tmp_path / "other.db")).stdout.splitlines()
    width = header.index("tuned for")
    assert Problem.parse(" ".join(line[:width].strip() for line in lines)) == ODD


@pytest.mark.parametrize("problem", [ODD, Problem.parse(SEED), IEEE])
def test_sql_tells_a_problem_as_the_command_line_does(problem: Problem, tmp_path: Path) -> None:
    record(tmp_path / "t.db", problem, FOREIGN)
    with closing(sqlite3.connect(tmp_path / "t.db")) as connection:
        ((text,),) = connection.execute("SELECT problem FROM best")
    assert Problem.parse(text) == problem
    assert text == str(problem) or problem.dtype != "float32"  # of which SQL tells the only precision, too


def test_show_ranks_what_was_tried(tuned: Tuned, run: Run) -> None:
    shown = run("db", "show", PROBLEM, "--device", DEVICE, "--json")
    rows = listed(shown)
    assert shown.exit_code == 0
    assert all(set(row) == documented("db show") for row in rows)
    assert (rows[0]["place"], rows[0]["best_pct"]) == (1, 100.0)
    assert (rows[0]["kernel"], rows[0]["config"]) == (tuned.fields["kernel"], tuned.fields["config"])
    assert [row["place"] for row in rows] == sorted((row["place"] for row in rows), key=lambda one: one or 99)
    person = run("db", "show", PROBLEM, "--device", DEVICE).stdout
    assert person.startswith(f"{PROBLEM} on rtx4090, Triton ")
    assert "100 %" in person
    assert "and " in run("db", "show", PROBLEM, "--best", "1").stdout.splitlines()[-1]


def test_show_says_what_went_wrong(run: Run, tmp_path: Path) -> None:
    kept = source_of("dense") or ""
    trials = [
        Trial(config(), "ok", measured_us=20.0, source=kept),
        Trial(config(BLOCK_L=32), "ok", measured_us=10.0, source=kept),
        Trial(config(BLOCK_L=64), "resources", error="shared memory: 200 KiB", source=kept),
    ]
    record(tmp_path / "other.db", ODD, *trials)
    person = run("db", "show", str(ODD), "--file", str(tmp_path / "other.db")).stdout
    lines = [line for line in person.splitlines() if "dense" in line]
    assert ["100 %" in lines[0], "50 %" in lines[1], "resources: shared" in " ".join(person.split())] == [
        True
    ] * 3


def test_show_of_what_was_never_tried(run: Run) -> None:
    shown = run("db", "show", str(ODD))
    assert (shown.exit_code, shown.stdout) == (1, "nothing was tried on this problem\n")


def test_what_was_wrong_once_has_no_place() -> None:
    trials = [
        Trial(config(), "ok", measured_us=1.0, source="a"),
        Trial(config(), "wrong", source="a"),
        Trial(config(BLOCK_L=32), "ok", measured_us=2.0, source="a"),
        Trial(config(BLOCK_L=64), "ok", predicted_us=0.5, source="a"),  # not timed, where others were
    ]
    found = placed(trials)
    assert [(one.trial.config["BLOCK_L"], one.place) for one in found] == [
        (32, 1),
        (64, None),
        (16, None),
        (16, None),
    ]


TODAY = source_of("dense") or ""
MODEL = predictor_of("dense")


@pytest.mark.parametrize(
    ("other", "measured"),
    [
        (Trial(config(), "ok", predicted_us=5.0, source=TODAY, predictor="old-dense"), False),
        (Trial(config(), "ok", predicted_us=5.0, source="old", predictor=MODEL), False),
        (Trial(config(), "ok", measured_us=5.0, source="old"), True),
        (Trial(config(), "ok", measured_us=5.0, source="old"), False),
    ],
    ids=["another model", "an older kernel", "both measured", "only the older kernel measured"],
)
def test_what_does_not_compare_with_today_s_comes_after_it_with_places_of_its_own(
    other: Trial, measured: bool, run: Run, tmp_path: Path
) -> None:
    def trial(time: float, **numbers: int) -> Trial:
        times = {"measured_us" if measured else "predicted_us": time}
        return Trial(config(**numbers), "ok", source=TODAY, predictor=MODEL, **times)

    found = placed([other, trial(12.0, BLOCK_L=64), trial(9.0, BLOCK_L=32)])
    assert [(one.trial.config["BLOCK_L"], one.place, one.best_pct) for one in found] == [
        (32, 1, 100), (64, 2, 75), (16, 1, 100),
    ]  # fmt: skip
    record(tmp_path / "t.db", ODD, *(one.trial for one in found))
    rows = listed(run("db", "show", str(ODD), "--json", "--file", str(tmp_path / "t.db")))
    assert [(row["config"]["BLOCK_L"], row["place"], row["outdated"]) for row in rows] == [
        (32, 1, False), (64, 2, False), (16, 1, True),
    ]  # fmt: skip
    person = run("db", "show", str(ODD), "--file", str(tmp_path / "t.db")).stdout
    assert [line.rstrip().endswith("ok, outdated") for line in person.splitlines()[-3:]] == [
        False,
        False,
        True,
    ]


def test_two_versions_of_a_kernel_s_model_do_not_compare_either() -> None:
    model = MODEL.partition("-")[0]
    trials = [
        Trial(config(), "ok", predicted_us=5.0, source=TODAY, predictor=f"{model}-before"),
        Trial(config(BLOCK_L=32), "ok", predicted_us=9.0, source=TODAY, predictor=MODEL),
    ]
    assert [(one.trial.predicted_us, one.place) for one in placed(trials)] == [(9.0, 1), (5.0, 1)]


def test_torch_s_own_competes_with_today_s_kernels_or_with_those_before_where_there_are_none() -> None:
    torchs = [Trial(ATEN.document(), "ok", measured_us=7.0, source="torch 1, cuDNN 1")]
    before = [Trial(config(), "ok", measured_us=5.0, source="old")]
    today = [Trial(config(BLOCK_L=32), "ok", measured_us=9.0, source=TODAY)]

    def times(*trials: Trial) -> list[tuple[float | None, int | None]]:
        return [(one.trial.measured_us, one.place) for one in placed(trials)]

    assert times(*before, *today, *torchs) == [(7.0, 1), (9.0, 2), (5.0, 1)]
    assert times(*before, *torchs) == [(5.0, 1), (7.0, 2)]
    assert times(*torchs) == [(7.0, 1)]
    newer = Trial(ATEN.document(), "ok", measured_us=11.0, source=source_of("aten") or "")
    assert times(*today, *torchs, newer) == [(9.0, 1), (11.0, 2), (7.0, 1)]


@pytest.mark.parametrize("width", [80, 100, 119, 120, 160])
def test_no_terminal_loses_a_column_or_breaks_a_number(
    width: int, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    rows = listed(run("db", "list", "--device", "h200", "--json"))
    lines = run("db", "list", "--device", "h200").stdout.splitlines()
    assert all(len(line) <= width for line in lines)
    assert sum("prebuilt" in line for line in lines) == len(rows)
    for row in rows:
        assert any(f" {row['measured_ms']:.4g} ms " in line for line in lines)


def test_a_row_is_a_line_where_there_is_no_terminal(
    tuned: Tuned, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As grep wants it."""
    monkeypatch.delenv("COLUMNS", raising=False)
    rows = listed(run("db", "list", "--device", DEVICE, "--json"))
    _, *lines = run("db", "list", "--device", DEVICE).stdout.splitlines()
    found = {str(Problem.parse(line.split("  ")[0])) for line in lines}
    assert len(lines) == len(rows) and found == {row["problem"] for row in rows}


def test_no_line_of_a_table_ends_in_blanks(tuned: Tuned, run: Run) -> None:
    for command in (["db", "list"], ["db", "show", PROBLEM], ["lookup", PROBLEM]):
        lines = run(*command, "--device", DEVICE).stdout.splitlines()
        assert len(lines) > 2
        assert [line for line in lines if line != line.rstrip()] == []


def test_a_time_taken_beside_other_work_has_a_column_of_its_own(run: Run, tmp_path: Path) -> None:
    kept, beside = source_of("dense") or "", {"contended": True}
    trials = [
        Trial(config(), "ok", measured_us=20.0, source=kept, detail=beside),
        Trial(config(BLOCK_L=32), "ok", measured_us=10.0, source=kept, detail=beside),
    ]
    file = tmp_path / "other.db"
    record(file, ODD, *trials)
    (row,) = listed(run("db", "list", "--json", "--file", str(file)))
    assert (row["provenance"], row["measured_ms"], row["contended_ms"]) == ("contended", None, 0.01)
    rows = listed(run("db", "show", str(ODD), "--json", "--file", str(file)))
    assert [(row["place"], row["measured_ms"], row["contended_ms"]) for row in rows] == [
        (1, None, 0.01),
        (2, None, 0.02),
    ]
    for command in (("list",), ("show", str(ODD))):
        header, *_ = run("db", *command, "--file", str(file)).stdout.split("0.01 ms")
        assert "contended" in header
    assert "contended" not in run("db", "list").stdout.splitlines()[0]
