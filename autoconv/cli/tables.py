"""The one look of all tables: what several commands print for people."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from autoconv.cli.common import print_json, printable, say

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

NUMBERS = (
    "predicted",
    "measured",
    "floor",
    "of floor",
    "% of best",
    "place",
    "calls",
    "estimate",
    "trials",
)
"""Columns that stand to the right."""

ROOMY = 120
"""Columns of a terminal in which every word has room."""

NARROW = 9
"""Columns that a longer word is broken into elsewhere."""


IN_A_PIPE = 1000
"""Columns where there is no terminal and COLUMNS does not say: a row is a line, as grep wants it."""


def print_table(title: str, columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Print rows of text under a header, below a title; what is too long goes on in the next line."""
    from rich.table import Table

    rows, roomy = list(rows), _console().width >= ROOMY
    table = Table(box=None, pad_edge=False, collapse_padding=not roomy)
    for place, name in enumerate(columns):
        if name in NUMBERS:
            table.add_column(name, justify="right", no_wrap=True)
            continue
        # Where there is room words are not broken, so that what is copied reads back.
        longest = max((len(word) for row in rows for word in row[place].split()), default=0)
        least = longest if roomy else min(longest, NARROW)
        table.add_column(name, overflow="fold", min_width=least)
    _print(title, table, rows)


def print_facts(title: str, *columns: Mapping[str, str]) -> None:
    """Print names and what stands for each, one or several side by side, below a title."""
    from rich.table import Table

    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(no_wrap=True)
    for _ in columns:
        table.add_column(overflow="fold")
    _print(title, table, ((name, *(column[name] for column in columns)) for name in columns[0]))


def _print(title: str, table: Table, rows: Iterable[Sequence[str]]) -> None:
    from rich.text import Text

    console = _console()
    if title:
        console.print(Text(printable(title), style="bold"), soft_wrap=True)
    for row in rows:
        table.add_row(*(Text(printable(cell)) for cell in row))
    with console.capture() as printed:
        console.print(table)
    # Rich fills the last column up. Click would take out the colours that FORCE_COLOR asked rich for.
    console.file.writelines(f"{line.rstrip()}\n" for line in printed.get().splitlines())


def _console() -> Console:
    # Not above: it takes 40 ms, and --help and --json do without.
    from rich.console import Console

    return Console(width=shutil.get_terminal_size((IN_A_PIPE, 24)).columns)


def print_fields(fields: Mapping[str, Any], as_json: bool) -> None:
    """Print one object: as JSON, or a line a field, of a list a line an item."""
    if as_json:
        print_json(fields)
        return
    for name, value in fields.items():
        for line in value if isinstance(value, (list, tuple)) else [value]:
            say(f"{name:<15}{'-' if line is None else line}")


def spaced(problem: str) -> str:
    """Return a problem's text so that a narrow column breaks it between fields; it reads back the same."""
    return problem.replace(",", ", ")


def ms(value: float | None) -> str:
    """Return milliseconds as text; a dash for what is not known."""
    return "-" if value is None else f"{value:.4g} ms"


def percent(value: float | None) -> str:
    """Return a percentage as text; a dash for what is not known."""
    return "-" if value is None else f"{value:.0f} %"


def times(fields: Mapping[str, Any]) -> dict[str, str]:
    """Return the lines of the times by provenance and of `floor_ms`, those that are known."""
    floor = fields["floor_ms"]
    lines = {}
    for kind in ("measured", "contended", "predicted"):
        time = fields[f"{kind}_ms"]
        if time is not None:
            remark = ", timed beside other work; `autoconv tune` measures it" * (kind == "contended")
            lines[kind] = f"{ms(time)}, {percent(100 * floor / time)} of floor{remark}"
    return {**lines, "floor": f"{ms(floor)}, the least that the hardware allows"}


def numbers(config: Mapping[str, Any] | None) -> str:
    """Return the numbers of a config as a table has them: tiles, warps and stages, without their prefixes.

    >>> numbers({"BLOCK_CO": 64, "BLOCK_L": 128, "num_warps": 4, "num_stages": 3})
    'CO=64 L=128 warps=4 stages=3'
    """
    short = {
        name.removeprefix("BLOCK_").removeprefix("num_"): value for name, value in (config or {}).items()
    }
    return " ".join(f"{name}={value}" for name, value in sorted(short.items(), key=_tiles_first))


def _tiles_first(pair: tuple[str, Any]) -> tuple[int, str]:
    last = ("warps", "stages")
    return (last.index(pair[0]) + 1 if pair[0] in last else 0), pair[0]
