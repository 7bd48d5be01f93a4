"""Several databases asked in order of precedence: the first layer's answer comes first, not the fastest."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TypeVar

from .errors import TuningDBError
from .nearest import Neighbour
from .reading import Ranked
from .records import ProblemRecord, Winner
from .store import Choice, TuningDB

T = TypeVar("T")


class Layers:
    """Named databases, the one with the highest precedence first.

    A layer that cannot be read answers nothing, and `warn` is told so once; no layer's trouble is an
    exception.
    """

    def __init__(self, layers: Iterable[tuple[str, TuningDB]], warn: Callable[[str], None]) -> None:
        """Take opened databases in order of precedence."""
        self._layers = list(layers)
        self._warn = warn
        self._warned: set[str] = set()

    @classmethod
    def opened(
        cls, layers: Iterable[tuple[str, Callable[[], TuningDB]]], warn: Callable[[str], None]
    ) -> Layers:
        """Open each layer with its callable, and leave out, with a warning, those that cannot be opened."""
        found = cls((), warn)
        for name, opening in layers:
            try:
                found._layers.append((name, opening()))
            except TuningDBError as error:
                found._skip(name, error)
        return found

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the layers that were opened, in order of precedence."""
        return tuple(name for name, _ in self._layers)

    def winners(self, problem_key: str) -> list[tuple[str, Winner]]:
        """Return every layer's winners for a problem, each with its layer's name, in order of precedence."""
        return self._each(lambda database: database.winners(problem_key))

    def ranked(
        self, problem_key: str, *, among: Choice | None = None, limit: int = 4
    ) -> list[tuple[str, Ranked]]:
        """Return every layer's best configurations for a problem; see `TuningDB.ranked`."""
        return self._each(lambda database: database.ranked(problem_key, among=among, limit=limit))

    def nearest(
        self, problem: ProblemRecord, *, among: Choice | None = None, limit: int = 4
    ) -> list[tuple[str, Neighbour]]:
        """Return the nearest problems of all layers, nearest first; see `TuningDB.nearest`.

        A problem that several layers have is told with the one of highest precedence.
        """
        found = self._each(lambda database: database.nearest(problem, among=among, limit=limit))
        first: dict[str, tuple[str, Neighbour]] = {}
        for name, neighbour in found:
            first.setdefault(neighbour.problem.key, (name, neighbour))
        by_distance = sorted(first.values(), key=lambda one: (len(one[1].differing), one[1].distance))
        return by_distance[:limit]

    def problems(self) -> list[ProblemRecord]:
        """Return every problem that any layer has, in the order of their keys."""
        found = {problem.key: problem for _, problem in self._each(lambda database: database.problems())}
        return [found[key] for key in sorted(found)]

    def _each(self, ask: Callable[[TuningDB], Iterable[T]]) -> list[tuple[str, T]]:
        found: list[tuple[str, T]] = []
        for name, database in self._layers:
            try:
                found += [(name, answer) for answer in ask(database)]
            except TuningDBError as error:
                self._skip(name, error)
        return found

    def close(self) -> None:
        """Close every layer."""
        for _, database in self._layers:
            database.close()

    def _skip(self, name: str, error: TuningDBError) -> None:
        if name not in self._warned:
            self._warned.add(name)
            self._warn(f"layer {name!r} is skipped: {error}")
