"""A sweep on a GPU that is not here: workers that keep a script take the place of those that have one."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from itertools import count
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from autoconv.compiler.resources import Resources
from autoconv.config import Config
from autoconv.device import find
from autoconv.kernels.aten import ATEN
from autoconv.kernels.registry import kernel as kernel_called
from autoconv.lookup import COLUMNS
from autoconv.problem import Problem
from autoconv.settings import Settings
from autoconv.sweep import measure
from autoconv.sweep.measure import FAR, SHORT_US
from autoconv.sweep.outcomes import Failed, Outcome, Unavailable
from autoconv.sweep.pool import WorkerPool
from autoconv.sweep.preflight import needed_bytes
from autoconv.sweep.sweep import Job
from autoconv.sweep.tasks import Compile, Crashed, Laps, Load, Open, Skipped, Task, Time, Verify
from autoconv.sweep.verify import Verdict
from autoconv.tuning.tuner import Tuned, Tuner
from tuning_db import Trial, TuningDB

RIGHT = Verdict(True, 0.0, unwritten=0, overrun=0, seed=0, problem="")
KINDS = {Load: "load", Open: "open", Compile: "compile", Verify: "verify", Time: "time"}
BUSY = "RuntimeError: CUDA error: CUDA-capable device(s) is/are busy or unavailable"
ORDINAL = 1

SettingsFor = Callable[[Path], Settings]


@dataclass
class Script:
    """What the workers answer, and what they were asked, in order."""

    torch_us: float = 10.0
    ours_us: float = 5.0
    free_bytes: int = 1 << 40
    beside: Config | None = None  # what serves, where other work goes on
    answer: Callable[[str, int], Any] = lambda _kind, _number: None  # in place of the usual
    asked: list[tuple[str, Any]] = field(default_factory=list)  # kind, task

    def us(self, config: Config) -> float:
        return self.torch_us if config == ATEN else self.ours_us

    def kinds(self) -> list[str]:
        return [kind for kind, _ in self.asked]

    def perform(
        self, tasks: Iterable[Task[Any]], deadline: float = float("inf"), *, sure: int = 0
    ) -> Iterator[Any]:
        for number, task in enumerate(tasks):
            in_time = number < sure or deadline > time.monotonic()
            yield self._answer(task) if in_time else Skipped("the deadline came first")

    def _answer(self, task: Task[Any]) -> Any:
        kind = KINDS[type(task)]
        if isinstance(task, Time):
            several = "race" if self.beside is None else "pairs"
            kind = several if len(task.configs) > 1 else "torch" if task.configs == (ATEN,) else kind
        self.asked.append((kind, task))
        told = self.answer(kind, self.kinds().count(kind))
        if isinstance(told, Unavailable):
            raise told
        usual = {
            "load": True,
            "open": self.free_bytes,
            "compile": Resources(registers=64, spills=0, shared=1024),
            "verify": RIGHT,
        }
        if told is None and isinstance(task, Time):
            slower = (3.0, 7.0, 11.0) if kind == "pairs" else (1.0,) * 3  # by and by, beside other work
            return Laps(tuple(tuple(by * self.us(config) for config in task.configs) for by in slower))
        return usual[kind] if told is None else told


class ScriptedPool:
    def __init__(self, script: Script) -> None:
        self.compilers = self.interpreters = self.gpu = script


@dataclass
class Tuning:
    """A tuner whose workers keep a script."""

    script: Script
    job: Job
    problem: Problem
    tuner: Tuner
    database: Path
    warnings: list[str]

    def tune(self, **job: Any) -> Tuned:
        pool = cast(WorkerPool, ScriptedPool(self.script))
        self.script.beside = job.get("beside")
        return self.tuner.tune(self.problem, replace(self.job, **job), pool=pool)

    def recorded(self) -> list[Trial]:
        with TuningDB.open_readonly(self.database, columns=COLUMNS, application="autoconv") as opened:
            return opened.trials(self.problem.key())


@pytest.fixture
def tuning(small: Problem, job: Job, settings_for: SettingsFor, tmp_path: Path) -> Tuning:
    said: list[str] = []
    tuner = Tuner(settings_for(tmp_path / "tuning.db"), warn=said.append)
    on_gpu = replace(job, on_gpu=True, ordinal=ORDINAL)
    return Tuning(Script(), on_gpu, small, tuner, tmp_path / "tuning.db", said)


def is_torch(trial: Trial) -> bool:
    return Config.from_document(trial.config) == ATEN


# --- torch first ----------------------------------------------------------------------------------


def test_torch_is_timed_before_anything_is_compiled(tuning: Tuning) -> None:
    tuned = tuning.tune()
    kinds = [kind for kind in tuning.script.kinds() if kind != "load"]
    assert kinds[:3] == ["open", "torch", "compile"]
    assert tuned.found is not None and tuned.found.measured_us == 5.0
    assert tuned.found.config != ATEN
    assert is_torch(tuning.recorded()[0]), "no candidate is on file that torch was not held to"
    assert tuning.warnings == []


def test_torch_serves_wherever_it_won(tuning: Tuning) -> None:
    tuning.script.torch_us = 3.0
    tuned = tuning.tune()
    assert tuned.found is not None and (tuned.found.config, tuned.found.measured_us) == (ATEN, 3.0)
    assert tuning.tuner.find(tuning.problem, tuning.job.environment) == tuned.found
    assert tuning.tune().swept is None, "it was held to all of them"


class Clock:
    """A clock that the script moves."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(time, "monotonic", clock.monotonic)
    return clock


