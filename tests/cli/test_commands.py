"""Each command, for people and as JSON."""

from __future__ import annotations

import json
import math
import re
import tempfile
from importlib.metadata import version
from pathlib import Path

import pytest

from autoconv import lookup as lookups
from autoconv import settings
from autoconv.cli.common import print_json
from autoconv.device import find
from autoconv.environment import Environment
from autoconv.kernels.registry import kernels, supporting
from autoconv.kernels.source import source_of
from autoconv.problem import Problem
from autoconv.sweep.candidates import candidates
from autoconv.sweep.sweep import Swept
from autoconv.tuning.accuracy import TYPICAL_ERROR_PCT
from tuning_db import Trial

PROBLEM = "N=1,Cin=16,Cout=16,K=1,L=16"
ODD = "N=2,Cin=5,Cout=7,K=4,L=61,stride=3,dilation=2,padding=3,bias=1"
SEED = "N=64,Cin=64,Cout=128,K=3,L=224280,stride=3,dilation=4"
BASELINE = ("--kernel", "im2col_rows", "--config",
             '{"BLOCK_M":64,"BLOCK_N":64,"BLOCK_K":32,"num_warps":4,"num_stages":2}')  # fmt: skip
REFERENCE = Path(__file__).parents[2] / "docs" / "cli.md"


def documented(command: str) -> set[str]:
    """The fields that docs/cli.md promises of a command's JSON."""
    (row,) = re.findall(
        rf"^\| `{command}`.*?\| (.*) \|$", REFERENCE.read_text(encoding="utf-8"), re.MULTILINE
    )
    return set(re.findall(r"\w+", re.sub(r"\(.*?\)|\bor\b", "", row)))


def one_object(result) -> dict:
    (line,) = result.stdout.splitlines()
    return json.loads(line)


# --- tune -----------------------------------------------------------------------------------------


def test_tune_prints_one_object_and_nothing_else_on_stdout(tuned):
    fields = tuned.fields
    assert set(fields) == documented("tune")
    assert (fields["problem"], fields["device"], fields["swept"]) == (PROBLEM, "rtx4090", True)
    assert (fields["provenance"], fields["measured_ms"]) == ("predicted", None)
    assert fields["kernel"] in kernels()
    assert set(fields["config"]) == {*kernels()[fields["kernel"]].tiles, "num_warps", "num_stages"}
    assert 0 < fields["floor_ms"] < fields["predicted_ms"]
    assert fields["model_error_pct"] == TYPICAL_ERROR_PCT[fields["kernel"]]
    assert 0 < fields["compiled"] <= fields["candidates"]
    assert 1 <= len(fields["grid"]) <= 3
    assert fields["seconds"] > 0
    assert "{" not in tuned.stderr and "Traceback" not in tuned.stderr


def test_tune_again_answers_from_the_database(tuned, run):
    again = one_object(run("tune", PROBLEM, "--device", "rtx4090", "--json"))
    assert (again["swept"], again["candidates"], again["compiled"], again["seconds"]) == (False, 0, 0, 0.0)
    kept = ("kernel", "config", "grid", "provenance", "predicted_ms", "floor_ms")
    assert {name: again[name] for name in kept} == {name: tuned.fields[name] for name in kept}


@pytest.fixture
def no_workers(monkeypatch):
    """No worker process starts, so that a sweep is an error."""

    def refuse(*_):
        raise AssertionError("a worker was given a task")

    monkeypatch.setattr("autoconv.sweep.pool.Worker.begin", refuse)


def test_tune_is_content_with_what_the_package_brings(run, no_workers):
    """The README's own example."""
    shown = run("tune", SEED, "--device", "rtx4090", "--json")
    fields = one_object(shown)
    assert shown.exit_code == 0
    assert (fields["swept"], fields["provenance"]) == (False, "predicted")
    assert fields["config"] == one_object(run("lookup", SEED, "--device", "rtx4090", "--json"))["config"]


