"""`autoconv lookup`."""

from __future__ import annotations

from typing import Any

import click

from autoconv.cli.common import (
    PROBLEM_HELP,
    Target,
    device_option,
    json_option,
    milliseconds,
    print_json,
    problem_argument,
    say,
    target,
)
from autoconv.errors import ProblemError
from autoconv.lookup import Found
from autoconv.problem import Problem


@click.command(epilog=PROBLEM_HELP)
@problem_argument
@device_option
@click.option("--why", "tell_why", is_flag=True, help="Say how the nearest entry differs, even if it serves.")
@json_option
def lookup(problem: str, device: str, tell_why: bool, as_json: bool) -> None:
    """Show what the database has for PROBLEM; nothing is swept.

    An entry of grade "exact" or "soft" (another driver, say, or an interrupted sweep's) is found. Where there
    is none, what a call would run until a sweep has ended is shown: "scaled" from another device of the
    architecture, the "nearest" problem's on this device, or, as "default", the least estimate; and how the
    nearest entry differs, field by field. Exit status 1: none was found.
    """
    parsed = Problem.parse(problem)
    at = target(device)
    found = at.tuner.find(parsed, at.environment)
    shown = found or _provisional(parsed, at)
    fields: dict[str, Any] = {
        "found": found is not None,
        "problem": str(parsed),
        "device": at.device.name,
        "grade": shown.grade if shown else None,
        "layer": shown.layer if shown else None,
        "provenance": shown.provenance if shown else None,
        "kernel": shown.config.kernel if shown else None,
        "config": shown.config.to_json() if shown else None,
        "predicted_ms": milliseconds(shown.predicted_us) if shown else None,
        "measured_ms": milliseconds(shown.measured_us) if shown else None,
    }
    if tell_why or found is None:
        fields["why"] = at.tuner.why_missing(parsed, at.environment)
    if as_json:
        print_json(fields)
    else:
        if found is None:
            say("not found" if shown is None else "not found; until it is tuned:")
        if shown is not None:
            say(f"{shown.config}  {shown.provenance}, grade {shown.grade}, layer {shown.layer}")
        for line in fields.get("why", ()):
            say(f"  {line}")
    raise SystemExit(0 if found else 1)


def _provisional(problem: Problem, at: Target) -> Found | None:
    try:
        return at.tuner.provisional(problem, at.environment, at.device)
    except ProblemError:  # no kernel runs it: it is left to torch
        return None
