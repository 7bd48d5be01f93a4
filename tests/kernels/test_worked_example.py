"""The kernel that docs/kernels.md writes out: in a copy of the package, its file is all that is needed."""

from __future__ import annotations

import ast
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from autoconv import settings
from autoconv.cli import cli
from autoconv.config import Config
from autoconv.device import find
from autoconv.environment import Environment
from autoconv.kernels import source
from autoconv.kernels.registry import kernels
from autoconv.lookup import COLUMNS, records
from autoconv.problem import Problem
from autoconv.settings import child_environment
from tuning_db import Trial, TuningDB

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "kernels.md").read_text(encoding="utf-8")
SECTION = PAGE.split("\n## Adding one\n")[1]
(EXAMPLE,) = re.findall(r"^```python\n(.*?)^```$", SECTION, re.MULTILINE | re.DOTALL)
(COMMANDS,) = re.findall(r"^```sh\n(.*?)^```$", SECTION, re.MULTILINE | re.DOTALL)
(NAME,) = re.findall(r'^    name = "(\w+)"$', EXAMPLE, re.MULTILINE)
NAMED_PROBLEMS = "tests/kernels/test_numerics.py::test_known_traps"
PROBLEMS = [
    "N=8,Cin=64,Cout=64,K=3,L=4000,padding=1",
    "N=2,Cin=20,Cout=20,K=3,L=900,groups=20",
    "N=2,Cin=3,Cout=8,K=4,L=900",
]


@dataclass(frozen=True)
class Checkout:
    """A copy of the project's code and tests, with files of its own for what they find."""

    root: Path

    @property
    def kernels(self) -> Path:
        return self.root / "autoconv" / "kernels"

    @property
    def database(self) -> Path:
        return self.root / "tuning.db"

    def run(self, *command: str, **variables: str) -> str:
        """Run a command with this copy's code, and return what it prints."""
        # Whatever finds the project's own package in the parent, the copy comes before it.
        path = os.pathsep.join([str(self.root), *sys.path])
        files = {"AUTOCONV_DB": str(self.database), "AUTOCONV_CACHE": str(self.root / "cache")}
        done = subprocess.run(
            command,
            cwd=self.root,
            env=child_environment(PYTHONPATH=path, **files, **variables),
            capture_output=True,
            text=True,
            timeout=280,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def ask(self, code: str, *arguments: str) -> Any:
        """Return what `code` prints as JSON."""
        return json.loads(self.run(sys.executable, "-W", "error", "-c", code, *arguments))


def shown(verb: str) -> list[str]:
    """The words behind the program's name of the command of the docs that does `verb`."""
    commands = map(shlex.split, COMMANDS.replace("\\\n", " ").splitlines())
    (command,) = (words for words in commands if verb in words)
    return command[1:]


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Checkout:
    """The project with the example's file, and one beside it that is no kernel."""
    root = tmp_path_factory.mktemp("with")
    # The copy's tests need all that lies beside theirs but this file, which would copy again.
    ignore = shutil.ignore_patterns("__pycache__", Path(__file__).name)
    for folder in ("autoconv", "tuning_db", "tests/kernels"):
        shutil.copytree(ROOT / folder, root / folder, ignore=ignore)
    for file in ("conftest.py", "pyproject.toml"):
        shutil.copy(ROOT / file, root / file)
    checkout = Checkout(root)
    (checkout.kernels / f"{NAME}.py").write_text(EXAMPLE, encoding="utf-8")
    (checkout.kernels / "notes.py").write_text('"""No kernel."""\n', encoding="utf-8")
    return checkout


def test_the_page_s_table_has_every_kernel() -> None:
    table = PAGE.split("\n## ")[0]
    assert sorted(re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE)) == sorted(kernels())


# --- the file itself ------------------------------------------------------------------------------


def test_it_is_written_as_the_project_is(checkout: Checkout) -> None:
    file = str(checkout.kernels / f"{NAME}.py")
    checkout.run(sys.executable, "-m", "ruff", "check", "--no-cache", file)
    checkout.run(sys.executable, "-m", "ruff", "format", "--no-cache", "--check", file)


