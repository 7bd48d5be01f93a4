"""Trouble with configs, files and threads never stops a convolution."""

from __future__ import annotations

import json
import sqlite3
import threading
import warnings
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
import triton
from torch.nn import functional

import autoconv
from autoconv import Config, Problem, library, lookup, serving, settings
from autoconv.compiler.recording import recording
from autoconv.device import find as device_called
from autoconv.dispatch.binding import FALLBACKS
from autoconv.dispatch.dispatcher import Dispatcher
from autoconv.dispatch.launchers import ByTorch
from autoconv.dispatch.machines import Recorded
from autoconv.tuning.ahead import compiled_ahead
from tuning_db.rows import WINNER_COLUMNS, checksum

DEVICE = "rtx4090"
PROBLEM = Problem(2, 16, 32, 3, 70)
X, WEIGHT = torch.randn(PROBLEM.x_shape), torch.randn(PROBLEM.w_shape)

WIDE = Config("dense", {"BLOCK_CO": 16, "BLOCK_L": 16, "BLOCK_R": 16}, num_warps=32, num_stages=2)


def trials(problem: Problem) -> list:
    with lookup.open_user(settings.load()) as database:
        return database.trials(problem.key())


def convolve() -> torch.Tensor:
    return autoconv.conv1d(X, WEIGHT)


# --- where torch serves ---------------------------------------------------------------------------


@pytest.fixture
def without_kernels(monkeypatch):
    """As on a GPU that no kernel is compiled for."""
    monkeypatch.setattr(Recorded, "device", lambda *_: None)
    with autoconv.recorded(DEVICE) as launches:
        yield
    assert launches == []


@pytest.mark.parametrize("padding", [0, 1])
@pytest.mark.parametrize("transposed", [False, True])
def test_what_torch_serves_may_be_changed_in_place(without_kernels, transposed, padding):
    kind = torch.nn.ConvTranspose1d if transposed else torch.nn.Conv1d
    model = torch.nn.Sequential(kind(1, 1, 3, padding=padding), torch.nn.LeakyReLU(0.1, inplace=True))
    expected = [model(torch.ones(1, 1, length)) for length in (16, 17)]
    autoconv.accelerate(model)
    for length, y in zip((16, 17), expected, strict=True):
        ours = model(torch.ones(1, 1, length))
        assert torch.equal(ours, y)
        ours.sum().backward()


def test_a_gradient_inside_autocast_has_the_precision_of_its_layer(without_kernels):
    x, weight = torch.randn(2, 16, 70, requires_grad=True), torch.randn(32, 16, 3, requires_grad=True)
    of_output = torch.randn(2, 32, 68)
    expected = torch.autograd.grad(functional.conv1d(x, weight), (x, weight), of_output)
    y = autoconv.conv1d(x, weight)
    with torch.autocast("cpu", torch.bfloat16):
        found = torch.autograd.grad(y, (x, weight), of_output)
        assert torch.is_autocast_enabled("cpu")
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other)


def test_a_tensor_without_values_is_convolved_inside_autocast():
    x, weight = torch.zeros(2, 4, 20, device="meta"), torch.zeros(6, 4, 3, device="meta")
    with torch.autocast("cpu", torch.bfloat16):
        y = library.differentiable(x.requires_grad_(), weight, None, 1, [0, 0], 1, 1, False, 0)
    assert (y.shape, y.dtype) == ((2, 6, 18), torch.float32)


LYING_OTHERWISE = [
    (torch.randn(16, 3, 8).transpose(1, 2), {}),
    (torch.randn(64).as_strided((8, 8, 1), (8, 1, 8)), {}),
    (torch.randn(8, 3).as_strided((8, 1, 3), (3, 1, 1)), {"groups": 8}),
]


@pytest.mark.parametrize(("weight", "rest"), LYING_OTHERWISE)
def test_what_torch_serves_is_contiguous_however_the_weight_lies(without_kernels, weight, rest):
    x = torch.randn(2, 8, 64)
    for _ in range(2):
        y = autoconv.conv1d(x, weight, **rest)
        assert y.is_contiguous() and torch.equal(y, functional.conv1d(x, weight, **rest))
        y = autoconv.conv_transpose1d(x, weight.transpose(0, 1) if not rest else weight, **rest)
        assert y.is_contiguous()


