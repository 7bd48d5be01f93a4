"""Tasks that do to a worker what candidates, compilers and machines do; it finds them by way of sys.path."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from typing import ClassVar


@dataclass(frozen=True)
class Echo:
    """Return the number."""

    number: int

    needs: ClassVar[str] = "json"

    def perform(self) -> int:
        return self.number


@dataclass(frozen=True)
class Pid(Echo):
    """Return the process's id."""

    def perform(self) -> int:
        return os.getpid()


@dataclass(frozen=True)
class Niceness(Echo):
    """Return the process's own."""

    def perform(self) -> int:
        return os.nice(0)


@dataclass(frozen=True)
class Raise(Echo):
    """Raise the error."""

    error: Exception

    def perform(self) -> int:
        raise self.error


@dataclass(frozen=True)
class NeedsMore(Echo):
    """Need what is not installed."""

    needs: ClassVar[str] = "nowhere"


@dataclass(frozen=True)
class NeedsLong(Echo):
    """Need what takes long to import."""

    needs: ClassVar[str] = "probe_slow_import"


@dataclass(frozen=True)
class Die(Echo):
    """End the process by a signal, its last words being `words`."""

    words: str = ""

    def perform(self) -> int:
        print(self.words, file=sys.stderr, flush=True)
        os.kill(os.getpid(), self.number)
        signal.pause()
        return 0


@dataclass(frozen=True)
class Hang(Echo):
    """Say in the file `where` which process it is, and which other it started, and never return.

    `how`: "python" sleeps in Python, "native" in a call that keeps the interpreter's lock, and "child" beside
    a child that sleeps, as Triton waits for ptxas.
    """

    where: str = ""
    how: str = "python"

    def perform(self) -> int:
        processes = [os.getpid()]
        if self.how == "child":
            child = subprocess.Popen(["sleep", "1000"])
            processes.append(child.pid)
        with open(f"{self.where}.part", "w", encoding="utf-8") as file:  # noqa: PTH123
            file.write(" ".join(map(str, processes)))
        os.replace(f"{self.where}.part", self.where)  # noqa: PTH105
        if self.how == "native":
            ctypes.PyDLL(None).sleep(1000)
        while True:
            time.sleep(1)
