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
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

import autoconv
from autoconv import library, ops, serving
from autoconv.compiler.recording import RecordedLaunch

X, WEIGHT, BIAS = torch.randn(2, 4, 30), torch.randn(6, 4, 3), torch.randn(6)
EXPECTED = functional.conv1d(X, WEIGHT, BIAS)


@pytest.fixture
def launches(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[RecordedLaunch]]:
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


@pytest.mark.filterwarnings("ignore:`torch.jit.script")
@pytest.mark.parametrize("transposed", [False, True])
def test_functionalized_tensors_are_torchs(transposed, launches):
    """They are plain to look at, and lie at address 0; so a plan made before must not take them."""
    weight = torch.randn(4, 6, 3)
    convolve, torchs, weight = (
        (autoconv.conv_transpose1d, functional.conv_transpose1d, weight)
        if transposed
        else (autoconv.conv1d, functional.conv1d, WEIGHT)
    )
    convolve(X, weight, BIAS)
    launches.clear()
    for part in (slice(None), slice(1, None)):
        y = torch.func.functionalize(lambda x, part=part: convolve(x[part], weight, BIAS))(X)
        torch.testing.assert_close(y, torchs(X[part], weight, BIAS))
    assert launches == []


def test_zero_tensors_are_torchs(launches):
    zeros = torch._efficientzerotensor(X.shape)
    torch.testing.assert_close(autoconv.conv1d(zeros, WEIGHT, BIAS), functional.conv1d(zeros, WEIGHT, BIAS))
    assert launches == []


# --- torch function modes, counted operations -----------------------------------------------------


class Seen(TorchFunctionMode):
    def __init__(self):
        super().__init__()
        self.calls = []

    def __torch_function__(self, function, types, args=(), kwargs=None):
        self.calls.append((function, args[3:], kwargs or {}))
        return function(*args, **(kwargs or {}))


def test_a_function_mode_sees_our_functions_and_kernels_still_serve(launches):
    transposed = torch.randn(4, 6, 3)
    with Seen() as mode:
        y = autoconv.conv1d(X, WEIGHT, BIAS, 2, padding=1, activation="relu")
        z = autoconv.conv_transpose1d(X, transposed, BIAS, 2, output_padding=1, dilation=3)
    ours = [call for call in mode.calls if call[0] in (autoconv.conv1d, autoconv.conv_transpose1d)]
    assert ours == [
        (autoconv.conv1d, (2, 1, 1, 1), {"activation": "relu"}),
        (autoconv.conv_transpose1d, (2, 0, 1, 1, 3), {"activation": "none"}),
    ]
    assert len(launches) == 2
    assert y.shape == functional.conv1d(X, WEIGHT, BIAS, 2, 1).shape
    assert z.shape == functional.conv_transpose1d(X, transposed, BIAS, 2, 0, 1, 1, 3).shape


def test_a_function_mode_may_answer_itself(launches):
    class Answer(TorchFunctionMode):
        def __torch_function__(self, function, types, args=(), kwargs=None):
            return "mine" if function is autoconv.conv1d else function(*args, **(kwargs or {}))

    with Answer():
        assert autoconv.conv1d(X, WEIGHT) == "mine"
    assert launches == []


def test_a_default_device_is_no_hindrance(launches):
    with torch.device("cpu"):
        autoconv.conv1d(X, WEIGHT, BIAS)
    assert len(launches) == 1


FLOPS = [
    (False, (6, 4, 3), {"stride": 2, "padding": 1}),
    (False, (6, 4, 4), {"padding": "same"}),
    (True, (4, 6, 3), {"stride": 2, "output_padding": 1}),
]


@pytest.mark.filterwarnings("ignore:Using padding='same'")
@pytest.mark.parametrize(("transposed", "shape", "rest"), FLOPS)
def test_operations_are_counted_as_torchs_are(transposed, shape, rest, launches):
    counter = pytest.importorskip("torch.utils.flop_counter")
    library.count_flops()
    counts = []
    name = "conv_transpose1d" if transposed else "conv1d"
    for convolve in (getattr(functional, name), getattr(autoconv, name)):
        x, weight = X.clone().requires_grad_(), torch.randn(shape, requires_grad=True)
        with counter.FlopCounterMode(display=False) as counted:
            y = convolve(x, weight, **rest)
            forward = counted.get_total_flops()
            y.sum().backward()
        counts.append((forward, counted.get_total_flops()))
    assert counts[0] == counts[1]
    assert counts[1][0] > 0 and launches


