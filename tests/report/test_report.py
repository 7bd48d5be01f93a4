"""A report: what it tells, and that the page needs nothing but itself, in a browser too."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("matplotlib", reason="needs the extra `report`")

from autoconv import lookup, settings
from autoconv.config import Config
from autoconv.cost.version import predictor_of
from autoconv.device import find
from autoconv.environment import Environment
from autoconv.errors import ProblemError
from autoconv.kernels.aten import ATEN
from autoconv.kernels.source import source_of
from autoconv.lookup import published
from autoconv.problem import Problem
from autoconv.report.facts import Asked, Subject, gather, total
from autoconv.report.page import page
from tests.cli.conftest import Run
from tests.cli.conftest import run as run
from tests.cli.test_commands import SEED, documented
from tuning_db import Layers, Miss, Trial, TuningDB

WHISPER = (
    "N=8,Cin=80,Cout=512,K=3,L=3000,padding=1,bias=1,activation=gelu,dtype=float16",
    "N=8,Cin=512,Cout=512,K=3,L=3000,stride=2,padding=1,bias=1,activation=gelu,dtype=float16",
)
UNTRIED = "N=3,Cin=5,Cout=7,K=4,L=61"
BEYOND = "N=1,Cin=1048576,Cout=16,K=1,L=2147483648"  # no kernel reaches so far
CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome") or shutil.which("chromium-browser")


def gathered(text: str, device: str, name: str = "", calls: int = 1) -> Subject:
    found = find(device)
    layers = lookup.open_layers(settings.load())
    return gather(Asked(Problem.parse(text), name, calls), found, Environment.current(found), layers)


def test_what_was_measured_is_told_with_torch_beside_it() -> None:
    """The packaged rows of an H200."""
    one = gathered(SEED, "h200")
    assert (one.grade, one.measured, one.provenance) == ("tried", True, "measured")
    times = [point.measured_us for point in one.points]
    assert times == sorted(times, key=lambda time: time or 0.0) and None not in times
    assert one.torch_us is not None and one.gain == pytest.approx(one.torch_us / times[0])
    assert one.best_of_ours != ATEN and one.prediction is not None and one.prediction.compiled
    assert {"bound", "occupancy", "DRAM"} <= set(one.words) and "time" not in one.words


def test_what_was_predicted_says_so() -> None:
    one = gathered(SEED, "rtx4090")
    assert (one.grade, one.provenance, one.torch_us, one.gain) == (
        "tried",
        "predicted, not measured",
        None,
        None,
    )
    assert len(one.tied) >= 1  # the first ones differ by a hair


def test_what_was_never_tried_is_estimated() -> None:
    one = gathered(UNTRIED, "rtx4090")
    assert (one.sweep, len(one.points), one.measured) == (None, 1, False)
    assert one.provenance == "estimated, not compiled (the best estimate of all candidates)"


L4 = Environment.current(find("l4"))


def gathered_of(folder: Path, *sweeps: tuple[Environment, list[Trial]]) -> Subject:
    """What is told of these sweeps alone, on an l4."""
    problem = Problem.parse(UNTRIED)
    with TuningDB.open(folder / "t.db", columns=lookup.COLUMNS, application=lookup.APPLICATION) as db:
        for environment, trials in sweeps:
            records = lookup.records(problem, environment)
            db.record(records[1], records[0], trials, origin="sweep")
        return gather(Asked(problem), find("l4"), L4, Layers([("one", db)], pytest.fail))


def tried(block: int, **known: Any) -> Trial:
    """A trial of one of today's kernels, told from others by a tile."""
    config = Config("dense", {"BLOCK_CO": 16, "BLOCK_L": block, "BLOCK_R": 16}, num_warps=4, num_stages=2)
    fields = {"outcome": "ok", "source": source_of("dense"), **known}
    return Trial(config.document(), **fields)


def predicted(block: int, time: float, **known: Any) -> Trial:
    return tried(block, predicted_us=time, **{"predictor": predictor_of("dense"), **known})


def beside(trial: Trial) -> Trial:
    return replace(trial, detail={"contended": True})


TORCH = Trial(ATEN.document(), "ok", measured_us=40.0, source="torch 1, cuDNN 1")


def test_what_failed_is_told(tmp_path: Path) -> None:
    failed = tried(16, outcome="resources", error="<b>shared</b> memory")
    one = gathered_of(tmp_path, (L4, [failed, predicted(32, 9.0)]))
    assert [tried.trial.outcome for tried in one.failed] == ["resources"]
    assert "&lt;b&gt;shared&lt;/b&gt; memory" in page([one], "failed")


