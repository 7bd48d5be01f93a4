"""Tune a list of problems on the nodes of a cluster, each into a file of its own, and merge the files.

    srun --ntasks=8 --gpus-per-task=1 python examples/tune_on_a_cluster.py problems.txt shared/tuned
    python examples/tune_on_a_cluster.py --merge shared/tuned

A line of problems.txt is a problem as the command line takes it. Every task takes its share of them; SLURM
says which it is. No task waits for another, and one that died costs its own share: start it again, and it
goes on where it stopped. SQLite wants no locks over a network, so each task has a file, and one merges them
in the end, in any order and as often as it likes.
"""

import os
import subprocess
import sys
from pathlib import Path


def autoconv(*arguments: str, **settings: str) -> None:
    """Run the command line with these settings."""
    subprocess.run([sys.executable, "-m", "autoconv", *arguments], env={**os.environ, **settings}, check=True)


def tune(problems: Path, folder: Path, *options: str) -> None:
    """Tune this task's share of the problems."""
    task, tasks = int(os.environ.get("SLURM_PROCID", "0")), int(os.environ.get("SLURM_NTASKS", "1"))
    lines = filter(None, map(str.strip, problems.read_text(encoding="utf-8").splitlines()))
    share = list(lines)[task::tasks]
    folder.mkdir(parents=True, exist_ok=True)
    if share:
        autoconv("tune", *share, *options, AUTOCONV_DB=str(folder / f"task-{task}.db"))


def merge(folder: Path) -> None:
    """Add what all tasks found to the user's database."""
    autoconv("db", "merge", *map(str, sorted(folder.glob("task-*.db"))))
    autoconv("db", "info")


def main() -> None:
    """Tune a share, or merge them all."""
    first, second, *options = sys.argv[1:]
    if first == "--merge":
        merge(Path(second))
    else:
        tune(Path(first), Path(second), *options)


if __name__ == "__main__":
    main()
