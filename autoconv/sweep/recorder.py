"""Where a sweep's trials are kept, those of an interrupted one included."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from contextlib import nullcontext, suppress
from dataclasses import replace
from datetime import datetime, timezone
from typing import Any

from autoconv.config import Config
from autoconv.cost.prediction import Prediction
from autoconv.cost.version import predictor_of
from autoconv.environment import Environment
from autoconv.errors import ConfigError
from autoconv.kernels.source import source_of
from autoconv.lookup import records, tried
from autoconv.problem import Problem
from autoconv.sweep.ledger import Ledger
from autoconv.sweep.shared import passed_elsewhere
from autoconv.sweep.verify import Verdict
from tuning_db import (
    ContradictionError,
    EnvironmentRecord,
    ProblemRecord,
    RunRecord,
    Trial,
    TuningDBError,
    Winner,
)
from tuning_db.connection import without_waiting
from tuning_db.ranking import best, winners

CHECKED = 4  # compiled candidates to check in the interpreter, best prediction first


class Recording:
    """Writes the trials of one sweep into a database, each as it ends.

    A run is begun with the first of them, unless one is gone on with, and another where that run has a lesser
    result already of what is tried now, which never changes. What found no room or no lock is kept, and
    written before the next one or at the end.

    Attributes:
        error: why the database lacks some of it, or does not know of its end; None where it has all.
    """

    error: TuningDBError | None = None

    def __init__(
        self,
        database: Ledger,
        problem: ProblemRecord,
        environment: EnvironmentRecord,
        info: Mapping[str, Any],
        run_id: str | None = None,
    ) -> None:
        """Write into the run `run_id`, or else into one that is begun with this `info`."""
        self._database = database
        self._problem = problem
        self._environment = environment
        self._info = info
        self._run_ids = [run_id] if run_id else []
        self._waiting: list[Trial] = []

    def add(self, trial: Trial) -> None:
        """Write `trial`, now or later."""
        self._waiting.append(trial)
        try:
            # Who waited for a lock in vain once does not wait for it again with every trial.
            with without_waiting() if self.error else nullcontext():
                self._write()
            self.error = None
        except TuningDBError as error:
            self.error = error  # the sweep goes on: its result is still of use to this process

    def finish(self, others: Iterable[str] = ()) -> None:
        """Note that the sweep came to its end, and so did the `others`, runs that it took over from."""
        try:
            self._write()
            if not self._run_ids:  # nothing was left to try
                self._begin()
            for run_id in dict.fromkeys((*self._run_ids, *others)):
                self._database.finish(run_id)
            self.error = None
        except TuningDBError as error:
            self.error = error

    def _write(self) -> None:
        while self._waiting:
            self._put(self._waiting[0])
            del self._waiting[0]

    def _put(self, trial: Trial) -> None:
        if not self._run_ids:
            self._begin()
        try:
            self._database.add(self._run_ids[-1], self._problem, trial)
        except ContradictionError:
            self._begin()
            self._database.add(self._run_ids[-1], self._problem, trial)

    def _begin(self) -> None:
        begun = datetime.now(timezone.utc).isoformat(timespec="seconds")
        info = {**self._info, "begun": begun}
        self._run_ids.append(self._database.start(self._environment, origin="sweep", info=info))


class Recorder:
    """Keeps trials in memory and, as long as that works, in the database.

    A run of just such a sweep that did not come to its end is gone on with.

    Attributes:
        trials: all so far, with those of earlier sweeps that need not be made again.
        done: those of earlier sweeps, by their config.
        passed: the checks that configs passed for another device; none where they are checked on a GPU.
        baseline: torch's own trial. It is kept back until a candidate has a time too, or none can: where a
            sweep was cut off before, torch has won against nobody, and the next one is to find that out.
    """

    baseline: Trial | None = None

    def __init__(
        self,
        problem: Problem,
        environment: Environment,
        database: Ledger | None,
        *,
        default: Config,
        on_gpu: bool,
        again: bool,
        contended: bool = False,
    ) -> None:
        """Record for `problem`; the config `default` is the one that would serve without a sweep.

        Args:
            problem: The problem.
            environment: Where it is tuned for.
            database: None where there is none to write to.
            default: Marked as such in its trial.
            on_gpu: Whether candidates are timed, not predicted.
            again: Whether what earlier sweeps found counts for nothing.
            contended: Whether other work goes on on the device while candidates are timed.
        """
        self.trials: list[Trial] = []
        self.done: dict[Config, Trial] = {}
        self._on_gpu = on_gpu
        self._default = default.document()
        self._problem, self._environment = records(problem, environment)
        self._contended = contended
        self._info = tried(problem, predictor_of, on_gpu=on_gpu, contended=contended)
        self._recording: Recording | None = None
        self._taken_over: list[str] = []  # unfinished runs
        self.passed: dict[Config, Verdict] = {}
        if database is None:
            return
        run_id = None
        with suppress(TuningDBError):  # what cannot be read is tried anew
            if not (again or on_gpu):
                self.passed = passed_elsewhere(database, self._problem, self._environment)
            run_id = None if again else self._resumed(database)
        self._recording = Recording(database, self._problem, self._environment, self._info, run_id)

    @property
    def recorded(self) -> bool:
        """Whether the database took everything so far."""
        return self._recording is not None and self._recording.error is None

    @property
    def unrecorded(self) -> str | None:
        """Why the database did not take everything; None where it did, or there is none."""
        error = self._recording and self._recording.error
        return str(error) if error else None

    def _resumed(self, database: Ledger) -> str | None:
        """Take over what counts of earlier sweeps; return the id of a run to go on with, if there is one."""
        for trial in filter(self._counts, database.trials(self._problem.key, self._environment.hash)):
            with suppress(ConfigError):
                self.done[Config.from_document(trial.config)] = trial
        self.trials = list(self.done.values())
        unfinished = [
            run
            for run in database.runs(self._problem.key)
            if not run.finished and run.environment == self._environment
        ]
        self._taken_over = [run.id for run in unfinished if self._rests_on(run)]
        return next((run.id for run in unfinished if _but_when(run.info) == self._info), None)

    def _rests_on(self, run: RunRecord) -> bool:
        """Whether trials of `run`, made as they are here, may be among those that were taken over."""
        alike = all(run.info.get(name, False) == self._info[name] for name in ("measured", "contended"))
        sources = run.info.get("sources")
        if not alike or not isinstance(sources, Mapping):
            return False
        # torch's own source is not noted
        return any(sources.get(one.kernel, trial.source) == trial.source for one, trial in self.done.items())

    def _counts(self, trial: Trial) -> bool:
        """Whether a trial need not be made again: it is of today's source, and tells what one here would.

        A time taken beside other work is of use to its own sweep alone: there it was compared.
        """
        kernel = str(trial.config.get("kernel"))
        if trial.source != source_of(kernel):
            return False
        if trial.outcome == "ok":
            own = not self._on_gpu and trial.predictor == predictor_of(kernel)
            return own if trial.measured_us is None else not trial.contended
        return trial.outcome not in ("started", "compiled")

    def keep_baseline(self) -> None:
        """Record the baseline now, if there is one."""
        baseline, self.baseline = self.baseline, None
        if baseline is not None:
            self.add(baseline)

    def add(self, trial: Trial) -> None:
        """Record `trial`, and before the first that has a time, the baseline."""
        if trial.samples_us:
            self.keep_baseline()  # first: a sweep killed here leaves no candidate that torch was not held to
        if trial.config == self._default:
            trial = replace(trial, detail={**trial.detail, "default": True})
        if trial.samples_us and self._contended:
            trial = replace(trial, detail={**trial.detail, "contended": True})
        kernel = str(trial.config["kernel"])
        trial = replace(
            trial,
            source=source_of(kernel) or "",
            predictor="" if trial.predicted_us is None else predictor_of(kernel),
        )
        self.trials.append(trial)
        if self._recording is not None:
            self._recording.add(trial)

    def finish(self) -> None:
        """Note that the sweep came to its end, by its deadline or because nothing is left to try.

        With it end the interrupted runs whose trials it took over: they are part of it, and nobody else goes
        on with them. They were begun before this sweep, and of a problem and environment one sweeps at a time
        (single flight), so none is a live process's. Where locks do not guard them (there are none, hosts
        share the file, or a cluster's node is of another environment than who asked) one may be. It goes on
        all the same, in a run that counts as finished; the winner rests on this sweep too, which is whole.
        """
        if self._recording is not None:
            self._recording.finish(self._taken_over)

    def known(self) -> list[Trial]:
        """Return the trials so far, and the baseline that is kept back."""
        return [*self.trials, *([self.baseline] if self.baseline else [])]

    def winner(self) -> Winner | None:
        """Return the best of all sources; measured comes before contended, and that before predicted."""
        return best(winners(self._environment, self._problem, self.trials))

    @property
    def checked(self) -> int:
        """How many candidates were checked, those of earlier sweeps included."""
        return sum("check" in trial.detail or trial.outcome == "launch" for trial in self.trials)

    def settled(self, ahead: Prediction) -> bool:
        """Whether whole batches were checked, and one that passed is better than what is predicted so.

        In the midst of a batch it is not: a sweep interrupted there ends with the same trials as any other.
        """
        passed = [trial for trial in self.trials if trial.outcome == "ok"]
        first = min(
            (_order(trial.detail.get("spills", 0), trial.predicted_us) for trial in passed), default=None
        )
        predicted = _order(ahead.spills, ahead.seconds * 1e6)
        return self.checked % CHECKED == 0 and first is not None and first <= predicted


def _order(spills: int, predicted_us: float | None) -> tuple[bool, float]:
    """Rank what can run: best prediction first, what spills last."""
    return spills > 0, math.inf if predicted_us is None else predicted_us


def _but_when(info: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a run notes, but for when it began."""
    return {name: value for name, value in info.items() if name != "begun"}