def test_a_time_taken_beside_other_work_is_not_told_as_measured(tmp_path: Path) -> None:
    trials = [beside(tried(16, measured_us=20.0, predicted_us=9.0)), beside(TORCH)]
    one = gathered_of(tmp_path, (L4, trials))
    assert [(point.measured_us, point.contended_us) for point in one.points] == [(None, 20.0), (None, 40.0)]
    assert (one.best.time_us, one.best.provenance, one.measured) == (20.0, "contended", False)
    assert one.provenance == "timed beside other work, not measured"
    assert (one.torch_us, one.gain) == (None, None)
    summed = total([one])
    assert (summed.best_us, summed.torch_us, summed.provenance) == (20.0, None, one.provenance)
    text = page([one, one], "beside")
    assert '<th class="n">beside other work</th>' in text and "times as fast" not in text
    assert "beside other work half" in text
    measured, estimated = gathered(SEED, "h200"), gathered(UNTRIED, "h200")
    assert total([one, measured]).provenance == "in part timed beside other work, not measured"
    assert total([one, estimated]).provenance == "timed beside other work or predicted, not measured"


@pytest.mark.parametrize("first", [0, 1, 2])
def test_of_several_sweeps_the_measured_comes_first_then_that_beside_other_work(
    first: int, tmp_path: Path
) -> None:
    sweeps = [
        (replace(L4, triton="3.5"), [tried(16, measured_us=30.0)]),
        (replace(L4, triton="3.4"), [beside(tried(16, measured_us=20.0))]),
        (L4, [predicted(16, 10.0)]),
    ]
    one = gathered_of(tmp_path, *reversed(sweeps[first:]))
    assert one.best.time_us == (30.0, 20.0, 10.0)[first]
    assert one.best.provenance == ("measured", "contended", "predicted")[first]


def test_only_what_was_compiled_and_left_over_is_counted_as_that(tmp_path: Path) -> None:
    trials = [
        tried(16, measured_us=20.0),
        beside(tried(32, measured_us=9.0)),
        predicted(64, 8.0),
        tried(128, outcome="compiled", predicted_us=30.0),
    ]
    one = gathered_of(tmp_path, (L4, trials))
    assert (len(one.points), one.compiled, one.apart, one.failed) == (1, 1, 2, ())
    assert "1 compiled and left over,\n2 set aside, whose times do not compare with these," in page([one], "")


def test_what_serves_is_of_today_s_kernels_and_model(tmp_path: Path) -> None:
    before = [
        predicted(16, 5.0, predictor="old-dense"),
        predicted(32, 4.0, source="old"),
        tried(64, measured_us=3.0, source="old"),
    ]
    one = gathered_of(tmp_path, (L4, [*before, predicted(128, 9.0)]))
    assert (one.best.config.tiles["BLOCK_L"], one.best.time_us, one.tied) == (128, 9.0, ())
    assert (len(one.points), one.apart) == (1, 3)


def test_a_sweep_of_today_s_kernels_comes_before_a_measured_one_of_before(tmp_path: Path) -> None:
    other = replace(L4, triton="3.4")
    one = gathered_of(
        tmp_path, (L4, [tried(16, measured_us=3.0, source="old")]), (other, [predicted(32, 9.0)])
    )
    assert one.best.time_us == 9.0
    (tmp_path / "t.db").unlink()
    one = gathered_of(tmp_path, (L4, [tried(16, measured_us=3.0, source="old"), TORCH]))
    assert (one.best.time_us, one.torch_us) == (3.0, 40.0)  # there is nothing of today


def test_the_sum_counts_calls_and_knows_what_it_does_not_know() -> None:
    first, second = (gathered(text, "h200", calls=calls) for text, calls in zip(WHISPER, (1, 3), strict=True))
    summed = total([first, second])
    assert summed.best_us == pytest.approx((first.best.time_us or 0) + 3 * (second.best.time_us or 0))
    assert summed.torch_us == pytest.approx((first.torch_us or 0) + 3 * (second.torch_us or 0))
    assert summed.provenance == "measured" and 0 < summed.floor_pct < 100
    mixed = total([first, gathered(UNTRIED, "h200")])
    assert (mixed.torch_us, mixed.provenance) == (None, "in part predicted, not measured")
    assert total([gathered(UNTRIED, "h200")]).provenance == "predicted, not measured"


