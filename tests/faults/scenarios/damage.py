"""Files that are damaged, folders that take no writes, filesystems that give no locks."""

from __future__ import annotations

import os
import random
import sqlite3
from collections import Counter
from collections.abc import Callable, Iterable
from contextlib import closing
from pathlib import Path
from typing import Any

from common import COLUMNS, ENVIRONMENT, SHARED, failures, forked, gate, main, ok, opened

from tuning_db import (
    EnvironmentRecord,
    ForeignFileError,
    ProblemRecord,
    Trial,
    TuningDB,
    TuningDBError,
    Winner,
    check,
    export_lines,
    merge,
    open_healed,
)

PROBLEMS = [ProblemRecord(f"p{n}", {"N": n, "dtype": "f16"}) for n in range(24)]


def _fill(path: str) -> None:
    with opened(path) as db:
        for number, problem in enumerate(PROBLEMS):
            tried = [ok(number + b, text="x" * 60) for b in range(4)]
            db.record(ENVIRONMENT, problem, tried, origin="sweep", run_id=f"r{number}")


def _spoiled(whole: bytes, rng: random.Random) -> tuple[str, bytes]:
    """One of the ways in which files go bad."""
    way = rng.choice(
        [
            "empty",
            "garbage",
            "truncated",
            "bits",
            "bytes",
            "zeroed page",
            "swapped pages",
            "header",
        ]
    )
    pages = len(whole) // 4096
    torn = bytearray(whole)
    if way == "empty":
        return way, b""
    if way == "garbage":
        return way, rng.randbytes(rng.randrange(1, 50_000))
    if way == "truncated":
        return way, whole[: rng.randrange(len(whole))]
    if way == "bits":
        for _ in range(rng.choice([1, 10, 100])):
            torn[rng.randrange(len(torn))] ^= 1 << rng.randrange(8)
    elif way == "bytes":
        at = rng.randrange(len(torn))
        torn[at : at + 200] = rng.randbytes(len(torn[at : at + 200]))
    elif way == "header":
        at = rng.randrange(100)
        torn[at] = rng.randrange(256)
    else:
        one, other = (4096 * rng.randrange(pages) for _ in range(2))
        page = bytes(4096) if way == "zeroed page" else whole[other : other + 4096]
        torn[one : one + 4096] = page
    return way, bytes(torn)


def corruptions(folder: str, times: int, seed: int) -> dict[str, Any]:
    """Open, use and check files that were spoiled; count the wrong answers and the writes not found again."""
    rng = random.Random(seed)
    _fill(f"{folder}/whole.db")
    whole = Path(f"{folder}/whole.db").read_bytes()
    with opened(f"{folder}/whole.db") as db:
        true = {problem.key: _measured(db.trials(problem.key)) for problem in PROBLEMS}
    outcome: Counter[str] = Counter()
    ways: Counter[str] = Counter()
    for number in range(times):
        path = Path(folder) / f"{number}" / "tuning.db"
        path.parent.mkdir()
        way, content = _spoiled(whole, rng)
        ways[way] += 1
        path.write_bytes(content)
        try:
            outcome.update(_used(path, true))
        except ForeignFileError:  # the bytes that say whose file it is
            outcome["left alone"] += 1
            outcome["lost"] += path.read_bytes() != content
        for part in path.parent.rglob("*"):
            if part.is_file():
                part.unlink()
    return {**outcome, "ways": ways}


def _used(path: Path, true: dict[str, set[tuple[str, float | None]]]) -> Counter[str]:
    """Read all, write one and look for it again, as the next process would."""
    outcome: Counter[str] = Counter()
    warnings: list[str] = []
    with open_healed(path, columns=COLUMNS, warn=warnings.append) as db:
        for problem in PROBLEMS:
            winners = db.winners(problem.key)
            outcome["hits"] += len(winners)
            # Where the best trial was lost, the best of the others is right.
            outcome["wrong"] += not _measured(winners) <= true[problem.key]
        db.record(ENVIRONMENT, SHARED, [ok(1)], origin="after")
        outcome["healed"] += bool(warnings)
    with open_healed(path, columns=COLUMNS, warn=warnings.append) as db:
        outcome["lost"] += [winner.config for winner in db.winners(SHARED.key)] != [{"number": 1}]
        outcome["unsound"] += bool(check(db).structure) and not _heals(path)
        outcome["told twice"] += len(warnings) > 2
    return outcome


def _measured(found: Iterable[Trial | Winner]) -> set[tuple[str, float | None]]:
    return {(one.config_hash, one.measured_us) for one in found}


def _heals(path: Path) -> bool:
    """Whether damage that nobody met so far is mended once somebody asks for all there is."""
    with open_healed(path, columns=COLUMNS, warn=lambda _: None) as db:
        assert db.mend is not None
        db.mend()
        return not check(db).structure