@pytest.mark.parametrize("counter_first", [True, False])
def test_operations_are_counted_whichever_is_imported_first(counter_first):
    imports = ["import torch.utils.flop_counter as counter", "import autoconv; autoconv.accelerate"]
    code = "\n".join(imports if counter_first else [*reversed(imports), "autoconv.library.count_flops()"])
    look = f"{code}\nimport torch\nassert torch.ops.autoconv.convolution in counter.flop_registry"
    subprocess.run([sys.executable, "-c", look], check=True, timeout=120)


def test_a_full_graph_compiles_where_the_counter_is_loaded_only_then():
    code = """
import sys
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
import autoconv

autoconv.conv1d(torch.zeros(1, 4, 16), torch.zeros(6, 4, 3))
assert torch.ops.autoconv.convolution
import torch.utils.flop_counter as counter
assert torch.ops.autoconv.convolution not in counter.flop_registry

with FakeTensorMode():
    x, weight = torch.empty(2, 4, 16, device="cuda"), torch.empty(6, 4, 3, device="cuda")
compiled = torch.compile(lambda x, weight: autoconv.conv1d(x, weight), fullgraph=True, backend="eager")
assert compiled(x, weight).shape == (2, 6, 14)
assert torch.ops.autoconv.convolution in counter.flop_registry
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


# --- tensors without elements ---------------------------------------------------------------------

EMPTY = [
    ("conv1d", (2, 0, 15), (8, 0, 2)),
    ("conv1d", (0, 4, 15), (8, 4, 2)),
    ("conv1d", (0, 0, 15), (8, 0, 2)),
    ("conv1d", (0, 4), (8, 0, 2)),
    ("conv1d", (0, 15), (8, 0, 2)),
    ("conv1d", (2, 4, 15), (8, 4, 0)),
    ("conv1d", (2, 4, 0), (8, 4, 1)),
    ("conv_transpose1d", (0, 4, 15), (4, 8, 2)),
    ("conv_transpose1d", (0, 4, 0), (4, 8, 2)),
    ("conv_transpose1d", (0, 4, 0), (4, 8, 5)),
    ("conv_transpose1d", (2, 0, 15), (0, 8, 2)),
    ("conv_transpose1d", (2, 4, 0), (4, 8, 3)),
]


def by_operator(name):
    """The registered operator, as an exported program calls it, with the signature of the function."""

    def convolve(x, weight, bias):
        return torch.ops.autoconv.convolution(x, weight, bias, 1, [0, 0], 1, 1, name != "conv1d", 0)

    return convolve


def gradients(convolve, shapes, needed):
    leaves = [torch.randn(shape).requires_grad_(index in needed) for index, shape in enumerate(shapes)]
    try:
        y = convolve(*leaves)
        y.sum().backward()
    except RuntimeError as error:
        return str(error)
    return y.shape, [leaf.grad if leaf.grad is None else leaf.grad.tolist() for leaf in leaves]


@pytest.mark.parametrize(("name", "x", "weight"), EMPTY)
@pytest.mark.parametrize("needed", [{0, 1, 2}, {0}, {1}, {2}], ids=str)
def test_convolutions_of_nothing_and_their_gradients_are_torchs(name, x, weight, needed, launches):
    shapes = (x, weight, (8,))
    expected = gradients(getattr(functional, name), shapes, needed)
    assert gradients(getattr(autoconv, name), shapes, needed) == expected
    if len(x) == 3:
        assert gradients(by_operator(name), shapes, needed) == expected
    assert launches == []


# --- what is refused when traced ------------------------------------------------------------------

REFUSED = [
    {"input": torch.randn(2, 5, 30)},
    {"weight": torch.randn(6, 5, 3)},
    {"groups": 0},
    {"groups": -1},
    {"groups": 3},
    {"groups": 4},
    {"bias": torch.randn(5)},
    {"bias": torch.randn(6, 1)},
    {"padding": -1},
    {"stride": 0},
    {"dilation": 0},
    {"input": X[:, :, :2]},
    {"dilation": 20},
    {"weight": WEIGHT[:0]},
    {"input": X[:, :, :0], "padding": 3},
]
REFUSED_TRANSPOSED = [
    {"input": torch.randn(2, 5, 30)},
    {"groups": 0},
    {"groups": 3},
    {"bias": torch.randn(5)},
    {"padding": -1},
    {"stride": 0},
    {"output_padding": -1},
    {"input": X[:, :, :0]},
]
ALL_REFUSED = [
    *(("conv1d", wrong) for wrong in REFUSED),
    *(("conv_transpose1d", wrong) for wrong in REFUSED_TRANSPOSED),
]


def in_short(wrong):
    """A test's name for arguments: shapes and dtypes, not what tensors hold."""
    if not isinstance(wrong, dict):
        return str(wrong)
    tensors = {n: f"{tuple(t.shape)} {t.dtype}" for n, t in wrong.items() if isinstance(t, torch.Tensor)}
    return ",".join(f"{name}={one}" for name, one in {**wrong, **tensors}.items())


