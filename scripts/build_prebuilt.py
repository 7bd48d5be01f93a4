"""Write the text of the packaged database for the installed Triton: one file a device and Triton version.

    python scripts/build_prebuilt.py [--device rtx4090 ...]

Each problem is tuned as `autoconv tune` tunes it, into a database of its own, and the trials that passed
their check are exported to tuning_db/prebuilt/DEVICE-tritonX.Y.jsonl. Run it under the oldest, the newest and
the development Triton (`make prebuilt`) whenever a kernel's source or the cost model changes: a result holds
for what it was made with.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from dataclasses import replace
from pathlib import Path

from autoconv import device as devices
from autoconv import lookup, settings
from autoconv.environment import Environment
from autoconv.problem import Problem
from autoconv.sweep.pool import WorkerPool
from autoconv.sweep.sweep import Job
from autoconv.tuning.tuner import Tuner
from tuning_db import export_lines

FOLDER = Path(__file__).resolve().parents[1] / "tuning_db" / "prebuilt"
PROBLEMS = (  # KernelBench, level 1
    Problem(64, 128, 128, 3, 65536, op="conv_transpose"),  # 64
    Problem(32, 64, 128, 3, 131072),  # 67
    Problem(32, 32, 64, 5, 131072, dilation=3, op="conv_transpose"),  # 74
    Problem(64, 64, 128, 3, 524280, stride=3, dilation=4),  # 76
    Problem(64, 64, 128, 3, 224280, stride=3, dilation=4),  # 76, its input shortened
    Problem(16, 32, 64, 3, 131072, stride=2, padding=1, dilation=2, op="conv_transpose"),  # 79
)


def main() -> None:
    """Tune every problem for every device asked for."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", action="append", help="may be given several times; rtx4090 by default")
    for name in parser.parse_args().device or ["rtx4090"]:
        build(name)


def build(name: str) -> None:
    """Tune for one device and write its text."""
    device = devices.find(name)
    environment = Environment.current(device)
    with tempfile.TemporaryDirectory() as folder:
        files = replace(settings.load(), database=Path(folder) / "tuning.db")
        tuner = Tuner(files)
        with WorkerPool() as pool:
            for problem in PROBLEMS:
                job = Job(device, environment, files.cache, on_gpu=False)
                tuner.tune(problem, job, again=True, pool=pool)  # whatever the packaged file has so far
        with lookup.open_user(files) as database:
            lines = [line for line in export_lines(database) if json.loads(line)["trial"]["outcome"] == "ok"]
    text = FOLDER / f"{device.name}-triton{environment.triton}.jsonl"
    text.write_text("".join(lines))
    print(f"{text.name}: {len(lines)} trials of {len(PROBLEMS)} problems")


if __name__ == "__main__":
    main()
