"""`autoconv doctor`."""

from __future__ import annotations

from dataclasses import asdict

import click

from autoconv.cli.common import json_option, print_json, say

_MARKS = {"ok": "ok  ", "warning": "warn", "failure": "FAIL"}


@click.command()
@json_option
def doctor(as_json: bool) -> None:
    """Check what autoconv needs; say what to do where it is missing.

    Exit status 1: something failed. A warning leaves autoconv working, though less well.
    """
    from autoconv.diagnosis import diagnose

    findings = diagnose()
    for finding in findings:
        if as_json:
            print_json(asdict(finding))
        else:
            remedy = f"; {finding.remedy}" if finding.remedy else ""
            say(f"{_MARKS[finding.status]}  {finding.subject}: {finding.detail}{remedy}")
    raise SystemExit(1 if any(finding.status == "failure" for finding in findings) else 0)
