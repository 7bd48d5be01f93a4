"""What serves each layer of a model after tuning, and the time it takes: rows, sums, and a table of them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from autoconv.compiler.resources import cache_file, load
from autoconv.config import Config
from autoconv.cost.predict import estimate, predict
from autoconv.cost.prediction import Prediction, floor_seconds
from autoconv.kernels.aten import ATEN
from autoconv.kernels.registry import kernel as kernel_called
from autoconv.lookup import Found
from autoconv.problem import Problem
from autoconv.sweep.sweep import Job
from autoconv.tuning.asked import Asked
from autoconv.tuning.tuner import Tuner

_HEADS = ("layer", "calls", "problem", "kernel", "time", "", "torch", "floor", "bound")
_RIGHT = {"calls", "time", "torch", "floor"}


@dataclass(frozen=True)
class Row:
    """One problem of a model on one device."""

    asked: Asked
    device: str
    found: Found | None  # None: nothing is tuned for it
    seconds: float | None  # of a call; None where nobody measured or predicted it
    provenance: str  # where that comes from: "measured", "contended" or "predicted"; "" where there is none
    torch_seconds: float | None  # of torch's own convolution, where a GPU measured it
    floor_seconds: float
    bound: str  # what limits the kernel, by the model; "" of torch's own
    why: str = ""  # torch computes it

    @property
    def kernel(self) -> str:
        """What computes it."""
        return "torch" if self.found is None or self.found.config == ATEN else self.found.config.kernel

    def cells(self) -> tuple[str, ...]:
        """Return what the table shows of it."""
        first, *others = self.asked.names or ("",)
        name = f"{first} and {len(others)} more" if others else first
        times = (
            _ms(self.seconds),
            self.provenance or self.why,
            _ms(self.torch_seconds),
            _ms(self.floor_seconds),
        )
        return name, str(self.asked.calls), str(self.asked.problem), self.kernel, *times, self.bound


@dataclass(frozen=True)
class Section:
    """All layers of a model at one batch size and length, on one device."""

    title: str
    rows: tuple[Row, ...]

    @property
    def seconds(self) -> float:
        """What all calls take together; those without a time are left out."""
        return sum(row.asked.calls * (row.seconds or 0.0) for row in self.rows)

    @property
    def floor_seconds(self) -> float:
        """What they take at the least."""
        return sum(row.asked.calls * row.floor_seconds for row in self.rows)

    @property
    def torch_seconds(self) -> float | None:
        """What they take by torch, None where not all were measured."""
        times = [(row.asked.calls, row.torch_seconds) for row in self.rows]
        known = [calls * time for calls, time in times if time is not None]
        return sum(known) if len(known) == len(times) else None

    def __str__(self) -> str:
        """The title, a line each row, and the sums."""
        if not self.rows:
            return f"{self.title}\nno 1-D convolution was called"
        calls = sum(row.asked.calls for row in self.rows)
        kinds = " and ".join(sorted({row.provenance for row in self.rows} - {""}))
        timeless = sum(row.seconds is None for row in self.rows)
        note = ", ".join(filter(None, [kinds, f"{timeless} without a time" if timeless else ""]))
        sums = _ms(self.seconds), note, _ms(self.torch_seconds), _ms(self.floor_seconds), ""
        cells = [_HEADS, *(row.cells() for row in self.rows), ("sum", str(calls), "", "", *sums)]
        return "\n".join([self.title, *_aligned(cells)])


@dataclass(frozen=True)
class Report:
    """What tuning a model came to; it prints as a table."""

    sections: tuple[Section, ...]
    left: tuple[str, ...]  # convolutions that no kernel runs, a line each
    swept: int  # problems that were swept now
    unfinished: int  # that the budget left over, or another process is sweeping
    seconds: float

    @property
    def misses(self) -> tuple[Row, ...]:
        """The rows for which nothing is tuned."""
        return tuple(row for section in self.sections for row in section.rows if row.found is None)

    def __str__(self) -> str:
        """A table for each device, batch size and length; what is left to torch; what tuning took."""
        took = f"{self.swept} sweeps in {self.seconds:.0f} s"
        if self.unfinished:
            took += f"; {self.unfinished} are left over: the same call goes on with them"
        left = [f"left to torch: {line}" for line in self.left]
        return "\n\n".join([*map(str, self.sections), "\n".join([*left, took])])


def section(title: str, asked: Iterable[Asked], tuner: Tuner, job: Job) -> Section:
    """Return what serves `asked` on a job's device now, the most time first."""
    rows = [row(one, tuner, job) for one in asked]
    rows.sort(key=lambda row: (-row.asked.calls * (row.seconds or row.floor_seconds), str(row.asked.problem)))
    return Section(title, tuple(rows))


def row(asked: Asked, tuner: Tuner, job: Job) -> Row:
    """Return what serves one problem on a job's device now."""
    problem, device = asked.problem, job.device
    found = tuner.find(problem, job.environment)
    torchs = tuner.torch_seconds(problem, job.environment)
    floor = floor_seconds(problem, device)
    if found is None:
        return Row(asked, device.name, None, None, "", torchs, floor, "", "nothing is tuned")
    provenance, us = next(iter(found.times.items()), ("", None))
    seconds = None if us is None else us / 1e6
    if found.config == ATEN:
        if torchs is not None:
            seconds, provenance = torchs, "measured"
        return Row(asked, device.name, found, seconds, provenance, torchs, floor, "", "torch won")
    predicted = _prediction(problem, found.config, job)
    if seconds is None:
        seconds, provenance = predicted.seconds, "predicted"
    return Row(asked, device.name, found, seconds, provenance, torchs, floor, predicted.bound)


def _prediction(problem: Problem, config: Config, job: Job) -> Prediction:
    """Return what the model says of a config, by its cubin where that was compiled here."""
    kernel, capability = kernel_called(config.kernel), job.device.arch.capability
    resources = load(cache_file(job.cache, kernel, problem, config, capability))
    if resources is None:
        return estimate(problem, config, job.device)
    return predict(problem, config, job.device, resources)


def _aligned(lines: Sequence[Sequence[str]]) -> list[str]:
    """Return cells as lines whose columns stand below each other."""
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return ["  ".join(map(_padded, _HEADS, cells, widths)).rstrip() for cells in lines]


def _padded(head: str, cell: str, width: int) -> str:
    return cell.rjust(width) if head in _RIGHT else cell.ljust(width)


def _ms(seconds: float | None) -> str:
    return "-" if seconds is None else f"{seconds * 1e3:.4g} ms"