# --- configs --------------------------------------------------------------------------------------


def of_few_threads(device, _folder, _monkeypatch):
    return replace(device, arch=replace(device.arch, max_threads_per_block=512))


def picky_assembler(device, folder, monkeypatch):
    real = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "ptxas"
    stand_in = folder / "ptxas"
    refuse = 'for f; do case "$f" in *.ptx) grep -q "reqntid 1024" "$f" && exit 1;; esac; done'
    stand_in.write_text(f'#!/bin/sh\n{refuse}\nexec "{real}" "$@"\n')
    stand_in.chmod(0o755)
    monkeypatch.setenv("TRITON_PTXAS_PATH", str(stand_in))
    monkeypatch.setenv("TRITON_CACHE_DIR", str(folder / "triton"))
    return device


@pytest.mark.parametrize(
    ("machine", "taps", "error"),  # no kernel of other tests: Triton keeps what this process compiled
    [(of_few_threads, 6, "OutOfResources: out of resource: threads"), (picky_assembler, 7, "PTXASError")],
    ids=["does not load", "does not compile"],
)
@pytest.mark.parametrize("guessed", [True, False], ids=["guess", "entry"])
def test_a_guess_that_does_not_run_gives_way_to_another_an_entry_to_torch(
    guessed, machine, taps, error, remember, predicting, tmp_path, monkeypatch
):
    """What stands in an entry's place must have been checked, too."""
    taps += 2 * guessed
    problem = Problem(64, 16, 32, taps, 700)  # enough blocks, so split_k with its two launches stays away
    x, weight = torch.zeros(problem.x_shape), torch.zeros(problem.w_shape)
    if guessed:
        monkeypatch.setattr("autoconv.tuning.tuner.best_guess", lambda *_: (WIDE, 1e-6))
    else:
        remember(problem, WIDE)
    device = machine(device_called(DEVICE), tmp_path, monkeypatch)
    with recording(device) as recorder, serving.served_by(Dispatcher(Recorded(device), settings.load())):
        with pytest.warns(RuntimeWarning) as warned:
            y = autoconv.conv1d(x, weight)
        autoconv.conv1d(x, weight)
    assert y.shape == problem.y_shape
    assert len(recorder.launches) == 2 * guessed
    (message,) = [str(warning.message) for warning in warned]
    assert message.startswith(f"{WIDE} does not run on rtx4090 ({error}") and "\n" not in message
    assert ("serves in its place" if guessed else f"; torch serves {problem}") in message
    (failed,) = [trial for trial in trials(problem) if trial.outcome == "launch"]
    assert dict(failed.config) == WIDE.document()
    assert failed.error.startswith(error)


def test_where_nothing_compiles_torch_serves(tmp_path, monkeypatch, launches):
    ptxas = tmp_path / "ptxas"  # says what it is, but assembles nothing
    version = "Cuda compilation tools, release 12.8, V12.8.93"
    ptxas.write_text(f'#!/bin/sh\n[ "$1" = --version ] && echo "{version}" && exit 0\nexit 1\n')
    ptxas.chmod(0o755)
    monkeypatch.setenv("TRITON_PTXAS_PATH", str(ptxas))
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path / "triton"))
    problem = Problem(2, 16, 32, 3, 71, dilation=3)  # compiled by no other test of this process
    x = torch.randn(problem.x_shape)
    with pytest.warns(RuntimeWarning) as warned:
        y = autoconv.conv1d(x, WEIGHT, dilation=3)
    assert torch.equal(autoconv.conv1d(x, WEIGHT, dilation=3), y)
    assert torch.equal(functional.conv1d(x, WEIGHT, dilation=3), y)
    assert launches == []
    (message,) = [str(warning.message) for warning in warned]
    assert message.endswith(f"nor do {FALLBACKS} others; torch serves {problem}")
    failed = trials(problem)
    assert [trial.outcome for trial in failed] == ["launch"] * (1 + FALLBACKS)
    assert len({trial.config_hash for trial in failed}) == 1 + FALLBACKS


