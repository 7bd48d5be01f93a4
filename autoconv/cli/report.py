"""`autoconv report`."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from autoconv import settings
from autoconv.cli.common import (
    PROBLEM_HELP,
    Target,
    complete_models,
    device_option,
    json_option,
    note,
    print_json,
    say,
    target_to_look_up,
)
from autoconv.cli.missed import missed_of
from autoconv.cli.output import written
from autoconv.cli.wanted import is_file
from autoconv.errors import FieldError, ProblemError
from autoconv.lookup import open_as_it_is, published

if TYPE_CHECKING:
    from autoconv.report.facts import Asked, Subject
    from autoconv.tuning.asked import Asked as Named


@click.command(epilog=PROBLEM_HELP)
@click.argument("problems", nargs=-1, metavar="PROBLEM...")
@device_option
@click.option("--missed", is_flag=True, help="Report on what `autoconv db missed` lists for the device.")
@click.option(
    "--model",
    metavar="NAME",
    shell_complete=complete_models,
    help="Report on the convolutions of a published model, such as whisper-tiny.",
)
@click.option("--title", help="Heading of the page.")
@click.option("-o", "--output", type=click.Path(dir_okay=False, path_type=Path), default=Path("report.html"),
              show_default=True, help="File to write.")  # fmt: skip
@json_option
def report(
    problems: tuple[str, ...],
    device: str,
    missed: bool,
    model: str | None,
    title: str | None,
    output: Path,
    as_json: bool,
) -> None:
    """Write a page about each PROBLEM, to open in a browser.

    It is one HTML file without scripts, and asks nothing of any network. Of each problem it has the roofline
    with all that was tried, the sweep as a picture, what bounds the best config, and the bytes that it moves;
    of several a table by layer and the sum. A PROBLEM may be a file with a JSON object a line: its problem
    and, where they are known, its calls and its modules, or its layer and count. --model takes one of the
    published models listed for the packaged database, at batch sizes and lengths of typical use.

    Drawn by matplotlib: `pip install 'autoconv[report]'`. Exit status 1: nothing is left to report on.
    """
    if [bool(problems), missed, model is not None].count(True) != 1:
        raise click.UsageError("name each PROBLEM to report on, or give either --missed or --model")
    page = _drawing()
    at = target_to_look_up(device)
    asked = list(_missed(at) if missed else _of_model(model) if model is not None else _asked(problems))
    from autoconv.cli.bars import progress_bar

    with progress_bar(f"report {at.device.name}") as show:
        subjects = []
        for number, one in enumerate(asked, 1):
            show("problems", number, len(asked))
            subjects += _gathered(one, at)
    if not subjects:
        note("there is nothing to report on")
        raise SystemExit(1)
    what = f"{len(subjects)} convolution{'s'[: len(subjects) > 1]}"
    heading = title or f"{what} {f'of {model} ' if model else ''}on {at.device.name}"
    with written(output) as to:
        to.write(page(subjects, heading))
    fields = {"path": str(output), "device": at.device.name, "problems": len(subjects)}
    if as_json:
        print_json(fields)
    else:
        say(f"{output}: {len(subjects)} problems on {at.device.name}")


def _drawing() -> Callable[[Sequence[Subject], str], str]:
    """Return what draws a page."""
    try:
        from autoconv.report.page import page
    except ModuleNotFoundError as error:
        raise click.ClickException(
            f"{error.name} is not installed, which draws the page; pip install 'autoconv[report]'"
        ) from None
    return page


def _gathered(asked: Asked, at: Target) -> list[Subject]:
    from autoconv.report.facts import gather

    try:
        return [gather(asked, at.device, at.environment, at.layers)]
    except ProblemError as error:
        note(f"torch serves {asked.problem}: {error}")
        return []


def _asked(problems: tuple[str, ...]) -> Iterator[Asked]:
    """Yield what the arguments name: texts of problems, and files of them."""
    from autoconv.report.facts import Asked

    for argument in problems:
        for one in _named(argument):
            yield Asked(one.problem, ", ".join(one.names), one.calls)


def _named(argument: str) -> list[Named]:
    from autoconv.tuning.asked import parsed, read

    if argument == "-":
        return read(sys.stdin.read(), "standard input")
    remedy = "give a problem such as N=1,Cin=16,Cout=16,K=3,L=64, or a file of them"
    if not is_file(argument):
        if "=" not in argument:
            reason = "is neither name=value nor a file that is there"
            raise FieldError("report", "PROBLEM", argument, reason, remedy)
        return parsed(argument)
    try:
        text = Path(argument).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise FieldError("report", "PROBLEM", argument, f"cannot be read ({error})", remedy) from None
    return read(text, argument)


def _of_model(name: str) -> Iterator[Asked]:
    from autoconv.report.facts import Asked

    for problem, calls in published.problems_of(name).items():
        yield Asked(problem, calls=calls)


def _missed(at: Target) -> Iterator[Asked]:
    from autoconv.report.facts import Asked

    with open_as_it_is(settings.load()) as database:
        found = missed_of(database, at.device.name)
    for one in found:
        yield Asked(one.problem, calls=one.miss.calls)
