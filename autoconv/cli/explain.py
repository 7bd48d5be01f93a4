"""`autoconv explain`."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import click
from rich.console import Console
from rich.table import Table

from autoconv.cli.common import (
    PROBLEM_HELP,
    config_options,
    device_option,
    json_option,
    parse_config,
    print_json,
    problem_argument,
    target,
)
from autoconv.compiler.resolve import resolve
from autoconv.config import Config
from autoconv.cost.explanation import difference, rows
from autoconv.cost.prediction import Prediction
from autoconv.device import Device
from autoconv.errors import ConfigError
from autoconv.problem import Problem
from autoconv.tuning.accuracy import OVER_ALL_PCT, TYPICAL_ERROR_PCT, model_error_pct, within_error

RESOURCES = ("registers", "shared", "spills")
_MOST_DIGITS = 9


@click.command(epilog=PROBLEM_HELP)
@problem_argument
@device_option
@config_options
@click.option("--against", metavar="JSON", help="Config to compare with, of --against-kernel.")
@click.option("--against-kernel", metavar="NAME", help="Its kernel; --kernel by default.")
@click.option(
    "--resources",
    "given",
    metavar="NAME=NUMBER",
    help="Take these in place of what compiling gives, such as registers=184,shared=16384 (also spills).",
)
@json_option
def explain(
    problem: str,
    device: str,
    kernel: str | None,
    numbers: str | None,
    against: str | None,
    against_kernel: str | None,
    given: str | None,
    as_json: bool,
) -> None:
    """Show why a config should take the time it is predicted to take.

    The config is the database's for PROBLEM, or the best estimate where it has none of ours, unless --kernel
    and --config give one. It is compiled for the device; every figure is predicted, none measured. With
    --against, two configs stand side by side, with what makes the difference. Exit status 1: it compiles,
    but the device cannot launch it.
    """
    parsed = Problem.parse(problem)
    config = parse_config(kernel, numbers)
    if against_kernel is not None and against is None:
        raise ConfigError("--against", None, "is missing", "give it with --against-kernel")
    other = None if against is None else parse_config(against_kernel or kernel, against)
    taken = parse_resources(given)
    at = target(device)
    for one in (config, other):
        if one is not None:
            resolve(parsed, one, at.device)
    if config is None:
        config = at.tuner.kernel_for(parsed, at.environment, at.device)
    predictions = [(config, _predicted(parsed, config, at.device, taken))]
    if other is not None:
        predictions.append((other, _predicted(parsed, other, at.device, {})))
    fields = [
        {
            "problem": str(parsed),
            "device": at.device.name,
            **prediction.to_json(one),
            "model_error_pct": model_error_pct(one),
        }
        for one, prediction in predictions
    ]
    if as_json:
        for row in fields:
            print_json(row)
    else:
        _print(fields[0], [_rows(one, prediction) for one, prediction in predictions])
        if other is not None:
            click.echo(_compared(*predictions))
    raise SystemExit(0 if all(prediction.blocks_per_sm for _, prediction in predictions) else 1)


def _predicted(problem: Problem, config: Config, device: Device, taken: dict[str, Any]) -> Prediction:
    from autoconv.cost.predict import compiled_resources, predict

    try:
        resources = compiled_resources(problem, config, device)
    except Exception as error:  # Triton and ptxas raise of every type on a config they cannot compile
        said = (str(error).strip().splitlines() or [""])[-1]
        reason = f"does not compile for {device.name} ({type(error).__name__}: {said})"
        raise ConfigError("config", config, reason, "choose other tiles, warps or stages") from error
    return predict(problem, config, device, replace(resources, **taken))


def _rows(config: Config, prediction: Prediction) -> dict[str, str]:
    error = f"{model_error_pct(config):g} % in the median, of measured {config.kernel} configs"
    if config.kernel not in TYPICAL_ERROR_PCT:
        error = f"{OVER_ALL_PCT:g} % in the median, of all kernels; {config.kernel} was never measured"
    return {**rows(config, prediction), "model's error": error}


def _compared(one: tuple[Config, Prediction], other: tuple[Config, Prediction]) -> str:
    error = within_error(one, other)
    doubt = "" if error is None else f" The difference is within the model's error, {error:g} %."
    return difference(one[1], other[1]) + doubt


def parse_resources(given: str | None) -> dict[str, int]:
    """Return what --resources overrides, by name.

    Raises:
        ConfigError: a name is unknown or its number is invalid.

    >>> parse_resources("registers=184,shared=16384")
    {'registers': 184, 'shared': 16384}
    """
    found = {}
    for part in given.split(",") if given else ():
        name, _, number = (piece.strip() for piece in part.partition("="))
        if name not in RESOURCES or not number.isdecimal() or len(number) > _MOST_DIGITS:
            reason = f"is not one of {', '.join(RESOURCES)} with a number below 1e{_MOST_DIGITS}"
            raise ConfigError("resources", part, reason, "write such as registers=184,shared=16384")
        found[name] = int(number)
    return found


def _print(fields: dict[str, Any], columns: list[dict[str, str]]) -> None:
    table = Table(
        title=f"{fields['problem']} on {fields['device']}: predicted, not measured",
        show_header=False,
        title_justify="left",
    )
    for name in columns[0]:
        table.add_row(name, *(column[name] for column in columns))
    Console().print(table)
