"""`autoconv db pin`: one read-only file with what serves now, the same for every rank."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from autoconv import lookup, settings
from autoconv.cost.version import predictor_of
from autoconv.device import find
from autoconv.environment import Environment
from autoconv.kernels.aten import ATEN
from autoconv.problem import Problem
from tests.cli.conftest import Run
from tests.cli.test_db import HERE, PROBLEM, config, fields_of, fill, trial
from tuning_db import Layers, Trial, TuningDB

Serve = Callable[..., "lookup.Found | None"]
L4 = Environment.current(find("l4"))


@pytest.fixture(autouse=True)
def _no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("autoconv.gpu.present", lambda: False)


pytestmark = pytest.mark.usefixtures("few_packaged")


@pytest.fixture
def user() -> Path:
    return settings.load().database


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "rank.db"


def from_layers(problem: Problem = PROBLEM, environment: Environment = HERE) -> lookup.Found | None:
    return lookup.find(lookup.open_layers(settings.load()), problem, environment, predictor_of)


def from_file(path: Path, problem: Problem = PROBLEM, environment: Environment = HERE) -> lookup.Found | None:
    with lookup.open_file(path) as database:
        return lookup.find(Layers([("pin", database)], pytest.fail), problem, environment, predictor_of)


def pinned(run: Run, target: Path, *options: str) -> dict[str, object]:
    return fields_of(run("db", "pin", str(target), "--json", *options), "pin")


# --- what it holds --------------------------------------------------------------------------------


def test_it_answers_as_the_layers_do(
    run: Run, user: Path, target: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those of the packaged file, one that the user measured, and one of a site that goes before."""
    shorter, site = replace(PROBLEM, L=2048), tmp_path / "site.db"
    predicted = replace(trial(8), measured_us=None, predicted_us=3.0, predictor=predictor_of("dense"))
    fill(user, trial(4), trial(8))
    fill(user, predicted, problem=shorter)
    fill(site, trial(2), problem=shorter)
    monkeypatch.setenv("AUTOCONV_SITE_DB", str(site))
    with lookup.open_file(lookup.PREBUILT) as packaged:
        problems = [Problem.from_key(one.key) for one in packaged.problems()] + [PROBLEM, shorter]
    before = {problem: from_layers(problem) for problem in problems}
    served = {problem: found for problem, found in before.items() if found is not None}
    assert {found.layer for found in served.values()} == {"user", "site 1", "prebuilt"}
    own = [found for found in served.values() if found.grade != "bucket"]  # a bucket is pinned with its own
    assert pinned(run, target)["problems"] == len(own)
    for problem, found in served.items():
        assert from_file(target, problem) == replace(found, layer="pin", pinned=True)
    assert fields_of(run("db", "check", str(target), "--json"), "check")["ok"]


def test_it_holds_one_answer_whatever_the_driver(run: Run, user: Path, target: Path) -> None:
    """Measured under two drivers, each rank would have had a config of its own."""
    old, new = (replace(HERE, cuda_driver=driver, power_limit_w=450) for driver in ("550.1", "570.1"))
    fill(user, trial(4), replace(trial(8), measured_us=5.0), environment=old)
    fill(user, trial(8), replace(trial(4), measured_us=9.0), environment=new)
    apart = [from_layers(environment=one) for one in (old, new)]
    assert [found and found.config for found in apart] == [config(4), config(8)]
    alike = replace(PROBLEM, L=2048)  # the same times under both
    for one in (old, new):
        fill(user, trial(4), problem=alike, environment=one)
    pinned(run, target)
    with lookup.open_file(target) as database:
        assert len(database.winners(PROBLEM.key())) == len(database.winners(alike.key())) == 1
    ranks = [from_file(target, environment=one) for one in (old, new, HERE)]
    assert len({found.config for found in ranks if found}) == 1 and None not in ranks


def test_with_the_winner_come_the_others_that_passed_and_nothing_else(
    run: Run, user: Path, target: Path
) -> None:
    wrong = replace(trial(2), outcome="wrong", measured_us=None)
    compiled = replace(trial(16), outcome="compiled", measured_us=None, predicted_us=1.0)
    torch = Trial(ATEN.document(), "ok", measured_us=7.0, source="another cuDNN")
    fill(user, trial(4), trial(8), trial(2), compiled, replace(trial(4), source="an older kernel"), torch)
    fill(user, wrong)
    fill(user, trial(1), environment=L4)
    fill(user, trial(1), environment=replace(HERE, triton="2.9"))
    pinned(run, target)
    with lookup.open_file(target) as database:
        assert len(database.trials(PROBLEM.key())) == 5
        tried = {(one.config["num_warps"], one.outcome) for one in database.trials(PROBLEM.key())}
        assert tried == {(4, "ok"), (8, "ok"), (2, "ok"), (2, "wrong"), (ATEN.num_warps, "ok")}
        assert database.environments() == [lookup.records(PROBLEM, HERE)[1]]
    found = from_file(target)
    assert found is not None and found.config == config(4)