def passing(clock: Clock, **seconds: float) -> Callable[[str, int], None]:
    """Let so much time pass in each task of a kind."""

    def answer(kind: str, number: int) -> None:
        clock.now += seconds.get(kind, 0.0)

    return answer


def test_a_deadline_never_leaves_torch_out(tuning: Tuning, clock: Clock) -> None:
    """It comes after the first candidate, which is slower than torch."""
    tuning.script.torch_us = 3.0
    tuning.script.answer = passing(clock, time=60.0)
    tuned = tuning.tune(seconds=60.0)
    assert tuned.found is not None and tuned.found.config == ATEN
    assert tuning.script.kinds().count("time") == 1


def test_even_a_slow_torch_is_timed(tuning: Tuning, clock: Clock) -> None:
    tuning.script.answer = passing(clock, torch=1000.0)
    tuning.tune(seconds=60.0)
    assert tuning.script.kinds()[-4:] == ["torch", "compile", "verify", "time"]


@pytest.mark.parametrize("last", ["torch", "compile", "verify"])
def test_the_first_candidate_is_measured_whatever_the_deadline(
    last: str, tuning: Tuning, clock: Clock
) -> None:
    tuning.script.answer = passing(clock, **{last: 60.0})
    tuned = tuning.tune(seconds=1.0)
    assert tuned.found is not None and tuned.found.provenance == "measured"
    assert [tuning.script.kinds().count(kind) for kind in ("torch", "verify", "time")] == [1, 1, 1]
    assert tuning.warnings == []


def test_torch_against_nobody_has_not_won(tuning: Tuning) -> None:
    """No candidate had a time: torch serves here, and the next process sweeps."""
    tuning.script.answer = lambda kind, _: Unavailable(BUSY) if kind == "verify" else None
    tuned = tuning.tune()
    assert tuned.found is None and tuned.swept is not None
    assert {trial.outcome for trial in tuning.recorded()} <= {"compiled"}
    (message,) = tuning.warnings
    assert message == f"the sweep of {tuning.problem} found no winner, torch serves: {BUSY}"
    serves = tuning.tuner.provisional(tuning.problem, tuning.job.environment, tuning.job.device)
    assert (serves.config, serves.provenance, serves.hit) == (ATEN, "default", False)
    tuning.script.answer = lambda *_: None
    assert tuning.tune().found is not None


def test_a_sweep_beside_other_work_takes_a_share_of_what_is_free(tuning: Tuning) -> None:
    needed = needed_bytes(tuning.problem, ATEN, tuning.job.device)
    tuning.script.free_bytes = 4 * needed - 4
    tuned = tuning.tune(share=0.25)
    assert tuned.found is None and tuned.swept is not None and tuned.swept.stopped is not None
    assert "of which a sweep beside other work takes 25% at most" in tuned.swept.stopped
    assert "torch" not in tuning.script.kinds()
    tuning.script.free_bytes = 4 * needed
    assert tuning.tune(share=0.25).found is not None


def test_torch_alone_has_won_where_no_candidate_is_right(tuning: Tuning) -> None:
    tuning.script.answer = lambda kind, _: replace(RIGHT, ok=False) if kind == "verify" else None
    tuned = tuning.tune()
    assert tuned.found is not None and tuned.found.config == ATEN


