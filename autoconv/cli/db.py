"""`autoconv db`."""

from __future__ import annotations

import click

from autoconv import settings
from autoconv.cli.common import json_option, print_json
from autoconv.lookup import open_user


@click.group()
def db() -> None:
    """Look after the tuning database (the file that AUTOCONV_DB names)."""


@db.command()
@json_option
def info(as_json: bool) -> None:
    """Show how much the user's database holds."""
    with open_user(settings.load()) as database:
        fields = database.info()
    if as_json:
        print_json(fields)
    else:
        for name, value in fields.items():
            click.echo(f"{name:<15}{value}")