def in_vain(problem, job, *_, **__):
    """Stand in for a sweep, and find nothing among its candidates."""
    assert candidates(problem, job.device)
    return Swept(None, (), recorded=True, candidates=0, compiled=0, seconds=0.0)


def test_tune_is_not_content_with_a_near_size(tuned, run, monkeypatch):
    monkeypatch.setattr("autoconv.sweep.executor.sweep", in_vain)
    fields = one_object(run("tune", PROBLEM.replace("L=16", "L=17"), "--device", "rtx4090", "--json"))
    assert fields["swept"] is True


def test_tune_for_a_person(tuned, run):
    shown = run("tune", PROBLEM, "--device", "rtx4090")
    assert shown.exit_code == 0
    assert f"{PROBLEM} on rtx4090" in shown.stdout
    for word in (tuned.fields["kernel"], "predicted", " % of floor", "the database, no sweep"):
        assert word in shown.stdout


def test_tune_ends_with_what_it_tried_and_of_several_problems_with_a_summary(run, monkeypatch):
    """By a stand-in for the sweep, whose trials are a real problem's candidates."""

    def sweep(problem, job, *_, **__):
        first, second = candidates(problem, job.device)[:2]
        trials = (
            Trial(first.document(), "ok", predicted_us=4.0, predictor="m"),
            Trial(second.document(), "ok", predicted_us=2.0, predictor="m"),
            *(Trial({**first.document(), "num_stages": 10 + n}, "compiled") for n in range(9)),
        )
        return Swept(None, trials, recorded=True, candidates=625, compiled=11, seconds=1.5)

    monkeypatch.setattr("autoconv.sweep.executor.sweep", sweep)
    shown = run("tune", PROBLEM, PROBLEM.replace("L=16", "L=24"), "--device", "l4", "--again")
    lines = [line.split() for line in shown.stdout.splitlines()]
    assert ["a", "sweep", "of", "625", "candidates,"] in [line[1:6] for line in lines]
    tables = [place for place, line in enumerate(lines) if line[:2] == ["place", "measured"]]
    assert len(tables) == 2
    first, second = lines[tables[0] + 1 : tables[0] + 3]
    assert (first[:4], first[4:6]) == (["1", "-", "0.002", "ms"], ["100", "%"])
    assert (second[:4], second[4:6]) == (["2", "-", "0.004", "ms"], ["50", "%"])
    assert ["and", "1", "more"] in lines
    (summary,) = [place for place, line in enumerate(lines) if line == ["2", "problems"]]
    assert summary > tables[1] and sum("1.5 s" in " ".join(line) for line in lines[summary:]) == 2


def test_several_problems_are_several_lines_and_one_named_twice_is_one(tuned, run, monkeypatch):
    monkeypatch.setattr("autoconv.sweep.executor.sweep", in_vain)
    other = PROBLEM.replace("L=16", "L=4096")
    shown = run("tune", PROBLEM, other, PROBLEM, "--device", "rtx4090", "--json")
    lines = [json.loads(line) for line in shown.stdout.splitlines()]
    assert sorted(line["problem"] for line in lines) == sorted([PROBLEM, other])
    assert [line["swept"] for line in lines if line["problem"] == PROBLEM] == [False]


def test_a_sweep_cut_short_is_a_negative_answer(run, monkeypatch):
    monkeypatch.setattr("autoconv.sweep.executor.sweep", in_vain)
    shown = run("tune", PROBLEM, "--device", "l4", "--json")
    assert shown.exit_code == 1
    fields = one_object(shown)
    assert [fields[name] for name in ("provenance", "kernel", "config", "grid", "predicted_ms")] == [None] * 5
    person = run("tune", PROBLEM, "--device", "l4")
    assert (person.exit_code, "torch serves this problem" in person.stdout) == (1, True)


# --- lookup ---------------------------------------------------------------------------------------


