"""Progress bars, on standard error where that is a terminal.

rich is imported here and nowhere above it: a command imports this module when it has something to wait for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Column
from rich.text import Text

from autoconv.cli.common import printable


@contextmanager
def progress_bar(title: str, console: Console | None = None) -> Iterator[Callable[[str, int, int], None]]:
    """Show a bar on standard error, if that is a terminal; yield what to tell it: (doing, done, of).

    It keeps to one line of any width: what is being done, the bar and the numbers are whole, and of the title
    there is as much as fits.
    """
    room = Column(ratio=1, no_wrap=True, overflow="ellipsis")
    columns = (
        TextColumn("{task.description}", markup=False, table_column=room),
        BarColumn(bar_width=16),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    console = console or Console(stderr=True)
    quiet = not console.is_terminal
    with Progress(*columns, console=console, transient=True, expand=True, disable=quiet) as bars:
        bar = bars.add_task(printable(title), total=None)

        def show(doing: str, done: int, of: int) -> None:
            bars.update(bar, description=printable(f"{doing}: {title}"), completed=done, total=of)

        yield show


@contextmanager
def tuning_bar(title: str) -> Iterator[Callable[[str, float, int], None]]:
    """Show one bar for many problems, on standard error if that is a terminal, with rate and time left.

    Yield what to tell it: what is being done, how many problems are done, and of how many. It may be told by
    any thread.
    """
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TextColumn("{task.completed:.1f}/{task.total}"),
        _Rate(),
        TimeRemainingColumn(),
    )
    console = Console(stderr=True)
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bars:
        bar = bars.add_task(printable(title), total=None)

        def show(doing: str, done: float, of: int) -> None:
            bars.update(bar, description=printable(f"{title}: {doing}"), completed=done, total=of)

        yield show


class _Rate(ProgressColumn):
    """Problems a minute since the beginning."""

    def render(self, task: Task) -> Text:
        rate = 60 * task.completed / task.elapsed if task.elapsed else 0.0
        return Text(f"{rate:.1f} a minute")
