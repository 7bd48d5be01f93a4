"""A set that remembers so much and no more."""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from typing import Generic, TypeVar

T = TypeVar("T", bound=Hashable)

MOST_REMEMBERED = 4096
"""Of some hundred bytes each; to forget one costs at most a sweep or a look that was made before."""


class Recent(Generic[T]):
    """The newest of what was added; the oldest is forgotten.

    Safe to share between threads, without a lock, which a fork could copy: a dictionary's single steps are
    atomic.

    >>> recent = Recent(most=2)
    >>> for number in (1, 2, 1, 3):
    ...     recent.add(number)
    >>> list(recent), 2 in recent, recent.added
    ([1, 3], False, 4)

    Attributes:
        added: how often something was.
    """

    def __init__(self, most: int = MOST_REMEMBERED) -> None:
        """Remember `most` of them."""
        self._most = most
        self._kept: dict[T, None] = {}
        self.added = 0

    def add(self, one: T) -> None:
        """Remember `one` as the newest."""
        self.added += 1
        self._kept.pop(one, None)
        self._kept[one] = None
        for oldest in list(self._kept)[: -self._most] if len(self._kept) > self._most else ():
            self._kept.pop(oldest, None)

    def __contains__(self, one: T) -> bool:
        """Return whether it was added, and is not forgotten."""
        return one in self._kept

    def __iter__(self) -> Iterator[T]:
        """Give them, the oldest first."""
        return iter(list(self._kept))