def test_lookup_finds_what_was_tuned(tuned, run):
    shown = run("lookup", PROBLEM, "--device", "rtx4090", "--json")
    fields = one_object(shown)
    assert shown.exit_code == 0
    assert set(fields) == documented("lookup") - {"why"}
    assert (fields["found"], fields["grade"], fields["layer"]) == (True, "exact", "user")
    for name in ("problem", "device", "kernel", "config", "provenance", "predicted_ms", "measured_ms"):
        assert fields[name] == tuned.fields[name]
    person = run("lookup", PROBLEM, "--device", "rtx4090")
    assert person.stdout.startswith(f"{PROBLEM} on rtx4090\nconfig     {fields['kernel']}[")
    assert "predicted, grade exact, layer user" in person.stdout
    assert (fields["tuned_for"], fields["pinned"]) == (PROBLEM, False)
    assert 0 < fields["floor_ms"] < fields["predicted_ms"]
    of_floor = 100 * fields["floor_ms"] / fields["predicted_ms"]
    assert f"\npredicted  {fields['predicted_ms']:.4g} ms, {of_floor:.0f} % of floor" in person.stdout
    assert f"\nfloor      {fields['floor_ms']:.4g} ms, " in person.stdout
    assert "measured" not in person.stdout


def test_lookup_finds_a_near_size_and_says_which(tuned, run):
    near = PROBLEM.replace("L=16", "L=17")
    shown = run("lookup", near, "--device", "rtx4090", "--json")
    fields = one_object(shown)
    assert shown.exit_code == 0
    assert set(fields) == documented("lookup") - {"why"}
    names = ("found", "grade", "layer", "provenance", "problem", "tuned_for", "kernel", "measured_ms")
    assert [fields[name] for name in names] == [
        True, "bucket", "user", "predicted", near, PROBLEM, tuned.fields["kernel"], None,
    ]  # fmt: skip
    assert fields["predicted_ms"] > fields["floor_ms"]
    person = run("lookup", near, "--device", "rtx4090")
    assert person.exit_code == 0
    assert "predicted, grade bucket, layer user" in person.stdout
    assert f"tuned for  {PROBLEM}" in person.stdout


@pytest.fixture
def contended(run):
    """A database whose only entry was timed beside other work."""
    problem, config = Problem.parse(PROBLEM), {"kernel": "dense", "num_warps": 1, "num_stages": 2}
    config |= {"BLOCK_CO": 16, "BLOCK_L": 16, "BLOCK_R": 16}
    of_problem, of_environment = lookups.records(problem, Environment.current(find("rtx4090")))
    source, marked = source_of("dense") or "", {"contended": True}
    trial = Trial(config, "ok", samples_us=(2000.0,) * 3, source=source, detail=marked)
    with lookups.open_user(settings.load()) as database:
        database.record(of_environment, of_problem, [trial], origin="sweep")


def test_a_time_taken_beside_other_work_is_shown_as_that_alone(contended, run):
    fields = one_object(run("lookup", PROBLEM, "--device", "rtx4090", "--json"))
    names = ("grade", "provenance", "measured_ms", "contended_ms")
    assert [fields[name] for name in names] == ["exact", "contended", None, 2.0]
    person = run("lookup", PROBLEM, "--device", "rtx4090")
    assert "contended, grade exact, layer user" in person.stdout
    remark = r"contended +2 ms, [\d.]+ % of floor, timed beside other work; `autoconv tune` measures it"
    assert re.search(remark, person.stdout)
    known = run("tune", PROBLEM, "--device", "rtx4090")
    assert re.search(r"contended +2 ms", known.stdout) and "measured " not in known.stdout


def test_check_and_rebuild_know_winners_of_times_taken_beside_other_work(contended, run):
    assert run("db", "check").exit_code == 0
    assert one_object(run("db", "rebuild", "--json")) == {"winners": 1, "bad_rows": 0}


