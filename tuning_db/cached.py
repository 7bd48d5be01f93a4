"""A property computed once, without a lock, in every Python."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING or sys.version_info >= (3, 12):
    from functools import cached_property
else:

    class cached_property:  # noqa: N801 - it stands in for the standard library's
        """What the standard library's is from Python 3.12 on: two threads at once may both compute the value.

        The older one holds a lock for all instances while it computes, and a child that was forked meanwhile
        would wait for ever for a thread that it does not have.
        """

        def __init__(self, compute):
            self._compute = compute
            self.__doc__ = compute.__doc__

        def __set_name__(self, owner, name):
            self._name = name

        def __get__(self, instance, owner=None):
            if instance is None:
                return self
            # An instance's own attribute goes before this descriptor, so this runs once.
            value = instance.__dict__[self._name] = self._compute(instance)
            return value


__all__ = ["cached_property"]