def corrupt_donors(folder: str, times: int, seed: int) -> dict[str, int]:
    """Merge spoiled files; count what came in that was never measured, and what a refusal changed."""
    rng = random.Random(seed)
    _fill(f"{folder}/donor.db")
    whole = Path(f"{folder}/donor.db").read_bytes()
    with opened(f"{folder}/donor.db") as db:
        true = set(export_lines(db))
    outcome: Counter[str] = Counter()
    with opened(f"{folder}/mine.db") as db:
        db.record(ENVIRONMENT, SHARED, [ok(1)], origin="mine")
        true |= set(export_lines(db))
        for _ in range(times):
            before = list(export_lines(db))
            _, content = _spoiled(whole, rng)
            Path(f"{folder}/torn.db").write_bytes(content)
            try:
                merge(db, f"{folder}/torn.db")
            except TuningDBError:
                outcome["refused"] += 1
                outcome["changed"] += list(export_lines(db)) != before
            outcome["lost"] += not set(before) <= set(export_lines(db))
            outcome["untrue"] += len(
                {_without_notes(line) for line in export_lines(db)} - {_without_notes(t) for t in true}
            )
        outcome["unsound"] += not check(db).ok
    return dict(outcome)


def _without_notes(line: str) -> str:
    """A line without what no checksum in the file covers: the run's notes."""
    head, _, rest = line.partition(',"run":')
    return head + rest[rest.index('"trial":') : rest.rindex(',"verify"')]


def damaged_in_wal_mode(folder: str, times: int, seed: int) -> dict[str, int]:
    """Tear files in WAL mode that another program has open; what is in the log alone must be salvaged."""
    rng = random.Random(seed)
    outcome: Counter[str] = Counter()
    for number in range(times):
        path = f"{folder}/{number}/tuning.db"
        _fill(path)
        with gate() as wait:
            reading, writing = os.pipe()
            program = forked(lambda path=path, told=writing, wait=wait: _in_wal_mode(path, told, wait))  # type: ignore[misc]
            os.read(reading, 1)
            with opened(path) as db:
                written = [ok(b, text="x" * rng.randrange(9000)) for b in range(5)]
                db.record(EnvironmentRecord({"arch": "sm_90"}, {}), SHARED, written, origin="x")
            assert failures([forked(lambda path=path: _tear_pages(path, rng))]) == 0  # type: ignore[misc]
            warnings: list[str] = []
            with open_healed(path, columns=COLUMNS, warn=warnings.append) as db:
                for problem in PROBLEMS:
                    db.winners(problem.key)
                assert db.mend is not None
                db.mend()  # what nobody met so far
                outcome["lost"] += written != db.trials(SHARED.key)
                outcome["unsound"] += not check(db).ok
                outcome["healed"] += bool(warnings)
            os.close(reading)
            os.close(writing)
        assert failures([program]) == 0
    return dict(outcome)


def _in_wal_mode(path: str, told: int, wait: Callable[[], None]) -> None:
    """Have the file open, as another program does, until it is to end."""
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        assert connection.execute("PRAGMA journal_mode = WAL").fetchone() == ("wal",)
        connection.execute("SELECT count(*) FROM trials").fetchone()
        os.write(told, b"x")
        wait()


def _tear_pages(path: str, rng: random.Random) -> None:
    pages = Path(path).stat().st_size // 4096
    with Path(path).open("r+b") as file:
        for page in rng.sample(range(pages), rng.randrange(1, pages + 1)):
            file.seek(page * 4096)
            file.write(rng.randbytes(4096))


def read_only(folder: str) -> dict[str, Any]:
    """As an ordinary user: a file, a folder and a home that take no writes."""
    import filelock  # noqa: F401 - what is imported late may lie where only root can read
    import sqlite_utils  # noqa: F401 - likewise

    home = Path(folder)
    if os.geteuid() == 0:
        os.setuid(65534)  # permissions do not hold for root
    refused = []
    hits = 0
    path = home / "tuning.db"
    wide = {**COLUMNS, "stride": int}
    for db in (
        TuningDB.open(path, columns=wide),
        open_healed(path, columns=COLUMNS, warn=refused.append),
        TuningDB.open_readonly(path, columns=COLUMNS),
        TuningDB.open_readonly(path, columns=COLUMNS, immutable=True),
    ):
        with db:
            (winner,) = db.winners("p7")
            hits += winner.config["number"] == 7
            hits += len(db.nearest(ProblemRecord("x", {"N": 7, "dtype": "f16"}))) == 4
            try:
                db.record(winner.environment, winner.problem, [Trial({}, "ok")], origin="x")
            except TuningDBError as error:
                refused.append(str(error))
    for missing in (home / "new" / "tuning.db", home / "tuning2.db"):
        for opening in (
            lambda: TuningDB.open(missing, columns=COLUMNS),  # noqa: B023 - called in this turn only
            lambda: open_healed(missing, columns=COLUMNS, warn=print),  # noqa: B023
        ):
            try:
                opening()
            except TuningDBError as error:
                refused.append(str(error))
    return {"hits": hits, "refused": refused}


def prepared(path: str) -> None:
    """A database to be read only."""
    _fill(path)


if __name__ == "__main__":
    main(globals())
