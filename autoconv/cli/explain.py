"""`autoconv explain`."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from autoconv import nsight, settings
from autoconv.cli.common import (
    PROBLEM_HELP,
    complete_kernels,
    config_options,
    device_option,
    json_option,
    parse_config,
    print_json,
    problem_argument,
    say,
    target,
)
from autoconv.cli.tables import ms, print_facts, print_table
from autoconv.compiler.resolve import resolve
from autoconv.config import Config
from autoconv.cost.explanation import difference
from autoconv.cost.prediction import Prediction
from autoconv.device import Device
from autoconv.errors import ConfigError
from autoconv.problem import Problem
from autoconv.sweep.outcomes import Unavailable, outcome_of
from autoconv.tuning.accuracy import OVER_ALL_PCT, TYPICAL_ERROR_PCT, model_error_pct, within_error

RESOURCES = ("registers", "shared", "spills")
_MOST_DIGITS = 9


@click.command(epilog=PROBLEM_HELP)
@problem_argument
@device_option
@config_options
@click.option("--against", metavar="JSON", help="Config to compare with, of --against-kernel.")
@click.option(
    "--against-kernel",
    metavar="NAME",
    help="Its kernel; --kernel by default.",
    shell_complete=complete_kernels,
)
@click.option(
    "--resources",
    "given",
    metavar="NAME=NUMBER",
    help="Take these in place of what compiling gives, such as registers=184,shared=16384 (also spills).",
)
@click.option(
    "--profile",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="What `ncu --csv` printed of this config's launch, to set measured beside predicted.",
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
    profile: Path | None,
    as_json: bool,
) -> None:
    """Show why a config should take the time it is predicted to take.

    The config is the database's for PROBLEM, or the best estimate where it has none of ours, unless --kernel
    and --config give one. It is compiled for the device; every figure is predicted, none measured, unless
    --profile gives what Nsight Compute measured, which then stands beside, under its names. With --against,
    two configs stand side by side, with what makes the difference. Exit status 1: it compiles, but the device
    cannot launch it.
    """
    parsed = Problem.parse(problem)
    config = parse_config(kernel, numbers)
    if profile is not None and against is not None:
        raise click.UsageError("a profile is of one config; give --profile or --against")
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
    predictions = [(config, predicted(parsed, config, at.device, taken))]
    if other is not None:
        predictions.append((other, predicted(parsed, other, at.device, {})))
    seen = {} if profile is None else nsight.measured(_read(profile), parsed, config)
    fields = [_fields(parsed, at.device, *pair, seen) for pair in predictions]
    if as_json:
        for row in fields:
            print_json(row)
    else:
        _print(fields, predictions)
    raise SystemExit(0 if all(prediction.blocks_per_sm for _, prediction in predictions) else 1)


def _read(profile: Path) -> str:
    return profile.read_text(encoding="utf-8", errors="replace")


def _fields(
    problem: Problem, device: Device, config: Config, prediction: Prediction, seen: dict[str, float]
) -> dict[str, Any]:
    told = nsight.predicted(prediction)
    return {
        "problem": str(problem),
        "device": device.name,
        **prediction.to_json(config),
        "model_error_pct": model_error_pct(config),
        "nsight": told,
        "measured": seen,
        "differences": nsight.differences(told, seen),
        "advice": nsight.advice(prediction, seen, device),
    }


def _print(fields: list[dict[str, Any]], predictions: list[tuple[Config, Prediction]]) -> None:
    title = f"{fields[0]['problem']} on {fields[0]['device']}: predicted, not measured"
    print_facts(title, *(_facts(one, prediction) for one, prediction in predictions))
    print_table("", *_nsight_table(fields))
    for line in (*fields[0]["differences"], *fields[0]["advice"]):
        say(f"- {line}")
    if len(predictions) > 1:
        click.echo(_compared(*predictions))


def _nsight_table(fields: list[dict[str, Any]]) -> tuple[list[str], list[list[str]]]:
    """Return columns and rows: Nsight Compute's name, ours, and the figures of each config."""
    kinds = [(one["nsight"], "predicted") for one in fields]
    if fields[0]["measured"]:
        kinds.append((fields[0]["measured"], "measured"))
    table = [
        [metric.name, metric.ours, *(_figure(metric, figures) for figures, _ in kinds)]
        for metric in nsight.METRICS
    ]
    return ["Nsight Compute", "here", *(kind for _, kind in kinds)], table


def _figure(metric: nsight.Metric, figures: dict[str, float]) -> str:
    value = figures.get(metric.name)
    if value is None or not math.isfinite(value):
        return "-"
    if metric.unit == "ns":
        return ms(value / 1e6)
    if metric.unit == "byte":
        return f"{value / 1e9:.4g} GB"
    return f"{value:.1f} %" if metric.unit == "%" else f"{value:.0f}"


def predicted(problem: Problem, config: Config, device: Device, taken: dict[str, Any]) -> Prediction:
    """Return the prediction of a config that is compiled for it; `taken` stands in place of resources.

    Raises:
        ConfigError: it does not compile.
        Unavailable: nothing can be compiled here now.
    """
    from autoconv.cost.predict import compiled_resources, predict

    try:
        resources = compiled_resources(problem, config, device)
    except Exception as error:  # Triton and ptxas raise of every type on a config they cannot compile
        outcome = outcome_of(error)
        if isinstance(outcome, Unavailable):
            cache = f"what is compiled is kept in {settings.load().cache}, see AUTOCONV_CACHE"
            raise Unavailable(f"{problem} cannot be compiled now ({outcome.reason}); {cache}") from error
        said = (str(error).strip().splitlines() or [""])[-1]
        reason = f"does not compile for {device.name} ({type(error).__name__}: {said})"
        raise ConfigError("config", config, reason, "choose other tiles, warps or stages") from error
    return predict(problem, config, device, replace(resources, **taken))


def _facts(config: Config, prediction: Prediction) -> dict[str, str]:
    error = f"{model_error_pct(config):g} % in the median, of measured {config.kernel} configs"
    if config.kernel not in TYPICAL_ERROR_PCT:
        error = f"{OVER_ALL_PCT:g} % in the median, of all kernels; {config.kernel} was never measured"
    return {**nsight.facts(config, prediction), "model's error": error}


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
