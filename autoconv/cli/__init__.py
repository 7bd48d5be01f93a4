"""The command line: one file a command, each of which parses, calls and prints."""

from __future__ import annotations

import errno
import gc
import os
import sys
from pathlib import Path
from typing import Any

import click

from autoconv.cli.capture import capture
from autoconv.cli.common import printable
from autoconv.cli.db import db
from autoconv.cli.doctor import doctor
from autoconv.cli.emit import emit
from autoconv.cli.explain import explain
from autoconv.cli.lookup import lookup
from autoconv.cli.report import report
from autoconv.cli.tune import tune
from autoconv.cli.verify import verify
from autoconv.errors import FieldError
from autoconv.sweep.outcomes import Unavailable
from tuning_db import TuningDBError

HELP = """Tune 1-D convolutions for NVIDIA GPUs, and look up what was tuned.

A problem is one convolution, written as its sizes and whatever is not at its default:

\b
  N=64,Cin=64,Cout=128,K=3,L=224280,stride=3,dilation=4
  N=8,Cin=512,Cout=512,K=5,L=1024,padding=2,bias=1,dtype=float16

\b
  field           meaning                                 default
  N               batch size
  Cin, Cout       channels of input and output
  K               taps of the kernel
  L               length of the input
  stride          step between windows                    1
  dilation        step between taps                       1
  op              conv, conv_transpose or conv_weight     conv
                  (the gradient of a conv's weight)
  padding         zeros on each side, or left:right       0
  groups          channel groups                          1
  output_padding  further length, of conv_transpose       0
  bias            1 where a bias is added                 0
  activation      none, relu, leaky_relu, gelu, silu      none
                  or tanh, applied to the result
  dtype           float32, float16 or bfloat16            float32
  precision       of float32: tf32, tf32x3 or ieee        tf32
  layout          ncl, or nlc (channels last)             ncl

Settings, such as where the database lies, are environment variables; the README lists them.

Commands, devices and kernels are completed by the shell after this line, which belongs into ~/.bashrc; zsh
and fish take zsh_source and fish_source:

\b
  eval "$(_AUTOCONV_COMPLETE=bash_source autoconv)"

Exit status: 0 done, 1 a negative answer (not found, not verified), 2 a wrong call, 130 interrupted.
"""


INTERRUPTED = 130  # the exit status of what Ctrl-C ended: 128 + SIGINT, as shells have it


class WrongCall(click.ClickException):
    """What the user got wrong: one line on standard error, exit status 2."""

    exit_code = 2


class Trouble(click.ClickException):
    """What the machine got wrong: one line on standard error, exit status 1."""


class Commands(click.Group):
    """The commands, whose named errors are each a WrongCall or a Trouble."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command that `ctx` is for."""
        try:
            return super().invoke(ctx)
        except (FieldError, TuningDBError) as error:
            raise WrongCall(printable(str(error))) from error
        except Unavailable as error:
            raise Trouble(printable(error.reason)) from error
        except KeyboardInterrupt:
            raise click.exceptions.Exit(INTERRUPTED) from None


@click.group(cls=Commands, help=HELP, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="autoconv")
def cli() -> None:
    """The group of all commands."""


for command in (tune, capture, lookup, explain, emit, report, verify, db, doctor):
    cli.add_command(command)


def main() -> None:
    """Run the command line. Output that nobody reads ends it quietly, output that fails in one line."""
    if sys.stdout is None:  # closed by who called
        sys.stdout = Path(os.devnull).open("w")  # noqa: SIM115 - for as long as the process lives
    gc.freeze()  # what was imported is no garbage: to look through it takes a tenth of a lookup's time
    try:
        try:
            cli(prog_name="autoconv")
        finally:
            sys.stdout.flush()
            gc.freeze()  # as long again, at the interpreter's exit
    except OSError as error:
        if error.filename is not None:
            raise  # of another file
        # What is still buffered would fail once more as the interpreter ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        if error.errno != errno.EPIPE:
            click.echo(f"Error: the output cannot be written ({error.strerror})", err=True)
        raise SystemExit(1) from None
