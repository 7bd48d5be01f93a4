"""`autoconv.tune`: a whole model at several sizes, for several devices."""

from __future__ import annotations

from contextlib import nullcontext
from copy import deepcopy
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional

import autoconv
from autoconv import settings
from autoconv.cost.predict import estimate
from autoconv.device import find
from autoconv.environment import Environment
from autoconv.errors import DeviceError, FieldError, ProblemError
from autoconv.kernels.aten import ATEN
from autoconv.lookup import open_user
from autoconv.problem import Problem
from autoconv.sweep.candidates import best_guess
from autoconv.sweep.recorder import Recorder
from autoconv.sweep.sweep import Job, Swept
from autoconv.sweep.trials import checked_trial
from autoconv.sweep.verify import Verdict
from autoconv.targets import target
from autoconv.tuning.asked import Asked
from autoconv.tuning.effort import EFFORTS, seconds_of
from autoconv.tuning.report import Row, row
from autoconv.tuning.scheduler import tune_all
from tuning_db import Trial

DEVICES = ("rtx4090", "l4")


class Vocoder(nn.Module):
    """Small, with a layer that is called twice, a buffer, and a length that decides what comes out."""

    def __init__(self) -> None:
        super().__init__()
        self.pre = nn.Conv1d(8, 16, 3, padding=1)
        self.up = nn.ConvTranspose1d(16, 16, 4, 2, 1)
        self.norm = nn.BatchNorm1d(16)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.norm(self.up(functional.relu(self.pre(x))))


@pytest.fixture
def swept(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Problem, str, int]]:
    """Sweeps that find their best guess right, without workers: problem, device and shortlist of each."""
    seen: list[tuple[Problem, str, int]] = []

    def sweep(problem: Problem, job: Job, database: Any, *_: Any, again: bool = False, **__: Any) -> Swept:
        seen.append((problem, job.device.name, job.shortlist))
        config, _ = best_guess(problem, job.device)
        recorder = Recorder(problem, job.environment, database, default=config, on_gpu=False, again=again)
        verdict = Verdict(True, 1e-7, unwritten=0, overrun=0, seed=1, problem=str(problem))
        recorder.add(checked_trial(config, estimate(problem, config, job.device), verdict))
        recorder.finish()
        return Swept(recorder.winner(), tuple(recorder.trials), recorder.recorded, 1, 1, 0.0)

    monkeypatch.setattr("autoconv.gpu.present", lambda: False)
    monkeypatch.setattr("autoconv.sweep.executor.sweep", sweep)
    return seen


def test_a_model_at_three_lengths_for_two_devices_and_a_forward_at_each_misses_nothing(
    swept: list[tuple[Problem, str, int]],
) -> None:
    model, x = Vocoder().eval(), torch.randn(2, 8, 40)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    report = autoconv.tune(model, x, lengths=(40, 60, 500), devices=DEVICES, effort="quick")
    assert len(swept) == report.swept == 2 * 2 * 2  # layers, buckets, devices
    assert {shortlist for *_, shortlist in swept} == {EFFORTS["quick"].shortlist}
    assert (report.misses, report.unfinished, report.left) == ((), 0, ())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    again = autoconv.tune(model, x, lengths=(40, 60, 500), devices=DEVICES)
    assert again.swept == 0 and again.misses == () and len(swept) == 8

    titles = [section.title for section in report.sections]
    assert titles == [f"{device}, length {length}" for device in DEVICES for length in (40, 60, 500)]
    autoconv.accelerate(model, on_miss="strict")
    for device in DEVICES:
        with autoconv.recorded(device) as launches, torch.no_grad(), autoconv.stats() as seen:
            for length in (40, 60, 500):
                model(torch.randn(2, 8, length))
        assert len(launches) >= 6 and (seen.misses, seen.by_torch) == (0, {})


def test_the_table_has_a_row_a_layer_and_a_sum(swept: list[tuple[Problem, str, int]]) -> None:
    report = autoconv.tune(Vocoder().eval(), torch.randn(2, 8, 40), devices="rtx4090")
    (section,) = report.sections
    title, heads, *rows, total, _, took = str(report).splitlines()
    assert (title, heads.split()) == (
        "rtx4090", ["layer", "calls", "problem", "kernel", "time", "torch", "floor", "bound"],
    )  # fmt: skip
    assert {one.split()[0] for one in rows} == {"pre", "up"} and all("predicted" in one for one in rows)
    assert total.split()[:2] == ["sum", "2"] and took.startswith("2 sweeps in ")
    assert section.seconds == pytest.approx(sum(one.seconds or 0 for one in section.rows))
    assert section.floor_seconds < section.seconds and section.torch_seconds is None
    assert all(one.floor_seconds <= (one.seconds or 0) and one.bound for one in section.rows)


def test_a_model_without_convolutions_is_told_as_that() -> None:
    report = autoconv.tune(nn.Linear(4, 4), torch.zeros(2, 4), devices="l4")
    assert str(report).splitlines()[:2] == ["l4", "no 1-D convolution was called"]


