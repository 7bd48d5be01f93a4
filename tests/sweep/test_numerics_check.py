"""The check itself, with kernels that compute by torch: what it lets pass, and whom it blames."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from autoconv.config import Config
from autoconv.kernels.aten import activations, convolution
from autoconv.kernels.registry import kernels
from autoconv.problem import ACTIVATIONS, Problem
from autoconv.sweep import verify as verify_module
from autoconv.sweep.outcomes import Failed, Unavailable, outcome_of
from autoconv.sweep.verify import verify

CONFIG = Config("stand_in", {"BLOCK_L": 16}, num_warps=1, num_stages=1)
SHORT = Problem(1, 1, 64, 1, 4096, precision="tf32")  # one product a sum: no rounding cancels
LONG = Problem(1, 512, 8, 8, 100, precision="tf32")  # one tap of 4096
PLAIN = Problem(1, 2, 3, 3, 20, padding=1, bias=True, precision="ieee")

Launch = Callable[..., None]


class StandIn:
    """A kernel whose launch is a Python function; verify asks no more of one."""

    def __init__(self, launch: Launch) -> None:
        self.launch = launch


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch) -> Callable[[Launch], None]:
    monkeypatch.setattr(verify_module, "mend_bfloat16", lambda: None)
    return lambda launch: monkeypatch.setitem(kernels(), CONFIG.kernel, StandIn(launch))  # type: ignore[arg-type]


def truncated(tensor: torch.Tensor) -> torch.Tensor:
    """What a tensor core reads of a float32 that nobody rounded: the low 13 bits are cut off."""
    return (tensor.contiguous().view(torch.int32) & ~0x1FFF).view(torch.float32)


def by_tensor_cores(problem: Problem, _: Config, x: Any, w: Any, bias: Any, y: Any) -> None:
    total = convolution(problem, truncated(x).double(), truncated(w).double(), None).float()
    y.copy_(activations()[problem.activation](total if bias is None else total + bias[:, None]))


def without_one_tap(problem: Problem, config: Config, x: Any, w: Any, bias: Any, y: Any) -> None:
    w = w.clone()
    w[:, 100, 3] = 0
    by_tensor_cores(problem, config, x, w, bias, y)


@pytest.mark.parametrize("seed", range(3))
def test_truncated_tf32_is_right(kernel: Callable[[Launch], None], seed: int) -> None:
    kernel(by_tensor_cores)
    verdict = verify(SHORT, CONFIG, where="cpu", seed=seed)
    assert verdict.ok
    assert 1.5e-3 < verdict.max_rel_err < 2 * 2**-10  # so half of it would not do
    assert verify(LONG, CONFIG, where="cpu", seed=seed).ok


def by_three_products(problem: Problem, _: Config, x: Any, w: Any, bias: Any, y: Any) -> None:
    """What Triton makes of tf32x3: each factor as the sum of two that a tensor core reads."""
    (x_large, x_small), (w_large, w_small) = (
        (truncated(one).double(), truncated(one - truncated(one)).double()) for one in (x, w)
    )
    products = (x_large, w_large), (x_large, w_small), (x_small, w_large)
    y.copy_(sum(convolution(problem, *factors, None) for factors in products))


@pytest.mark.parametrize("seed", range(3))
def test_three_truncated_products_are_right(kernel: Callable[[Launch], None], seed: int) -> None:
    kernel(by_three_products)
    verdict = verify(replace(SHORT, precision="tf32x3"), CONFIG, where="cpu", seed=seed)
    assert verdict.ok
    assert 1e-6 < verdict.max_rel_err < 3 * 2**-20


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_one_tap_of_thousands_shows_whatever_the_tolerance(
    kernel: Callable[[Launch], None], activation: str
) -> None:
    problem = replace(LONG, activation=activation)
    kernel(without_one_tap)
    verdict = verify(problem, CONFIG, where="cpu", seed=5)
    assert verdict.max_rel_err < 2e-3
    assert not verdict.ok
    kernel(by_tensor_cores)
    assert verify(problem, CONFIG, where="cpu", seed=5).ok


# --- the reference --------------------------------------------------------------------------------


def right(problem: Problem, _: Config, x: Any, w: Any, bias: Any, y: Any) -> None:
    y.copy_(convolution(problem, x, w, bias))


def failing(when: Callable[[], bool]) -> Callable[..., torch.Tensor]:
    def compute(*arguments: Any) -> torch.Tensor:
        if when():
            raise RuntimeError("cuDNN error: CUDNN_STATUS_NOT_SUPPORTED")
        return convolution(*arguments)

    return compute


def test_a_reference_that_cudnn_lacks_is_computed_without_it(
    kernel: Callable[[Launch], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    kernel(right)
    monkeypatch.setattr(verify_module, "convolution", failing(lambda: torch.backends.cudnn.enabled))
    assert verify(PLAIN, CONFIG, where="cpu", seed=0).ok


def test_a_reference_that_fails_is_not_the_candidate_s_fault(
    kernel: Callable[[Launch], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    launches: list[Any] = []
    kernel(lambda *arguments: launches.append(arguments))
    monkeypatch.setattr(verify_module, "convolution", failing(lambda: True))
    with pytest.raises(Unavailable, match=r"the float64 reference of N=1,.* failed on cpu: .*NOT_SUPPORTED"):
        verify(PLAIN, CONFIG, where="cpu", seed=0)
    assert launches == [], "it fails before the candidate can be blamed"


def test_a_candidate_that_fails_is_blamed_itself(kernel: Callable[[Launch], None]) -> None:
    def launch(*_: Any) -> None:
        raise RuntimeError("Triton Error [CUDA]: invalid argument")

    kernel(launch)
    with pytest.raises(RuntimeError, match="invalid argument") as caught:
        verify(PLAIN, CONFIG, where="cpu", seed=0)
    assert isinstance(outcome_of(caught.value), Failed)


# --- where the inputs are made --------------------------------------------------------------------


class Devices(TorchDispatchMode):
    """Notes on what devices tensors come to be."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: set[str] = set()

    def __torch_dispatch__(self, function: Any, _: Any, arguments: Any = (), keywords: Any = None) -> Any:
        result = function(*arguments, **(keywords or {}))
        self.seen |= {one.device.type for one in tree_leaves(result) if isinstance(one, torch.Tensor)}
        return result


