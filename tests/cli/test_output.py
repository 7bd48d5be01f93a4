"""Where output goes: to a terminal that acts on what it reads, to a reader that leaves, to a full disk."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from autoconv.cli.common import printable
from autoconv.settings import child_environment
from tests.cli.conftest import DEVICE, PROBLEM, Run
from tests.cli.test_db import fill, trial
from tuning_db.jsonl import sealed
from tuning_db.records import canonical

COMMANDS = [
    ("db", "export", "--packaged"),  # more than a pipe holds
    ("db", "info", "--packaged"),
    ("db", "info", "--packaged", "--json"),
    ("explain", PROBLEM, "--device", DEVICE),  # a table
    ("--help",),
]


def shell(command: tuple[str, ...], output: str) -> subprocess.CompletedProcess[str]:
    """Run a command in a shell that does something with its output; its own exit status is kept."""
    line = f"{shlex.join([sys.executable, '-m', 'autoconv', *command])} {output}"
    return subprocess.run(
        ["bash", "-o", "pipefail", "-c", line],
        env=child_environment(),
        capture_output=True,
        text=True,
        timeout=100,
    )


def said(done: subprocess.CompletedProcess[str]) -> str:
    """What is on standard error besides notes."""
    return "".join(line for line in done.stderr.splitlines(True) if not line.startswith("autoconv: "))


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
@pytest.mark.parametrize("output", ["| true", ">&-"], ids=["left", "closed"])
def test_output_that_nobody_reads_ends_it_quietly(output, command):
    done = shell(command, output)
    assert said(done) == ""
    assert done.returncode in (0, 1)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_a_full_disk_is_one_line(command):
    done = shell(command, "> /dev/full")
    assert said(done) == "Error: the output cannot be written (No space left on device)\n"
    assert done.returncode == 1


# --- text of others -------------------------------------------------------------------------------

EVIL = "\x1b]0;owned\x07\x1b[2J\r\x9b31m\u202egnp.exe\u2028\udc80"
SHOWN = r"\x1b]0;owned\x07\x1b[2J\r\x9b31m\u202egnp.exe\u2028\udc80"


def test_what_a_terminal_acts_on_is_escaped():
    assert printable(EVIL) == SHOWN
    assert printable("plain, \u00fcml\u00e4ut, \u65e5\u672c") == "plain, \u00fcml\u00e4ut, \u65e5\u672c"


def safe(text: str) -> bool:
    return all(printable(line) == line for line in text.split("\n"))


def test_the_reasons_of_an_import_are_escaped(run: Run, tmp_path: Path):
    (exported,) = run("db", "export", str(fill(tmp_path / "other.db", trial(4)))).stdout.splitlines()
    line = json.loads(exported)
    del line["verify"]
    line["problem"]["key"] = EVIL.removesuffix("\udc80")
    head, _, rest = canonical(line).partition(',"trial":')
    text = tmp_path / "evil\x1b[31m.jsonl"
    text.write_text(sealed(f'{head},"trial":', rest.removesuffix("}")) + "\n")
    shown = run("db", "import", str(text))
    assert shown.exit_code == 1
    assert r"evil\x1b[31m.jsonl" in shown.stdout
    assert r"\x1b]0;owned" in shown.stdout
    assert safe(shown.stdout) and safe(shown.stderr)


@pytest.mark.parametrize("command", ["tune", "lookup", "explain", "verify"])
def test_errors_are_escaped(command: str, run: Run):
    for arguments in ((f"N=1,{EVIL}=2",), (PROBLEM, "--device", EVIL)):
        shown = run(command, *arguments)
        assert shown.exit_code == 2
        assert r"\x1b" in shown.stderr and safe(shown.stderr)
