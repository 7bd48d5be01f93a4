"""Ship what was tuned to another machine: export as text, import there, check.

    python examples/ship_a_database.py            # the user's database, the one that AUTOCONV_DB names
    python examples/ship_a_database.py --packaged # what autoconv brings along

The text is one JSON object a line, the same bytes each time, so it may go into version control; each line has
a checksum, and what does not hold is refused on the other side. The other machine is a folder here.
"""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any


def autoconv(*arguments: str, **settings: str) -> list[dict[str, Any]]:
    """Run the command line with these settings; return the objects that it prints."""
    command = [sys.executable, "-m", "autoconv", *arguments, "--json"]
    done = subprocess.run(command, env={**os.environ, **settings}, stdout=subprocess.PIPE, text=True)
    if done.returncode not in (0, 1):  # 1 is a negative answer, which the object tells
        raise SystemExit(done.returncode)
    return [json.loads(line) for line in done.stdout.splitlines()]


def main() -> None:
    """Export, import, check."""
    with tempfile.TemporaryDirectory() as folder:
        text, there = Path(folder) / "trials.jsonl", f"{folder}/tuning.db"
        (exported,) = autoconv("db", "export", *sys.argv[1:], "--output", str(text))
        print(f"exported {exported['trials']} trials, {text.stat().st_size / 1e3:.0f} KB")

        (imported,) = autoconv("db", "import", str(text), AUTOCONV_DB=there)
        print(f"imported {imported['inserted']}, {imported['quarantined']} refused")

        (checked,) = autoconv("db", "check", AUTOCONV_DB=there)
        print(f"checked: {checked['winners']} winners, {'sound' if checked['ok'] else 'not sound'}")


if __name__ == "__main__":
    main()