@pytest.mark.parametrize("layout", ["ncl", "nlc"])
def test_inputs_are_drawn_where_the_candidate_runs(kernel: Callable[[Launch], None], layout: str) -> None:
    """Not where torch makes tensors by default, which here is its device without memory."""
    strides: list[bool] = []

    def launch(problem: Problem, config: Config, x: Any, w: Any, bias: Any, y: Any) -> None:
        strides.append(x.stride(1) == 1)
        right(problem, config, x, w, bias, y)

    kernel(launch)
    problem = Problem(2, 8, 4, 3, 50, bias=True, precision="ieee", layout=layout)
    with torch.device("meta"), Devices() as devices:
        assert verify(problem, CONFIG, where="cpu", seed=1).ok
    assert devices.seen == {"cpu"}
    assert strides == [layout == "nlc"] * 2


def test_a_seed_draws_the_same_inputs_again(kernel: Callable[[Launch], None]) -> None:
    drawn: list[torch.Tensor] = []

    def launch(problem: Problem, _: Config, x: Any, w: Any, bias: Any, y: Any) -> None:
        drawn.append(x)
        right(problem, _, x, w, bias, y)

    kernel(launch)
    for seed in (7, 7, 8):
        assert verify(PLAIN, CONFIG, where="cpu", seed=seed).ok
    assert torch.equal(drawn[0], drawn[2]) and torch.equal(drawn[1], drawn[3])
    assert not torch.equal(drawn[1], drawn[5])
