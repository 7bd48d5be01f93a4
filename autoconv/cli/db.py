"""`autoconv db` and its commands."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from contextlib import ExitStack, nullcontext
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import click

from autoconv import device as devices
from autoconv import lookup, settings
from autoconv.cli.common import WITHOUT_GPU, json_option, note, print_json, say
from autoconv.cli.listing import list_, show
from autoconv.cli.missed import missed
from autoconv.cli.output import written
from autoconv.cli.pin import pin
from autoconv.cli.tables import print_fields
from autoconv.environment import Environment
from autoconv.errors import FieldError
from autoconv.kernels.source import is_torchs, sources
from tuning_db import (
    DamagedError,
    EnvironmentRecord,
    ImportSummary,
    Report,
    TuningDB,
    bounded_lines,
    export_lines,
    import_lines,
    open_text,
    quarantined,
)
from tuning_db import check as check_database
from tuning_db import merge as merge_database
from tuning_db import prune as prune_database
from tuning_db import rebuild as rebuild_database
from tuning_db import vacuum as vacuum_database
from tuning_db.prebuilt import is_intact

Command = TypeVar("Command", bound=Callable[..., Any])


def _source_options(command: Command) -> Command:
    """Add what names the database to read: a file, the packaged one, or else the user's."""
    command = click.option("--packaged", is_flag=True, help="The database that autoconv was shipped with.")(
        command
    )
    path = click.Path(exists=True, dir_okay=False, path_type=Path)
    return click.argument("file", required=False, type=path)(command)


def _opened(file: Path | None, packaged: bool) -> TuningDB:
    """Open the database that the source options name, to be read as it is: nothing is mended."""
    if packaged and file is not None:
        raise click.UsageError("--packaged is a database of its own; give it or a FILE, not both")
    if packaged:
        return lookup.open_file(lookup.PREBUILT, immutable=True)
    return lookup.open_file(file or settings.load().database)


def _open_user() -> TuningDB:
    return lookup.open_user(settings.load(), note)


@click.group()
def db() -> None:
    """Look after the tuning database (the file that AUTOCONV_DB names)."""


for command in (list_, show, missed, pin):
    db.add_command(command)


@db.command()
@_source_options
@json_option
def info(file: Path | None, packaged: bool, as_json: bool) -> None:
    """Show how much a database holds: FILE, or the user's."""
    given = file is not None or packaged
    with _opened(file, packaged) if given else lookup.open_as_it_is(settings.load()) as database:
        print_fields(database.info(), as_json)


@db.command()
@_source_options
@json_option
def check(file: Path | None, packaged: bool, as_json: bool) -> None:
    """Check FILE, or the user's database, without changing it.

    Looked at are its pages, its references, the checksum of every row, every winner against the trials it is
    derived from, and whether today's kernels can run the config of every trial. Exit status 1: something is
    wrong.
    """
    note("checking every row; a million trials take minutes")
    try:
        with _opened(file, packaged) as database:
            report, path, mark = check_database(database, lookup.refusal), database.path, database.pin
    except DamagedError as error:
        report, path, mark = Report(structure=[error.reason]), Path(error.path), None
    intact = is_intact(path) if packaged else True
    if not intact:
        report.structure.append("the file is not the one that was packaged; install autoconv again")
    print_fields(
        {
            "ok": report.ok,
            "path": str(path),
            **asdict(report),
            "pin": mark and mark.title,
            "pinned_at": mark and mark.made,
        },
        as_json,
    )
    raise SystemExit(0 if report.ok else 1)


@db.command()
@_source_options
@click.option("--output", type=click.Path(dir_okay=False, path_type=Path), help="File to write instead.")
@json_option
def export(file: Path | None, packaged: bool, output: Path | None, as_json: bool) -> None:
    """Print FILE, or the user's database, as text.

    `import` reads it: one JSON object per finished trial, sorted, the same bytes each time. Bad rows are
    left out; exit status 1 where there are some. With --output, --json prints what was written; a file that
    is there is replaced when all is written, and stays as it was if that fails (exit status 1 too).
    """
    with _opened(file, packaged) as database:
        if output is not None and output.exists() and output.samefile(database.path):
            raise click.BadParameter("it is the database itself; name another file", param_hint="--output")
        with nullcontext(sys.stdout) if output is None else written(output) as to:
            lines = 0
            for line in export_lines(database):
                to.write(line)
                lines += 1
        bad_rows = database.bad_rows
    if output is not None:
        print_fields({"path": str(output), "trials": lines, "bad_rows": bad_rows}, as_json)
    if bad_rows:
        note(f"{bad_rows} bad rows were left out; `autoconv db check` tells more")
    raise SystemExit(1 if bad_rows else 0)