class Failing(Recorded):
    """A device whose launches go well so many times, and then fail."""

    def __init__(self, good: int, says: str = "invalid argument") -> None:
        super().__init__(device_called(DEVICE))
        self.good = good
        self.says = says

    def bind(self, *arguments):
        launch = super().bind(*arguments)

        def launch_or_fail(x, weight, bias):
            self.good -= 1
            if self.good < 0:
                raise RuntimeError(f"Triton Error [CUDA]: {self.says}")
            return launch(x, weight, bias)

        return launch_or_fail


@pytest.mark.parametrize("good", [0, 2])
@pytest.mark.parametrize("op", ["conv", "conv_transpose", "backward"])
def test_where_a_launch_fails_torch_serves_from_then_on(good, op, predicting):
    x, weight = torch.randn(2, 16, 70), torch.randn(16, 16, 3)

    def call(library, differentiated=op == "backward"):
        leaf = weight.clone().requires_grad_(differentiated)
        y = (library.conv_transpose1d if op == "conv_transpose" else library.conv1d)(x, leaf, None, 2)
        if differentiated:
            y.sum().backward()
            return leaf.grad
        return y

    with (
        recording(device_called(DEVICE)),
        serving.served_by(Dispatcher(Failing(good), settings.load())),
        warnings.catch_warnings(record=True) as warned,
    ):
        warnings.simplefilter("always")
        for _ in range(3):
            last = call(autoconv)
        torch.testing.assert_close(call(autoconv), call(functional))
        torch.testing.assert_close(last, call(functional))
        plans = serving.current.launchers
    signatures = 2 if op == "backward" else 1
    assert [type(plan) for plan in plans] == [ByTorch] * signatures
    messages = [str(one.message) for one in warned]
    assert len(messages) == signatures
    assert all(
        "does not run on rtx4090 (RuntimeError: Triton Error [CUDA]: invalid argument" in one
        for one in messages
    )
    assert all("; torch serves N=2,Cin=16," in one and one.endswith("from now on") for one in messages)
    with lookup.open_user(settings.load()) as database:
        assert database.info()["trials"] == signatures


def test_where_torch_fails_as_well_no_config_is_at_fault(predicting, monkeypatch):
    """Out of memory for y itself: torch's own error, no trial, and the plan stays."""

    def no_memory(*_):
        raise torch.OutOfMemoryError("of torch")

    with recording(device_called(DEVICE)), serving.served_by(Dispatcher(Failing(1), settings.load())):
        convolve()
        (plan,) = serving.current.launchers
        monkeypatch.setattr(functional, "conv1d", no_memory)
        with pytest.raises(torch.OutOfMemoryError, match="of torch"):
            convolve()
        assert serving.current.launchers == (plan,)
    assert trials(PROBLEM) == []


def test_a_launch_without_memory_is_the_moment_s_fault_and_no_config_s(predicting):
    failing = Failing(0, says="out of memory")
    with recording(device_called(DEVICE)), serving.served_by(Dispatcher(failing, settings.load())):
        with pytest.warns(RuntimeWarning, match="out of memory.*; torch serves"):
            y = convolve()
        assert [type(plan) for plan in serving.current.launchers] == [ByTorch]
    assert torch.equal(y, functional.conv1d(X, WEIGHT))
    assert trials(PROBLEM) == []


# --- configs of others' files ---------------------------------------------------------------------


@pytest.fixture
def site(tmp_path, monkeypatch, remember):
    """Put a winner into a site's database."""

    def put(problem, config):
        given = tmp_path / "site.db"
        with monkeypatch.context() as there:
            there.setenv("AUTOCONV_DB", str(given))
            remember(problem, config)
        monkeypatch.setenv("AUTOCONV_SITE_DB", str(given))
        return given

    return put


