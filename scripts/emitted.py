"""Write examples/emitted anew: what `autoconv emit` prints for the seed problem and KernelBench's.

The configs are the packaged database's for an RTX 4090, or estimates where it has none. A test holds the
files against the generator.
"""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path

from autoconv.cli import cli

DEVICE = "rtx4090"
FOLDER = Path(__file__).resolve().parents[1] / "examples" / "emitted"
PROBLEMS = {
    "seed": "N=64,Cin=64,Cout=128,K=3,L=224280,stride=3,dilation=4",
    # KernelBench, level 1, by the numbers of its problems
    "kernelbench_64": "N=64,Cin=128,Cout=128,K=3,L=65536,op=conv_transpose",
    "kernelbench_67": "N=32,Cin=64,Cout=128,K=3,L=131072",
    "kernelbench_74": "N=32,Cin=32,Cout=64,K=5,L=131072,dilation=3,op=conv_transpose",
    "kernelbench_79": "N=16,Cin=32,Cout=64,K=3,L=131072,stride=2,dilation=2,op=conv_transpose,padding=1",
}


def main() -> None:
    """Emit every problem, or those that are named, with none but the packaged database."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        os.environ["AUTOCONV_DB"] = f"{folder}/tuning.db"
        for name in sys.argv[1:] or PROBLEMS:
            path = str(FOLDER / f"{name}.py")
            cli(["emit", PROBLEMS[name], "--device", DEVICE, "--output", path], standalone_mode=False)


if __name__ == "__main__":
    main()