class _References(HTMLParser):
    """Everything in a page that a browser would fetch or run."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag in ("script", "iframe", "object", "embed", "base"):
            self.found.append(tag)
        for name, value in attrs:
            leads = name in ("src", "href", "xlink:href", "srcset", "action", "data") or name.startswith("on")
            if leads and not (value or "").startswith(("#", "data:")):
                self.found.append(f"{name}={value}")
            if "url(" in (value or "").replace("url(#", ""):
                self.found.append(f"{name}={value}")


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of three problems: measured ones with names, and one that was not tried."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AUTOCONV_DB", str(tmp_path_factory.mktemp("user") / "tuning.db"))
        names = ("encoder.conv1", "encoder.conv2")
        subjects = [gathered(text, "h200", name) for text, name in zip(WHISPER, names, strict=True)]
        text = page([*subjects, gathered(UNTRIED, "h200")], "Three <convolutions> & a sum")
    file = tmp_path_factory.mktemp("page") / "report.html"
    file.write_text(text, encoding="utf-8")
    return file


def test_the_page_refers_to_nothing_outside_itself(written: Path) -> None:
    text = written.read_text(encoding="utf-8")
    parser = _References()
    parser.feed(text)
    assert parser.found == []
    assert "@import" not in text
    assert "<h1>Three &lt;convolutions&gt; &amp; a sum</h1>" in text
    assert text.count("<svg ") == 1 + 3 * 3  # the layers; of each a roofline, a sweep, the bytes
    assert len(text) < 400_000
    ids = [part.split('"')[0] for part in text.split('<section id="')[1:]]
    assert [f'href="#{one}"' in text for one in ids] == [True] * 3


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed")
def test_a_browser_opens_the_page_without_an_error_or_a_request(written: Path, tmp_path: Path) -> None:
    log = tmp_path / "net.json"
    quiet = (
        "--disable-background-networking",
        "--disable-component-update",
        "--no-first-run",
        "--disable-sync",
    )
    done = subprocess.run(
        [str(CHROMIUM), "--headless", "--no-sandbox", "--disable-gpu", *quiet, "--enable-logging=stderr",
         f"--user-data-dir={tmp_path / 'profile'}", f"--log-net-log={log}", "--dump-dom", written.as_uri()],
        capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "encoder.conv1" in done.stdout and done.stdout.count("<svg ") == 10
    assert "CONSOLE" not in done.stderr
    assert requests(log) <= {written.as_uri()}


def requests(log: Path) -> set[str]:
    """What the page had the browser ask for; the browser's own errands have no origin."""
    events: list[dict[str, Any]] = json.loads(log.read_text(encoding="utf-8"))["events"]
    started = [event["params"] for event in events if "url" in event.get("params", {})]
    return {one["url"] for one in started if one.get("initiator", "not an origin") != "not an origin"}


# --- the command ----------------------------------------------------------------------------------


def test_the_command_takes_problems_and_files_of_them(run: Run, tmp_path: Path) -> None:
    file, out = tmp_path / "whisper.jsonl", tmp_path / "page.html"
    lines = [{"problem": text, "calls": 2, "modules": [f"conv{n}"]} for n, text in enumerate(WHISPER)]
    file.write_text("\n".join(map(json.dumps, lines)) + "\n")
    shown = run("report", str(file), SEED, "--device", "h200", "-o", str(out), "--title", "Mine", "--json")
    assert shown.exit_code == 0, shown.output
    fields = json.loads(shown.stdout)
    assert set(fields) == documented("report")
    assert fields == {"path": str(out), "device": "h200", "problems": 3}
    text = out.read_text(encoding="utf-8")
    assert "<h1>Mine</h1>" in text and "conv0" in text and "conv1" in text


def test_a_layer_s_name_is_text(run: Run, tmp_path: Path) -> None:
    """Between dollars it would be a formula."""
    names = ["enc.$a_{conv$", r"a$\frac$b", "cost $5 to $6"]
    lines = [
        {"problem": UNTRIED.replace("N=3,", f"N={n},"), "modules": [name]} for n, name in enumerate(names, 2)
    ]
    file, out = tmp_path / "layers.jsonl", tmp_path / "page.html"
    file.write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")
    shown = run("report", str(file), "--device", "l4", "-o", str(out))
    assert shown.exit_code == 0, shown.output
    assert out.read_text(encoding="utf-8").count("$") >= 3 * 2


def test_the_command_leaves_to_torch_what_is_torch_s(run: Run, tmp_path: Path) -> None:
    shown = run("report", BEYOND, "--device", "h200", "-o", str(tmp_path / "page.html"))
    assert shown.exit_code == 1
    assert "torch serves" in shown.stderr and "nothing to report on" in shown.stderr
    assert not (tmp_path / "page.html").exists()