def test_a_pin_in_force_is_left_aside_when_pinning_anew(
    run: Run, user: Path, target: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(user, trial(8))
    pinned(run, target)
    monkeypatch.setenv("AUTOCONV_SITE_DB", str(target))
    fill(user, trial(4))
    first = from_layers()
    assert first is not None and (first.config, first.layer) == (config(8), "site 1")
    newer = tmp_path / "newer.db"
    pinned(run, newer)
    found = from_file(newer)
    assert found is not None and found.config == config(4)


def test_nothing_tuned_is_nothing_written(run: Run, target: Path) -> None:
    shown = run("db", "pin", str(target), "--device", "l4", "--json")
    assert (shown.exit_code, shown.stdout, target.exists()) == (1, "", False)
    assert "nothing is tuned for l4" in shown.stderr


# --- what it is -----------------------------------------------------------------------------------


def test_it_is_marked_and_read_only(run: Run, user: Path, target: Path) -> None:
    fill(user, trial(4))
    pinned(run, target)
    assert stat.S_IMODE(target.stat().st_mode) == 0o444
    assert {path.name for path in target.parent.iterdir()} <= {target.name, user.parent.name, "cache"}
    for command in ("info", "check"):
        fields = fields_of(run("db", command, str(target), "--json"), command)
        assert fields["pin"] == "rtx4090" and fields["pinned_at"].startswith("20")
    own = fields_of(run("db", "info", "--json"), "info")
    assert (own["pin"], own["pinned_at"]) == (None, None)
    assert "pin            rtx4090" in run("db", "info", str(target)).stdout


def test_named_among_the_sites_or_as_the_override_it_goes_first(
    run: Run, user: Path, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(user, trial(8))
    pinned(run, target)
    monkeypatch.setenv("AUTOCONV_SITE_DB", os.pathsep.join([str(user), str(target)]))
    layers = lookup.open_layers(settings.load())
    assert layers.pinned and layers.pins == ("site 2",)
    assert [name for name, _ in layers.winners(PROBLEM.key())] == ["site 2", "user", "site 1"]
    monkeypatch.delenv("AUTOCONV_SITE_DB")
    with settings.overriding(target):
        assert lookup.open_layers(settings.load()).pins == ("process",)
    assert not lookup.open_layers(settings.load()).pinned


def test_whoever_would_write_it_is_told(
    run: Run, user: Path, target: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = fill(tmp_path / "other.db", trial(4))
    fill(user, trial(8))
    pinned(run, target)
    before = target.read_bytes()
    monkeypatch.setenv("AUTOCONV_DB", str(target))
    for command in (
        ("db", "merge", str(other)),
        ("db", "prune", "--missed"),
        ("db", "rebuild"),
        ("db", "vacuum"),
        ("tune", str(PROBLEM)),
        ("tune", "--missed"),
    ):
        shown = run(*command)
        assert (shown.exit_code, shown.stdout) == (2, ""), command
        assert "it is a pin of rtx4090 from 20" in shown.stderr and "write to another file" in shown.stderr
    assert target.read_bytes() == before


def test_only_a_pin_is_replaced_and_only_when_told(
    run: Run, user: Path, target: Path, tmp_path: Path
) -> None:
    fill(user, trial(8))
    pinned(run, target)
    with TuningDB.open_readonly(target, columns=lookup.COLUMNS) as reader:
        fill(user, trial(4))
        shown = run("db", "pin", str(target))
        assert (shown.exit_code, shown.stdout) == (2, "") and "a file lies there" in shown.stderr
        link = tmp_path / "link.db"
        link.symlink_to(target)
        pinned(run, link, "--again")
        assert link.is_symlink()
        assert [winner.config["num_warps"] for winner in reader.winners(PROBLEM.key())] == [4]
    before = user.read_bytes()
    shown = run("db", "pin", str(user), "--again")
    assert (shown.exit_code, shown.stdout) == (2, "") and "it is no pin" in shown.stderr
    text = tmp_path / "notes.txt"
    text.write_text("no database" * 99)
    assert run("db", "pin", str(text), "--again").exit_code == 2
    nowhere = run("db", "pin", str(tmp_path / "nowhere" / "x.db"))
    assert (nowhere.exit_code, nowhere.stdout) == (2, "") and "it cannot be written" in nowhere.stderr
    assert user.read_bytes() == before and text.read_text() == "no database" * 99
    assert json.loads(run("db", "info", "--json").stdout)["pin"] is None