def test_a_model_is_tuned_in_inference_mode_too(swept: list[tuple[Problem, str, int]]) -> None:
    with torch.inference_mode():
        report = autoconv.tune(Vocoder().eval(), torch.randn(2, 8, 40), devices="l4")
    assert report.swept == len(swept) == 2 and report.misses == ()


def test_a_budget_that_left_all_over_shows_no_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("autoconv.model.tune_all", lambda *_args, **_options: (yield from ()))
    report = autoconv.tune(Vocoder().eval(), torch.randn(2, 8, 40), devices="l4", budget=1)
    total = next(line for line in str(report).splitlines() if line.startswith("sum"))
    assert "2 without a time" in total and ", 2" not in total and report.unfinished == 2


def test_what_another_process_sweeps_is_left_over(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("autoconv.tuning.tuner.single_flight", lambda *_: nullcontext(enter_result=False))
    report = autoconv.tune(Vocoder().eval(), torch.randn(2, 8, 40), devices="l4")
    assert (report.swept, report.unfinished, len(report.misses)) == (0, 2, 2)
    assert str(report).endswith("2 are left over: the same call goes on with them")


def test_a_time_that_was_measured_is_shown_as_that_beside_torch_s() -> None:
    problem, at = Problem(2, 8, 16, 3, 40), target("l4", print)
    config, _ = best_guess(problem, at.device)
    trials = [
        Trial(config.document(), "ok", 5.0, samples_us=(4.0, 4.0, 4.0), max_err=1e-7),
        Trial(ATEN.document(), "ok", samples_us=(9.0, 9.0, 9.0)),
    ]
    for trial in trials:
        at.tuner.record(problem, at.environment, trial, origin="test")
    shown = row(Asked(problem, 3, ("a", "b")), at.tuner, at.job())
    assert (shown.kernel, shown.provenance, shown.seconds, shown.torch_seconds) == (
        config.kernel, "measured", pytest.approx(4e-6), pytest.approx(9e-6),
    )  # fmt: skip
    assert shown.cells()[:2] == ("a and 1 more", "3")
    assert at.tuner.torch_seconds(problem, Environment.current(find("l40s"))) is None


def test_a_row_without_an_entry_says_so() -> None:
    at = target("l4", print)
    shown: Row = row(Asked(Problem(2, 8, 16, 3, 40)), at.tuner, at.job())
    assert (shown.kernel, shown.seconds, shown.why) == ("torch", None, "nothing is tuned")


def test_gradients_are_tuned_where_they_are_asked_for(swept: list[tuple[Problem, str, int]]) -> None:
    autoconv.tune(Vocoder(), torch.randn(2, 8, 40), devices="l4", backward=True)
    assert sorted(problem.op for problem, *_ in swept) == [
        "conv", "conv", "conv_transpose", "conv_weight", "conv_weight",
    ]  # fmt: skip


def test_a_capture_is_tuned_as_a_model_is(swept: list[tuple[Problem, str, int]]) -> None:
    model = Vocoder()
    with autoconv.capture(model) as seen:
        model(torch.randn(2, 8, 40)).sum().backward()
    assert autoconv.tune(seen, devices="l4").misses == () and len(swept) == 5
    with pytest.raises(FieldError, match="go with no capture"):
        autoconv.tune(seen, torch.zeros(1), devices="l4")


def test_batches_vary_the_first_dimension_and_keep_how_a_tensor_lies(
    swept: list[tuple[Problem, str, int]],
) -> None:
    x = torch.zeros(2, 40, 8).transpose(1, 2)
    report = autoconv.tune(nn.Conv1d(8, 16, 3), x, batches=(1, 8), lengths=64, devices="l4")
    asked = [section.rows[0].asked.problem for section in report.sections]
    assert [(one.N, one.L, one.layout) for one in asked] == [(1, 64, "nlc"), (8, 64, "nlc")]


def test_a_callable_makes_the_inputs(swept: list[tuple[Problem, str, int]]) -> None:
    class Masked(Vocoder):
        def forward(self, x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:  # type: ignore[override]
            return super().forward(x * mask)

    def inputs(batch: int, length: int) -> tuple[torch.Tensor, ...]:
        return torch.randn(batch, 8, length), torch.ones(batch, 1, length, dtype=torch.bool)

    report = autoconv.tune(Masked().eval(), inputs, batches=3, lengths=[40], devices="l4")
    assert {one.asked.problem.N for one in report.sections[0].rows} == {3}
    with pytest.raises(FieldError, match="lengths: is missing"):
        autoconv.tune(Masked(), inputs, devices="l4")


def test_a_model_that_looks_at_values_is_run_on_its_own_tensors(
    swept: list[tuple[Problem, str, int]],
) -> None:
    class Looks(Vocoder):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.pre(x) if x.sum().item() >= 0 else self.up(x)

    report = autoconv.tune(Looks().eval(), torch.ones(2, 8, 40), devices="l4")
    assert [one.asked.names for one in report.sections[0].rows] == [("pre",)]


def test_a_model_that_is_run_on_its_own_tensors_is_left_as_it_was(
    swept: list[tuple[Problem, str, int]],
) -> None:
    class Looks(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.pre, self.norm = nn.Conv1d(8, 16, 3), nn.BatchNorm1d(16)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return nn.functional.dropout(self.norm(self.pre(x))) if x.sum().item() >= 0 else x

    model, x = Looks(), torch.ones(2, 8, 40, requires_grad=True)
    before, random = deepcopy(model.state_dict()), torch.get_rng_state()
    report = autoconv.tune(model, x, devices="l4", backward=True)
    assert len(report.sections[0].rows) > 1
    assert all(torch.equal(now, before[name]) for name, now in model.state_dict().items())
    assert x.grad is None and all(one.grad is None for one in model.parameters())
    assert torch.equal(torch.get_rng_state(), random)


def test_weight_norm_and_compiled_models(swept: list[tuple[Problem, str, int]]) -> None:
    model = Vocoder().eval()
    nn.utils.parametrizations.weight_norm(model.pre)
    report = autoconv.tune(torch.compile(model, backend="eager"), torch.randn(2, 8, 40), devices="l4")
    assert {name for one in report.sections[0].rows for name in one.asked.names} == {"pre", "up"}


def test_the_budget_leaves_the_rest_over_and_the_next_call_goes_on(
    swept: list[tuple[Problem, str, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("autoconv.model.tune_all", lambda orders, one, **_: tune_all(orders[:1], one))
    report = autoconv.tune(Vocoder().eval(), torch.randn(2, 8, 40), devices="l4", budget="8h")
    assert (report.swept, report.unfinished, len(report.misses)) == (1, 1, 1)
    assert "1 are left over" in str(report)
    monkeypatch.setattr("autoconv.model.tune_all", tune_all)
    assert autoconv.tune(Vocoder().eval(), torch.randn(2, 8, 40), devices="l4").swept == 1


def test_what_no_kernel_runs_is_left_to_torch_with_why(
    swept: list[tuple[Problem, str, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(problem: Problem, *_: Any, **__: Any) -> Swept:
        raise ProblemError("op", problem.op, "no kernel runs it", "leave it to torch")

    monkeypatch.setattr("autoconv.sweep.executor.sweep", refuse)
    model = nn.Sequential(nn.Conv1d(8, 16, 3), nn.Conv1d(16, 8, 3))
    report = autoconv.tune(model, torch.randn(2, 8, 40), devices="l4")
    assert report.swept == 0 and len(report.left) == 2
    assert str(report).count("left to torch: ") == 2 and "no kernel runs it" in report.left[0]
    doubles = autoconv.tune(nn.Conv1d(8, 16, 3).double(), torch.zeros(2, 8, 40).double(), devices="l4")
    assert "no kernel computes in torch.float64" in doubles.left[0]


def test_every_size_that_was_asked_for_is_a_hit_of_what_was_tuned(
    swept: list[tuple[Problem, str, int]],
) -> None:
    lengths = range(30, 300, 9)
    autoconv.tune(nn.Conv1d(8, 16, 3), torch.zeros(2, 8, 40), lengths=lengths, devices="l4")
    assert len(swept) == 2
    with open_user(settings.load()) as database:
        assert database.info()["problems"] == 2
    at = target("l4", print)
    bias: dict[str, Any] = {"bias": True, "precision": swept[0][0].precision}
    for length in lengths:
        assert at.tuner.find(replace(Problem(2, 8, 16, 3, length), **bias), at.environment) is not None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"lengths": 0}, "tune: lengths=0: is not a size"),
        ({"batches": [1, 2.5]}, "tune: batches=2.5: is not a size"),
        ({"lengths": []}, "tune: lengths: names no size"),
        ({"budget": -1}, "tune: budget=-1: is not a time above 0"),
        ({"effort": "much"}, "tune: effort=much: is not an effort"),
        (
            {"lengths": 2},
            "tune: inputs=batch None, length 2: are refused by the model (RuntimeError: Calculated",
        ),
    ],
)
def test_an_argument_that_is_none(options: dict[str, Any], message: str) -> None:
    with pytest.raises(FieldError) as caught:
        autoconv.tune(nn.Conv1d(8, 16, 3), torch.zeros(2, 8, 40), devices="l4", **options)
    assert str(caught.value).startswith(message)


def test_a_device_that_is_none() -> None:
    with pytest.raises(DeviceError, match="did you mean rtx4090"):
        autoconv.tune(nn.Conv1d(8, 16, 3), torch.zeros(2, 8, 40), devices=["l4", "rtx409"])


@pytest.mark.parametrize(
    ("text", "seconds"), [("90s", 90), ("1.5h", 5400), ("2d", 172800), ("7", 7), (2.5, 2.5)]
)
def test_a_budget_is_seconds_or_text(text: str | float, seconds: float) -> None:
    assert seconds_of(text) == seconds