def test_outside_its_jit_function_it_is_short() -> None:
    (jit,) = (node for node in ast.parse(EXAMPLE).body if isinstance(node, ast.FunctionDef))
    assert jit.end_lineno is not None
    inside = jit.end_lineno - jit.decorator_list[0].lineno + 1
    assert len(EXAMPLE.splitlines()) - inside <= 60


# --- what finds it --------------------------------------------------------------------------------

# Run with the example by a process of its own, and without it by this one.
OFFERED = f"""
import json, math
from autoconv import Problem, device, estimate
from autoconv.kernels.registry import kernels
from autoconv.kernels.soundness import refusal
from autoconv.sweep.candidates import candidates

def offered():
    at, found = device.find("rtx4090"), {{}}
    for text in {PROBLEMS!r}:
        problem = Problem.parse(text)
        configs = candidates(problem, at)
        for name, one in kernels().items():
            # Every eighth: one estimate takes a millisecond.
            for config in [config for config in configs if config.kernel == name][::8]:
                found.setdefault(name, []).append({{
                    "problem": text,
                    "config": str(config),
                    "seconds": estimate(problem, config, at).seconds,
                    "refused": refusal(problem, config, at.arch),
                    "whole": math.prod(one.grid(problem)(config.meta)) == one.work(problem, config).blocks,
                }})
    return {{"kernels": list(kernels()), "candidates": found}}
"""
# One process for all commands: each would take as long to start as to do its work.
ANSWERS = f"""{OFFERED}
import os, sys
from click.testing import CliRunner
from autoconv.cli import cli

os.cpu_count = lambda: 1  # one worker process of each kind
printed = {{}}
for verb, words in json.loads(sys.argv[1]).items():
    done = CliRunner().invoke(cli, words, prog_name="autoconv")
    assert done.exit_code == 0, (verb, done.output, done.exception)
    printed[verb] = done.stdout
print(json.dumps({{**offered(), "printed": printed}}))
"""
LOOKUP = ["lookup", PROBLEMS[0], "--device", "rtx4090", "--json"]


@pytest.fixture(scope="module")
def answers(checkout: Checkout) -> Any:
    """What the kernels offer with the example, and what commands print."""
    record_dense(checkout.database)
    commands = {verb: [*shown(verb), "--json"] for verb in ("verify", "explain", "tune")}
    commands |= {"export": ["db", "export"], "lookup": LOOKUP}
    return checkout.ask(ANSWERS, json.dumps(commands))


def record_dense(database: Path) -> None:
    """Record a time of another kernel."""
    config = Config("dense", {"BLOCK_CO": 64, "BLOCK_L": 64, "BLOCK_R": 32}, num_warps=4, num_stages=3)
    dense = source.sources()["dense"]
    trial = Trial(config.document(), "ok", measured_us=10.0, max_err=1e-7, source=dense)
    problem, environment = records(Problem.parse(PROBLEMS[0]), Environment.current(find("rtx4090")))
    with TuningDB.open(database, columns=COLUMNS, application="autoconv") as opened:
        opened.record(environment, problem, [trial], origin="test")


def test_the_registry_has_it(answers: Any) -> None:
    assert answers["kernels"] == sorted([*kernels(), NAME])


def test_its_space_is_sound_and_its_configs_have_estimates(answers: Any) -> None:
    own = answers["candidates"][NAME]
    assert {one["problem"] for one in own} == {PROBLEMS[0], PROBLEMS[2]}  # the other has groups
    assert len(own) > 20
    for one in own:
        assert one["refused"] is None and one["whole"] and 0 < one["seconds"] < 1


def test_verify_checks_it_beside_the_others(answers: Any) -> None:
    fields = json.loads(answers["printed"]["verify"])
    assert fields["ok"] and fields["where"] == "interpreter"
    (own,) = (one for one in fields["checked"] if one["kernel"] == NAME)
    assert own["ok"] and own["unwritten"] == 0 and own["max_rel_err"] < 1e-5
    assert len(fields["checked"]) > 1


