"""Several databases asked in order of precedence: the first layer's answer comes first, not the fastest."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from contextlib import nullcontext
from typing import TypeAlias, TypeVar

from .connection import without_waiting
from .errors import TuningDBError
from .nearest import Neighbour
from .ranking import Ranked
from .records import EnvironmentRecord, ProblemRecord, Trial, Winner
from .siblings import Sibling
from .store import Choice, TuningDB

Opening: TypeAlias = Callable[[], TuningDB]
T = TypeVar("T")


class _Layer:
    """A database that is opened when it is first asked, and again and again until it can be."""

    def __init__(self, name: str, source: TuningDB | Opening) -> None:
        self.name = name
        self._source = source
        self.database = source if isinstance(source, TuningDB) else None
        self.in_trouble = False  # when asked last

    def asked(self, ask: Callable[[TuningDB], Iterable[T]]) -> list[T]:
        """Return what the database answers; after trouble, it is not waited for again."""
        try:
            with without_waiting() if self.in_trouble else nullcontext():
                answers = list(ask(self.opened()))
        except TuningDBError:
            self.in_trouble = True
            raise
        self.in_trouble = False
        return answers

    def is_pinned(self) -> bool:
        """Whether the database, as it was opened last, is a pin; raises TuningDBError if it does not open."""
        if self.database is None:
            self.asked(lambda _: ())
        return self.database is not None and self.database.pinned

    def opened(self) -> TuningDB:
        """Return the database. No lock is taken, which a fork could copy: two threads may both open it."""
        database = self.database
        if database is None:
            assert not isinstance(self._source, TuningDB)
            database = self.database = self._source()
        return database


class Layers:
    """Named databases, the one with the highest precedence first; those that are pins go before all others.

    A layer that cannot be opened or read answers nothing, and `warn` is told so once; no layer's trouble is
    an exception. It is tried again whenever the layers are asked, then without a wait for others' locks.
    One that is said to be a pin, or was one when it was last read, is a pin all the same.
    """

    def __init__(
        self,
        layers: Iterable[tuple[str, TuningDB | Opening]],
        warn: Callable[[str], None],
        *,
        pins: Collection[str] = (),
    ) -> None:
        """Take databases, or what opens them when they are first asked, in order of precedence.

        `pins` names those that are pins as long as they do not open and say otherwise.
        """
        self._layers = [_Layer(name, source) for name, source in layers]
        self._warn = warn
        self._said_to_be_pins = frozenset(pins)
        self._warned: set[str] = set()

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the layers, in order of precedence but for the pins among them."""
        return tuple(layer.name for layer in self._layers)

    @property
    def pins(self) -> tuple[str, ...]:
        """The names of the layers that are pins, in order of precedence; to know them, each layer is opened.

        Those among them that cannot be read are there too.
        """
        return tuple(layer.name for layer in self._layers if self._is_pinned(layer))

    @property
    def pinned(self) -> bool:
        """Whether any layer is a pin."""
        return bool(self.pins)

    @property
    def unread_pins(self) -> tuple[str, ...]:
        """The names of the pins that did not answer when they were asked last."""
        pins = self.pins
        return tuple(layer.name for layer in self._layers if layer.in_trouble and layer.name in pins)

    @property
    def in_trouble(self) -> bool:
        """Whether any layer did not answer when it was asked last."""
        return any(layer.in_trouble for layer in self._layers)

    def database(self, name: str) -> TuningDB | None:
        """Return the database of the layer of that name; None, and a warning once, if it does not open now.

        Raises:
            ValueError: no layer has that name.
        """
        for layer in self._layers:
            if layer.name == name:
                try:
                    return layer.opened()
                except TuningDBError as error:
                    self._tell(layer, error)
                    return None
        raise ValueError(f"name={name!r} is none of the layers {', '.join(self.names)}")

    def winners(self, problem_key: str) -> list[tuple[str, Winner]]:
        """Return every layer's winners for a problem, each with its layer's name, in order of precedence."""
        return self._each(lambda database: database.winners(problem_key))

    def trials(self, problem_key: str) -> list[tuple[str, tuple[EnvironmentRecord, Trial]]]:
        """Return every layer's trials of a problem, each with its layer's name and its environment."""
        return self._each(
            lambda database: (
                (environment, trial)
                for environment in database.environments()
                for trial in database.trials(problem_key, environment.hash)
            )
        )

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

    def siblings(
        self,
        problem: ProblemRecord,
        sizes: Collection[str],
        alike: Callable[[str], bool],
        among: Choice,
    ) -> list[tuple[str, Sibling]]:
        """Return every layer's problems that differ in `sizes` alone; see `TuningDB.siblings`."""
        return self._each(lambda database: database.siblings(problem, sizes, alike, among))

    def problems(self) -> list[ProblemRecord]:
        """Return every problem that any layer has, in the order of their keys."""
        found = {problem.key: problem for _, problem in self._each(lambda database: database.problems())}
        return [found[key] for key in sorted(found)]

    def _each(self, ask: Callable[[TuningDB], Iterable[T]]) -> list[tuple[str, T]]:
        found: list[tuple[str, T]] = []
        # A layer that does not open has been told of by then, and the sort is stable.
        for layer in sorted(self._layers, key=lambda layer: not self._is_pinned(layer)):
            try:
                found += [(layer.name, answer) for answer in layer.asked(ask)]
            except TuningDBError as error:
                self._tell(layer, error)
        return found

    def _is_pinned(self, layer: _Layer) -> bool:
        try:
            return layer.is_pinned()
        except TuningDBError as error:
            self._tell(layer, error)
            return layer.name in self._said_to_be_pins

    def _tell(self, layer: _Layer, error: TuningDBError) -> None:
        if layer.name not in self._warned:
            self._warned.add(layer.name)
            skipped = f"layer {layer.name!r} is skipped until it answers"
            if layer.name in self._said_to_be_pins or (layer.database and layer.database.pinned):
                skipped = f"pinned layer {layer.name!r} does not answer, and no other stands in for it"
            self._warn(f"{skipped}: {error}")

    def close(self) -> None:
        """Close every layer that was opened."""
        for layer in self._layers:
            if layer.database is not None:
                layer.database.close()