def test_the_command_reports_what_was_missed(run: Run, tmp_path: Path) -> None:
    records = lookup.records(Problem.parse(UNTRIED), Environment.current(find("rtx4090")))
    with lookup.open_as_it_is(settings.load()) as database:
        at = "2026-01-01T00:00:00+00:00"
        database.note_misses([Miss(*records, 3, "torch", at, at)])
    shown = run("report", "--missed", "--device", "rtx4090", "-o", str(tmp_path / "page.html"))
    assert shown.exit_code == 0, shown.output
    assert UNTRIED.split(",")[0] in (tmp_path / "page.html").read_text(encoding="utf-8")


def test_the_command_reports_on_a_published_model(run: Run, tmp_path: Path) -> None:
    out = tmp_path / "page.html"
    shown = run("report", "--model", "whisper-tiny", "--device", "h200", "-o", str(out), "--json")
    assert shown.exit_code == 0, shown.output
    posed = published.problems_of("whisper-tiny")
    assert json.loads(shown.stdout)["problems"] == len(posed) > 1
    text = out.read_text(encoding="utf-8")
    assert f"<h1>{len(posed)} convolutions of whisper-tiny on h200</h1>" in text
    assert "float16 products" in text and "ieee products" not in text
    wrong = run("report", "--model", "whisper-tin", "--device", "h200")
    assert wrong.exit_code == 2 and "did you mean whisper-tiny?" in wrong.stderr
    assert run("report", SEED, "--model", "whisper-tiny", "--device", "h200").exit_code == 2


FIELDS = {"N": 3, "Cin": 5, "Cout": 7, "K": 4, "L": 61}


@pytest.mark.parametrize(
    ("text", "name", "calls"),
    [
        (f"# a comment\n\n{UNTRIED}\n", "", 1),
        (json.dumps([{**FIELDS, "model": "vocoder", "layer": "up", "count": 3}]), "vocoder up", 3),
        (json.dumps({"problem": UNTRIED, "layer": "up", "count": 3}), "up", 3),
        (json.dumps({"problem": UNTRIED, "calls": 2, "modules": ["a", "b"]}), "a, b", 2),
    ],
    ids=["text", "an array of fields", "a layer and its count", "modules and calls"],
)
def test_the_command_takes_every_file_that_tune_takes(
    text: str, name: str, calls: int, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, seen = tmp_path / "problems", []
    file.write_text(text)

    def keep(asked: Asked, *_: Any) -> Subject:
        seen.append(asked)
        raise ProblemError("N", 3, "was seen", "look elsewhere")

    monkeypatch.setattr("autoconv.report.facts.gather", keep)
    run("report", str(file), "--device", "h200", "-o", str(tmp_path / "page.html"))
    assert seen == [Asked(Problem.parse(UNTRIED), name, calls)]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("\n\n{no json", "line 3: text={no json: is not JSON"),
        ("[[]]", "entry 1: entry=[]: is neither an object nor a text"),
        ('{"problem": "N=1,Cin=4,Cout=4,K=0,L=9"}', "line 1: K=0: "),
        ('{"problem": "N=1,Cin=4,Cout=4,K=3,L=9", "calls": 0}',
         "line 1: calls=0: is not a number of calls; give a whole number"),
    ],
)  # fmt: skip
def test_a_file_that_is_none_of_problems_is_a_wrong_call(
    text: str, said: str, run: Run, tmp_path: Path
) -> None:
    (tmp_path / "bad.jsonl").write_text(text + "\n")
    shown = run("report", str(tmp_path / "bad.jsonl"), "--device", "h200")
    assert shown.exit_code == 2 and f"bad.jsonl, {said}" in shown.stderr, shown.stderr


def test_what_names_neither_a_problem_nor_a_file_is_a_wrong_call(run: Run, tmp_path: Path) -> None:
    (tmp_path / "binary").write_bytes(b"\xff")
    for name, said in (("absent", "neither name=value nor a file"), ("binary", "cannot be read")):
        shown = run("report", str(tmp_path / name), "--device", "h200")
        assert shown.exit_code == 2 and said in shown.stderr
    assert run("report").exit_code == 2


def test_without_matplotlib_it_says_what_to_install(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("autoconv.report.page", "autoconv.report.pictures"):
        monkeypatch.delattr(name, raising=False)  # as which its package has it, too
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    shown = run("report", SEED, "--device", "h200")
    assert (shown.exit_code, "pip install 'autoconv[report]'" in shown.stderr) == (1, True)
