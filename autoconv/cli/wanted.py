"""What `autoconv tune` is asked to tune: problems named by text, files, ranges, or by what was missed."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from autoconv import settings
from autoconv.cli.common import Target, note, target
from autoconv.cli.missed import missed_of
from autoconv.cost.prediction import floor_seconds
from autoconv.errors import DeviceError, FieldError, ProblemError
from autoconv.lookup import HITS, OWN, open_user
from autoconv.problem import Problem

if TYPE_CHECKING:
    from autoconv.tuning.asked import Asked
    from autoconv.tuning.backlog import MissedProblem
    from autoconv.tuning.effort import Effort
    from autoconv.tuning.scheduler import Order


@dataclass(frozen=True)
class Wanted:
    """A problem to tune, and where; with what was missed of it, to be forgotten then."""

    problem: Problem
    at: Target
    calls: int = 1
    missed: MissedProblem | None = None

    @property
    def key(self) -> tuple[Problem, str]:
        """What tells it from the others."""
        return self.problem, self.at.device.name

    def order(self, seconds: float, effort: Effort) -> Order:
        """Return it as the scheduler takes it."""
        from autoconv.tuning.scheduler import Order

        job = self.at.job(seconds, effort)
        if self.missed is not None:
            return Order(self.problem, job, self.missed.total_seconds, HITS)
        return Order(self.problem, job, self.calls * floor_seconds(self.problem, self.at.device), OWN)


def named(arguments: tuple[str, ...], devices: tuple[str, ...], buckets: bool) -> list[Wanted]:
    """Return the problems that the arguments name, each once, for each of the devices."""
    from autoconv.tuning.asked import merged

    asked = merged(one for argument in arguments for one in _asked(argument))
    targets = {at.device.name: at for at in map(target, dict.fromkeys(devices))}
    _check_writable()
    wanted = [
        Wanted(one.problem, at, one.calls) for at in targets.values() for one in _planned(asked, at, buckets)
    ]
    if not wanted:
        note("nothing is left to tune" if asked else "no problem is named")
    return wanted


def _asked(argument: str) -> list[Asked]:
    from autoconv.tuning.asked import parsed, read

    if argument == "-":
        return read(sys.stdin.read(), "standard input")
    if not is_file(argument):
        if argument and "=" not in argument:
            remedy = "write it as in N=64,Cin=64,Cout=128,K=3,L=4096, or name a file that is there"
            raise ProblemError(argument, None, "is not name=value", remedy)
        return parsed(argument)
    try:
        return read(Path(argument).read_text(encoding="utf-8"), argument)
    except (OSError, UnicodeDecodeError) as error:
        reason = f"cannot be read ({error})"
        raise FieldError("tune", "file", argument, reason, "give a text file of problems") from None


def is_file(argument: str) -> bool:
    """Return whether the argument of a command line is a file of problems, not the text of one."""
    try:
        return argument == "-" or Path(argument).is_file()
    except (OSError, ValueError):  # too long, or with a null byte
        return False


def _planned(asked: Sequence[Asked], at: Target, buckets: bool) -> Sequence[Asked]:
    """Return all of them, or, of those that no bucket holds, such as have all in theirs."""
    from autoconv.tuning.cover import cover

    if not buckets:
        return asked
    job = at.job()
    unknown = {one.problem: one for one in asked if at.tuner.known(one.problem, job, HITS) is None}
    chosen = [unknown[problem] for problem in cover(unknown)]
    held, left = len(asked) - len(unknown), len(unknown) - len(chosen)
    note(f"{at.device.name}: {held} lie in buckets of the database, {left} in those of {len(chosen)} others")
    return chosen


def missed_ones(devices: tuple[str, ...]) -> list[Wanted]:
    """Return what the user's database notes as missed by the devices that can be tuned for here."""
    from autoconv import gpu

    named = [target(name) for name in devices if name != "auto" or gpu.present()]
    with open_user(settings.load(), note) as database:
        _check_writable()
        rows = [missed_of(database, at.device.name) for at in named] if named else [missed_of(database, None)]
    found = [one for of_device in rows for one in of_device]
    targets: dict[str, Target | None] = {at.device.name: at for at in named}
    targets = targets or {one.device: _target(one.device) for one in found}
    wanted = [(one, targets[one.device]) for one in found]
    tunable = [
        Wanted(one.problem, at, missed=one)
        for one, at in wanted
        if at is not None and one.is_of(at.environment)
    ]
    if len(tunable) < len(found):
        note(f"{len(found) - len(tunable)} problems were missed by devices that are tuned for elsewhere")
    if not tunable:
        note("nothing was missed that can be tuned here")
    return tunable


def _check_writable() -> None:
    with open_user(settings.load(), note) as database:
        database.check_writable()  # an error here, before any work


def _target(name: str) -> Target | None:
    try:
        return target(name)
    except DeviceError as error:
        note(str(error))
        return None
