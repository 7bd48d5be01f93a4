"""Many problems: their order, their workers, what they share, and how they end."""

from __future__ import annotations

import threading
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from autoconv.device import find
from autoconv.environment import Environment
from autoconv.errors import ProblemError
from autoconv.problem import Problem
from autoconv.sweep.process import Cancelled
from autoconv.sweep.sweep import Job
from autoconv.tuning.scheduler import Order, tune_all
from autoconv.tuning.tuner import Tuned

DONE = Tuned(None, None)
NAMES = ("rtx4090", "l4")
JOBS = {
    name: Job(find(name), Environment.current(find(name)), Path("/nowhere"), on_gpu=False) for name in NAMES
}


class Pool:
    """Stands in for the workers of one lane."""

    def __init__(self, count: int) -> None:
        self.count = count
        self.closed = threading.Event()

    def __enter__(self) -> Pool:
        return self

    def __exit__(self, *_: object) -> None:
        self.closed.set()


def orders(*worths: float, device: str = "rtx4090") -> list[Order]:
    return [Order(Problem(1, 16, 16, 1, 16 + n), JOBS[device], worth) for n, worth in enumerate(worths)]


def run(given: list[Order], tune_one: Any, **options: Any) -> list[Any]:
    made: Any = options.pop("pool", Pool)
    return list(tune_all(given, tune_one, pool=made, **options))


def test_the_most_time_comes_first_and_the_devices_of_a_problem_one_after_the_other() -> None:
    seen = []
    given = [*orders(1, 5, 3), *orders(4, 0, 0, device="l4")]
    run(given, lambda order, *_: seen.append((order.problem.L, order.job.device.name)) or DONE, lanes=1)
    assert seen == [
        (16, "rtx4090"), (16, "l4"), (17, "rtx4090"), (17, "l4"), (18, "rtx4090"), (18, "l4"),
    ]  # fmt: skip


def test_problems_are_tuned_side_by_side_each_with_workers_of_its_own() -> None:
    together, pools = threading.Barrier(2, timeout=60), set()

    def tune_one(order: Order, pool: Any, progress: Any) -> Tuned:
        together.wait()  # for another that is tuned at the same time
        pools.add(pool)
        return DONE

    ended = run(orders(1, 2, 3, 4), tune_one, lanes=2)
    assert len(ended) == 4 and len(pools) == 2 and all(pool.closed.is_set() for pool in pools)


def test_a_gpu_times_one_at_a_time_with_all_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.cpu_count", lambda: 6)
    counts = []
    on_gpu = [replace(one, job=replace(one.job, on_gpu=True)) for one in orders(1, 2)]
    run(on_gpu, lambda _order, pool, _: counts.append(pool.count) or DONE)
    assert counts == [6, 6]
    without = []
    run(orders(1, 2, 3), lambda _order, pool, _: without.append(pool.count) or DONE)
    assert without == [2, 2, 2]  # three lanes of two


def test_what_no_kernel_runs_stops_nothing() -> None:
    def tune_one(order: Order, *_: object) -> Tuned:
        if order.worth == 2:
            raise ProblemError("op", "conv", "no kernel", "leave it")
        return DONE

    ended = run(orders(1, 2, 3), tune_one, lanes=1)
    assert [one.error is None for one in ended] == [True, False, True]
    assert ended[1].tuned is None


def test_any_other_error_is_the_caller_s_and_ends_the_rest() -> None:
    def tune_one(order: Order, *_: object) -> Tuned:
        raise KeyError(order.problem.L)

    pools: list[Pool] = []
    with pytest.raises(KeyError):
        run(orders(1, 2, 3), tune_one, lanes=1, pool=lambda count: pools.append(Pool(count)) or pools[-1])
    assert all(pool.closed.is_set() for pool in pools)


def until_closed(seen: list[Order], begun: Any = lambda: None) -> Any:
    """A stand-in that tunes the first, and of the others none ends before its workers do."""

    def tune_one(order: Order, pool: Any, progress: Any) -> Tuned:
        seen.append(order)
        if len(seen) == 1:
            return DONE
        begun()
        assert pool.closed.wait(60)
        raise Cancelled

    return tune_one


def test_the_end_of_the_time_ends_what_is_in_work_and_begins_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Order] = []
    now = [0.0]
    monkeypatch.setattr("autoconv.tuning.scheduler.time", SimpleNamespace(monotonic=lambda: now[0]))
    late = until_closed(seen, lambda: now.__setitem__(0, 99.0))
    ended = run(orders(3, 2, 1), late, lanes=1, seconds=60)
    assert [one.order.worth for one in ended] == [3]
    assert [one.worth for one in seen] == [3, 2]


def test_closing_ends_what_is_in_work_at_once() -> None:
    seen: list[Order] = []
    made: Any = Pool
    with closing(tune_all(orders(3, 2, 1), until_closed(seen), lanes=1, pool=made)) as results:
        assert next(results).order.worth == 3
    assert len(seen) <= 2


@pytest.mark.parametrize("wanted", [1, 3])
def test_what_runs_elsewhere_is_stopped_before_threads_are_waited_for(wanted: int) -> None:
    stopped = threading.Event()
    made: Any = Pool

    def tune_one(order: Order, pool: Any, progress: Any) -> Tuned:
        if order.worth < wanted:
            assert stopped.wait(60), "nobody stopped it"
        return DONE

    with closing(tune_all(orders(3, 2, 1), tune_one, lanes=1, pool=made, stop=stopped.set)) as results:
        assert next(results).order.worth == 3
    assert stopped.is_set()


def test_progress_adds_up_and_never_goes_back() -> None:
    told: list[tuple[float, int]] = []

    def tune_one(order: Order, pool: Any, progress: Any) -> Tuned:
        for doing, done in (("compile", 4), ("compile", 8), ("check", 1), ("check", 4)):
            progress(doing, done, 8)
        progress("check", 1, 8)  # of the next batch
        return DONE

    run(orders(1, 2), tune_one, lanes=1, show=lambda _, done, of: told.append((done, of)))
    figures = [done for done, _ in told]
    assert figures == sorted(figures) and figures[-1] == 2 and {of for _, of in told} == {2}
    assert 0 < figures[0] < 1


def test_nothing_to_do_is_done() -> None:
    assert run([], lambda *_: DONE) == []
