"""`autoconv db list` and `autoconv db show`."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from autoconv import lookup, settings
from autoconv.cli.common import (
    PROBLEM_HELP,
    complete_devices,
    complete_kernels,
    device_called,
    json_option,
    kernel_names,
    milliseconds,
    note,
    print_json,
    problem_argument,
    say,
)
from autoconv.cli.tables import ms, numbers, percent, print_table, spaced
from autoconv.errors import FieldError, suggestion
from autoconv.problem import Problem
from tuning_db import Layers
from tuning_db.records import PROVENANCES

if TYPE_CHECKING:
    from autoconv.lookup.listing import Entry, Sweep, Tried

SORTS: dict[str, Callable[[dict[str, Any]], Any]] = {
    "problem": lambda row: (row["problem"], row["device"], row["triton"]),
    "time": lambda row: -(row["measured_ms"] or row["contended_ms"] or row["predicted_ms"] or 0.0),
    "floor": lambda row: row["floor_pct"] or 0.0,
    "kernel": lambda row: (row["kernel"], row["problem"]),
}
"""What `--sort` may say: the most time first, what is furthest from the floor first."""


def layers_of(file: Path | None) -> Layers:
    """Return the layer of one file, or all that are in force."""
    if file is None:
        return lookup.open_layers(settings.load(), note)
    return Layers([(file.name, lookup.open_file(file))], note)


file_option = click.option(
    "--file",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Look into this database alone, not into all layers.",
)


@click.command(name="list")
@file_option
@click.option(
    "--device", metavar="NAME", help="Only what is tuned for that GPU.", shell_complete=complete_devices
)
@click.option(
    "--kernel",
    metavar="NAME",
    help="Only where that kernel is the best; aten is torch's own.",
    shell_complete=complete_kernels,
)
@click.option("--triton", metavar="VERSION", help="Only what was tuned under that Triton, such as 3.7.")
@click.option(
    "--layer", metavar="NAME", help="Only that layer: user, prebuilt, process, or site 1 and so on."
)
@click.option("--provenance", type=click.Choice(PROVENANCES), help="Only such times.")
@click.option(
    "--match", metavar="TEXT", help="Only problems whose text has this, such as Cin=64 or op=conv_transpose."
)
@click.option(
    "--sort",
    type=click.Choice(list(SORTS)),
    default="problem",
    show_default=True,
    help="By time the slowest come first, by floor those that are furthest from it.",
)
@json_option
def list_(file: Path | None, sort: str, as_json: bool, **wanted: str | None) -> None:
    """List what is tuned, by problem, device and layer.

    Of each problem there is the best in each layer, device and Triton. At 100 % of its floor a problem runs
    as fast as the hardware allows. What another version of a kernel or of the model gave is marked as
    outdated. Exit status 1: nothing is listed.
    """
    from autoconv.cost.version import predictor_of
    from autoconv.lookup.listing import entries

    rows = [_fields(one) for one in entries(layers_of(file), predictor_of)]
    wanted["device"] = device_called(wanted["device"], {row["device"] for row in rows})
    wanted["kernel"] = _kernel_called(wanted["kernel"], {row["kernel"] for row in rows})
    rows = sorted((row for row in rows if _is_wanted(row, wanted)), key=SORTS[sort])
    if as_json:
        for row in rows:
            print_json(row)
    elif rows:
        print_rows("", [_cells(row) for row in rows])
    else:
        say("nothing is tuned that is asked for")
    raise SystemExit(0 if rows else 1)


def _fields(one: Entry) -> dict[str, Any]:
    return {
        "problem": str(one.problem),
        "device": one.device,
        "triton": one.triton,
        "layer": one.layer,
        "kernel": one.config.kernel,
        "config": one.config.to_json(),
        "provenance": one.provenance,
        "predicted_ms": milliseconds(one.predicted_us),
        "measured_ms": milliseconds(one.measured_us),
        "contended_ms": milliseconds(one.contended_us),
        "default_ms": milliseconds(one.default_us),
        "floor_ms": milliseconds(one.floor_us),
        "floor_pct": one.floor_pct,
        "outdated": not one.today,
    }


def _kernel_called(name: str | None, there: Collection[str]) -> str | None:
    known = {*there, *kernel_names()}
    if name is None or name in known:
        return name
    reason = f"is not a kernel{suggestion(name, known)}"
    raise FieldError("list", "kernel", name, reason, f"give one of {', '.join(sorted(known))}")


def _is_wanted(row: dict[str, Any], wanted: dict[str, str | None]) -> bool:
    text = wanted.get("match") or ""
    exact = {name: value for name, value in wanted.items() if name != "match" and value is not None}
    return text in row["problem"] and all(row[name] == value for name, value in exact.items())


def _cells(row: dict[str, Any]) -> dict[str, str]:
    return {
        "problem": spaced(row["problem"]),
        "tuned for": f"{row['device']}, Triton {row['triton']}",
        "kernel": row["kernel"],
        "config": numbers(row["config"]) if row["kernel"] != "aten" else "torch's own",
        "predicted": ms(row["predicted_ms"]),
        "measured": ms(row["measured_ms"]),
        "contended": ms(row["contended_ms"]),
        "of floor": percent(row["floor_pct"]),
        "layer": row["layer"] + (", outdated" if row["outdated"] else ""),
    }


@click.command(epilog=PROBLEM_HELP)
@problem_argument
@file_option
@click.option(
    "--device", metavar="NAME", help="Only what was tried for that GPU.", shell_complete=complete_devices
)
@click.option("--best", type=click.IntRange(min=1), help="Only so many of each layer, device and Triton.")
@json_option
def show(problem: str, file: Path | None, device: str | None, best: int | None, as_json: bool) -> None:
    """Show what was tried on PROBLEM, the best first.

    In each layer, device and Triton, each trial has its time, how its speed compares with the best's, what
    came of it, and what went wrong. What is outdated, of a kernel or a model that has changed since, has
    places of its own after the others. Exit status 1: nothing was tried.
    """
    from autoconv.lookup.listing import sweeps

    parsed = Problem.parse(problem)
    found = sweeps(layers_of(file), parsed)
    wanted = device_called(device, {one.device for one in found})
    found = [one for one in found if wanted in (None, one.device)]
    for one in found:
        if as_json:
            for tried in one.tried[:best]:
                print_json({"problem": str(parsed), **_where(one), **tried_fields(tried)})
        else:
            print_tried(f"{parsed} on {one.device}, Triton {one.triton}, layer {one.layer}", one.tried, best)
    if not found and not as_json:
        say("nothing was tried on this problem")
    raise SystemExit(0 if found else 1)


def _where(one: Sweep) -> dict[str, str]:
    return {"device": one.device, "triton": one.triton, "layer": one.layer}


def tried_fields(one: Tried) -> dict[str, Any]:
    """Return a trial as JSON has it."""
    return {
        "place": one.place,
        "best_pct": one.best_pct,
        "kernel": one.kernel,
        "config": one.numbers,
        "outcome": one.trial.outcome,
        "outdated": one.kind is not None and (one.kind.outdated or one.kind.foreign),
        "predicted_ms": milliseconds(one.trial.predicted_us),
        "measured_ms": None if one.trial.contended else milliseconds(one.trial.measured_us),
        "contended_ms": milliseconds(one.trial.measured_us) if one.trial.contended else None,
        "max_err": one.trial.max_err,
        "error": one.trial.error,
    }


def print_tried(title: str, tried: Iterable[Tried], most: int | None = None) -> None:
    """Print trials as a table, the best `most` of them; the rest is counted."""
    rows = [tried_fields(one) for one in tried]
    shown = rows[:most]
    print_rows(title, [_trial_cells(row) for row in shown])
    if len(shown) < len(rows):
        say(f"and {len(rows) - len(shown)} more")


def _trial_cells(row: dict[str, Any]) -> dict[str, str]:
    return {
        "place": str(row["place"] or "-"),
        "measured": ms(row["measured_ms"]),
        "contended": ms(row["contended_ms"]),
        "predicted": ms(row["predicted_ms"]),
        "% of best": percent(row["best_pct"]),
        "kernel": row["kernel"],
        "config": numbers(row["config"]) if row["kernel"] != "aten" else "torch's own",
        "outcome": row["outcome"]
        + (", outdated" if row["outdated"] else "")
        + (f": {row['error']}" if row["error"] else ""),
    }


def print_rows(title: str, rows: Sequence[dict[str, str]]) -> None:
    """Print rows as a table; the column of times taken beside other work only where there are some."""
    left_out = {"contended"} if all(row["contended"] == ms(None) for row in rows) else set()
    names = [name for name in rows[0] if name not in left_out]
    print_table(title, names, ([row[name] for name in names] for row in rows))