def test_a_sweep_where_all_fails_says_so_and_leaves_the_problem_to_torch(tuning: Tuning) -> None:
    failing = {"compile": Failed("ValueError: no such\n tile"), "torch": Failed("RuntimeError: no")}
    tuning.script.answer = lambda kind, _: failing.get(kind)
    assert tuning.tune().found is None
    (message,) = tuning.warnings
    assert "found no winner, torch serves: no candidate passed (" in message
    assert message.endswith("; the first: ValueError: no such tile)")
    assert tuning.tuner.provisional(tuning.problem, tuning.job.environment, tuning.job.device).config == ATEN


def test_what_was_found_before_goes_on_serving(tuning: Tuning) -> None:
    first = tuning.tune()
    tuning.script.answer = lambda kind, _: Unavailable(BUSY) if kind == "verify" else None
    pool = cast(WorkerPool, ScriptedPool(tuning.script))
    assert tuning.tuner.tune(tuning.problem, tuning.job, pool=pool, again=True).found is None
    assert "found no winner, the earlier result serves: " in tuning.warnings[0]
    assert tuning.tuner.find(tuning.problem, tuning.job.environment) == first.found


# --- the caller's device, and the clock -----------------------------------------------------------


def test_every_task_is_for_the_caller_s_device(tuning: Tuning) -> None:
    tuning.tune()
    by_kind: dict[str, set[Any]] = {}
    for kind, task in tuning.script.asked:
        by_kind.setdefault(kind, set()).add(getattr(task, "where", getattr(task, "ordinal", None)))
    assert by_kind["open"] == {ORDINAL}
    assert by_kind["torch"] == by_kind["verify"] == by_kind["time"] == {f"cuda:{ORDINAL}"}


def test_the_clock_stands_still_while_workers_start(tuning: Tuning, clock: Clock) -> None:
    tuning.script.answer = passing(clock, load=10.0, open=20.0)
    tuned = tuning.tune(seconds=15.0)
    kinds = tuning.script.kinds()
    assert max(kinds.index("open"), len(kinds) - 1 - kinds[::-1].index("load")) < kinds.index("torch")
    assert tuned.found is not None and tuned.swept is not None
    assert kinds.count("time") == tuned.swept.compiled > 1


# --- faults of the moment -------------------------------------------------------------------------


def test_a_device_without_the_memory_stops_the_sweep_before_its_first_task(tuning: Tuning) -> None:
    tuning.script.free_bytes = needed_bytes(tuning.problem, ATEN, tuning.job.device) - 1
    tuned = tuning.tune()
    assert set(tuning.script.kinds()) == {"load", "open"}
    assert tuned.found is None and tuned.swept is not None and tuned.swept.trials == ()
    assert tuning.recorded() == []
    (message,) = tuning.warnings
    assert "found no winner, torch serves: 0.3" in message and "0.31 GiB are free" in message
    tuning.script.free_bytes += 1
    assert tuning.tune().found is not None


@pytest.mark.parametrize("outcome", [Unavailable(BUSY), Crashed("worker ended")], ids=["busy", "crash"])
def test_a_device_that_cannot_be_had_stops_the_sweep(outcome: Outcome, tuning: Tuning) -> None:
    tuning.script.answer = lambda kind, _: outcome if kind == "open" else None
    tuned = tuning.tune()
    assert tuned.found is None and tuning.recorded() == []
    (message,) = tuning.warnings
    assert message.endswith(
        BUSY if isinstance(outcome, Unavailable) else "cuda:1 cannot be used: worker ended"
    )


@pytest.mark.parametrize("kind", ["torch", "compile", "verify", "time"])
def test_the_machine_s_fault_is_kept_against_no_candidate(kind: str, tuning: Tuning) -> None:
    """At the third candidate, so that two are done, but for torch, which comes but once."""
    third = 1 if kind == "torch" else 3
    reason = "OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB."
    tuning.script.answer = lambda one, number: Unavailable(reason) if (one, number) == (kind, third) else None
    tuned = tuning.tune()
    assert tuned.swept is not None and tuned.swept.stopped == reason
    trials = tuning.recorded()
    assert [trial.outcome for trial in trials] == ["ok"] * len(trials)
    assert tuned.swept.trials == tuple(trials)
    assert len(trials) == (3 if kind in ("verify", "time") else 0)  # torch and two candidates
    (message,) = tuning.warnings
    serves = "stopped early, its best so far serves" if trials else "found no winner, torch serves"
    assert message == f"the sweep of {tuning.problem} {serves}: {reason}"
    asked = tuning.script.kinds()
    assert asked.count(kind) == third and (asked[-1] == kind or kind == "compile")


