"""Help that a stranger understands, at no cost, and the reference made of it."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

import click
import pytest

from autoconv.cli import cli
from autoconv.problem import Problem

ROOT = Path(__file__).parents[2]


def commands(group: click.Group, *path: str) -> Iterator[tuple[str, ...]]:
    yield path
    for name, command in group.commands.items():
        if isinstance(command, click.Group):
            yield from commands(command, *path, name)
        else:
            yield (*path, name)


PATHS = list(commands(cli))


@pytest.mark.parametrize("path", PATHS, ids=lambda path: " ".join(path) or "autoconv")
@pytest.mark.parametrize("option", ["--help", "-h"])
def test_every_command_has_help_that_fits_a_terminal(path, option, run):
    shown = run(*path, option)
    assert (shown.exit_code, shown.stderr) == (0, "")
    lines = shown.stdout.splitlines()
    assert lines[0].startswith(" ".join(["Usage: autoconv", *path]))
    assert re.match(r"  [A-Z].*[.,]$|  [A-Z].* [a-z]+$", lines[2])
    assert all(len(line) <= 80 and "\b" not in line and "\\b" not in line for line in lines)
    # Where the first sentence of a command is too long for its line, click cuts it.
    assert "..." not in shown.stdout.partition("Commands:")[2]


@pytest.mark.parametrize("path", PATHS, ids=lambda path: " ".join(path) or "autoconv")
def test_every_option_says_what_it_does(path):
    command: click.Command = cli
    for name in path:
        assert isinstance(command, click.Group)
        command = command.commands[name]
    options = [parameter for parameter in command.params if isinstance(parameter, click.Option)]
    assert all(option.help and option.help.endswith(".") for option in options)


def test_the_help_lists_the_fields_and_shows_sound_problems(run):
    text = run("--help").stdout
    for field in ("N", "Cin", "Cout", "K", "L", "stride", "dilation", "padding", "groups", "bias", "dtype"):
        assert re.search(rf"^    (Cin, )?{field}\b", text, re.MULTILINE), field
    examples = re.findall(r"^ +(N=\S+)$", text, re.MULTILINE)
    assert len(examples) == 2
    assert [str(Problem.parse(example)).split(",")[:5] for example in examples] == [
        example.split(",")[:5] for example in examples
    ]


def test_the_version_is_the_packages(run):
    assert version("autoconv") in run("--version").stdout


@pytest.mark.parametrize(
    "arguments", [["--help"], ["tune", "--help"], ["lookup", "N=64,Cin=0"]], ids=" ".join
)
def test_help_and_typing_errors_do_not_wait_for_torch(arguments):
    code = (
        "import sys; from autoconv.cli import main\n"
        "try:\n    main()\n"
        "finally:\n    print('torch' in sys.modules, file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True)
    assert done.stderr.splitlines()[-1] == "False"


def test_doctor_tells_where_triton_is_not_installed(tmp_path):
    code = (
        "import sys, importlib.metadata as metadata\n"
        "known = metadata.version\n"
        "def version(name):\n"
        "    if 'triton' in name: raise metadata.PackageNotFoundError(name)\n"
        "    return known(name)\n"
        "metadata.version = version\n"
        "sys.modules['triton'] = None\n"  # importing it fails
        "sys.argv = ['autoconv', 'doctor']\n"
        "from autoconv.cli import main\n"
        "main()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 1, done.stderr
    assert "FAIL  triton: is not installed; install it" in done.stdout
    assert done.stderr == ""


def test_the_reference_has_every_command():
    text = (ROOT / "docs" / "cli.md").read_text(encoding="utf-8")
    assert re.findall(r"^## (autoconv.*)$", text, re.MULTILINE) == [
        " ".join(["autoconv", *path]) for path in sorted(PATHS)
    ]


def test_the_reference_is_up_to_date():
    done = subprocess.run(
        [sys.executable, "-m", "cogapp", "--check", "-P", "docs/cli.md"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, f"run 'make docs-update': {done.stdout}"
