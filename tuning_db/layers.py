"""Several databases asked in order of precedence: the first layer's answer comes first, not the fastest."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from .errors import TuningDBError
from .records import ProblemRecord, Winner
from .store import TuningDB


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
        found = []
        for name, database in self._layers:
            try:
                found += [(name, winner) for winner in database.winners(problem_key)]
            except TuningDBError as error:
                self._skip(name, error)
        return found

    def problems(self) -> list[ProblemRecord]:
        """Return every problem that any layer has, in the order of their keys."""
        found: dict[str, ProblemRecord] = {}
        for name, database in self._layers:
            try:
                found |= {problem.key: problem for problem in database.problems()}
            except TuningDBError as error:
                self._skip(name, error)
        return [found[key] for key in sorted(found)]

    def close(self) -> None:
        """Close every layer."""
        for _, database in self._layers:
            database.close()

    def _skip(self, name: str, error: TuningDBError) -> None:
        if name not in self._warned:
            self._warned.add(name)
            self._warn(f"layer {name!r} is skipped: {error}")
