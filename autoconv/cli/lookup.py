"""`autoconv lookup`."""

from __future__ import annotations

from typing import Any

import click

from autoconv.cli.common import (
    PROBLEM_HELP,
    device_option,
    json_option,
    milliseconds,
    print_json,
    problem_argument,
    target,
)
from autoconv.problem import Problem


@click.command(epilog=PROBLEM_HELP)
@problem_argument
@device_option
@json_option
def lookup(problem: str, device: str, as_json: bool) -> None:
    """Show what the database has for PROBLEM; nothing is swept.

    Exit status 1: it has nothing; the nearest entry's differences are listed, field by field.
    """
    parsed = Problem.parse(problem)
    at = target(device)
    found = at.tuner.find(parsed, at.environment)
    fields: dict[str, Any] = {"found": found is not None, "problem": str(parsed), "device": at.device.name}
    if found is None:
        fields |= {"grade": None, "layer": None, "provenance": None, "kernel": None, "config": None}
        fields["why"] = at.tuner.why_missing(parsed, at.environment)
    else:
        fields |= {
            "grade": found.grade,
            "layer": found.layer,
            "provenance": found.provenance,
            "kernel": found.config.kernel,
            "config": found.config.to_json(),
            "predicted_ms": milliseconds(found.predicted_us),
            "measured_ms": milliseconds(found.measured_us),
        }
    if as_json:
        print_json(fields)
    elif found is None:
        click.echo("\n".join(["not found", *(f"  {line}" for line in fields["why"])]))
    else:
        click.echo(f"{found.config}  {found.provenance}, grade {found.grade}, layer {found.layer}")
    raise SystemExit(0 if found else 1)