def test_explain_compiles_it_and_says_what_it_should_cost(answers: Any) -> None:
    fields = json.loads(answers["printed"]["explain"])
    assert (fields["kernel"], fields["provenance"], fields["compiled"]) == (NAME, "predicted", True)
    assert fields["blocks_per_sm"] >= 1 and fields["spills"] == 0
    assert fields["predicted_ms"] >= fields["floor_ms"] > 0


def test_a_sweep_tries_it(answers: Any, checkout: Checkout) -> None:
    fields = json.loads(answers["printed"]["tune"])
    assert fields["swept"] and fields["provenance"] == "predicted"
    trials = [line for line in answers["printed"]["export"].splitlines() if f'"{NAME}"' in line]
    own = source.sources_in(checkout.kernels)[NAME]
    assert trials and all(own in line for line in trials)


@pytest.mark.parametrize(
    "left_out",
    [[f"--deselect={NAMED_PROBLEMS}"], pytest.param([], marks=pytest.mark.long)],
    ids=["but the named problems", "all"],
)
def test_the_kernels_own_tests_pass(left_out: list[str], checkout: Checkout) -> None:
    # The addresses below: their test here would record those of every kernel.
    left_out = ["--ignore=tests/kernels/test_addresses.py", *left_out]
    passed = checkout.run(sys.executable, *shown("pytest"), "-v", *left_out)
    for test in (
        "test_numerics.py::test_kernels_agree_with_float64",
        "test_space.py::test_spaces_hold_legal_configs_that_cover_the_output",
        "test_soundness.py::test_what_a_space_offers_is_sound",
    ):
        assert f"{test}[{NAME}] PASSED" in passed


def test_its_launches_touch_the_addresses_that_its_map_says(checkout: Checkout) -> None:
    script = "tests/kernels/recorded_addresses.py"
    recorded = json.loads(checkout.run(sys.executable, script, NAME, TRITON_INTERPRET="1"))[NAME]
    assert {problem: row["failures"] for problem, row in recorded.items() if row["failures"]} == {}
    assert len(recorded) >= 3 and all(row["compared"] >= 10 for row in recorded.values())


# --- what it leaves as it was ---------------------------------------------------------------------


def test_it_has_a_source_of_its_own_and_changes_no_other_s(checkout: Checkout) -> None:
    found = source.sources_in(checkout.kernels)
    own = found.pop(NAME)
    assert found == source.sources()
    assert own not in found.values()


@pytest.mark.parametrize(
    ("before", "after", "same"),
    [
        ("MOST_TAPS = 4", "MOST_TAPS = 8", True),  # which problems it runs
        ("address_instructions = 4.0", "address_instructions = 5.0", True),  # what the model takes of it
        ("tap * DILATION", "tap * DILATION + 0", False),
        ("(K * CHUNKS)", "(CHUNKS * K)", False),
    ],
)
def test_its_source_is_what_reaches_the_compiler(
    before: str, after: str, same: bool, checkout: Checkout, tmp_path: Path
) -> None:
    then = source.sources_in(checkout.kernels)
    shutil.copytree(checkout.kernels, tmp_path / "kernels", ignore=shutil.ignore_patterns("__pycache__"))
    assert EXAMPLE.count(before) == 1
    (tmp_path / "kernels" / f"{NAME}.py").write_text(EXAMPLE.replace(before, after), encoding="utf-8")
    now = source.sources_in(tmp_path / "kernels")
    assert {name for name in now if now[name] != then[name]} == (set() if same else {NAME})


def test_candidates_and_estimates_of_the_other_kernels_stay(answers: Any) -> None:
    names: dict[str, Any] = {}
    exec(OFFERED, names)
    before, after = names["offered"]()["candidates"], dict(answers["candidates"])
    del after[NAME]
    assert before.keys() >= {"dense", "narrow", "depthwise"}
    assert after == before


def test_what_was_measured_of_another_kernel_serves_as_before(answers: Any) -> None:
    record_dense(settings.load().database)
    done = CliRunner().invoke(cli, LOOKUP, prog_name="autoconv")
    before, after = json.loads(done.stdout), json.loads(answers["printed"]["lookup"])
    assert (before["kernel"], before["provenance"], before["measured_ms"]) == ("dense", "measured", 0.01)
    assert after == before
