"""`autoconv capture`."""

from __future__ import annotations

import json
import os
import runpy
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import click

from autoconv.cli.common import note, printable
from autoconv.cli.output import written


@click.command(
    context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False},
    epilog="What stands behind SCRIPT is the program's, options too.",
)
@click.option("-m", "as_module", is_flag=True, help="SCRIPT is a module's name, as in `python -m`.")
@click.option("--fake", is_flag=True, help="Run it on fake tensors, which hold no values and take no memory.")
@click.option(
    "--output", type=click.Path(dir_okay=False, path_type=Path), help="File to write, not standard output."
)
@click.argument("script", metavar="SCRIPT")
@click.argument("arguments", nargs=-1, metavar="[ARGS]...", type=click.UNPROCESSED)
def capture(
    as_module: bool, fake: bool, output: Path | None, script: str, arguments: tuple[str, ...]
) -> None:
    """Run a Python program; write each 1-D convolution it poses.

    A line is a JSON object: the problem, how many calls posed it, and the modules that asked. `autoconv
    tune` takes such a file. Seen is what the program's main thread computes, forward and backward, whoever
    computes it: torch or a kernel, on a GPU or none. What the program prints goes to standard error. The
    exit status is the program's; where it fails or is interrupted, what was seen till then is written.
    """
    from autoconv.capturing import capture as capturing

    if not as_module and not Path(script).is_file():
        raise click.BadParameter(f"{printable(script)}: there is no such file", param_hint="SCRIPT")
    seen = capturing()
    interrupted = None
    # Opened before: a program may take hours, and then it is late to say that nothing can be written.
    with nullcontext(sys.stdout) if output is None else written(output) as file:
        try:
            with _printing_to_stderr(), _fake(fake), seen:
                status = _run(script, arguments, as_module)
        except KeyboardInterrupt as ctrl_c:
            interrupted = ctrl_c
        for one in seen.problems:
            file.write(f"{json.dumps(one.to_json())}\n")
    for left in seen.left:
        note(f"left to torch: {left}")
    if interrupted is not None:
        raise interrupted
    raise SystemExit(status)


def _run(script: str, arguments: tuple[str, ...], as_module: bool) -> int:
    """Run the program as `python` would, and return its exit status."""
    sys.argv = [script, *arguments]
    sys.path[0:0] = ["" if as_module else str(Path(script).parent)]
    try:
        if as_module:
            runpy.run_module(script, run_name="__main__", alter_sys=True)
        else:
            runpy.run_path(script, run_name="__main__")
    except SystemExit as ended:
        if ended.code is None or isinstance(ended.code, int):
            return ended.code or 0
        click.echo(ended.code, err=True)
        return 1
    except Exception:  # the program's, not this command's, whatever it is
        traceback.print_exc()
        return 1
    return 0


def _fake(fake: bool) -> Any:
    from torch._subclasses.fake_tensor import FakeTensorMode

    return FakeTensorMode(allow_non_fake_inputs=True) if fake else nullcontext()


@contextmanager
def _printing_to_stderr() -> Iterator[None]:
    """Have all that is printed in the block, by C libraries too, go to standard error."""
    sys.stdout.flush()
    stdout, kept = 1, os.dup(1)
    os.dup2(2, stdout)
    before, sys.stdout = sys.stdout, sys.stderr
    try:
        yield
    finally:
        sys.stderr.flush()
        sys.stdout = before
        os.dup2(kept, stdout)
        os.close(kept)