def test_lookup_says_why_it_finds_nothing(tuned, run):
    other = PROBLEM.replace("L=16", "L=33")
    shown = run("lookup", other, "--device", "rtx4090", "--json")
    fields = one_object(shown)
    assert shown.exit_code == 1
    assert set(fields) == documented("lookup")
    assert fields["why"] == ["nearest: another problem", "L: 33 here, 16 there"]
    person = run("lookup", PROBLEM, "--device", "l4")
    assert person.exit_code == 1
    head, title, _config, _predicted, _floor, source, nearest, *_ = map(
        str.rstrip, person.stdout.splitlines()
    )
    assert head == "not found; what the policy predict would run:"
    assert title == f"{PROBLEM} on l4"
    assert source.endswith("transferred, grade scaled, layer user")
    assert nearest == "  nearest: this problem in another environment, layer user"
    assert "  device: l4 here, rtx4090 there" in person.stdout


def test_lookup_gives_what_would_serve_under_predict(tuned, run):
    near = one_object(run("lookup", PROBLEM.replace("L=16", "L=33"), "--device", "rtx4090", "--json"))
    assert (near["found"], near["grade"], near["layer"], near["provenance"]) == (
        False, "nearest", "user", "transferred",
    )  # fmt: skip
    assert (near["kernel"], near["config"]) == (tuned.fields["kernel"], tuned.fields["config"])
    assert near["predicted_ms"] > 0 and near["measured_ms"] is None
    far = one_object(run("lookup", "N=1,Cin=64,Cout=64,K=33,L=4096", "--device", "rtx4090", "--json"))
    assert (far["found"], far["grade"], far["layer"], far["provenance"]) == (
        False, "default", "none", "predicted",
    )  # fmt: skip
    assert far["kernel"] in kernels() and far["predicted_ms"] > 0


def test_lookup_says_why_when_asked_even_of_what_it_finds(tuned, run):
    shown = run("lookup", PROBLEM, "--device", "rtx4090", "--why", "--json")
    assert shown.exit_code == 0
    fields = one_object(shown)
    assert fields["why"] == ["nearest: this problem in this very environment, layer user"]


def test_the_packaged_database_has_the_seed_problem(run):
    """Fails where a jit function changed: the packaged text has to be tuned anew."""
    assert lookups.PREBUILT.is_file()
    fields = one_object(run("lookup", SEED, "--device", "rtx4090", "--json"))
    assert (fields["found"], fields["grade"], fields["layer"]) == (True, "exact", "prebuilt"), fields["why"]


def test_auto_is_the_gpu_here_or_a_note_on_stderr(tuned, run):
    import torch

    shown = run("lookup", PROBLEM, "--json")
    assert ("no GPU here: answering for rtx4090" in shown.stderr) != torch.cuda.is_available()
    assert one_object(shown)["found"] or torch.cuda.is_available()


# --- explain --------------------------------------------------------------------------------------


def test_explain_gives_the_published_figures(run):
    shown = run("explain", SEED, *BASELINE, "--device", "rtx4090", "--json")
    fields = one_object(shown)
    assert shown.exit_code == 0
    assert set(fields) == documented("explain")
    assert (fields["grid"], fields["blocks"]) == ([74758, 2], 149516)
    assert fields["provenance"] == "predicted"
    assert fields["ideal_bytes"] == 4 * (64 * 64 * 224280 + 128 * 64 * 3 + 64 * 128 * 74758)
    person = run("explain", SEED, *BASELINE, "--device", "rtx4090")
    assert "74758 x 2 = 149516 blocks" in person.stdout
    assert "predicted, not measured" in " ".join(person.stdout.split())


