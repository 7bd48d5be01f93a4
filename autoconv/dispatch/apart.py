"""What a signal's handler raises is never taken for an error of the work that it interrupted."""

from __future__ import annotations

import signal
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


def raised_by_a_handler(error: BaseException) -> bool:
    """Return whether `error` comes out of a signal handler of this process, a Python function or method.

    Such a handler runs in the midst of whatever the main thread does, and what it raises is for the caller.
    """
    handlers = map(signal.getsignal, signal.valid_signals())
    codes = {getattr(handler, "__code__", None) for handler in handlers} - {None}
    frame = error.__traceback__
    while frame is not None:
        if frame.tb_frame.f_code in codes:
            return True
        frame = frame.tb_next
    return False
