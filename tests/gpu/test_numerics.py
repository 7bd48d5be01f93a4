"""Every kernel on the device itself, against float64."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch.nn import functional

import autoconv
from autoconv import Config, Problem
from autoconv.dispatch.launchers import ByTorch
from autoconv.kernels.registry import kernels
from autoconv.sweep import verify
from autoconv.sweep.candidates import shortlist
from autoconv.sweep.outcomes import Outcome
from autoconv.sweep.tasks import Verify

pytestmark = [pytest.mark.gpu, pytest.mark.filterwarnings("ignore:Using padding='same'")]

# Remainders along every axis, even K, uneven padding, lengths with and without alignment; some for every
# kernel.
PROBLEMS = [
    Problem(3, 37, 70, 4, 331, stride=3, dilation=2, padding=(3, 4), bias=True),
    Problem(2, 64, 128, 3, 2048, padding=1, activation="gelu"),
    Problem(2, 48, 96, 5, 517, padding=2, bias=True, layout="nlc"),
    Problem(2, 65, 130, 1, 517, bias=True),
    Problem(2, 3, 70, 7, 1001, stride=2, padding=3),
    Problem(1, 512, 96, 3, 200, bias=True),
    Problem(2, 48, 36, 41, 700, stride=4, padding=20, groups=4, bias=True),
    Problem(2, 37, 37, 3, 1001, padding=1, groups=37, bias=True, activation="silu"),
    Problem(2, 21, 21, 33, 1001, padding=16, groups=21),
    Problem(2, 70, 37, 8, 129, stride=4, op="conv_transpose", padding=2, bias=True),
    Problem(2, 24, 18, 3, 131, stride=3, dilation=2, op="conv_transpose", groups=3, output_padding=1),
    Problem(3, 37, 70, 4, 331, stride=3, dilation=2, op="conv_weight", padding=3),
    # Columns across samples, and layouts and ops with kernels of their own.
    Problem(19, 48, 70, 3, 33, padding=1, bias=True),
    Problem(19, 48, 70, 1, 35),
    Problem(9, 70, 37, 8, 33, stride=4, op="conv_transpose", padding=2, bias=True),
    Problem(9, 48, 96, 3, 50, padding=1, groups=6, bias=True, layout="nlc"),
    Problem(2, 37, 37, 12, 501, stride=2, op="conv_transpose", padding=5, groups=37, bias=True),
    Problem(2, 37, 37, 5, 501, padding=2, groups=37, layout="nlc"),
    Problem(5, 70, 37, 8, 65, stride=4, op="conv_transpose", padding=2, layout="nlc"),
]
PRECISIONS = [
    ("float32", "ieee"),
    ("float32", "tf32"),
    ("float32", "tf32x3"),
    ("float16", ""),
    ("bfloat16", ""),
]


def best_of_each_size(kernel, problem, device) -> list[Config]:
    """The best estimate for every number of warps, with the fewest and with the most stages."""
    chosen = []
    for warps in sorted({config.num_warps for config in kernel.space(problem, device)}):
        alike = [config for config in kernel.space(problem, device) if config.num_warps == warps]
        for stages in {min(c.num_stages for c in alike), max(c.num_stages for c in alike)}:
            chosen += shortlist(problem, [c for c in alike if c.num_stages == stages], device, count=1)
    return chosen


CASES = [
    (kernel, replace(problem, dtype=dtype, precision=precision))
    for kernel in kernels()
    for number, problem in enumerate(PROBLEMS)
    for dtype, precision in (PRECISIONS if number == 0 else (("float32", ""), ("float16", "")))
    if kernels()[kernel].unsupported(replace(problem, dtype=dtype, precision=precision)) is None
]


def test_every_kernel_has_a_case():
    assert {kernel for kernel, _ in CASES} == set(kernels())


@pytest.mark.parametrize(("kernel", "problem"), CASES, ids=str)
def test_every_kernel_is_right_with_every_number_of_warps(kernel, problem, device, worker):
    configs = best_of_each_size(kernels()[kernel], problem, device)
    answers = list(worker.perform([Verify.fresh(problem, config, on_gpu=True) for config in configs]))
    # A tile can ask for more than an SM has; then Triton says so, and nothing was computed wrong.
    failures = [answer.reason for answer in answers if isinstance(answer, Outcome)]
    assert [reason for reason in failures if "out of resource" not in reason] == []
    assert [answer for answer in answers if not isinstance(answer, Outcome) and not answer.ok] == []
    ran = {c.num_warps for c, answer in zip(configs, answers, strict=True) if not isinstance(answer, Outcome)}
    assert ran == {config.num_warps for config in configs}


TOLERANCES = {torch.float32: 2e-6, torch.float16: 1e-3, torch.bfloat16: 8e-3}


@pytest.mark.parametrize("dtype", TOLERANCES, ids=str)
@pytest.mark.parametrize(
    "rest",
    [
        {},
        {"stride": 3, "padding": 2, "dilation": 2},
        {"padding": "same"},
        {"padding": "valid", "stride": (2,)},
    ],
    ids=str,
)
def test_conv1d_and_its_gradients_agree_with_float64(dtype, rest, dispatcher, precision):
    precision("ieee")
    torch.manual_seed(0)
    x, weight, bias = (torch.randn(shape, device="cuda") for shape in ((2, 24, 301), (40, 24, 4), (40,)))
    leaves = [tensor.to(dtype).requires_grad_() for tensor in (x, weight, bias)]
    exact = [tensor.detach().double().requires_grad_() for tensor in leaves]
    y, expected = autoconv.conv1d(*leaves, **rest), functional.conv1d(*exact, **rest)
    numbers = {"stride": 1, "padding": 0, "dilation": 1, "groups": 1, **rest}
    assert not isinstance(dispatcher.plan(*leaves, **numbers).launch, ByTorch)
    toward = torch.randn_like(y)
    y.backward(toward)
    expected.backward(toward.double())
    assert (y.double() - expected).norm() <= TOLERANCES[dtype] * expected.norm()
    for mine, torchs in zip(leaves, exact, strict=True):
        assert (mine.grad.dtype, mine.grad.shape) == (dtype, torchs.shape)
        # ATen's own, by algorithms of its choice
        assert (mine.grad.double() - torchs.grad).norm() <= 5 * TOLERANCES[dtype] * torchs.grad.norm()


@pytest.mark.parametrize("shape", ["transposed", "sliced", "expanded", "unbatched", "packed at 4 bytes"])
def test_inputs_are_read_as_they_lie(shape, dispatcher, precision):
    precision("ieee")
    room = torch.randn(2 * 24 * 400 + 1, device="cuda")
    x = {
        "transposed": room[:-1].view(2, 400, 24).transpose(1, 2),
        "sliced": room[:-1].view(2, 24, 400)[:, :, 7:390:2],
        "expanded": room[:400].view(1, 1, 400).expand(2, 24, 400),
        "unbatched": room[: 24 * 400].view(24, 400),
        "packed at 4 bytes": room[1:].view(2, 24, 400),
    }[shape]
    weight = torch.randn(3, 24, 40, device="cuda").permute(2, 1, 0)
    expected = functional.conv1d(x.double(), weight.double())
    for _ in range(2):
        y = autoconv.conv1d(x, weight)
        assert (y.double() - expected).norm() <= 2e-6 * expected.norm()


def test_torchs_precision_is_heeded(dispatcher, precision):
    x, weight = torch.randn(4, 256, 512, device="cuda"), torch.randn(64, 256, 3, device="cuda")
    expected = functional.conv1d(x.double(), weight.double())
    errors = {}
    for name in ("tf32", "ieee", "tf32"):
        precision(name)
        y = autoconv.conv1d(x, weight).double()
        errors[name] = ((y - expected).norm() / expected.norm()).item()
    tolerance = verify.TOLERANCE["float32", "tf32"]
    assert errors["ieee"] < 2e-6 < 1e-5 < errors["tf32"] < tolerance


def test_a_weight_on_another_device_raises_what_torch_raises(dispatcher):
    x, weight, bias = (
        torch.randn(1, 4, 20, device="cuda"),
        torch.randn(4, 4, 3, device="cuda"),
        torch.randn(4),
    )
    autoconv.conv1d(x, weight, bias.cuda())  # a plan that must not serve what follows
    for call in ((x, weight.cpu()), (x, weight, bias), (x.cpu(), weight)):
        with pytest.raises(RuntimeError) as torchs:
            functional.conv1d(*call)
        with pytest.raises(type(torchs.value)) as ours:
            autoconv.conv1d(*call)
        assert str(ours.value) == str(torchs.value)


def test_cpu_tensors_are_torchs_where_there_is_a_gpu_too(dispatcher):
    x, weight = torch.randn(2, 4, 30), torch.randn(6, 4, 3)
    assert torch.equal(autoconv.conv1d(x, weight), functional.conv1d(x, weight))


def test_autocast(dispatcher):
    x, weight = (
        torch.randn(2, 24, 300, device="cuda"),
        torch.randn(40, 24, 3, device="cuda", requires_grad=True),
    )
    with torch.autocast("cuda", torch.float16):
        y = autoconv.conv1d(x, weight)
    expected = functional.conv1d(x.double(), weight.double())
    y.sum().backward()
    assert (y.dtype, weight.grad.dtype) == (torch.float16, torch.float32)
    assert (y.double() - expected).norm() <= 1e-3 * expected.norm()