def test_explain_sets_two_configs_side_by_side(run):
    other = '{"BLOCK_CO":128,"BLOCK_L":128,"BLOCK_R":16,"num_warps":8,"num_stages":3}'
    call = (
        "explain",
        SEED,
        *BASELINE,
        "--against",
        other,
        "--against-kernel",
        "dense",
        "--device",
        "rtx4090",
    )
    lines = [json.loads(line) for line in run(*call, "--json").stdout.splitlines()]
    assert [line["kernel"] for line in lines] == ["im2col_rows", "dense"]
    assert set(lines[0]) == set(lines[1]) == documented("explain")
    person = " ".join(run(*call).stdout.split())
    assert "The second is faster by" in person and "within the model's error" not in person
    errors = [TYPICAL_ERROR_PCT[line["kernel"]] for line in lines]
    assert [line["model_error_pct"] for line in lines] == errors
    assert "model's error" in person and f"{errors[0]:g} % in the median" in person


def test_explain_says_where_the_model_cannot_tell_two_configs_apart(run):
    config = json.loads(BASELINE[-1])
    other = json.dumps({**config, "num_stages": config["num_stages"] + 1})
    person = run("explain", SEED, *BASELINE, "--against", other, "--device", "rtx4090").stdout
    error = TYPICAL_ERROR_PCT["im2col_rows"]
    assert f"The difference is within the model's error, {error:g} %." in " ".join(person.split())


def test_explain_takes_given_resources_in_place_of_the_compiled_ones(run):
    call = ("explain", SEED, *BASELINE, "--device", "rtx4090", "--json", "--resources")
    fields = one_object(run(*call, "registers=184,shared=16384,spills=8"))
    assert [fields[name] for name in ("registers", "shared", "spills")] == [184, 16384, 8]
    assert fields["blocks_per_sm"] == 65536 // (184 * 4 * 32)


def test_explain_takes_the_config_on_record(tuned, run):
    fields = one_object(run("explain", PROBLEM, "--device", "rtx4090", "--json"))
    for name in ("kernel", "config", "grid"):
        assert fields[name] == tuned.fields[name]
    assert fields["predicted_ms"] == pytest.approx(tuned.fields["predicted_ms"])


def test_explain_takes_the_best_estimate_where_nothing_is_on_record(run):
    fields = one_object(run("explain", PROBLEM, "--device", "rtx4090", "--json"))
    assert (fields["kernel"] in kernels(), fields["compiled"]) == (True, True)


def test_explain_a_config_that_the_device_cannot_launch(run):
    big = '{"BLOCK_CO":64,"BLOCK_L":64,"BLOCK_R":64,"num_warps":4,"num_stages":5}'
    call = (
        "explain",
        "N=1,Cin=256,Cout=64,K=3,L=256",
        "--kernel",
        "dense",
        "--config",
        big,
        "--device",
        "l4",
    )
    shown = run(*call, "--json")
    assert shown.exit_code == 1
    assert (one_object(shown)["blocks_per_sm"], one_object(shown)["predicted_ms"]) == (0, None)
    person = run(*call)
    assert person.exit_code == 1
    assert "none: no block fits an SM, for want of shared memory" in " ".join(person.stdout.split())
    assert "inf" not in person.stdout


# --- verify ---------------------------------------------------------------------------------------


SMALL = '{"BLOCK_CO":16,"BLOCK_L":16,"BLOCK_R":16,"num_warps":2,"num_stages":2}'


@pytest.mark.parametrize(
    ("dtype", "config", "checked"),
    [
        ("float32", (), {kernel.name for kernel in supporting(Problem.parse(ODD))}),
        pytest.param("float16", ("--kernel", "dense", "--config", SMALL), {"dense"}, marks=pytest.mark.long),
        ("bfloat16", ("--kernel", "dense", "--config", SMALL), {"dense"}),
    ],
    ids=["float32, every kernel", "float16, one", "bfloat16, one"],
)
def test_verify(dtype, config, checked, run):
    problem = f"{ODD},dtype={dtype}"
    shown = run("verify", problem, *config, "--device", "rtx4090", "--json")
    fields = one_object(shown)
    assert shown.exit_code == 0
    assert set(fields) == documented("verify")
    assert (fields["ok"], fields["unwritten"], fields["where"]) == (True, 0, "interpreter")
    assert 0 < fields["max_rel_err"] < 8e-3
    assert {one["kernel"] for one in fields["checked"]} == checked


