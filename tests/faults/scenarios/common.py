"""What the scenarios share: processes, gates, trials.

`python FILE NAME ARGUMENTS` runs a scenario alone in an interpreter, so it may fork, limit its resources and
put faults into SQLite; it prints what came of it as JSON.
"""

from __future__ import annotations

import contextlib
import json
import os
import sqlite3
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[3]))

from tuning_db import EnvironmentRecord, ProblemRecord, Trial, TuningDB
from tuning_db.rows import checksum_1, trial_values

COLUMNS = {"N": int, "dtype": str}
ENVIRONMENT = EnvironmentRecord({"arch": "sm_89"}, {"device": "L4"})
SHARED = ProblemRecord("shared", {"N": 0})


def forked(work: Callable[[], object]) -> int:
    """Run `work` in a child process, which reports failure by its exit status, and return its id."""
    pid = os.fork()
    if pid:
        return pid
    status = 1
    try:
        work()
        status = 0
    finally:
        sys.stderr.flush()
        os._exit(status)


def failures(pids: list[int]) -> int:
    return sum(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) != 0 for pid in pids)


def exit_code(work: Callable[[], object]) -> int:
    """Run `work` in a child process to its end and return how it ended."""
    return os.waitstatus_to_exitcode(os.waitpid(forked(work), 0)[1])


@contextlib.contextmanager
def gate() -> Iterator[Callable[[], None]]:
    """Give a function at which children wait until the block ends."""
    reading, writing = os.pipe()

    def wait() -> None:
        os.close(writing)
        os.read(reading, 1)

    yield wait
    os.close(reading)
    os.close(writing)


def together(count: int, work: Callable[[int], object]) -> int:
    """Run `work(index)` in that many processes, which begin at the same moment; return how many failed."""
    with gate() as wait:

        def enter(index: int) -> None:
            wait()
            work(index)

        pids = [forked(lambda index=index: enter(index)) for index in range(count)]  # type: ignore[misc]
        time.sleep(0.05)
    return failures(pids)


def opened(path: str) -> TuningDB:
    return TuningDB.open(path, columns=COLUMNS)


def ok(number: int, **config: Any) -> Trial:
    return Trial({"number": number, **config}, "ok", measured_us=1.0 + number)


def own(index: int) -> ProblemRecord:
    return ProblemRecord(f"own {index}", {"N": index})


def older(path: str, problems: int) -> int:
    """Write a file of version 1 of the schema that is large enough to take a while to upgrade."""
    golden = Path(__file__).parents[2] / "tuning_db" / "golden" / "v1.sql"
    with closing(sqlite3.connect(path, isolation_level=None)) as old:
        old.executescript(golden.read_text(encoding="utf-8"))
        run, environment = old.execute(
            "SELECT r.id, e.hash FROM runs r JOIN environments e ON e.id = r.environment_id LIMIT 1"
        ).fetchone()
        old.execute("BEGIN")
        for number in range(1000, 1000 + problems):
            old.execute("INSERT INTO problems (id, key, N) VALUES (?, ?, ?)", (number, f"q{number}", number))
            for b in range(5):
                values = trial_values(ok(b, text="x" * 50))
                row = (run, number, *values, checksum_1((environment, f"q{number}", run), values))
                old.execute(
                    "INSERT INTO trials (run_id, problem_id, config_hash, config, outcome, predicted_us,"
                    " measured_us, samples_us, max_err, error, detail, checksum)"
                    f" VALUES ({', '.join('?' * len(row))})",
                    row,
                )
        old.execute("COMMIT")
        return int(old.execute("SELECT count(*) FROM trials").fetchone()[0])


def main(scenarios: dict[str, Any]) -> None:
    """Run the scenario that the command line names."""
    print(json.dumps(scenarios[sys.argv[1]](*json.loads(sys.argv[2]))))


if __name__ == "__main__":
    main(globals())
