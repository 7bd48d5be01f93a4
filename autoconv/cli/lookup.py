"""`autoconv lookup`."""

from __future__ import annotations

from typing import Any

import click

from autoconv import lookup as lookups
from autoconv.cli.common import (
    PROBLEM_HELP,
    Target,
    device_option,
    json_option,
    milliseconds,
    print_json,
    problem_argument,
    say,
    target_to_look_up,
)
from autoconv.cli.tables import print_facts, times
from autoconv.errors import ProblemError
from autoconv.lookup import SERVING, Found
from autoconv.problem import Problem


@click.command(epilog=PROBLEM_HELP)
@problem_argument
@device_option
@click.option("--why", "tell_why", is_flag=True, help="Say how the nearest entry differs, even if it serves.")
@json_option
def lookup(problem: str, device: str, tell_why: bool, as_json: bool) -> None:
    """Show what the database has for PROBLEM; nothing is swept.

    Found is an entry of grade "exact"; "soft" (another driver, say, or an interrupted sweep's); "bucket" (of
    a near size, which is shown); or "carried" from another version of Triton, or from before its kernel
    changed. Where there is none, what the policy "predict" would run is shown: "scaled" from another device
    of the architecture, the "nearest" problem's on this device, or, as "default", the least estimate; and how
    the nearest entry differs, field by field. A pinned file is final: what it lacks is torch's. Exit status
    1: none was found.
    """
    from autoconv.cost.version import predictor_of

    parsed = Problem.parse(problem)
    at = target_to_look_up(device)
    served = lookups.find(at.layers, parsed, at.environment, predictor_of) or _provisional(parsed, at)
    shown = served and lookups.estimated(served, parsed, at.device)
    found = shown is not None and shown.grade in SERVING
    fields = _fields(parsed, at, shown, found)
    if tell_why or not found:
        fields["why"] = lookups.why_missing(at.layers, parsed, at.environment, predictor_of, served=found)
    if as_json:
        print_json(fields)
    else:
        _print(fields, shown)
    raise SystemExit(0 if found else 1)


def _provisional(problem: Problem, at: Target) -> Found | None:
    try:
        return at.tuner.provisional(problem, at.environment, at.device)
    except ProblemError:  # no kernel runs it: it is left to torch
        return None


def _fields(problem: Problem, at: Target, shown: Found | None, found: bool) -> dict[str, Any]:
    from autoconv.cost.prediction import floor_seconds

    return {
        "found": found,
        "problem": str(problem),
        "device": at.device.name,
        "grade": shown.grade if shown else None,
        "layer": shown.layer if shown else None,
        "pinned": shown.pinned if shown else False,
        "provenance": shown.provenance if shown else None,
        "tuned_for": str(shown.tuned or problem) if shown and shown.grade != "default" else None,
        "kernel": shown.config.kernel if shown else None,
        "config": shown.config.to_json() if shown else None,
        "predicted_ms": milliseconds(shown.predicted_us) if shown else None,
        "measured_ms": milliseconds(shown.measured_us) if shown else None,
        "contended_ms": milliseconds(shown.contended_us) if shown else None,
        "floor_ms": floor_seconds(problem, at.device) * 1e3,
    }


def _print(fields: dict[str, Any], shown: Found | None) -> None:
    title = f"{fields['problem']} on {fields['device']}"
    if shown is None:
        say("not found")
        print_facts(title, {"config": "none: no kernel runs it, so torch serves", **times(fields)})
    else:
        if not fields["found"]:
            final = (
                "the pinned file leaves it to torch" if shown.pinned else "what the policy predict would run"
            )
            say(f"not found; {final}:")
        print_facts(title, _facts(fields, shown))
    for line in fields.get("why", ()):
        say(f"  {line}")


def _facts(fields: dict[str, Any], shown: Found) -> dict[str, str]:
    pinned = ", pinned" if shown.pinned else ""
    facts = {
        "config": str(shown.config),
        **times(fields),
        "from": f"{shown.provenance}, grade {shown.grade}, layer {shown.layer}{pinned}",
    }
    return facts if shown.tuned is None else {**facts, "tuned for": str(shown.tuned)}
