"""What the scenarios share: processes, gates, trials.

`python FILE NAME ARGUMENTS` runs a scenario alone in an interpreter, so it may fork, limit its resources and
put faults into SQLite; it prints what came of it as JSON.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[3]))

from tests.tuning_db import later
from tuning_db import EnvironmentRecord, ProblemRecord, Trial, TuningDB, schema
from tuning_db.records import RunRecord

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
    """Write a file of this version of the schema that is large enough to take a while to upgrade."""
    with opened(path) as db, db.intake(bulk=True) as intake:
        run = intake.run(RunRecord("r", ENVIRONMENT, "sweep", finished=True))
        for number in range(problems):
            intake.put(run, own(number), [ok(b, text="x" * 50) for b in range(5)])
    return 5 * problems


def upgrading() -> None:
    """Have this process, and those forked from it, write a version of the schema that is to come."""
    schema.STEPS = later.STEPS


def main(scenarios: dict[str, Any]) -> None:
    """Run the scenario that the command line names."""
    print(json.dumps(scenarios[sys.argv[1]](*json.loads(sys.argv[2]))))


if __name__ == "__main__":
    main(globals())
