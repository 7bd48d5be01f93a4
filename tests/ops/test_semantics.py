"""conv1d is torch.nn.functional.conv1d to everybody who looks: errors, tracers, transforms, autocast."""

from __future__ import annotations

import inspect
import subprocess
import sys
from collections.abc import Iterator

import pytest
import torch
from torch import fx
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.autograd import forward_ad
from torch.fx.experimental.proxy_tensor import make_fx
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode

import autoconv
from autoconv import ops, serving
from autoconv.compiler.recording import Launch

X, WEIGHT, BIAS = torch.randn(2, 4, 30), torch.randn(6, 4, 3), torch.randn(6)
EXPECTED = functional.conv1d(X, WEIGHT, BIAS)


@pytest.fixture
def launches(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Launch]]:
    monkeypatch.setenv("AUTOCONV_ON_MISS", "predict")
    with autoconv.recorded("rtx4090") as recorded:
        autoconv.conv1d(X, WEIGHT, BIAS)  # makes a plan, which must not serve what follows
        assert len(recorded) == 1
        recorded.clear()
        yield recorded


def outcome(conv1d, *arguments, **keywords):
    """The result's shape and dtype, or the exception's type and text."""
    try:
        y = conv1d(*arguments, **keywords)
    except Exception as error:
        return type(error), str(error).splitlines()[0]
    return y.shape, y.dtype


# --- without a GPU, and errors --------------------------------------------------------------------


def test_cpu_tensors_are_torchs_to_the_bit():
    assert torch.equal(autoconv.conv1d(X, WEIGHT, BIAS), EXPECTED)
    for rest in ({"padding": "same"}, {"stride": 2, "padding": 3}, {"groups": 1, "dilation": (2,)}):
        assert torch.equal(autoconv.conv1d(X, WEIGHT, **rest), functional.conv1d(X, WEIGHT, **rest))
    assert serving.current is None


WRONG = [
    {"weight": torch.randn(6, 5, 3)},
    {"input": torch.randn(5, 30)},
    {"weight": WEIGHT.half()},
    {"input": X.double()},
    {"bias": BIAS.double()},
    {"bias": torch.randn(5)},
    {"bias": torch.randn(6, 1)},
    {"input": X[:, :, :2]},
    {"input": torch.randn(4, 2)},
    {"dilation": 20},
    {"padding": -1},
    {"padding": "sam"},
    {"padding": "same", "stride": 2},
    {"padding": (1, 2)},
    {"padding": None},
    {"stride": 0},
    {"stride": -1},
    {"stride": (1, 2)},
    {"stride": 1.5},
    {"stride": "1"},
    {"dilation": 0},
    {"groups": 0},
    {"groups": 4},
    {"groups": None},
    {"input": X.unsqueeze(0)},
    {"input": X[0, 0]},
    {"weight": WEIGHT[0]},
    {"weight": WEIGHT.unsqueeze(0)},
    {"input": X.tolist()},
    {"weight": None},
    {"bias": 1.0},
    {"input": X.to("meta")},
]


@pytest.mark.filterwarnings("ignore:Using padding='same'")
@pytest.mark.parametrize("wrong", WRONG, ids=lambda wrong: ",".join(wrong))
def test_a_wrong_call_raises_what_torch_raises(wrong, launches):
    # In this order, because torch's TypeErrors tell what was given by position and what by name.
    call = {
        "input": X, "weight": WEIGHT, "bias": BIAS, "stride": 1, "padding": 0, "dilation": 1, "groups": 1,
        **wrong,
    }  # fmt: skip
    expected = outcome(functional.conv1d, *call.values())
    assert outcome(autoconv.conv1d, *call.values()) == expected
    assert outcome(autoconv.conv1d, *call.values()) == expected
    assert launches == []


TRANSPOSED = [
    {"weight": torch.randn(5, 6, 3)},
    {"weight": torch.randn(4, 6, 3).half()},
    {"bias": torch.randn(5)},
    {"output_padding": 1},
    {"output_padding": (1, 1)},
    {"padding": "same"},
    {"padding": (1, 2)},
    {"padding": 30},
    {"padding": -1},
    {"stride": 0},
    {"groups": 3},
    {"input": X[0, 0]},
    {"input": None},
    {"weight": None},
    {"input": X.tolist()},
]


