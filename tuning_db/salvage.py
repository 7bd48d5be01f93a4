"""Trials out of a damaged file: whatever lies in its pages and fits its checksum.

SQLite gives a table up at its first torn page, and a file with its header. Here it does not matter how a row
was found, whether its page is still in use, or what else a page may be: what fits its checksum is a trial.

The format is that of https://www.sqlite.org/fileformat2.html, sections 1.6 (pages), 2.1 (records) and 4.1 and
4.2 (the write-ahead log, in which a file in WAL mode has what was committed last).
"""

from __future__ import annotations

import mmap
import os
import re
import struct
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

from .files import is_ours, suffixed
from .misses import MISS_COLUMNS, Miss, miss_from, newest
from .nearest import size_and_kind
from .records import EnvironmentRecord, ProblemRecord, RunRecord
from .rows import (
    TRIAL_COLUMNS,
    BadRowError,
    checksum,
    environment_from,
    run_from,
    trial_from,
)

_COLUMN = re.compile(r'["\[]?(\w+)["\]]? (?:INTEGER|TEXT)')
_TRIAL_WIDTH = 4 + len(TRIAL_COLUMNS)  # id, run, problem, those columns, checksum
_REALS = [3 + TRIAL_COLUMNS.index(name) for name in ("predicted_us", "measured_us", "max_err")]

_MAGIC = b"SQLite format 3\0"
_PAGE_SIZES = frozenset(2**power for power in range(9, 17))
_DEFAULT_PAGE_SIZE = 4096  # SQLite's, since 2016; taken where the header is lost
_WAL_MAGICS = (0x377F0682, 0x377F0683)
_WAL_HEADER, _FRAME_HEADER = 32, 24  # bytes
_TABLE_LEAF = 0x0D
_INTEGER_BYTES = {1: 1, 2: 2, 3: 3, 4: 4, 5: 6, 6: 8}
_FLOAT, _ZERO, _ONE = 7, 8, 9
_MOST_HEADER = 400  # bytes of a row that say what the others are
_MOST_BYTES = 4_000_000  # what claims to be longer is no row of ours

Content: TypeAlias = "mmap.mmap | bytes"


class Salvaged(NamedTuple):
    """A trial that fits its checksum, with what it refers to."""

    run: RunRecord
    problem: ProblemRecord
    values: tuple[Any, ...]  # in the order of TRIAL_COLUMNS


