"""Which dispatcher serves this process."""

from __future__ import annotations

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

_making = threading.Lock()


def serving(x: torch.Tensor) -> Dispatcher | None:
    """Return the dispatcher that serves convolutions of `x`, or None where they are torch's.

    Raises:
        SettingError: an AUTOCONV_ variable has a value that is none.
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


def made_for(x: torch.Tensor) -> Dispatcher | None:
    """Make this process's dispatcher, if `x` is one for it to serve."""
    global current
    if not x.is_cuda:
        return None
    from autoconv.dispatch.dispatcher import Dispatcher
    from autoconv.dispatch.machines import Cuda

    with _making:
        if current is None:
            current = Dispatcher(Cuda(), settings.load())
        return current