def test_a_worker_that_lacks_what_it_imports_stops_the_sweep(tuning: Tuning) -> None:
    reason = "ModuleNotFoundError: No module named 'triton'"
    tuning.script.answer = lambda kind, _: Unavailable(reason) if kind == "load" else None
    tuned = tuning.tune(on_gpu=False)
    assert tuned.swept is not None and (tuned.swept.trials, tuned.swept.stopped) == ((), reason)
    assert tuning.warnings == [f"the sweep of {tuning.problem} found no winner, torch serves: {reason}"]


def test_a_candidate_whose_scratch_is_not_to_be_had_is_left_out(tuning: Tuning) -> None:
    tuning.problem = Problem(1, 512, 64, 3, 64, padding=1)
    tuning.script.free_bytes = needed_bytes(tuning.problem, ATEN, tuning.job.device)
    tuned = tuning.tune()
    outcomes: dict[bool, set[str]] = {True: set(), False: set()}
    for trial in tuning.recorded():
        if not is_torch(trial):
            config = Config.from_document(trial.config)
            scratch = kernel_called(config.kernel).workspace(tuning.problem, config)
            outcomes[scratch > 0].add(trial.outcome)
    assert outcomes == {True: {"compiled"}, False: {"ok"}}
    assert tuned.found is not None and tuning.warnings == []


def test_the_memory_counted_holds_the_tensors_and_their_float64_copies() -> None:
    device = find("h100-sxm")
    small, large = Problem(1, 64, 64, 3, 1 << 16), Problem(64, 64, 128, 3, 224280, stride=3, dilation=4)
    assert needed_bytes(small, ATEN, device) > 8 * (2 * 64 + 64) * (1 << 16) - (1 << 16)
    tensors = large.ideal_bytes + 4 * 64 * 128 * large.L_out  # and torch's result beside ours
    assert tensors < needed_bytes(large, ATEN, device) < tensors + (1 << 30)


# --- in turn --------------------------------------------------------------------------------------


def raced(tuning: Tuning) -> list[Time]:
    return [task for kind, task in tuning.script.asked if kind == "race"]


def test_candidates_and_torch_are_timed_in_turn_once_each_has_passed_alone(tuning: Tuning) -> None:
    tuning.script.torch_us = 6.0
    tuned = tuning.tune()
    first, *_, last = raced(tuning)
    assert ATEN in first.configs and len(last.configs) <= 3 < len(first.configs)
    kinds = tuning.script.kinds()
    assert max(number for number, kind in enumerate(kinds) if kind == "time") < kinds.index("race")
    assert tuned.swept is not None
    details = [trial.detail for trial in tuned.swept.trials if trial.outcome == "ok"]
    assert len({detail["race"] for detail in details}) == 1
    assert all(detail["samples"] >= 3 and detail["p50_us"] > 0 for detail in details)


def test_what_is_far_off_stays_out_of_the_race(tuning: Tuning) -> None:
    tuning.script.torch_us = FAR * tuning.script.ours_us + 0.1
    tuned = tuning.tune()
    assert tuned.swept is not None and all(ATEN not in task.configs for task in raced(tuning))
    (torchs,) = [trial for trial in tuning.recorded() if is_torch(trial)]
    assert torchs.measured_us == tuning.script.torch_us


@pytest.mark.parametrize(("us", "graph"), [(SHORT_US - 1, True), (SHORT_US, False)])
def test_problems_shorter_than_a_launch_are_timed_in_a_graph(us: float, graph: bool, tuning: Tuning) -> None:
    tuning.script.ours_us, tuning.script.torch_us = us, us + 1
    tuning.tune()
    assert {task.graph for task in raced(tuning)} == {graph}
    assert not any(task.graph for kind, task in tuning.script.asked if kind in ("time", "torch"))