class Wreck:
    """What a damaged file still tells. All rows that bear an id are kept: a checksum says which fits."""

    def __init__(self, path: Path, columns: Mapping[str, type]) -> None:
        """Gather environments, runs and problems; raises OSError where the file cannot be read."""
        self._path = path
        self._columns = columns
        self._problems: dict[int, list[list[Any]]] = {}
        self._sizes: dict[int, set[tuple[float, int]]] = {}  # as noted
        self._names: list[str] = []  # of the problems' columns, where the schema can still be read
        self._environments: dict[int, list[EnvironmentRecord]] = {}
        self._misses: list[tuple[int, int, list[Any], str]] = []  # problem, environment, values, checksum
        runs: list[tuple[int, tuple[str, str, str, int]]] = []  # environment and the rest
        for row in rows_of(path):
            if _may_be_trial(row):
                continue
            match row.values():
                case [None, int(kind), int(log_size) | float(log_size)]:
                    self._sizes.setdefault(row.rowid, set()).add((float(log_size), kind))
                case [None, str(text), *rest]:
                    self._problems.setdefault(row.rowid, []).append([text, *rest])
                    with suppress(BadRowError, IndexError):  # it may as well be an environment
                        found = environment_from(text, rest[-1])
                        self._environments.setdefault(row.rowid, []).append(found)
                case [str(run_id), int(environment_id), str(origin), str(info), 0 | 1 as finished]:
                    runs.append((environment_id, (run_id, origin, info, finished)))
                case [None, int(of_problem), int(of_environment), *noted, str(stored)] if len(noted) == len(
                    MISS_COLUMNS
                ):
                    self._misses.append((of_problem, of_environment, noted, stored))
                case ["table", "problems", "problems", int(), str(sql)]:
                    self._names = _COLUMN.findall(sql)[2:]
        self.runs: dict[str, list[RunRecord]] = {}
        for environment_id, told in runs:
            for environment in self._environments.get(environment_id, ()):
                with suppress(BadRowError):
                    self.runs.setdefault(told[0], []).append(run_from(environment, *told))

    def trials(self) -> Iterator[Salvaged]:
        """Yield every trial that fits its checksum; one that was moved between pages more than once."""
        for row in rows_of(self._path):
            if _may_be_trial(row):
                _, run_id, of_problem, *values, stored = row.values()
                found = self._fitting(run_id, of_problem, _with_reals(values), stored)
                if found is not None:
                    yield found

    def misses(self) -> Iterator[Miss]:
        """Yield what was missed, of each problem and environment what was noted last."""
        yield from newest(self._fitting_misses())

    def _fitting_misses(self) -> Iterator[Miss]:
        for of_problem, of_environment, values, stored in self._misses:
            for environment in self._environments.get(of_environment, ()):
                for key, *named in self._problems.get(of_problem, ()):
                    if stored == checksum((environment.hash, key), values):
                        with suppress(BadRowError, ValueError):
                            yield miss_from(environment, self._problem(of_problem, key, named), values)

    def _fitting(self, run_id: Any, of_problem: Any, values: tuple[Any, ...], stored: Any) -> Salvaged | None:
        if not isinstance(run_id, str) or not isinstance(of_problem, int):
            return None
        for run in self.runs.get(run_id, ()):
            for key, *named in self._problems.get(of_problem, ()):
                references = (run.environment.hash, key, run_id)
                if stored == checksum(references, values):
                    try:
                        trial_from(values)
                        return Salvaged(run, self._problem(of_problem, key, named), values)
                    except (BadRowError, ValueError):
                        return None
        return None

    def _problem(self, number: int, key: str, named: list[Any]) -> ProblemRecord:
        there: dict[str, Any] = dict(zip(self._names, named, strict=False))  # older rows have fewer
        if self._sizes and size_and_kind(there) not in self._sizes.get(number, ()):
            return ProblemRecord(key)  # whoever brings it next fills its columns
        fitting = (name for name, kind in self._columns.items() if type(there.get(name)) is kind)
        return ProblemRecord(key, {name: there[name] for name in fitting})


def _may_be_trial(row: Row) -> bool:
    """Whether types are those of a trial: no other row has so many, an integer third and texts after it."""
    types = row.types
    return len(types) == _TRIAL_WIDTH and 0 < types[2] < 10 and types[3] >= 13 and types[4] >= 13


def _with_reals(values: list[Any]) -> tuple[Any, ...]:
    return tuple(
        float(value) if place + 3 in _REALS and isinstance(value, int) else value
        for place, value in enumerate(values)
    )


# --- the rows in the pages of an SQLite file, read without SQLite ----------------------------------


class Row(NamedTuple):
    """A row of some table; an INTEGER PRIMARY KEY is NULL among its values, for that is the rowid."""

    rowid: int
    types: list[int]  # one a value, as the format numbers them
    body: bytes  # the values, one after the other

    def values(self) -> list[Any]:
        """Decode them; the format writes a REAL that is whole as an integer."""
        values: list[Any] = []
        at = 0
        for kind in self.types:
            size = _size(kind)
            values.append(_value(kind, self.body[at : at + size]))
            at += size
        return values


def _size(kind: int) -> int:
    if kind in _INTEGER_BYTES:
        return _INTEGER_BYTES[kind]
    return 8 if kind == _FLOAT else (kind - 12) // 2 if kind >= 12 else 0


def _value(kind: int, raw: bytes) -> Any:
    if kind in _INTEGER_BYTES:
        return int.from_bytes(raw, "big", signed=True)
    if kind == _FLOAT:
        return struct.unpack(">d", raw)[0] if len(raw) == 8 else None
    if kind in (_ZERO, _ONE):
        return kind - _ZERO
    if kind >= 12:
        return raw.decode("utf-8", "replace") if kind % 2 else raw
    return None


def rows_of(path: Path) -> Iterator[Row]:
    """Yield every row on every leaf page that can be decoded, those of pages no longer in use too.

    A write-ahead log beside the file is read as well. Links are not followed, nor pipes waited for.

    Raises:
        OSError: the file cannot be read.
    """
    with _mapped(path) as content:
        pages = _Pages(content)
        for number in range(1, pages.count + 1):
            yield from pages.rows(number)
        wal = suffixed(path, "-wal")
        if is_ours(wal, path):
            with _mapped(wal) as log:
                for committed in _commits(log):
                    pages.changed.update(committed)
                    for number in committed:
                        yield from pages.rows(number)


