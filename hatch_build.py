"""Builds the packaged tuning database from its reviewable text, for wheels and editable installs alike.

`python hatch_build.py` does the same by hand, after an edit of the text.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

DATABASE = "tuning_db/prebuilt/autoconv.db"
TEXT = "tuning_db/prebuilt/*.jsonl"


class PrebuiltDatabaseHook(BuildHookInterface):  # type: ignore[type-arg]  # hatchling leaves its config type open
    """Runs before each wheel or editable build."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:  # noqa: ARG002 - hatchling's signature
        """Build the database and have the wheel take it along, although git ignores it."""
        build_database(Path(self.root))
        build_data["artifacts"].append(f"{DATABASE}*")  # and the files that lie beside it


def build_database(root: Path) -> Path:
    """Build the packaged database of the project at `root` and return its path.

    The two packages are imported from `root`, not from the environment: a build runs where neither they nor
    torch are installed. `autoconv.problem` needs nothing beyond the standard library.
    """
    sys.path.insert(0, str(root))
    try:
        from autoconv.problem import Problem
        from tuning_db import Application
        from tuning_db.prebuilt import build
    finally:
        sys.path.remove(str(root))

    # The columns are the same for every problem; any one tells their names and types.
    columns = {name: type(value) for name, value in Problem(N=1, Cin=1, Cout=1, K=1, L=1).columns().items()}
    database = root / DATABASE
    build(sorted(root.glob(TEXT)), database, columns, application=Application("autoconv", Problem.fields()))
    return database


if __name__ == "__main__":
    print(build_database(Path(__file__).resolve().parent))
