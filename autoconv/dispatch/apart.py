"""Work in a thread of its own, so that what a signal's handler raises is never taken for the work's error."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

Result = TypeVar("Result")


def begun(work: Callable[[], Result], name: str) -> Future[Result]:
    """Begin `work` in a thread called `name` and return the future to wait on.

    Python runs signal handlers in the main thread, so what one raises comes out of the wait. The thread is a
    daemon: the exit of the interpreter does not wait for it, as it would for one of a ThreadPoolExecutor.
    """
    future: Future[Result] = Future()

    def run() -> None:
        try:
            future.set_result(work())
        except BaseException as error:  # whatever it is, it is for who waits; nothing else catches it here
            future.set_exception(error)

    threading.Thread(target=run, name=name, daemon=True).start()
    return future