@contextmanager
def _mapped(path: Path) -> Iterator[Content]:
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    try:
        if not os.fstat(descriptor).st_size:
            yield b""
            return
        with mmap.mmap(descriptor, 0, access=mmap.ACCESS_READ) as content:
            yield content
    finally:
        os.close(descriptor)


def _commits(log: Content) -> Iterator[dict[int, bytes]]:
    """Yield the pages that each transaction in a write-ahead log changed; the last may be uncommitted."""
    magic, size = struct.unpack(">I4xI", log[:12].ljust(12, b"\0"))
    size = size if magic in _WAL_MAGICS and size in _PAGE_SIZES else _DEFAULT_PAGE_SIZE
    pages: dict[int, bytes] = {}
    for start in range(_WAL_HEADER, len(log) - _FRAME_HEADER, _FRAME_HEADER + size):
        number, pages_after_commit = struct.unpack(">II", log[start : start + 8])
        page = start + _FRAME_HEADER
        pages[number] = bytes(log[page : page + size]).ljust(size, b"\0")
        if pages_after_commit:
            yield pages
            pages = {}
    yield pages


class _Pages:
    """The pages of a file, those that its write-ahead log has `changed` as they are there."""

    def __init__(self, content: Content) -> None:
        size = int.from_bytes(content[16:18], "big")
        size = 65536 if size == 1 else size
        sound = content[:16] == _MAGIC and size in _PAGE_SIZES
        self._content = content
        self._size = size if sound else _DEFAULT_PAGE_SIZE  # all of it usable: our files reserve nothing
        self.count = -(-len(content) // self._size)
        self.changed: dict[int, bytes] = {}

    def _page(self, number: int) -> bytes:
        page = self.changed.get(number)
        if page is None:
            page = bytes(self._content[(number - 1) * self._size : number * self._size])
        return page.ljust(self._size, b"\0")  # a torn one too

    def rows(self, number: int) -> Iterator[Row]:
        page = self._page(number)
        size = len(page)
        start = 100 if number == 1 else 0  # the file's header
        if page[start] != _TABLE_LEAF:
            return
        cells = int.from_bytes(page[start + 3 : start + 5], "big")
        for place in range(start + 8, min(start + 8 + 2 * cells, size - 1), 2):
            row = self._row(page, int.from_bytes(page[place : place + 2], "big"))
            if row is not None:
                yield row

    def _row(self, page: bytes, at: int) -> Row | None:
        try:
            length, at = _varint(page, at)
            rowid, at = _varint(page, at)
            payload = self._payload(page, at, length)
            end, at = _varint(payload, 0)
            if end > _MOST_HEADER:
                return None
            types = []
            while at < end:
                kind, at = _varint(payload, at)
                types.append(kind)
        except (IndexError, ValueError):
            return None
        return Row(rowid, types, payload[end:])

    def _payload(self, page: bytes, at: int, length: int) -> bytes:
        """Return the bytes of a row, gathered from its overflow pages where it has some."""
        if not 0 < length <= _MOST_BYTES:
            raise ValueError("too long for a row")
        size = len(page)
        most, least = size - 35, (size - 12) * 32 // 255 - 23
        local = length
        if length > most:
            local = least + (length - least) % (size - 4)
            local = local if local <= most else least
        parts, missing = [page[at : at + local]], length - local
        following = int.from_bytes(page[at + local : at + local + 4], "big")
        while missing > 0:
            if not (0 < following <= self.count or following in self.changed):
                raise ValueError("its overflow pages are lost")
            more = self._page(following)
            parts.append(more[4 : 4 + missing])
            missing -= size - 4
            following = int.from_bytes(more[:4], "big")
        return b"".join(parts)


def _varint(raw: bytes, at: int) -> tuple[int, int]:
    """Return the integer that begins there, and where the next thing begins."""
    value = 0
    for place in range(at, at + 8):
        value = value << 7 | raw[place] & 0x7F
        if raw[place] < 0x80:
            return value, place + 1
    value = value << 8 | raw[at + 8]
    return value - (1 << 64) if value >> 63 else value, at + 9
