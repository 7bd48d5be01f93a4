"""`autoconv db pin`."""

from __future__ import annotations

from datetime import datetime, timezone
from pathlib import Path

import click

from autoconv import lookup
from autoconv.cli.common import device_option, json_option, note, target
from autoconv.cli.tables import print_fields
from tuning_db import Pin, write_pin


@click.command()
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
@device_option
@click.option("--again", is_flag=True, help="Replace FILE where it is a pin already.")
@json_option
def pin(file: Path, device: str, again: bool, as_json: bool) -> None:
    """Write what serves on a device now into FILE, for every rank.

    Of all layers but pins, that is the exact or soft entry that a lookup gives for each problem, with the
    other configs that passed, for its bucket. FILE is read-only and marked as a pin. Named in
    AUTOCONV_SITE_DB it is asked before all other databases; what it holds is final, and what it lacks goes
    to torch. Let its name end in .pin: then all goes to torch where it cannot be read. Exit status 1:
    nothing is tuned for the device, and no file was written.
    """
    from autoconv.cost.version import predictor_of
    from autoconv.lookup.pinning import in_force, unpinned

    at = target(device)
    from autoconv.cli.bars import progress_bar

    with progress_bar(f"pin {at.device.name}") as show:
        entries = []
        for entry in in_force(unpinned(at.tuner.layers, note), at.environment, predictor_of):
            entries.append(entry)
            show("problems", len(entries), len(entries))
    if not entries:
        note(f"nothing is tuned for {at.device.name}; run `autoconv tune`")
        raise SystemExit(1)
    mark = Pin(at.device.name, datetime.now(timezone.utc).isoformat())
    lines = (line for entry in entries for line in entry)
    trials = write_pin(file, lines, mark, lookup.COLUMNS, application=lookup.APPLICATION, again=again)
    fields = {"path": str(file), "device": at.device.name, "problems": len(entries), "trials": trials}
    print_fields(fields, as_json)
