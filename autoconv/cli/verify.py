"""`autoconv verify`."""

from __future__ import annotations

import math
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from autoconv.cli.common import (
    PROBLEM_HELP,
    Target,
    config_options,
    device_option,
    json_option,
    parse_config,
    print_json,
    problem_argument,
    say,
    target,
)
from autoconv.compiler.resolve import resolve
from autoconv.config import Config
from autoconv.problem import Problem
from autoconv.sweep.check import check
from autoconv.sweep.outcomes import Outcome

if TYPE_CHECKING:
    from autoconv.sweep.verify import Verdict


@click.command(epilog=PROBLEM_HELP)
@problem_argument
@device_option
@config_options
@json_option
def verify(problem: str, device: str, kernel: str | None, numbers: str | None, as_json: bool) -> None:
    """Check that kernels compute PROBLEM right.

    Fresh random inputs, an output filled with NaN between guard bands, and a float64 reference: on the GPU if
    the device is present, else in Triton's interpreter. Checked are the config that a call would use and the
    best estimate of every other kernel, or the one config that --kernel and --config give. A problem too
    large for the interpreter is reduced first, tiles and remainders kept. Exit status 1: something is wrong.
    """
    parsed = Problem.parse(problem)
    config = parse_config(kernel, numbers)
    at = target(device)
    configs = [resolve(parsed, config, at.device).config] if config else _configs(parsed, at)
    answers = check(parsed, configs, on_gpu=at.on_gpu)
    verdicts = [answer for answer in answers if not isinstance(answer, Outcome)]
    checked = [
        {"kernel": c.kernel, "config": c.to_json(), **_answer_fields(answer)}
        for c, answer in zip(configs, answers, strict=True)
    ]
    fields = {
        "ok": len(verdicts) == len(answers) and all(verdict.ok for verdict in verdicts),
        "max_rel_err": _worst([verdict.max_rel_err for verdict in verdicts]),
        "unwritten": sum(verdict.unwritten for verdict in verdicts),
        "problem": str(parsed),
        "where": at.device.name if at.on_gpu else "interpreter",
        "checked": checked,
    }
    if as_json:
        print_json(fields)
    else:
        for one in checked:
            say(f"{'ok   ' if one.get('ok') else 'WRONG'} {_line(one)}")
    raise SystemExit(0 if fields["ok"] else 1)


def _configs(problem: Problem, at: Target) -> list[Config]:
    from autoconv.sweep.candidates import candidates, shortlist

    chosen = at.tuner.kernel_for(problem, at.environment, at.device)
    best = shortlist(problem, candidates(problem, at.device), at.device, count=0)
    return [chosen, *(config for config in best if config.kernel != chosen.kernel)]


def _answer_fields(answer: Verdict | Outcome) -> dict[str, Any]:
    return {"error": answer.reason} if isinstance(answer, Outcome) else asdict(answer)


def _worst(errors: list[float]) -> float | None:
    finite = [error for error in errors if math.isfinite(error)]
    return max(finite) if len(finite) == len(errors) and finite else None


def _line(one: dict[str, Any]) -> str:
    config = Config.from_json(one["kernel"], one["config"])
    if "error" in one:
        return f"{config}: {one['error']}"
    return (
        f"{config}: largest relative error {one['max_rel_err']:.2g}, {one['unwritten']} elements unwritten, "
        f"{one['overrun']} written outside; {one['problem']}, seed {one['seed']}"
    )
