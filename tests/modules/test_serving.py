"""Which dispatcher serves, when blocks overlap and while a thread makes one."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import FunctionType, SimpleNamespace
from typing import Any

import pytest

import autoconv
from autoconv import lookup, serving, settings

X: Any = SimpleNamespace(is_cuda=True)


class Made:
    """A dispatcher that knows what it was made for; making it may take as long as `meanwhile` does."""

    meanwhile: Callable[[], object] | None = None

    def __init__(self, _machine: object, of: settings.Settings) -> None:
        self.override = of.override
        if Made.meanwhile is not None:
            Made.meanwhile()


@pytest.fixture(autouse=True)
def made(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("autoconv.dispatch.dispatcher.Dispatcher", Made)
    monkeypatch.setattr("autoconv.dispatch.machines.Cuda", object)
    monkeypatch.setattr(serving, "current", None)


def test_where_none_can_be_made_torch_serves_and_it_is_tried_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """As without Triton, or with one that has moved what is imported."""
    tried: list[None] = []

    def fails() -> None:
        tried.append(None)
        raise ModuleNotFoundError("No module named 'triton'")

    monkeypatch.setattr(Made, "meanwhile", staticmethod(fails))
    monkeypatch.setattr(serving._Making, "cut_off", False)
    with pytest.warns(RuntimeWarning, match="no kernel can be launched, torch serves all: ModuleNotFound"):
        assert serving.made_for(X) is None
    assert serving.made_for(X) is None and len(tried) == 1


def test_a_setting_that_cannot_be_used_is_told_in_each_call(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AUTOCONV_ON_MISS", "predcit")
    for _ in range(2):
        with pytest.raises(autoconv.SettingError, match="AUTOCONV_ON_MISS=predcit"):
            serving.made_for(X)


@pytest.fixture
def database(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[str], Path]:
    def of_name(name: str) -> Path:
        with monkeypatch.context() as patched:
            patched.setenv("AUTOCONV_DB", str(tmp_path / name))
            lookup.open_user(settings.load()).close()
        return tmp_path / name

    return of_name


class Asked:
    """A lock that tells when the main thread asks for it."""

    def __init__(self, lock: Any, event: threading.Event) -> None:
        self.lock, self.event = lock, event
        self.acquire, self.release = lock.acquire, lock.release

    def __enter__(self) -> None:
        if threading.current_thread() is threading.main_thread():
            self.event.set()
        self.lock.acquire()

    def __exit__(self, *_: object) -> None:
        self.lock.release()


class Making:
    """Another thread that makes the dispatcher, until the main thread has gone on or waits for it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.gone_on, self.made = threading.Event(), []
        within = threading.Event()

        def slow() -> None:
            within.set()
            assert self.gone_on.wait(60)

        monkeypatch.setattr(Made, "meanwhile", staticmethod(slow))
        self.thread = threading.Thread(target=lambda: self.made.append(serving.made_for(X)))
        self.thread.start()
        assert within.wait(60)
        monkeypatch.setattr(Made, "meanwhile", None)
        monkeypatch.setattr(serving._Making, "lock", Asked(serving._Making.lock, self.gone_on))

    def end(self) -> Any:
        self.gone_on.set()
        self.thread.join()
        (made,) = self.made
        return made


def test_what_a_thread_makes_as_an_override_ends_does_not_outlive_it(monkeypatch, database):
    path = database("override.db")
    with autoconv.override(path):
        making = Making(monkeypatch)
    assert making.end().override == path
    assert serving.current is None
    assert serving.made_for(X).override is None


def test_what_a_thread_makes_as_an_override_begins_does_not_serve_in_it(monkeypatch, database):
    path = database("override.db")
    making = Making(monkeypatch)
    with autoconv.override(path):
        before = making.end()
        assert serving.current is None
        assert serving.made_for(X).override == path
    assert before.override is None
    assert serving.current is before


def test_nothing_is_made_between_the_two_steps_of_an_override(monkeypatch, database):
    path, real = database("override.db"), settings.overriding

    def make() -> None:
        if serving._making.lock.acquire(blocking=False):
            serving.made_for(X)
            serving._making.lock.release()

    def make_in_a_thread() -> None:
        thread = threading.Thread(target=make)
        thread.start()
        thread.join()

    @contextmanager
    def overriding(given: Path) -> Iterator[None]:
        with real(given):
            make_in_a_thread()
            yield
            make_in_a_thread()

    monkeypatch.setattr(settings, "overriding", overriding)
    with autoconv.override(path):
        assert serving.current is None
    assert serving.current is None


def test_overrides_that_overlap_end_each_for_itself(database):
    paths = [database(f"{number}.db") for number in range(3)]
    blocks = [ExitStack() for _ in paths]
    for block, path in zip(blocks, paths, strict=True):
        block.enter_context(autoconv.override(path))
        assert serving.made_for(X).override == path
    newest = serving.current
    blocks[1].close()
    assert (settings.load().override, serving.current) == (paths[2], newest)
    blocks[0].close()
    assert (settings.load().override, serving.current) == (paths[2], newest)
    blocks[2].close()
    assert (settings.load().override, serving.current) == (None, None)


def test_blocks_that_overlap_leave_what_served_before():
    before, one, other = (Made(None, settings.load()) for _ in range(3))
    with serving.served_by(before):
        first, second = ExitStack(), ExitStack()
        first.enter_context(serving.served_by(one))
        second.enter_context(serving.served_by(other))
        first.close()
        assert serving.current is other
        second.close()
        assert serving.current is before


def test_waiting_looks_once_which_dispatcher_serves():
    class Ending(dict):
        """The module's names; a block of another thread ends after each look."""

        def __getitem__(self, name: str) -> Any:
            value = super().__getitem__(name)
            self["current"] = None
            return value

    names = Ending(vars(serving), current=SimpleNamespace(wait=lambda timeout: timeout == 0))
    assert FunctionType(serving.wait.__code__, names)(0) is True