def test_a_site_s_config_on_which_the_compiler_hangs_leaves_the_call_to_torch(
    site, predicting, tmp_path, monkeypatch
):
    stand_in = tmp_path / "ptxas"
    stand_in.write_text("#!/bin/sh\nexec sleep 600\n")
    stand_in.chmod(0o755)
    monkeypatch.setenv("TRITON_PTXAS_PATH", str(stand_in))
    monkeypatch.setattr("autoconv.dispatch.binding.compiled_ahead", partial(compiled_ahead, seconds=3.0))
    small = Config("dense", {"BLOCK_CO": 16, "BLOCK_L": 16, "BLOCK_R": 16}, num_warps=2, num_stages=2)
    site(PROBLEM, small)
    with autoconv.recorded(DEVICE) as launches:
        with pytest.warns(
            RuntimeWarning, match=r"of layer 'site 1' does not compile for rtx4090 .*; torch serves"
        ):
            y = convolve()
        assert torch.equal(convolve(), y)
    assert torch.equal(y, functional.conv1d(X, WEIGHT))
    assert launches == []
    (failed,) = trials(PROBLEM)
    assert (dict(failed.config), failed.outcome) == (small.document(), "timeout")


def test_a_site_s_forged_row_is_a_miss(site, launches):
    small = Config("dense", {"BLOCK_CO": 16, "BLOCK_L": 16, "BLOCK_R": 16}, num_warps=2, num_stages=2)
    given = site(PROBLEM, small)
    document = json.dumps(small.document() | {"BLOCK_L": [16]}, sort_keys=True, separators=(",", ":"))
    with closing(sqlite3.connect(given, isolation_level=None)) as connection:
        connection.execute("PRAGMA ignore_check_constraints = ON")
        connection.execute("UPDATE winners SET config = ?, provenance = 'evil'", (document,))
        (hashed,) = connection.execute("SELECT hash FROM environments").fetchone()
        row = connection.execute(f"SELECT {', '.join(WINNER_COLUMNS)} FROM winners").fetchone()
        forged = checksum((hashed, PROBLEM.key()), row)
        connection.execute("UPDATE winners SET checksum = ?", (forged,))
    assert serving.current is not None
    with serving.served_by(Dispatcher(serving.current.machine, settings.load())):
        assert convolve().shape == PROBLEM.y_shape
    assert len(launches) == 1


# --- numbers beyond measure -----------------------------------------------------------------------

HUGE = [
    (transposed, name, size)
    for transposed in (False, True)
    for name in ("stride", "padding", "dilation", *(["output_padding"] if transposed else []))
    for size in (2**55, 2**61, 2**62, 2**63 - 1, 2**63, 2**70)
]


def outcome(convolve, *arguments):
    try:
        y = convolve(*arguments)
        if y.requires_grad:
            y.sum().backward()
    except Exception as error:
        return type(error)
    return y.shape, [one.grad.shape for one in arguments[:2] if one.requires_grad]


@pytest.mark.parametrize(("transposed", "name", "size"), HUGE)
@pytest.mark.parametrize("differentiated", [False, True])
def test_numbers_beyond_measure_end_as_they_do_in_torch(transposed, name, size, differentiated, predicting):
    numbers = {"stride": 1, "padding": 0, "dilation": 1, "output_padding": 0, name: size}
    if name == "output_padding":
        numbers["stride"] = min(2 * size, 2**63 - 1)
    x, weight = (torch.randn(shape, requires_grad=differentiated) for shape in ((2, 4, 30), (4, 4, 3)))
    stride, padding, dilation, output_padding = numbers.values()
    last = [output_padding, 1, dilation] if transposed else [dilation, 1]
    call = (x, weight, None, stride, padding, *last)
    which = "conv_transpose1d" if transposed else "conv1d"
    expected = outcome(getattr(functional, which), *call)
    with autoconv.recorded(DEVICE):
        assert outcome(getattr(autoconv, which), *call) == expected
        assert outcome(getattr(autoconv, which), *call) == expected