@pytest.mark.parametrize("wrong", TRANSPOSED, ids=lambda wrong: ",".join(wrong))
@pytest.mark.parametrize("differentiated", [False, True])
def test_a_wrong_transposed_call_raises_what_torch_raises(wrong, differentiated, launches):
    weight = torch.randn(4, 6, 3, requires_grad=differentiated)
    call = {
        "input": X, "weight": weight, "bias": BIAS, "stride": 1, "padding": 0, "output_padding": 0,
        "groups": 1, "dilation": 1, **wrong,
    }  # fmt: skip
    expected = outcome(functional.conv_transpose1d, *call.values())
    assert isinstance(expected[0], type)
    assert outcome(autoconv.conv_transpose1d, *call.values()) == expected
    assert launches == []


def test_the_transposed_signature_is_torchs():
    names = list(inspect.signature(autoconv.conv_transpose1d).parameters)
    assert names == [
        "input", "weight", "bias", "stride", "padding", "output_padding", "groups", "dilation", "activation",
    ]  # fmt: skip


@pytest.mark.parametrize("convolve", [autoconv.conv1d, autoconv.conv_transpose1d])
def test_an_unknown_activation_is_told(convolve):
    with pytest.raises(
        autoconv.ProblemError, match=r"activation=mish: is not a known activation; give one of"
    ):
        convolve(X, WEIGHT, activation="mish")


def test_an_activation_is_fused_where_no_gradient_is_wanted(launches):
    autoconv.conv1d(X, WEIGHT, activation="relu")
    autoconv.conv_transpose1d(X, torch.randn(4, 6, 3), activation="gelu")
    assert [
        activation in launch.arguments for launch, activation in zip(launches, ("relu", "gelu"), strict=True)
    ]
    assert all(any(word in launch.arguments for word in ("relu", "gelu")) for launch in launches)


def test_most_of_them_are_errors():
    kinds = [outcome(functional.conv1d, **{"input": X, "weight": WEIGHT, **wrong})[0] for wrong in WRONG]
    assert sum(isinstance(kind, type) for kind in kinds) > len(WRONG) - 6


def test_the_signature_is_torchs():
    names = list(inspect.signature(autoconv.conv1d).parameters)
    assert names == ["input", "weight", "bias", "stride", "padding", "dilation", "groups", "activation"]
    assert outcome(autoconv.conv1d)[0] is TypeError
    assert outcome(autoconv.conv1d, X, WEIGHT, out=X)[0] is TypeError


def test_a_setting_that_is_none_is_told_before_anything_is_computed(monkeypatch):
    monkeypatch.setenv("AUTOCONV_ON_MISS", "maybe")
    with pytest.raises(autoconv.SettingError, match="AUTOCONV_ON_MISS=maybe"), autoconv.recorded("rtx4090"):
        pass


def test_an_unknown_device_is_told():
    with pytest.raises(autoconv.DeviceError, match="did you mean rtx4090"), autoconv.recorded("rtx409"):
        pass


def test_interpreting_needs_its_own_kind_of_process():
    with pytest.raises(RuntimeError, match="TRITON_INTERPRET=1"), autoconv.interpreted("rtx4090"):
        pass


def test_the_dispatcher_before_comes_back(launches):
    outer = serving.current
    with pytest.raises(ZeroDivisionError), autoconv.recorded("l4") as inner:
        autoconv.conv1d(X, WEIGHT)
        raise ZeroDivisionError
    assert (len(inner), len(launches)) == (1, 0)
    assert serving.current is outer


# --- whoever looks at the call, rather than at its result -----------------------------------------


def test_inside_torch_compile_torch_serves(launches):
    torch.compiler.reset()
    compiled = torch.compile(lambda x: autoconv.conv1d(x, WEIGHT, BIAS) + 1, backend="eager", fullgraph=True)
    assert torch.equal(compiled(X), EXPECTED + 1)
    assert launches == []
    torch.compiler.reset()


class OnCuda(torch.nn.Module):
    """Both kinds of convolution, of tensors that are on a GPU, or said to be."""

    def forward(self, x, weight, bias, transposed):
        y = autoconv.conv1d(x, weight, bias, padding="same", activation="relu")
        return autoconv.conv_transpose1d(y, transposed, None, 2, output_padding=1)


