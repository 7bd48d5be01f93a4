"""Which dispatcher serves this process."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from autoconv import settings

if TYPE_CHECKING:
    from autoconv.dispatch.dispatcher import Dispatcher

current: Dispatcher | None = None
"""The dispatcher of this process; made when the first CUDA tensor arrives. Read it in every call."""

FORK_SECONDS = 30.0
"""How long a fork waits for another thread that makes the dispatcher. That imports Triton and the kernels,
and a child forked meanwhile would find the modules' locks held for ever, by nobody."""


class _Making(threading.local):
    """The lock under which the dispatcher is made; across a fork this thread has it."""

    lock = threading.RLock()
    held = False
    cut_off = (
        False  # this is a child forked, after all, while another thread imported: it leaves all to torch
    )

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
    with settings.overriding(Path(database)), served_by(None):
        yield


@contextmanager
def served_by(dispatcher: Dispatcher | None) -> Iterator[None]:
    """Have `dispatcher` serve during the block, in every thread; None: one made when it is needed."""
    global current
    before = current
    current = dispatcher
    try:
        yield
    finally:
        current = before


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
    return current is None or current.wait(timeout)


def made_for(x: torch.Tensor) -> Dispatcher | None:
    """Make this process's dispatcher, if `x` is one for it to serve."""
    global current
    if not x.is_cuda or _making.cut_off:
        return None
    from autoconv.dispatch.dispatcher import Dispatcher
    from autoconv.dispatch.machines import Cuda

    with _making.lock:
        if current is None:
            current = Dispatcher(Cuda(), settings.load())
        return current