def test_whatever_fails_before_the_launch_is_torchs_with_one_warning(launches, monkeypatch):
    def broken(*_):
        raise OverflowError("int too large to convert to float")

    monkeypatch.setattr("autoconv.tuning.tuner.Tuner.find", broken)
    with pytest.warns(RuntimeWarning) as warned:
        y = convolve()
    assert torch.equal(convolve(), y)
    assert torch.equal(functional.conv1d(X, WEIGHT), y)
    assert launches == []
    (message,) = [str(warning.message) for warning in warned]
    assert message.startswith(
        "no plan could be made for x (2, 16, 70) and weight (32, 16, 3), torch serves it"
    )
    assert message.endswith("OverflowError: int too large to convert to float")


# --- files ----------------------------------------------------------------------------------------


def damaged(path):
    path.write_bytes(b"this is no database " * 300)


def truncated(path):
    with lookup.open_user(settings.load()):
        pass
    path.write_bytes(path.read_bytes()[:1000])


def folder(path):
    path.mkdir()


def folder_is_a_file(path):
    path.parent.rmdir()
    path.parent.write_text("in the way")


@pytest.mark.parametrize("trouble", [damaged, truncated, folder, folder_is_a_file])
@pytest.mark.parametrize("policy", ["predict", "sweep", "background"])
def test_a_database_that_does_not_serve_costs_one_warning(trouble, policy, monkeypatch):
    monkeypatch.setenv("AUTOCONV_ON_MISS", policy)
    monkeypatch.setattr("autoconv.sweep.sweep._start", lambda *_: 0.0)  # no worker: every sweep is in vain
    monkeypatch.setattr("autoconv.sweep.sweep._compile", lambda *_: [])
    path = settings.load().database
    path.parent.mkdir(parents=True)
    trouble(path)
    with autoconv.recorded(DEVICE) as launches, warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        for x in (X, X, X[:1]):
            autoconv.conv1d(x, WEIGHT)
        assert autoconv.wait(60)
    if policy == "predict":
        assert len(launches) == 3
    about_the_file = [warning for warning in warned if str(path) in str(warning.message)]
    said = "was damaged; it is kept as" if trouble in (damaged, truncated) else "layer 'user' is skipped"
    told = [warning for warning in about_the_file if said in str(warning.message)]
    assert len(told) == 1
    assert len(about_the_file) - len(told) <= (0 if policy == "predict" else 2)  # no lock, once a sweep


def test_a_database_that_breaks_while_it_is_open_costs_one_warning(remember, launches):
    remember(PROBLEM, WIDE)
    convolve_elsewhere = lambda length: autoconv.conv1d(torch.zeros(1, 16, length), WEIGHT)  # noqa: E731
    convolve_elsewhere(50)
    damaged(settings.load().database)
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        for length in (51, 52):
            convolve_elsewhere(length)
    assert len(launches) == 3
    assert len([one for one in warned if "was damaged; it is kept as" in str(one.message)]) == 1
    assert len(warned) == 1


# --- threads, captures ----------------------------------------------------------------------------


def test_threads_that_race_on_a_first_call_share_one_plan(dispatcher):
    threads = 8
    start = threading.Barrier(threads)
    x = torch.zeros(2, 16, 77)

    def plan(_):
        start.wait()
        return dispatcher.plan(x, WEIGHT, None, 1, 0, 1, 1)

    with ThreadPoolExecutor(threads) as pool:
        plans = list(pool.map(plan, range(threads)))
    assert len({id(plan) for plan in plans}) == 1


class Capturing(Recorded):
    """A device whose stream can be captured."""

    captures = True

    def capturing(self) -> bool:
        return self.captures


def test_a_capture_gets_torch_until_the_call_was_made_outside_one(predicting):
    device = device_called(DEVICE)
    machine = Capturing(device)
    with recording(device) as recorder, serving.served_by(Dispatcher(machine, settings.load())):
        with pytest.warns(RuntimeWarning, match=r"call it once before the capture$"):
            y = convolve()
        assert torch.equal(y, functional.conv1d(X, WEIGHT))
        assert recorder.launches == []
        machine.captures = False
        convolve()
        machine.captures = True
        convolve()  # a hit
        assert len(recorder.launches) == 2
