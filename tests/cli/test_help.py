"""Help that a stranger understands, at no cost, and the reference made of it."""

from __future__ import annotations

import io
import re
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

import click
import pytest
from click.shell_completion import ShellComplete
from rich.console import Console

from autoconv.cli import cli
from autoconv.cli.bars import progress_bar
from autoconv.problem import ACTIVATIONS, DTYPE_BYTES, LAYOUTS, OPS, PRECISIONS, Problem

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


def test_the_help_names_every_field_of_a_problem(run):
    shown = run("--help").stdout
    missing = [
        name for name in Problem.fields() if not re.search(rf"^ +(Cin, )?{name}\b", shown, re.MULTILINE)
    ]
    assert missing == []
    for choices in (OPS, ACTIVATIONS, DTYPE_BYTES, PRECISIONS["float32"], LAYOUTS):
        assert [one for one in choices if not re.search(rf"\b{one}\b", shown)] == []
    assert 'eval "$(_AUTOCONV_COMPLETE=bash_source autoconv)"' in shown


@pytest.mark.parametrize(
    ("arguments", "begun", "some", "none"),
    [
        ([], "l", {"lookup"}, {"tune"}),
        (["db"], "", {"list", "show", "prune"}, set()),
        (["lookup", "--device"], "rtx", {"rtx4090", "rtx3090"}, {"l4"}),
        (["tune", "--device"], "au", {"auto"}, {"l4"}),
        (["explain", "--kernel"], "de", {"dense", "depthwise"}, {"tap_major"}),
        (["db", "list", "--kernel"], "a", {"aten"}, {"dense"}),
        (["explain", "--against-kernel"], "tap", {"tap_major"}, {"dense"}),
    ],
)
def test_a_shell_completes_commands_devices_and_kernels(arguments, begun, some, none):
    complete = ShellComplete(cli, {}, "autoconv", "_AUTOCONV_COMPLETE")
    found = {item.value for item in complete.get_completions(arguments, begun)}
    assert some <= found and not none & found
    assert all(name.startswith(begun) for name in found)


@pytest.mark.parametrize("width", [80, 60, 120])
def test_the_progress_bar_is_whole_on_one_line(width):
    problem = "N=16,Cin=32,Cout=64,K=3,L=131072,stride=2,dilation=2,op=conv_transpose,bias=1,dtype=float16"
    shown = io.StringIO()
    console = Console(file=shown, force_terminal=True, width=width, color_system=None, legacy_windows=False)
    with progress_bar(problem, console) as show:
        show("compiling", 313, 625)
    lines = [
        re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", line).strip() for line in re.split(r"[\r\n]+", shown.getvalue())
    ]
    told = [line for line in lines if "313/625" in line]
    assert told and all(len(line) <= width for line in told)
    assert all(re.fullmatch(r"compiling: N=16.*\u2501.* +313/625 0:0\d:\d\d", line) for line in told), told