@pytest.fixture
def on_cuda():
    """Fake tensors, which need no GPU, for OnCuda."""
    with FakeTensorMode():
        yield tuple(torch.empty(shape, device="cuda") for shape in ((2, 4, 16), (6, 4, 3), (6,), (6, 4, 4)))


def operators(graph) -> list[str]:
    return [str(node.target) for node in graph.nodes if node.op == "call_function"]


def test_export_sees_the_operators_of_cuda_tensors(on_cuda):
    free = {0: torch.export.Dim("n"), 2: torch.export.Dim("l", min=8)}
    for shapes in (None, (free, None, None, None)):
        program = torch.export.export(OnCuda(), on_cuda, dynamic_shapes=shapes)
        names = "autoconv.convolution.default", "aten.relu.default", "autoconv.convolution.default"
        assert operators(program.graph) == list(names)
    *_, last = (node for node in program.graph.nodes if node.op == "call_function")
    length = last.meta["val"].shape[2]
    assert str(length.node.expr).startswith("2*")  # an expression in l, not a number


def test_a_full_graph_compiles_of_cuda_tensors(on_cuda):
    torch.compiler.reset()
    graphs = []

    def backend(module, inputs):
        graphs.append(module)
        return module

    y = torch.compile(OnCuda(), fullgraph=True, backend=backend)(*on_cuda)
    torch.compiler.reset()
    assert y.shape == (2, 4, 35)
    assert [name.count("autoconv.convolution") for name in operators(graphs[0].graph)].count(1) == 2


def test_export_sees_a_convolution(launches):
    model = autoconv.ModelNew(4, 6, 3)
    program = torch.export.export(model, (X,))
    assert "aten.conv1d.default" in program.graph_module.code or "conv1d" in program.graph_module.code
    assert torch.equal(program.module()(X), functional.conv1d(X, model.conv1d.weight))
    assert launches == []


@pytest.mark.filterwarnings("ignore:`torch.jit.trace")
def test_jit_trace_sees_a_convolution(launches):
    traced = torch.jit.trace(lambda x: autoconv.conv1d(x, WEIGHT, BIAS), (X,), check_trace=False)
    assert "aten::conv1d" in str(traced.graph) or "aten::_convolution" in str(traced.graph)
    assert torch.equal(traced(2 * X), functional.conv1d(2 * X, WEIGHT, BIAS))
    assert launches == []


def test_symbolic_trace_sees_a_convolution(launches):
    traced = fx.symbolic_trace(autoconv.ModelNew(4, 6, 3))
    assert torch.conv1d in [node.target for node in traced.graph.nodes]
    assert launches == []


@pytest.mark.parametrize("mode", ["fake", "symbolic"])
def test_make_fx_sees_torchs_convolution_of_fake_tensors(mode, launches):
    graph = make_fx(lambda x, w: autoconv.conv1d(x, w), tracing_mode=mode)(X, WEIGHT)
    assert "aten.convolution" in graph.code
    assert launches == []


def test_make_fx_sees_the_operator_of_real_ones(launches):
    graph = make_fx(lambda x, w: autoconv.conv1d(x, w), tracing_mode="real")(X, WEIGHT)
    assert "autoconv.convolution" in graph.code


def test_a_dispatch_mode_sees_the_operator(launches):
    seen = []

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            seen.append(str(function))
            return function(*args, **(kwargs or {}))

    with Watch():
        y = autoconv.conv1d(X, WEIGHT, BIAS)
    assert "autoconv.convolution.default" in seen
    assert (y.shape, len(launches)) == (EXPECTED.shape, 1)


def test_fake_tensors_stay_fake(launches):
    mode = FakeTensorMode()
    x, weight = mode.from_tensor(X), mode.from_tensor(WEIGHT)
    y = autoconv.conv1d(x, weight)
    assert type(y) is type(x)
    assert y.shape == EXPECTED.shape
    assert launches == []


def test_a_subclass_stays_what_it_is(launches):
    class Audio(torch.Tensor):
        pass

    for call in (
        (X.as_subclass(Audio), WEIGHT), (X, WEIGHT.as_subclass(Audio)), (X, WEIGHT, BIAS.as_subclass(Audio)),
    ):  # fmt: skip
        assert isinstance(autoconv.conv1d(*call), Audio)
    assert launches == []


def test_parameters_are_no_subclass(launches):
    with torch.no_grad():
        autoconv.conv1d(X, torch.nn.Parameter(WEIGHT), torch.nn.Parameter(BIAS))
    assert len(launches) == 1