def as_fake(tensor):
    return torch.empty(tensor.shape, dtype=tensor.dtype, device="cuda") if torch.is_tensor(tensor) else tensor


def numbers_of(name, wrong):
    weight = torch.randn(4, 6, 3) if name == "conv_transpose1d" else WEIGHT
    call = {"input": X, "weight": weight, "bias": BIAS, "stride": 1, "padding": 0, "dilation": 1, "groups": 1}
    return {**call, **wrong}


@pytest.mark.parametrize(("name", "wrong"), ALL_REFUSED, ids=in_short)
def test_a_fake_call_is_refused_in_torchs_words(name, wrong):
    call = numbers_of(name, wrong)
    kind, words = outcome(getattr(functional, name), **call)
    assert kind is RuntimeError
    extra = call.pop("output_padding", 0)
    with FakeTensorMode():
        x, weight, bias, stride, padding, dilation, groups = map(as_fake, call.values())
        rest = bias, stride, [padding] * 2, dilation, groups, name == "conv_transpose1d", extra
        assert outcome(torch.ops.autoconv.convolution, x, weight, *rest) == (kind, words)


@pytest.mark.parametrize("wrong", [{"weight": WEIGHT.half()}, {"bias": BIAS.double()}], ids=in_short)
@pytest.mark.parametrize("name", ["conv1d", "conv_transpose1d"])
def test_a_fake_call_of_two_types_is_refused(name, wrong):
    call = numbers_of(
        name, {**wrong, **({"weight": torch.randn(4, 6, 3).half()} if "weight" in wrong else {})}
    )
    assert outcome(getattr(functional, name), **call)[0] is RuntimeError
    with FakeTensorMode():
        x, weight, bias = map(as_fake, list(call.values())[:3])
        with pytest.raises(
            RuntimeError, match=r"^Input type \(torch.float32\) and (weight|bias) type \(torch"
        ):
            torch.ops.autoconv.convolution(x, weight, bias, 1, [0, 0], 1, 1, name == "conv_transpose1d", 0)


@pytest.mark.parametrize(("name", "wrong"), ALL_REFUSED, ids=in_short)
def test_export_of_an_invalid_call_is_refused(name, wrong):
    call = numbers_of(name, wrong)
    numbers = {key: value for key, value in call.items() if not torch.is_tensor(value)}

    class Model(torch.nn.Module):
        def forward(self, x, weight, bias):
            return getattr(autoconv, name)(x, weight, bias, **numbers)

    with FakeTensorMode():
        tensors = tuple(as_fake(one) for one in call.values() if torch.is_tensor(one))
        with pytest.raises(Exception) as refused:
            torch.export.export(Model(), tensors)
    assert outcome(getattr(functional, name), **call)[1] in str(refused.value)


def test_a_fake_gradient_of_another_shape_is_refused():
    with FakeTensorMode():
        x, gradient = torch.empty(2, 4, 30, device="cuda"), torch.empty(2, 6, 28, device="cuda")
        weight = torch.ops.autoconv.convolution_weight(x, gradient, 3, 1, [0, 0], 1, 1)
        assert weight.shape == (6, 4, 3)
        with pytest.raises(
            RuntimeError, match=r"gradient of an output of size \[2, 6, 27\], got \[2, 6, 28\]"
        ):
            torch.ops.autoconv.convolution_weight(x, gradient, 4, 1, [0, 0], 1, 1)


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
        ("import autoconv; autoconv.recorded", {"torch", "triton"}),
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
