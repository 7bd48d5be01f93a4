"""`autoconv explain`."""

from __future__ import annotations

from typing import Any

import click
from rich.console import Console
from rich.table import Table

from autoconv.cli.common import (
    PROBLEM_HELP,
    check_runs,
    config_options,
    device_option,
    json_option,
    parse_config,
    print_json,
    problem_argument,
    target,
)
from autoconv.config import Config
from autoconv.cost.prediction import Prediction
from autoconv.device import Device
from autoconv.errors import ConfigError
from autoconv.problem import Problem


@click.command(epilog=PROBLEM_HELP)
@problem_argument
@device_option
@config_options
@json_option
def explain(problem: str, device: str, kernel: str | None, numbers: str | None, as_json: bool) -> None:
    """Show why a config should take the time it is predicted to take.

    The config is the database's for PROBLEM, or the best estimate where it has none of ours, unless --kernel
    and --config give one. It is compiled for the device; every figure is predicted, none measured. Exit
    status 1: it compiles, but the device cannot launch it.
    """
    parsed = Problem.parse(problem)
    config = parse_config(kernel, numbers)
    if config is not None:
        check_runs(config, parsed)
    at = target(device)
    if config is None:
        config = at.tuner.kernel_for(parsed, at.environment, at.device)
    prediction = _predicted(parsed, config, at.device)
    fields = {"problem": str(parsed), "device": at.device.name, **prediction.to_json(config)}
    if as_json:
        print_json(fields)
    else:
        _print(fields, config, prediction)
    raise SystemExit(0 if prediction.blocks_per_sm else 1)


def _predicted(problem: Problem, config: Config, device: Device) -> Prediction:
    from autoconv.cost.predict import predict

    try:
        return predict(problem, config, device)
    except Exception as error:  # Triton and ptxas raise of every type on a config they cannot compile
        said = (str(error).strip().splitlines() or [""])[-1]
        reason = f"does not compile for {device.name} ({type(error).__name__}: {said})"
        raise ConfigError("config", config, reason, "choose other tiles, warps or stages") from error


def _print(fields: dict[str, Any], config: Config, prediction: Prediction) -> None:
    table = Table(
        title=f"{fields['problem']} on {fields['device']}: predicted, not measured",
        show_header=False,
        title_justify="left",
    )
    time = f"{prediction.seconds * 1e3:.4g} ms; floor {prediction.floor_seconds * 1e3:.4g} ms"
    terms = sorted(prediction.terms.items(), key=lambda term: -term[1])
    rows = {
        "config": str(config),
        "time": f"{time} ({prediction.seconds / prediction.floor_seconds:.2f} x)"
        if prediction.blocks_per_sm
        else f"none: {fields['device']} cannot launch a block, for want of {prediction.limiter}",
        "bound": ", ".join(f"{name} {seconds * 1e3:.3g} ms" for name, seconds in terms),
        "grid": f"{' x '.join(str(axis) for axis in prediction.grid)} = {prediction.blocks} blocks",
        "occupancy": f"{prediction.blocks_per_sm} blocks an SM, {prediction.warps_active_pct:.1f} % of its "
        f"warps; limited by {prediction.limiter}",
        "resources": f"{prediction.registers} registers a thread, {prediction.spills} bytes spilled, "
        f"{prediction.shared} bytes of shared memory a block",
        "DRAM": f"{prediction.dram_bytes / 1e9:.4g} GB; ideal {prediction.ideal_bytes / 1e9:.4g} GB; "
        f"{prediction.dram_throughput_pct:.1f} % of the peak",
        "SM": f"{prediction.sm_throughput_pct:.1f} % of the peak of its busiest unit",
    }
    for name, value in rows.items():
        table.add_row(name, value)
    Console().print(table)