@db.command(name="import")
@click.argument(
    "files", nargs=-1, type=click.Path(exists=True, dir_okay=False, path_type=Path), metavar="FILE..."
)
@click.option("--quarantined", "again", is_flag=True, help="Try the lines in quarantine again.")
@json_option
def import_(files: tuple[Path, ...], again: bool, as_json: bool) -> None:
    """Add the trials of exported text to the user's database.

    Winners are derived anew. Every line's checksum is verified, its problem's key derived anew, and its
    config must be one that today's kernels can run; a line that fails is kept in quarantine with the
    reason, and the others come in. What is there already changes nothing. Exit status 1: something was
    quarantined.
    """
    if not files and not again:
        raise click.UsageError("name a FILE of exported text, or give --quarantined")
    clean = True
    with ExitStack() as stack:
        texts = [(path, stack.enter_context(open_text(path))) for path in files]
        database = stack.enter_context(_open_user())
        for path, text in texts:
            from autoconv.cli.bars import progress_bar

            with progress_bar(path.name) as show:
                summary = import_lines(database, bounded_lines(text), lookup.refusal, partial(show, "import"))
                clean &= _tell(path, summary, as_json)
        if again:
            held = [line for _, line in quarantined(database)]
            clean &= _tell("quarantine", import_lines(database, held, lookup.refusal), as_json)
    raise SystemExit(0 if clean else 1)


def _tell(source: Path | str, summary: ImportSummary, as_json: bool) -> bool:
    """Print what an import or a merge did, and return whether all of it came in."""
    print_fields({"from": str(source), **asdict(summary)}, as_json)
    return not (summary.quarantined or summary.bad_rows)


@db.command()
@click.argument(
    "files",
    nargs=-1,
    required=True,
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    metavar="FILE...",
)
@json_option
def merge(files: tuple[Path, ...], as_json: bool) -> None:
    """Add the trials of other databases to the user's.

    It is as if they were exported and imported: the files are only read. Order and repetition do not
    matter. A damaged file is refused whole. Exit status 1: something was quarantined, or a row was bad
    and left behind.
    """
    clean = True
    with _open_user() as database:
        for path in files:
            note(f"merging {path}")
            clean &= _tell(path, merge_database(database, path, lookup.refusal), as_json)
    raise SystemExit(0 if clean else 1)


@db.command()
@click.option(
    "--best",
    type=click.IntRange(2, 10**9),
    help="Keep so many configs of each problem, environment and kernel source.",
)
@click.option("--outdated", is_flag=True, help="Remove what other kernel sources or another Triton gave.")
@click.option("--quarantine", is_flag=True, help="Empty the quarantine.")
@click.option("--missed", "misses", is_flag=True, help="Forget what was missed.")
@click.option("--dry-run", is_flag=True, help="Say what would be removed, and leave it.")
@json_option
def prune(
    best: int | None, outdated: bool, quarantine: bool, misses: bool, dry_run: bool, as_json: bool
) -> None:
    """Remove what is no longer wanted from the user's database.

    What is kept has the winners it had; torch's own times are outdated by another Triton alone. What was
    outdated is no longer tried first by the next sweep. `vacuum` gives the space back.
    """
    if best is None and not (outdated or quarantine or misses):
        raise click.UsageError("say what to remove: --best, --outdated, --quarantine or --missed")
    if outdated and _triton() == "absent":
        reason, remedy = "cannot be told without Triton", "prune where Triton is installed"
        raise FieldError("prune", "--outdated", None, reason, remedy)
    with _open_user() as database:
        drop = _outdated if outdated else None
        pruned = asdict(
            prune_database(
                database, best=best, drop=drop, quarantine=quarantine, misses=misses, dry_run=dry_run
            )
        )
    if as_json:
        print_json({"dry_run": dry_run, **pruned})
    else:
        say(_told(pruned, dry_run))


def _told(pruned: Mapping[str, int], dry_run: bool) -> str:
    """Return in a sentence what a pruning removed.

    >>> _told({"trials": 3, "runs": 1, "misses": 0}, dry_run=True)
    'would remove 3 trials, 1 run'
    """
    names = {"quarantined": "lines in quarantine"}
    counts = [(count, names.get(name, name)) for name, count in pruned.items() if count]
    parts = [f"{count} {name.removesuffix('s') if count == 1 else name}" for count, name in counts]
    if not parts:
        return "nothing to remove"
    removed = f"{'would remove' if dry_run else 'removed'} {', '.join(parts)}"
    return removed if dry_run else f"{removed}; `autoconv db vacuum` gives their space back"


def _outdated(environment: EnvironmentRecord, source: str | None) -> bool:
    """Return whether results of a kernel's source in an environment no longer count, whatever the device.

    torch's own count whatever torch it was: without them a kernel that was slower would serve.
    """
    if environment.hard.get("triton") != _triton():
        return True
    return source is not None and not is_torchs(source) and source not in sources().values()


def _triton() -> str:
    return Environment.current(devices.find(WITHOUT_GPU)).triton


@db.command()
@json_option
def rebuild(as_json: bool) -> None:
    """Derive every winner of the user's database anew from its trials."""
    with _open_user() as database:
        winners = rebuild_database(database)
        print_fields({"winners": winners, "bad_rows": database.bad_rows}, as_json)


@db.command()
@json_option
def vacuum(as_json: bool) -> None:
    """Give back the space of what was removed from the user's database."""
    with _open_user() as database:
        freed = vacuum_database(database)
        print_fields({"freed_bytes": freed, "size_bytes": database.info()["size_bytes"]}, as_json)