@pytest.mark.filterwarnings("ignore:`torch.jit.script")  # of torch's own decompositions
def test_transforms_of_torch_func_are_torchs(launches):
    def loss(weight):
        return autoconv.conv1d(X, weight, BIAS).square().sum()

    def reference(weight):
        return functional.conv1d(X, weight, BIAS).square().sum()

    torch.testing.assert_close(torch.func.grad(loss)(WEIGHT), torch.func.grad(reference)(WEIGHT))
    torch.testing.assert_close(torch.func.hessian(loss)(WEIGHT), torch.func.hessian(reference)(WEIGHT))
    weights = torch.randn(3, *WEIGHT.shape)
    torch.testing.assert_close(torch.vmap(loss)(weights), torch.vmap(reference)(weights))
    direction = torch.randn_like(WEIGHT)
    ours, torchs = (torch.func.jvp(one, (WEIGHT,), (direction,)) for one in (loss, reference))
    torch.testing.assert_close(ours, torchs)
    assert launches == []


def test_gradients_inside_a_transform_of_something_else(launches):
    weight = WEIGHT.clone().requires_grad_()

    def scaled(scale):
        return scale * autoconv.conv1d(X, weight, BIAS).sum()

    torch.testing.assert_close(torch.func.grad(scaled)(torch.tensor(2.0)).detach(), EXPECTED.sum())
    assert launches == []


@pytest.mark.filterwarnings("ignore:`torch.jit.script")
def test_forward_mode_derivatives_are_torchs(launches):
    tangent = torch.randn_like(X)
    with forward_ad.dual_level():
        y = autoconv.conv1d(forward_ad.make_dual(X, tangent), WEIGHT, BIAS)
        primal, derivative = forward_ad.unpack_dual(y)
    torch.testing.assert_close(primal, EXPECTED)
    torch.testing.assert_close(derivative, functional.conv1d(tangent, WEIGHT))
    assert launches == []


# --- autocast -------------------------------------------------------------------------------------

KINDS = (torch.float32, torch.bfloat16, torch.float16, torch.float64, torch.int64)


@pytest.mark.parametrize("low", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("x", KINDS, ids=str)
@pytest.mark.parametrize("weight", KINDS, ids=str)
def test_autocast_casts_what_torchs_does(low, x, weight, launches):
    call = (X.to(x), WEIGHT.to(weight), BIAS)
    with torch.autocast("cpu", low):
        assert outcome(autoconv.conv1d, *call) == outcome(functional.conv1d, *call)
    if {x, weight} <= {torch.float32, torch.bfloat16, torch.float16}:
        assert [argument.dtype for argument in launches[0].arguments[:4]] == [low] * 4
    else:
        assert launches == []


def test_autocast_of_another_device_does_not_concern_these_tensors(launches):
    with torch.autocast("cpu", torch.bfloat16, enabled=False):
        autoconv.conv1d(X, WEIGHT)
    torch.set_autocast_enabled("cuda", True)
    try:
        autoconv.conv1d(X, WEIGHT)
    finally:
        torch.set_autocast_enabled("cuda", False)
    assert [launch.arguments[0].dtype for launch in launches] == [torch.float32] * 2


# --- imports --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("code", "loaded"),
    [
        ("import autoconv; autoconv.Problem.parse('N=1,Cin=1,Cout=1,K=1,L=1')", set()),
        ("import torch, autoconv; autoconv.ModelNew(1, 1, 2)(torch.ones(1, 1, 3))", {"torch"}),
        ("import autoconv; autoconv.recorded", {"torch", "triton", "sqlite_utils"}),
    ],
)
def test_what_is_loaded_when(code, loaded):
    look = f"{code}\nimport sys\nprint({{'torch', 'triton', 'sqlite_utils', 'rich'}} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", look], capture_output=True, text=True, check=True)
    assert eval(done.stdout) == loaded


def test_lazy_names_are_looked_up_once():
    assert autoconv.conv1d is ops.conv1d
    assert vars(autoconv)["conv1d"] is ops.conv1d
    assert set(autoconv.__all__) <= set(dir(autoconv))
    assert not [name for name in autoconv.__all__ if getattr(autoconv, name, None) is None]
    with pytest.raises(AttributeError, match="has no attribute 'conv2d'"):
        _ = autoconv.conv2d
