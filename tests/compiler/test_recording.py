"""The driver for a GPU that is not here: what it records, and that it goes without a trace."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from triton.runtime import driver as active_driver

from autoconv.compiler.recording import RecordedLaunch, RecordingDriver, recording
from autoconv.config import Config
from autoconv.device import find
from autoconv.kernels.registry import kernel as kernel_called
from autoconv.problem import Problem

PROBLEM = Problem(2, 16, 20, 3, 100, stride=2, bias=True)  # L_out = 49
CONFIG = Config("dense", {"BLOCK_CO": 16, "BLOCK_L": 32, "BLOCK_R": 16}, num_warps=2, num_stages=3)
BASELINE = Config("im2col_rows", {"BLOCK_M": 32, "BLOCK_N": 16, "BLOCK_K": 16}, num_warps=4, num_stages=2)


def launches_of(config: Config, device: str) -> tuple[list[RecordedLaunch], tuple[torch.Tensor, ...]]:
    shapes = (PROBLEM.x_shape, PROBLEM.w_shape, (PROBLEM.Cout,), PROBLEM.y_shape)
    tensors = tuple(torch.zeros(shape) for shape in shapes)
    with recording(find(device)) as recorder:
        kernel_called(config.kernel).launch(PROBLEM, config, *tensors)
    return recorder.launches, tensors


def test_a_launch_is_recorded_as_triton_made_it() -> None:
    (launch,), tensors = launches_of(CONFIG, "rtx4090")
    assert launch.kernel == "dense_kernel"
    assert launch.grid == (2 * 2 * 2, 1, 1)  # samples, windows of 32 in 49, rows of 16 in 20
    assert (launch.num_warps, launch.num_stages) == (2, 3)
    assert 0 < launch.shared <= 99 * 1024
    assert all(recorded is given for recorded, given in zip(launch.arguments, tensors, strict=False))
    kernel = kernel_called("dense")
    stated = {**kernel.arguments(PROBLEM, (1600, 100, 1)), **CONFIG.meta}
    assert list(launch.arguments[4:]) == [stated[name] for name in kernel.jit.arg_names[4:]]


def test_a_grid_of_two_axes_is_filled_up() -> None:
    ((launch,), _) = launches_of(BASELINE, "rtx4090")
    assert launch.kernel == "im2col_rows_kernel"
    assert launch.grid == (-(-2 * 49 // 32), 2, 1)


@pytest.mark.parametrize("devices", [("rtx4090", "rtx4090"), ("rtx4090", "h100-sxm"), ("l4", "a100-80gb")])
def test_each_recorder_gets_its_own_launches(devices: tuple[str, str]) -> None:
    """Triton keeps compiled kernels, their launchers too, for the life of the process."""
    for device in (*devices, devices[0]):
        launches, _ = launches_of(CONFIG, device)
        assert [launch.kernel for launch in launches] == ["dense_kernel"]


@contextmanager
def unchanged() -> Iterator[None]:
    before = dict(vars(active_driver))
    yield
    assert vars(active_driver) == before


class InterruptionError(Exception):
    pass


def test_the_driver_before_comes_back() -> None:
    with unchanged(), recording(find("rtx4090")) as recorder:
        assert active_driver.active is recorder
    with unchanged(), pytest.raises(InterruptionError), recording(find("rtx4090")):
        raise InterruptionError


def test_recordings_nest() -> None:
    with unchanged(), recording(find("rtx4090")) as outer:
        with pytest.raises(InterruptionError), recording(find("a100-80gb")) as inner:
            assert active_driver.active is inner
            raise InterruptionError
        assert active_driver.active is outer
        assert active_driver.active.get_current_target().arch == 89


def test_no_gpu_shares_an_ordinal_with_a_recorded_one() -> None:
    ordinals = {
        name: RecordingDriver(find(name)).get_current_device() for name in ("l4", "rtx4090", "a100-80gb")
    }
    assert all(ordinal < 0 for ordinal in ordinals.values())
    assert ordinals["l4"] == ordinals["rtx4090"] != ordinals["a100-80gb"]


def test_a_recorded_launch_reads_without_what_is_in_its_tensors() -> None:
    (launch,), _ = launches_of(CONFIG, "rtx4090")
    text = repr(launch)
    assert text.startswith("RecordedLaunch('dense_kernel', grid=(") and len(text) < 1000
    x = next(one for one in launch.arguments if isinstance(one, torch.Tensor))
    assert f"<float32 {tuple(x.shape)} strides {x.stride()}>" in text
    assert "tensor(" not in text


def test_nothing_can_be_timed() -> None:
    with pytest.raises(RuntimeError, match="nothing can be timed on a recorded l4"):
        RecordingDriver(find("l4")).get_benchmarker()


def test_launches_of_another_thread_are_recorded_too() -> None:
    tensors = [torch.zeros(s) for s in (PROBLEM.x_shape, PROBLEM.w_shape, (PROBLEM.Cout,), PROBLEM.y_shape)]
    kernel = kernel_called("dense")
    with recording(find("rtx4090")) as recorder:
        thread = threading.Thread(target=kernel.launch, args=(PROBLEM, CONFIG, *tensors))
        thread.start()
        thread.join()
    assert len(recorder.launches) == 1