def test_verify_one_config_for_a_person(run):
    call = ("verify", "N=2,Cin=5,Cout=7,K=4,L=61", "--kernel", "dense", "--config", SMALL, "--device", "l4")
    shown = run(*call)
    assert shown.exit_code == 0
    (line,) = shown.stdout.splitlines()
    assert line.startswith("ok    dense[BLOCK_CO=16 BLOCK_L=16 BLOCK_R=16 num_warps=2 num_stages=2]: largest")
    assert "0 elements unwritten" in line


def test_numbers_that_json_has_not_become_null(capsys):
    print_json({"worst": math.inf, "checked": [{"max_rel_err": math.nan}, {"max_rel_err": 0.5}], "n": (1,)})
    assert json.loads(capsys.readouterr().out) == {
        "worst": None, "checked": [{"max_rel_err": None}, {"max_rel_err": 0.5}], "n": [1],
    }  # fmt: skip


# --- db, doctor -----------------------------------------------------------------------------------


def test_db_info_counts(tuned, run):
    fields = one_object(run("db", "info", "--json"))
    assert set(fields) == documented("db info")
    assert (fields["runs"], fields["winners"], fields["problems"], fields["environments"]) == (1, 1, 1, 1)
    assert fields["trials"] >= tuned.fields["compiled"]
    assert fields["path"] == str(tuned.database)
    person = run("db", "info").stdout
    assert re.search(r"^winners +1$", person, re.MULTILINE)


def test_db_info_of_a_new_file_is_all_zeros(run):
    fields = one_object(run("db", "info", "--json"))
    assert [fields[name] for name in ("runs", "trials", "winners", "problems", "environments")] == [0] * 5


def test_doctor_looks_at_everything(tuned, run):
    shown = run("doctor", "--json")
    findings = [json.loads(line) for line in shown.stdout.splitlines()]
    assert shown.exit_code == 0
    assert all(set(finding) == documented("doctor") for finding in findings)
    by_subject = {finding["subject"]: finding for finding in findings}
    assert list(by_subject) == ["triton", "numpy", "cuobjdump", "gpu", "database", "misses", "pins",
                                "prebuilt", "cache", "temporary files"]  # fmt: skip
    assert by_subject["triton"]["detail"].startswith(version("triton"))
    assert "1 winners" in by_subject["database"]["detail"]
    assert by_subject["cache"]["detail"] == str(tuned.cache)
    person = run("doctor")
    assert person.exit_code == 0
    assert [line[6:].split(":")[0] for line in person.stdout.splitlines()] == list(by_subject)


@pytest.mark.parametrize(
    ("variable", "value", "finding"),
    [
        ("AUTOCONV_ON_MISS", "maybe", "settings: setting: AUTOCONV_ON_MISS=maybe: is not a policy"),
        ("AUTOCONV_DB", "/proc/nowhere/tuning.db", "database: its folder cannot be made"),
        ("AUTOCONV_CACHE", "/proc/nowhere", "cache: /proc/nowhere cannot be written"),
    ],
)
def test_doctor_fails_in_words(variable, value, finding, run, monkeypatch):
    monkeypatch.setenv(variable, value)
    shown = run("doctor")
    assert shown.exit_code == 1
    (failure,) = [line for line in shown.stdout.splitlines() if line.startswith("FAIL")]
    assert failure.startswith(f"FAIL  {finding}")
    assert run("doctor", "--json").exit_code == 1


def test_doctor_misses_a_temporary_folder(run, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", "/nowhere")
    shown = run("doctor")
    assert shown.exit_code == 1
    assert re.search(r"^FAIL  temporary files: cannot be written .*; set TMPDIR", shown.stdout, re.M)
