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

    def ask(self, code: str) -> Any:
        """Return what `code` prints as JSON."""
        return json.loads(self.run(sys.executable, "-W", "error", "-c", code))

    def shown(self, verb: str) -> list[str]:
        """Return the command of the docs that does `verb`, with this Python."""
        commands = map(shlex.split, COMMANDS.replace("\\\n", " ").splitlines())
        (command,) = (words for words in commands if verb in words)
        program = {"autoconv": ["-m", "autoconv"], "python": []}[command[0]]
        return [sys.executable, *program, *command[1:]]

    def printed(self, verb: str) -> Any:
        """Return the object that a command of the docs prints with --json."""
        return json.loads(self.run(*self.shown(verb), "--json"))


def copied(root: Path) -> Checkout:
    # The copy's tests need all that lies beside theirs but this file, which would copy again.
    ignore = shutil.ignore_patterns("__pycache__", Path(__file__).name)
    for folder in ("autoconv", "tuning_db", "tests/kernels"):
        shutil.copytree(ROOT / folder, root / folder, ignore=ignore)
    for file in ("conftest.py", "pyproject.toml"):
        shutil.copy(ROOT / file, root / file)
    return Checkout(root)


@pytest.fixture(scope="module")
def without(tmp_path_factory: pytest.TempPathFactory) -> Checkout:
    """The project as it is."""
    return copied(tmp_path_factory.mktemp("without"))


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Checkout:
    """The project with the example's file, and one beside it that is no kernel."""
    checkout = copied(tmp_path_factory.mktemp("with"))
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

ASK = f"""
import json, math
from autoconv import Problem, device, estimate
from autoconv.kernels.registry import kernels
from autoconv.kernels.soundness import refusal
from autoconv.sweep.candidates import candidates
at, found = device.find("rtx4090"), {{}}
for text in {PROBLEMS!r}:
    problem = Problem.parse(text)
    offered = candidates(problem, at)
    for name, one in kernels().items():
        # Every eighth: one estimate takes a millisecond.
        for config in [config for config in offered if config.kernel == name][::8]:
            found.setdefault(name, []).append({{
                "problem": text,
                "config": str(config),
                "seconds": estimate(problem, config, at).seconds,
                "refused": refusal(problem, config, at.arch),
                "whole": math.prod(one.grid(problem)(config.meta)) == one.work(problem, config).blocks,
            }})
print(json.dumps({{"kernels": list(kernels()), "candidates": found}}))
"""


@pytest.fixture(scope="module")
def answers(without: Checkout, checkout: Checkout) -> tuple[Any, Any]:
    """What the kernels offer without the example and with it."""
    return without.ask(ASK), checkout.ask(ASK)


def test_the_registry_has_it(answers: tuple[Any, Any]) -> None:
    assert answers[1]["kernels"] == sorted([*kernels(), NAME])


def test_its_space_is_sound_and_its_configs_have_estimates(answers: tuple[Any, Any]) -> None:
    own = answers[1]["candidates"][NAME]
    assert {one["problem"] for one in own} == {PROBLEMS[0], PROBLEMS[2]}  # the other has groups
    assert len(own) > 20
    for one in own:
        assert one["refused"] is None and one["whole"] and 0 < one["seconds"] < 1


def test_verify_checks_it_beside_the_others(checkout: Checkout) -> None:
    fields = checkout.printed("verify")
    assert fields["ok"] and fields["where"] == "interpreter"
    (own,) = (one for one in fields["checked"] if one["kernel"] == NAME)
    assert own["ok"] and own["unwritten"] == 0 and own["max_rel_err"] < 1e-5
    assert len(fields["checked"]) > 1


def test_explain_compiles_it_and_says_what_it_should_cost(checkout: Checkout) -> None:
    fields = checkout.printed("explain")
    assert (fields["kernel"], fields["provenance"], fields["compiled"]) == (NAME, "predicted", True)
    assert fields["blocks_per_sm"] >= 1 and fields["spills"] == 0
    assert fields["predicted_ms"] >= fields["floor_ms"] > 0


def test_a_sweep_tries_it(checkout: Checkout) -> None:
    fields = checkout.printed("tune")
    assert fields["swept"] and fields["provenance"] == "predicted"
    exported = checkout.run(sys.executable, "-m", "autoconv", "db", "export")
    trials = [line for line in exported.splitlines() if f'"{NAME}"' in line]
    assert trials
    assert all(source.sources_in(checkout.kernels)[NAME] in line for line in trials)


def test_the_kernels_own_tests_pass(checkout: Checkout) -> None:
    # The addresses below: their test here would record those of every kernel.
    passed = checkout.run(*checkout.shown("pytest"), "-v", "--ignore=tests/kernels/test_addresses.py")
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


def test_candidates_and_estimates_of_the_other_kernels_stay(answers: tuple[Any, Any]) -> None:
    before, after = (dict(one["candidates"]) for one in answers)
    del after[NAME]
    assert before.keys() >= {"dense", "narrow", "depthwise"}
    assert after == before


def test_what_was_measured_of_another_kernel_serves_as_before(without: Checkout, checkout: Checkout) -> None:
    config = Config("dense", {"BLOCK_CO": 64, "BLOCK_L": 64, "BLOCK_R": 32}, num_warps=4, num_stages=3)
    dense = source.sources()["dense"]
    trial = Trial(config.document(), "ok", measured_us=10.0, max_err=1e-7, source=dense)
    problem, environment = records(Problem.parse(PROBLEMS[0]), Environment.current(find("rtx4090")))
    found = []
    for one in (without, checkout):
        with TuningDB.open(one.database, columns=COLUMNS, application="autoconv") as database:
            database.record(environment, problem, [trial], origin="test")
        lookup = ("-m", "autoconv", "lookup", PROBLEMS[0], "--device", "rtx4090", "--json")
        found.append(json.loads(one.run(sys.executable, *lookup)))
    before, after = found
    assert (before["kernel"], before["provenance"], before["measured_ms"]) == ("dense", "measured", 0.01)
    assert after == before