def test_one_that_ends_the_worker_when_timed_with_others_is_found_and_left_out(tuning: Tuning) -> None:
    broken: list[Config] = []

    def answer(kind: str, number: int) -> Any:
        task = tuning.script.asked[-1][1]
        if kind == "race" and not broken:
            broken.append(next(config for config in task.configs if config != ATEN))
        if kind == "race" and broken[0] in task.configs:
            return Crashed("worker ended with status -11")
        if kind == "time" and broken and task.configs == (broken[0],):
            return Crashed("worker ended with status -11")
        return None

    tuning.script.answer = answer
    tuned = tuning.tune()
    outcomes = {Config.from_document(trial.config): trial.outcome for trial in tuning.recorded()}
    assert outcomes.pop(broken[0]) == "crash" and set(outcomes.values()) == {"ok"}
    assert tuned.found is not None and tuned.found.config not in broken
    assert broken[0] not in raced(tuning)[-1].configs, "the others went on"


def test_a_deadline_in_the_race_leaves_what_was_timed_alone(tuning: Tuning, clock: Clock) -> None:
    tuning.script.answer = lambda kind, _: Skipped("the deadline came first") if kind == "race" else None
    tuned = tuning.tune()
    assert tuned.found is not None and tuned.found.measured_us == tuning.script.ours_us
    assert {trial.outcome for trial in tuning.recorded()} == {"ok"}


# --- beside other work ----------------------------------------------------------------------------


@pytest.mark.parametrize(("torch_us", "ours_us"), [(10.0, 5.0), (3.0, 5.0)])
def test_beside_other_work_times_are_told_in_proportion_to_what_serves(
    torch_us: float, ours_us: float, tuning: Tuning
) -> None:
    tuning.script.torch_us, tuning.script.ours_us = torch_us, ours_us
    found = tuning.tune(beside=ATEN).found
    assert found is not None
    assert (found.config == ATEN) == (torch_us < ours_us)
    assert (found.provenance, found.measured_us) == ("contended", None)
    assert found.contended_us == pytest.approx(min(torch_us, ours_us))
    timed = [trial for trial in tuning.recorded() if trial.samples_us]
    assert is_torch(timed[0]) and len(timed) > 1 and all(trial.contended for trial in timed)
    assert {task.configs[1] for kind, task in tuning.script.asked if kind == "pairs"} == {ATEN}
    assert tuning.script.kinds().count("torch") == 1, "alone, once, and from then on in pairs"


def test_beside_other_work_the_device_rests_three_times_as_long_as_it_was_taken(
    tuning: Tuning, monkeypatch: pytest.MonkeyPatch
) -> None:
    rests: list[float] = []
    clock = count(step=0.5)  # what each task takes, by this clock
    monkeypatch.setattr(measure, "time", SimpleNamespace(monotonic=lambda: next(clock), sleep=rests.append))
    tuning.tune(beside=ATEN)
    on_device = [kind for kind in tuning.script.kinds() if kind in ("verify", "time", "torch", "pairs")]
    assert rests == [1.5] * len(on_device)
    rests.clear()
    tuning.tune()
    assert rests == []


def test_what_serves_meanwhile_is_what_all_are_compared_with(tuning: Tuning) -> None:
    serving = Config("dense", {"BLOCK_CO": 16, "BLOCK_L": 16, "BLOCK_R": 16}, num_warps=1, num_stages=1)
    found = tuning.tune(beside=serving).found
    assert found is not None and found.contended_us == pytest.approx(5.0)
    kinds, asked = tuning.script.kinds(), tuning.script.asked
    assert [task.configs for kind, task in asked if kind in ("time", "torch")] == [(serving,)]
    pairs = [task.configs for kind, task in asked if kind == "pairs"]
    assert {second for _, second in pairs} == {serving}
    assert pairs[0][0] == ATEN and kinds.index("pairs") < kinds.index("compile")


def test_a_time_taken_beside_other_work_does_not_content_a_sweep_alone(tuning: Tuning) -> None:
    tuning.tune(beside=ATEN)
    assert tuning.tune(beside=ATEN).swept is None, "another one beside it does"
    tuning.script.ours_us, tuning.script.asked[:] = 6.0, []
    tuned = tuning.tune()
    assert tuned.swept is not None and "torch" in tuning.script.kinds(), "all is measured anew"
    assert tuned.found is not None
    assert (tuned.found.provenance, tuned.found.measured_us) == ("measured", 6.0)
    assert tuning.tune().swept is None


def test_what_serves_and_cannot_be_timed_ends_the_sweep(tuning: Tuning) -> None:
    tuning.script.answer = lambda kind, _: Failed("no such algorithm") if kind == "torch" else None
    assert tuning.tune(beside=ATEN).found is None
    assert not any(trial.samples_us for trial in tuning.recorded())
    assert "which serves now, cannot be timed: no such algorithm" in tuning.warnings[0]
