"""`autoconv db missed`, and what `autoconv tune --missed` shares with it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from autoconv import lookup, settings
from autoconv.cli.common import complete_devices, device_called, json_option, note, print_json, say
from autoconv.cli.tables import ms, print_table, spaced
from tuning_db import TuningDB

if TYPE_CHECKING:
    from autoconv.tuning.backlog import MissedProblem


@click.command()
@click.argument("file", required=False, type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option(
    "--device", metavar="NAME", help="Only what that GPU asked for.", shell_complete=complete_devices
)
@json_option
def missed(file: Path | None, device: str | None, as_json: bool) -> None:
    """List the problems that were asked for and not found.

    They are noted in FILE, or in the user's database. Those that most time goes to come first: calls x the
    best estimate on their device. `autoconv tune --missed` tunes them in this order.
    """
    now = settings.load()
    with lookup.open_as_it_is(now) if file is None else lookup.open_file(file) as database:
        rows = [_fields(one) for one in missed_of(database, device)]
    if as_json:
        for fields in rows:
            print_json(fields)
    elif rows:
        _print(rows)
    else:
        say("nothing was missed")


def missed_of(database: TuningDB, device: str | None) -> list[MissedProblem]:
    """Return what a database notes as missed, by all devices or one, the most time first.

    Raises:
        DeviceError: `device` is the name of none, neither in the catalogue nor there.
    """
    from autoconv.tuning.backlog import backlog, device_name

    misses = database.misses()
    if device is not None:
        wanted = device_called(device, map(device_name, misses))
        misses = [miss for miss in misses if device_name(miss) == wanted]
    from autoconv.cli.bars import progress_bar

    with progress_bar("misses") as progress:
        found = backlog(misses, progress)
    left_out = len(misses) - sum(len(one.keys) for one in found)
    if left_out:
        note(
            f"{left_out} have the key of no problem of this version; `autoconv db prune --missed` forgets all"
        )
    return found


def _fields(one: MissedProblem) -> dict[str, Any]:
    return {
        "problem": str(one.problem),
        "device": one.device,
        "calls": one.miss.calls,
        "estimated_ms": None if one.seconds is None else one.seconds * 1e3,
        "served": one.miss.served,
        "first_seen": one.miss.first_seen,
        "last_seen": one.miss.last_seen,
    }


def _print(rows: list[dict[str, Any]]) -> None:
    columns = ("problem", "device", "calls", "estimate", "served", "last seen")
    print_table("", columns, map(_cells, rows))


def _cells(fields: Mapping[str, Any]) -> tuple[str, ...]:
    calls, estimate = str(fields["calls"]), ms(fields["estimated_ms"])
    return spaced(fields["problem"]), fields["device"], calls, estimate, fields["served"], fields["last_seen"]
