"""`autoconv emit`."""

from __future__ import annotations

import math
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from autoconv.cli.common import (
    PROBLEM_HELP,
    Target,
    config_options,
    device_option,
    json_option,
    note,
    parse_config,
    print_json,
    problem_argument,
    target,
)
from autoconv.cli.explain import predicted
from autoconv.cli.output import written
from autoconv.compiler.resolve import resolve
from autoconv.config import Config
from autoconv.errors import ConfigError
from autoconv.kernels.aten import ATEN
from autoconv.problem import Problem

if TYPE_CHECKING:
    from autoconv.emit import Facts, Over


@click.command(epilog=PROBLEM_HELP)
@problem_argument
@device_option
@config_options
@click.option(
    "--autotune",
    "count",
    type=click.IntRange(min=2),
    metavar="N",
    help="Have the file choose among the N best configs where it runs, by triton.autotune.",
)
@click.option(
    "--over",
    type=click.Choice(["blocks", "launch"]),
    help="What those differ in: the tiles BLOCK_* (default), or num_warps and num_stages.",
)
@click.option(
    "-o", "--output", metavar="FILE", type=click.Path(path_type=Path), help="File to write instead."
)
@json_option
def emit(
    problem: str,
    device: str,
    kernel: str | None,
    numbers: str | None,
    count: int | None,
    over: Over | None,
    output: Path | None,
    as_json: bool,
) -> None:
    """Print the kernel for PROBLEM as one Python file.

    It needs torch and Triton alone: the jit functions, the function that computes the grid and launches, and
    ModelNew, with the constructor of torch's module. The config is the database's for PROBLEM, or the best
    estimate where it has none of ours, unless --kernel and --config give one. The file serves tensors of
    every size; what its kernel does not run, torch does in it. --json prints what the file is for, and its
    text as `source` where no --output takes it.
    """
    parsed = Problem.parse(problem)
    config = parse_config(kernel, numbers)
    if over is not None and count is None:
        raise ConfigError("--autotune", None, "is missing", "give it with --over")
    at = target(device)
    config, facts = _chosen(parsed, config, at)
    text = _text(parsed, config, facts, over or ("blocks" if count else None), count or 1)
    fields = _fields(parsed, config, facts)
    if output is not None:
        with written(output) as file:
            file.write(text)
    else:
        fields["source"] = text
    if as_json:
        print_json({**fields, "file": None if output is None else str(output)})
    elif output is None:
        click.echo(text, nl=False)


def _chosen(problem: Problem, config: Config | None, at: Target) -> tuple[Config, Facts]:
    """Return the config to write down, compiled for the device, and what is known of it."""
    from autoconv.emit import Facts

    measured = known = None
    if config is None:
        found = at.tuner.find(problem, at.environment)
        if found is not None and found.config == ATEN:
            note("torch's own convolution is what serves here; this is the best of the kernels")
        elif found is not None:
            measured, known = found.measured_us, found.measured_us or found.predicted_us
        config = at.tuner.kernel_for(problem, at.environment, at.device)
    resolve(problem, config, at.device)
    prediction = predicted(problem, config, at.device, {})
    milliseconds = prediction.seconds * 1e3 if known is None else known / 1e3
    versions = f"autoconv {version('autoconv')} with Triton {at.environment.triton_patch}"
    time = milliseconds if math.isfinite(milliseconds) else None
    return config, Facts(at.device, prediction, time, measured is not None, versions)


def _text(problem: Problem, config: Config, facts: Facts, over: Over | None, count: int) -> str:
    from autoconv import emit as emitting
    from autoconv.kernels.registry import kernel as kernel_called

    kernel = kernel_called(config.kernel)
    if over is None:
        return emitting.emit(kernel, problem, [config], facts)
    configs = emitting.rivals(kernel, problem, config, facts.device, over, count)
    if len(configs) < count:
        note(f"the space has {len(configs)} configs that differ in these alone, not {count}")
    return emitting.emit(kernel, problem, configs, facts, over)


def _fields(problem: Problem, config: Config, facts: Facts) -> dict[str, Any]:
    return {
        "problem": str(problem),
        "device": facts.device.name,
        "kernel": config.kernel,
        "config": config.to_json(),
        "grid": list(facts.prediction.grid),
        "predicted_ms": None if facts.measured else facts.milliseconds,
        "measured_ms": facts.milliseconds if facts.measured else None,
        "floor_ms": facts.prediction.floor_seconds * 1e3,
    }
