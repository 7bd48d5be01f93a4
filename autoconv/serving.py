"""Which dispatcher serves this process."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from autoconv import settings
from autoconv.dispatch.apart import raised_by_a_handler
from autoconv.errors import SettingError

if TYPE_CHECKING:
    from autoconv.dispatch.dispatcher import Dispatcher

current: Dispatcher | None = None
"""The dispatcher of this process; made when the first CUDA tensor arrives. Read it in every call, and once.

It changes only under the lock under which a dispatcher is made. So no block opens or ends meanwhile, and what
is made belongs to the block that is open then."""

FORK_SECONDS = 30.0
"""How long a fork waits for another thread that makes the dispatcher. That imports Triton and the kernels,
and a child forked meanwhile would find the modules' locks held for ever, by nobody."""


class _Making(threading.local):
    """The lock under which the dispatcher is made; across a fork this thread has it."""

    lock = threading.RLock()
    held = False
    cut_off = False
    """Whether this process leaves all to torch: no dispatcher can be made, or it is a child that was forked,
    after all, while another thread imported."""

    def before_fork(self) -> None:
        self.held = _Making.lock.acquire(timeout=FORK_SECONDS)

    def after_fork(self) -> None:
        if self.held:
            _Making.lock.release()

    def in_child(self) -> None:
        _Making.lock = threading.RLock()
        _Making.cut_off = _Making.cut_off or not self.held


_making = _Making()
os.register_at_fork(
    before=_making.before_fork, after_in_parent=_making.after_fork, after_in_child=_making.in_child
)


@dataclass(eq=False)
class _Block:
    """An open block of `served_by` or `override`; blocks of several threads may end in any order."""

    before: Dispatcher | None  # serves once this has ended
    database: Path | None


_blocks: list[_Block] = []  # the newest last
_overriding = ExitStack()  # names the database of the newest override in the settings
_watches: list[Callable[[Dispatcher], Any]] = []


def serving(x: torch.Tensor) -> Dispatcher | None:
    """Return the dispatcher that serves convolutions of `x`, or None where they are torch's.

    Raises:
        SettingError: an AUTOCONV_ variable has an invalid value.
    """
    dispatcher = current or made_for(x)
    return dispatcher if dispatcher is not None and dispatcher.serves(x) else None


@contextmanager
def override(database: Path | str) -> Iterator[None]:
    """Ask `database` before the user's, the site's and the packaged one, in every thread, during the block.

    For trying a database out, or for a job that must run what it was validated with. It is only read: what
    it lacks is looked up, and tuned, as without it. Plans made before are kept for after.

    Args:
        database: A tuning database of autoconv's.

    Raises:
        TuningDBError: the file is missing, damaged, or no such database.
    """
    from autoconv.lookup import open_file

    open_file(Path(database)).close()
    with _block(None, Path(database)):
        yield


@contextmanager
def served_by(dispatcher: Dispatcher | None) -> Iterator[None]:
    """Have `dispatcher` serve during the block, in every thread; None: one made when it is needed."""
    with _block(dispatcher, None):
        yield


@contextmanager
def watched_by(watch: Callable[[Dispatcher], Any]) -> Iterator[None]:
    """Have `watch` of a dispatcher serve during the block, in every thread, whichever dispatcher it is then.

    Args:
        watch: Returns what calls take for the dispatcher; its attribute `dispatcher` is the one given.
    """
    with _making.lock:
        _put(_unwatched(), [*_watches, watch])
    try:
        yield
    finally:
        with _making.lock:
            _put(_unwatched(), [one for one in _watches if one is not watch])


def wait(timeout: float | None = None) -> bool:
    """Wait until the tuner of the background has tuned and compiled all that calls so far have asked for.

    What it found serves from the next call on. What was missed so far is written to the user's database
    before this returns, even where the time was too short. The tuner does nothing under
    torch.use_deterministic_algorithms(True), so there is nothing else to wait for then.

    Args:
        timeout: Seconds to wait at most; None: as long as it takes.

    Returns:
        Whether it has nothing more to do.
    """
    dispatcher = current
    return dispatcher is None or dispatcher.wait(timeout)


def made_for(x: torch.Tensor) -> Dispatcher | None:
    """Make this process's dispatcher, if `x` is one for it to serve and it can be made; else torch serves."""
    if not x.is_cuda or _making.cut_off:
        return None
    with _making.lock:
        if current is None and not _making.cut_off:
            try:
                _put(_dispatcher(), _watches)
            except SettingError:
                raise
            except Exception as error:  # as where Triton cannot be imported: a convolution must not fail
                if raised_by_a_handler(error):
                    raise
                _Making.cut_off = True
                from autoconv.lookup import warn_once

                warn_once(f"no kernel can be launched, torch serves all: {type(error).__name__}: {error}")
        return current


def _dispatcher() -> Dispatcher:
    from autoconv.dispatch.dispatcher import Dispatcher
    from autoconv.dispatch.machines import Cuda

    return Dispatcher(Cuda(), settings.load())


@contextmanager
def _block(dispatcher: Dispatcher | None, database: Path | None) -> Iterator[None]:
    with _making.lock:
        block = _Block(_unwatched(), database)
        _blocks.append(block)
        _put(dispatcher, _watches)
        _name_override()
    try:
        yield
    finally:
        with _making.lock:
            if block is _blocks[-1]:
                _put(block.before, _watches)
            else:  # another thread's, opened within this one, goes on
                _blocks[_blocks.index(block) + 1].before = block.before
            _blocks.remove(block)
            _name_override()


def _name_override() -> None:
    """Have the settings name the database of the newest override that is open."""
    databases = [block.database for block in _blocks if block.database is not None]
    _overriding.close()
    if databases:
        _overriding.enter_context(settings.overriding(databases[-1]))


def _put(dispatcher: Dispatcher | None, watches: list[Callable[[Dispatcher], Any]]) -> None:
    """Have `dispatcher` serve, with `watches` before it, the newest first."""
    global current
    _watches[:] = watches
    if dispatcher is not None:
        for watch in watches:
            dispatcher = watch(dispatcher)
    current = dispatcher


def _unwatched() -> Any:
    """Return the dispatcher that the watches stand before."""
    dispatcher: Any = current
    for _ in _watches:
        dispatcher = dispatcher and dispatcher.dispatcher
    return dispatcher
