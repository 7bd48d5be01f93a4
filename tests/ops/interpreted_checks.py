"""Checks of conv1d's results and gradients, to be run by pytest in a process that interprets kernels.

`test_interpreted.py` starts that process; where Triton compiles, these cannot run.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.nn import functional

import autoconv
from autoconv import library, serving
from autoconv.dispatch.launchers import ByTorch
from autoconv.kernels.interpreter import interpreting

pytestmark = pytest.mark.filterwarnings("ignore:Using padding='same'")

# (name, shape of x, shape of the weight, the rest)
FORMS: list[tuple[str, tuple[int, ...], tuple[int, ...], dict[str, Any]]] = [
    ("plain", (2, 5, 37), (7, 5, 3), {}),
    ("one of everything", (1, 1, 1), (1, 1, 1), {}),
    ("bias", (2, 5, 37), (7, 5, 3), {"bias": True}),
    ("stride", (2, 5, 38), (7, 5, 3), {"stride": 2}),
    ("numbers in tuples", (2, 5, 38), (7, 5, 3), {"stride": (3,), "padding": (2,), "dilation": (2,)}),
    ("numbers in lists", (2, 5, 38), (7, 5, 3), {"stride": [3], "padding": [2], "dilation": [2]}),
    ("padding past the kernel", (1, 3, 9), (4, 3, 2), {"padding": 5, "stride": 4}),
    ("same, odd K", (2, 5, 37), (7, 5, 5), {"padding": "same", "bias": True}),
    ("same, even K", (2, 5, 37), (7, 5, 4), {"padding": "same"}),
    ("same, even K, dilated", (2, 5, 37), (7, 5, 4), {"padding": "same", "dilation": 3}),
    ("same, even K, dilated evenly", (2, 5, 37), (7, 5, 4), {"padding": "same", "dilation": 2}),
    ("valid", (2, 5, 37), (7, 5, 4), {"padding": "valid", "stride": 2}),
    ("no batch", (5, 37), (7, 5, 3), {"bias": True, "padding": 1}),
    ("no batch, same, even K", (5, 37), (7, 5, 4), {"padding": "same"}),
    ("groups", (2, 6, 20), (4, 3, 3), {"groups": 2, "bias": True}),
    ("depthwise", (2, 6, 20), (6, 1, 3), {"groups": 6}),
]
BY_TORCH: list[tuple[str, tuple[int, ...], tuple[int, ...], dict[str, Any]]] = [
    ("float64", (2, 5, 20), (4, 5, 3), {"dtype": torch.float64, "bias": True}),
    ("no samples", (0, 5, 20), (4, 5, 3), {}),
]
DTYPES = {torch.float32: 2e-6, torch.float16: 1e-3, torch.bfloat16: 8e-3}


@pytest.fixture(autouse=True)
def interpreted(monkeypatch):
    assert interpreting()
    monkeypatch.setenv("AUTOCONV_ON_MISS", "predict")
    torch.manual_seed(0)
    with autoconv.interpreted("rtx4090"):
        yield


def arguments(x_shape, w_shape, rest, dtype=torch.float32) -> dict[str, Any]:
    rest = dict(rest)
    dtype = rest.pop("dtype", dtype)
    bias = torch.randn(w_shape[0], dtype=dtype) if rest.pop("bias", False) else None
    x, weight = torch.randn(x_shape, dtype=dtype), torch.randn(w_shape, dtype=dtype)
    return {"input": x, "weight": weight, "bias": bias, **rest}


def is_torchs(call: dict[str, Any]) -> bool:
    numbers = {"stride": 1, "padding": 0, "dilation": 1, "groups": 1, **call}
    plan = serving.current.plan(x=numbers.pop("input"), **numbers)
    return isinstance(plan.launch, ByTorch)


def assert_near(y: torch.Tensor, expected: torch.Tensor, tolerance: float) -> None:
    """As y to what float64 gives, relative to its size as a whole."""
    assert (y.shape, y.dtype) == (expected.shape, expected.dtype)
    assert y.is_contiguous()
    error = (y.double() - expected.double()).norm() / expected.double().norm().clamp_min(1e-30)
    assert error <= tolerance


@pytest.mark.parametrize(("x", "w", "rest"), [form[1:] for form in FORMS], ids=[form[0] for form in FORMS])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_forms_agree_with_torch(x, w, rest, dtype):
    call = arguments(x, w, rest, dtype)
    assert not is_torchs(call)
    exact = {name: one.double() if torch.is_tensor(one) else one for name, one in call.items()}
    assert_near(autoconv.conv1d(**call), functional.conv1d(**exact).to(dtype), DTYPES[dtype])


@pytest.mark.parametrize(("x", "w", "rest"), [form[1:] for form in BY_TORCH], ids=[f[0] for f in BY_TORCH])
def test_what_no_kernel_runs_is_torchs_to_the_bit(x, w, rest):
    call = arguments(x, w, rest)
    assert is_torchs(call)
    assert torch.equal(autoconv.conv1d(**call), functional.conv1d(**call))


def test_arguments_are_positional_as_torchs_are():
    call = (torch.randn(2, 5, 40), torch.randn(7, 5, 3), torch.randn(7), 2, 3, 4, 1)
    assert_near(autoconv.conv1d(*call), functional.conv1d(*call), 2e-6)


@pytest.mark.parametrize(
    "x",
    [
        torch.arange(160.0).view(2, 16, 5).transpose(1, 2),
        torch.arange(320.0).view(2, 5, 32)[:, :, 3:19],
        torch.arange(320.0).view(2, 5, 32)[:, :, ::2],
        torch.arange(160.0).view(2, 5, 16)[:, 1:2].expand(2, 5, 16),
        torch.arange(80.0).view(1, 5, 16).expand(2, 5, 16),
    ],
    ids=["transposed", "sliced", "strided", "expanded channels", "expanded batch"],
)
def test_inputs_are_read_as_they_lie(x):
    weight, bias = torch.randn(3, 5, 6).transpose(0, 2).contiguous().transpose(0, 2), torch.randn(6)[::2]
    assert not weight.is_contiguous() and not bias.is_contiguous()
    assert_near(autoconv.conv1d(x, weight, bias), functional.conv1d(x, weight, bias), 2e-6)


def test_the_module_computes_what_its_nn_conv1d_does():
    model = autoconv.ModelNew(5, 7, 3, stride=3, dilation=2, bias=True)
    x = torch.randn(2, 5, 50)
    with torch.no_grad():
        assert_near(model(x), model.conv1d(x), 2e-6)


# --- gradients ------------------------------------------------------------------------------------


def gradients(conv1d, call: dict[str, Any], needed: set[str]) -> list[torch.Tensor | None]:
    leaves = {
        name: one.detach().requires_grad_(name in needed) if torch.is_tensor(one) else one
        for name, one in call.items()
    }
    y = conv1d(**leaves)
    weights = torch.linspace(-1, 1, y.numel(), dtype=torch.float64).view(y.shape).to(y.dtype)
    (y * weights).sum().backward()
    return [leaves[name].grad if leaves[name] is not None else None for name in ("input", "weight", "bias")]


def assert_same_gradients(call: dict[str, Any], needed: set[str], tolerance: float = 2e-6) -> None:
    ours = gradients(autoconv.conv1d, call, needed)
    for mine, torchs in zip(ours, gradients(functional.conv1d, call, needed), strict=True):
        assert (mine is None) == (torchs is None)
        if mine is not None and torchs is not None:
            assert (mine.shape, mine.dtype) == (torchs.shape, torchs.dtype)
            error = (mine - torchs).norm() / torchs.norm().clamp_min(1e-30)
            assert error <= tolerance


@pytest.mark.parametrize(
    ("x", "w", "rest"),
    [form[1:] for form in (*FORMS, *BY_TORCH[:3])],
    ids=[form[0] for form in (*FORMS, *BY_TORCH[:3])],
)
def test_gradients_of_all_forms_are_torchs(x, w, rest):
    call = arguments(x, w, rest)
    assert_same_gradients(
        call, {"input", "weight", "bias"} if call["bias"] is not None else {"input", "weight"}
    )


@pytest.mark.parametrize("needed", [{"input"}, {"weight"}, {"bias"}, {"input", "bias"}], ids=str)
def test_only_the_gradients_that_are_wanted(needed):
    assert_same_gradients(arguments((2, 5, 37), (7, 5, 3), {"bias": True, "padding": 1}), needed)


def test_gradients_of_half_precision_are_torchs():
    call = arguments((2, 5, 37), (7, 5, 3), {"bias": True, "padding": 1}, torch.bfloat16)
    assert_same_gradients(call, {"input", "weight", "bias"}, tolerance=8e-3)


def test_the_gradient_is_that_of_finite_differences():
    """Against the function itself rather than torch: sums of small integers are exact in float32."""
    # Each element of either takes a call of its own.
    x = torch.randint(-3, 4, (2, 2, 8)).float().requires_grad_()
    weight = torch.randint(-3, 4, (3, 2, 4)).float().requires_grad_()
    y = autoconv.conv1d(x, weight, None, 1, "same", 2)
    weights = torch.randint(-3, 4, y.shape).float()
    (y * weights).sum().backward()
    for tensor in (x, weight):
        differences = torch.zeros_like(tensor)
        with torch.no_grad():
            for place in range(tensor.numel()):
                step = torch.zeros_like(tensor)
                step.view(-1)[place] = 1
                moved = (x + step, weight) if tensor is x else (x, weight + step)
                differences.view(-1)[place] = (
                    (autoconv.conv1d(*moved, None, 1, "same", 2) - y) * weights
                ).sum()
        assert torch.equal(tensor.grad, differences)


def test_a_second_derivative_is_torchs():
    x, weight = torch.randn(2, 5, 20, requires_grad=True), torch.randn(7, 5, 3, requires_grad=True)
    second = []
    for convolve in (autoconv.conv1d, functional.conv1d):
        y = convolve(x, weight)
        (to_x,) = torch.autograd.grad((y * y).sum(), x, create_graph=True)
        second.append(torch.autograd.grad((to_x * to_x).sum(), (x, weight)))
    for found, expected in zip(*second, strict=True):
        assert_near(found, expected, 1e-5)


def test_torchs_own_have_a_second_derivative():
    x = torch.randn(1, 2, 6, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(2, 2, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradgradcheck(autoconv.conv1d, (x, weight))


def test_no_graph_is_built_where_none_is_wanted():
    x, weight = torch.randn(2, 5, 20, requires_grad=True), torch.randn(7, 5, 3)
    assert autoconv.conv1d(x, weight).requires_grad
    assert not autoconv.conv1d(x.detach(), weight).requires_grad
    with torch.no_grad():
        assert not autoconv.conv1d(x, weight).requires_grad
    with torch.inference_mode():
        assert autoconv.conv1d(x, weight).is_inference()


# --- transposed, activated ------------------------------------------------------------------------

TRANSPOSED: list[tuple[str, tuple[int, ...], tuple[int, ...], dict[str, Any]]] = [
    ("plain", (2, 5, 17), (5, 7, 3), {}),
    ("bias", (2, 5, 17), (5, 7, 3), {"bias": True}),
    ("stride", (2, 5, 17), (5, 7, 4), {"stride": 2, "padding": 1}),
    ("output padding", (2, 5, 17), (5, 7, 3), {"stride": (3,), "padding": [1], "output_padding": 2}),
    ("dilation", (2, 5, 17), (5, 7, 3), {"stride": 2, "dilation": 3, "padding": 2, "bias": True}),
    ("groups", (2, 6, 17), (6, 2, 3), {"groups": 3, "stride": 2}),
    ("no batch", (5, 17), (5, 7, 3), {"stride": 2, "output_padding": 1}),
    ("float64", (2, 5, 17), (5, 7, 3), {"dtype": torch.float64, "stride": 2}),
]


def transposed_arguments(x, w, rest) -> dict[str, Any]:
    call = arguments(x, w, {name: value for name, value in rest.items() if name != "bias"})
    outputs = w[1] * rest.get("groups", 1)
    return {**call, "bias": torch.randn(outputs, dtype=call["input"].dtype) if rest.get("bias") else None}


@pytest.mark.parametrize(("x", "w", "rest"), [f[1:] for f in TRANSPOSED], ids=[f[0] for f in TRANSPOSED])
def test_transposed_forms_and_their_gradients_agree_with_torch(x, w, rest):
    call = transposed_arguments(x, w, rest)
    expected = functional.conv_transpose1d(**call)
    assert_near(autoconv.conv_transpose1d(**call), expected, 2e-6)
    needed = {name for name in ("input", "weight", "bias") if call[name] is not None}
    ours = gradients(autoconv.conv_transpose1d, call, needed)
    for mine, torchs in zip(ours, gradients(functional.conv_transpose1d, call, needed), strict=True):
        assert (mine is None) == (torchs is None)
        if mine is not None:
            assert_near(mine, torchs, 1e-5)


ACTIVATIONS = {
    "relu": functional.relu, "leaky_relu": functional.leaky_relu, "gelu": functional.gelu,
    "silu": functional.silu, "tanh": torch.tanh, "none": lambda y: y,
}  # fmt: skip


@pytest.mark.parametrize("name", ACTIVATIONS)
@pytest.mark.parametrize("differentiated", [False, True])
def test_activations_are_torchs_fused_or_not(name, differentiated):
    x = torch.randn(2, 5, 20, requires_grad=differentiated)
    for convolve, torchs, weight in (
        (autoconv.conv1d, functional.conv1d, torch.randn(7, 5, 3)),
        (autoconv.conv_transpose1d, functional.conv_transpose1d, torch.randn(5, 7, 3)),
    ):
        y, expected = convolve(x, weight, activation=name), ACTIVATIONS[name](torchs(x, weight))
        assert_near(y.detach(), expected.detach(), 1e-5)
        if differentiated:
            pair = [torch.autograd.grad(one.square().sum(), x)[0] for one in (y, expected)]
            assert_near(*pair, 1e-5)


# --- the registered operators ---------------------------------------------------------------------

LIGHT = ("test_schema", "test_autograd_registration", "test_faketensor")
ALL = (*LIGHT, "test_aot_dispatch_dynamic")


@pytest.mark.parametrize(
    ("padding", "transposed", "extra", "looks"),
    [([1, 2], False, 0, LIGHT), ([1, 1], True, 1, ALL)],
    ids=["uneven", "transposed"],
)
def test_the_convolution_is_a_sound_operator(padding, transposed, extra, looks):
    x = torch.randn(2, 4, 12, requires_grad=True)
    weight = (
        torch.randn(6, 2, 3, requires_grad=True)
        if not transposed
        else torch.randn(4, 3, 3, requires_grad=True)
    )
    bias = torch.randn(6, requires_grad=True)
    call = (x, weight, bias, 2, padding, 2, 2, transposed, extra)
    tolerances = {"rtol": 1e-4, "atol": 1e-4}
    torch.library.opcheck(torch.ops.autoconv.convolution.default, call, test_utils=looks, **tolerances)


def test_the_weights_gradient_is_a_sound_operator():
    x, gradient = torch.randn(2, 4, 12, requires_grad=True), torch.randn(2, 6, 5, requires_grad=True)
    call = (x, gradient, 3, 2, [1, 1], 2, 2)
    tolerances = {"rtol": 1e-4, "atol": 1e-4}
    torch.library.opcheck(torch.ops.autoconv.convolution_weight.default, call, test_utils=LIGHT, **tolerances)


@pytest.mark.parametrize("transposed", [False, True])
def test_the_operator_compiles_as_a_full_graph_with_its_gradients(transposed):
    torch.compiler.reset()

    def convolve(x, weight, bias):
        return library.convolution(x, weight, bias, 2, [1, 1], 1, 1, transposed, 0)

    x, bias = torch.randn(2, 4, 12), torch.randn(6)
    weight = torch.randn(4, 6, 3) if transposed else torch.randn(6, 4, 3)
    results = []
    for function in (torch.compile(convolve, fullgraph=True, backend="aot_eager"), convolve):
        leaves = [tensor.clone().requires_grad_() for tensor in (x, weight, bias)]
        y = function(*leaves)
        y.square().sum().backward()
        results.append([y.detach(), *(leaf.grad for leaf in leaves)])
    torch.compiler.reset()
    torchs = functional.conv_transpose1d if transposed else functional.conv1d
    assert_near(results[0][0], torchs(x, weight, bias, 2, 1), 2e-6)
    for compiled, eager in zip(*results, strict=True):
        assert_near(compiled, eager, 1e-6)


# --- autocast -------------------------------------------------------------------------------------


def test_autocast_computes_and_differentiates_as_torchs():
    call = arguments((2, 5, 37), (7, 5, 3), {"bias": True})
    with torch.autocast("cpu", torch.bfloat16):
        y, expected = autoconv.conv1d(**call), functional.conv1d(**call)
        assert_near(y, expected, 8e-3)
        assert_same_gradients(call, {"input", "weight", "bias"}, tolerance=2e-2)
