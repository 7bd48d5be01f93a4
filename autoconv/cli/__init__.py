"""The command line: one file a command, each of which parses, calls and prints."""

from __future__ import annotations

import sys

import click

from autoconv.cli.db import db
from autoconv.cli.doctor import doctor
from autoconv.cli.explain import explain
from autoconv.cli.lookup import lookup
from autoconv.cli.tune import tune
from autoconv.cli.verify import verify
from autoconv.errors import FieldError
from tuning_db import TuningDBError


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="autoconv")
def cli() -> None:
    r"""Tune 1-D convolutions for NVIDIA GPUs, and look up what was tuned.

    A problem is written as its sizes and whatever is not at its default:

    \b
      N=64,Cin=64,Cout=128,K=3,L=224280,stride=3,dilation=4
      N=8,Cin=512,Cout=512,K=5,L=1024,padding=2,bias=1,dtype=float16

    Exit status: 0 done, 1 a negative answer (not found, not verified), 2 a wrong call.
    """


for command in (tune, lookup, explain, verify, db, doctor):
    cli.add_command(command)


def main() -> None:
    """Run the command line; what the user got wrong is one line on standard error and exit status 2."""
    try:
        cli(prog_name="autoconv")
    except (FieldError, TuningDBError) as error:
        click.echo(f"Error: {error}", err=True)
        sys.exit(2)
