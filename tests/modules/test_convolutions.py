"""Conv1d, ConvTranspose1d, and the swap of a whole model's."""

from __future__ import annotations

import copy
import io
import pickle

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, parametrize

import autoconv
from autoconv import Conv1d, ConvTranspose1d, accelerate
from autoconv.problem import ACTIVATIONS

CONV = [
    {}, {"stride": 2, "padding": 1, "dilation": 2}, {"groups": 2, "bias": False}, {"padding": "same"},
    {"padding": 2, "padding_mode": "reflect"}, {"padding": 2, "padding_mode": "circular"},
    {"padding": "same", "padding_mode": "replicate"},
]  # fmt: skip
TRANSPOSED = [
    {}, {"stride": 2, "padding": 1, "output_padding": 1}, {"groups": 2, "bias": False},
    {"stride": 3, "dilation": 2},
]  # fmt: skip


def pair(ours, theirs, *sizes, **rest):
    torch.manual_seed(3)
    one = ours(*sizes, **rest)
    torch.manual_seed(3)
    return one, theirs(*sizes, **rest)


@pytest.fixture
def predicting(monkeypatch):
    monkeypatch.setenv("AUTOCONV_ON_MISS", "predict")


# --- modules --------------------------------------------------------------------------------------


@pytest.mark.parametrize("rest", CONV, ids=str)
@pytest.mark.parametrize("shape", [(2, 4, 20), (4, 20)], ids=str)
def test_conv1d_is_nn_conv1d(rest, shape):
    ours, theirs = pair(Conv1d, nn.Conv1d, 4, 6, 3, **rest)
    x = torch.randn(shape)
    assert torch.equal(ours(x), theirs(x))
    assert repr(ours) == repr(theirs)
    theirs.load_state_dict(ours.state_dict())
    ours.load_state_dict(theirs.state_dict())


@pytest.mark.parametrize("rest", TRANSPOSED, ids=str)
def test_conv_transpose1d_is_nn_conv_transpose1d(rest):
    ours, theirs = pair(ConvTranspose1d, nn.ConvTranspose1d, 4, 6, 3, **rest)
    x = torch.randn(2, 4, 20)
    assert torch.equal(ours(x), theirs(x))
    assert repr(ours) == repr(theirs)


def test_an_output_size_is_heeded_and_refused_as_torch_does():
    ours, theirs = pair(ConvTranspose1d, nn.ConvTranspose1d, 4, 6, 3, stride=2, padding=1)
    x = torch.randn(2, 4, 20)
    assert torch.equal(ours(x, output_size=[40]), theirs(x, output_size=[40]))
    errors = []
    for module in (ours, theirs):
        with pytest.raises(ValueError, match="requested an output size") as caught:
            module(x, output_size=[50])
        errors.append(str(caught.value))
    assert errors[0] == errors[1]


@pytest.mark.parametrize("rest", CONV, ids=str)
def test_conv1d_launches_a_kernel(rest, predicting):
    module = Conv1d(4, 6, 3, **rest).requires_grad_(False)
    x = torch.randn(2, 4, 20)
    with autoconv.recorded("l4") as launches:
        y = module(x)
    assert launches and y.shape == module(x).shape


def test_an_activation_belongs_to_the_module(predicting):
    module = Conv1d(4, 6, 3, activation="gelu")
    x = torch.randn(2, 4, 20)
    expected = nn.functional.gelu(nn.functional.conv1d(x, module.weight, module.bias))
    assert torch.equal(module(x), expected)
    with torch.no_grad(), autoconv.recorded("l4") as launches:
        module(x)
    assert "gelu" in launches[0].arguments
    assert torch.equal(copy.deepcopy(module)(x), expected)


# --- accelerate -----------------------------------------------------------------------------------


class Own(nn.Conv1d):
    """With a forward of its own."""

    def forward(self, input):
        return super().forward(input) + 1


class Causal(nn.Conv1d):
    """Overrides something else, and calls on to it."""

    def _conv_forward(self, input, weight, bias):
        return super()._conv_forward(nn.functional.pad(input, (2, 0)), weight, bias)


def model() -> nn.Sequential:
    torch.manual_seed(5)
    return nn.Sequential(
        nn.Conv1d(4, 8, 3, padding=1),
        nn.ReLU(),
        Causal(8, 8, 3),
        Own(8, 8, 1),
        nn.ConvTranspose1d(8, 4, 4, stride=2),
        nn.Linear(40, 3),
    )


def test_accelerate_swaps_what_it_can_and_says_the_rest():
    ours = model()
    report = accelerate(ours)
    assert report.swapped == ("0", "2", "4")
    assert report.left == (("3", "Own has a forward of its own"),)
    assert str(report).splitlines() == [
        "3 convolutions swapped: module 0, module 2, module 4",
        "left alone: module 3: Own has a forward of its own",
    ]  # fmt: skip
    assert (
        isinstance(ours[0], Conv1d) and isinstance(ours[4], ConvTranspose1d) and isinstance(ours[2], Causal)
    )
    assert str(accelerate(ours)).startswith("0 convolutions swapped: none")


def test_an_accelerated_model_computes_and_stores_the_same():
    ours, theirs = model(), model()
    accelerate(ours)
    x = torch.randn(2, 4, 19)
    assert torch.equal(ours(x), theirs(x))
    assert list(ours.state_dict()) == list(theirs.state_dict())
    theirs.load_state_dict(ours.state_dict())
    ours.load_state_dict(theirs.state_dict())


def test_what_a_model_new_holds_is_served_by_it_and_not_swapped():
    ours = nn.Sequential(autoconv.ModelNew(4, 8, 3), nn.Conv1d(8, 4, 3))
    report = accelerate(ours)
    assert (report.swapped, report.left) == (("1",), (("0", "is tuned already"),))
    assert type(ours[0].conv1d) is nn.Conv1d


def test_its_convolutions_launch_kernels(predicting):
    ours = model().requires_grad_(False)
    accelerate(ours)
    with autoconv.recorded("l4") as launches:
        ours(torch.randn(2, 4, 19))
    assert len(launches) == 3  # not Own's


def test_the_modules_stay_the_objects_they_were():
    ours = model()
    held, weight = ours[0], ours[0].weight
    calls = []
    held.register_forward_hook(lambda *_: calls.append("hook"))
    accelerate(ours)
    ours(torch.randn(2, 4, 19))
    assert ours[0] is held and held.weight is weight and calls == ["hook"]


@pytest.mark.parametrize(
    "copied", [copy.deepcopy, lambda ours: pickle.loads(pickle.dumps(ours))], ids=["copy", "pickle"]
)
def test_copies_are_accelerated_too(copied):
    ours = model()
    accelerate(ours)
    other = copied(ours)
    x = torch.randn(2, 4, 19)
    assert [type(one) for one in other] == [type(one) for one in ours]
    assert torch.equal(other(x), ours(x))


def test_a_convolution_that_occurs_twice_is_swapped_once():
    shared = nn.Conv1d(4, 4, 3, padding=1)
    assert accelerate(nn.Sequential(shared, nn.ReLU(), shared)).swapped == ("0",)


def test_a_convolution_alone_is_a_model():
    module = nn.Conv1d(4, 4, 3)
    assert accelerate(module).swapped == ("Conv1d",)
    assert isinstance(module, Conv1d)


def test_weight_norm_lives_on_and_can_be_removed():
    ours, theirs = nn.Sequential(nn.Conv1d(4, 6, 3)), nn.Sequential(nn.Conv1d(4, 6, 3))
    for one in (ours, theirs):
        parametrizations.weight_norm(one[0])
    theirs.load_state_dict(ours.state_dict())
    assert accelerate(ours).swapped == ("0",)
    x = torch.randn(2, 4, 20)
    assert torch.equal(ours(x), theirs(x))
    assert list(ours.state_dict()) == list(theirs.state_dict())
    parametrize.remove_parametrizations(ours[0], "weight")
    assert type(ours[0]) is Conv1d
    torch.testing.assert_close(ours(x), theirs(x))


def test_a_lazy_convolution_waits_for_its_shape():
    ours = nn.Sequential(nn.LazyConv1d(6, 3))
    assert accelerate(ours).left == (("0", "has no shape yet; run the model once first"),)
    ours(torch.randn(2, 4, 20))
    assert accelerate(ours).swapped == ("0",)


# --- torch.jit.script -----------------------------------------------------------------------------

SCRIPTED = [
    *(lambda rest=rest: Conv1d(4, 6, 3, **rest) for rest in (*CONV, {"activation": "gelu"})),
    *(lambda rest=rest: ConvTranspose1d(4, 6, 3, **rest) for rest in (*TRANSPOSED, {"activation": "tanh"})),
    lambda: autoconv.ModelNew(4, 6, 3, stride=2, bias=True),
]


@pytest.mark.filterwarnings("ignore:`torch.jit")
@pytest.mark.parametrize("made", SCRIPTED)
def test_a_scripted_module_computes_by_torch_wherever_it_is_loaded(made, predicting):
    module = made().requires_grad_(False)
    file = io.BytesIO()
    torch.jit.save(torch.jit.script(module), file)
    file.seek(0)
    loaded = torch.jit.load(file)
    x = torch.randn(2, 4, 20)
    with autoconv.recorded("l4") as launches:
        y = loaded(x)
    assert launches == []
    assert torch.equal(y, module(x))
    assert list(loaded.state_dict()) == list(module.state_dict())


@pytest.mark.filterwarnings("ignore:`torch.jit")
@pytest.mark.parametrize("activation", [name for name in ACTIVATIONS if name != "none"])
def test_every_activation_is_scripted(activation):
    x = torch.randn(2, 4, 20)
    for module in (Conv1d(4, 6, 3, activation=activation), ConvTranspose1d(4, 6, 3, activation=activation)):
        assert torch.equal(torch.jit.script(module)(x), module(x))


@pytest.mark.filterwarnings("ignore:`torch.jit")
def test_an_accelerated_model_scripts_and_stays_accelerated(predicting):
    ours = nn.Sequential(nn.Conv1d(4, 6, 3), nn.ReLU(), nn.ConvTranspose1d(6, 4, 2)).requires_grad_(False)
    accelerate(ours)
    x = torch.randn(2, 4, 20)
    scripted = torch.jit.script(ours)
    assert torch.equal(scripted(x), ours(x))
    with autoconv.recorded("l4") as launches:
        ours(x)
    assert len(launches) == 2


# --- torch.fx -------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:`torch.jit")  # of what torch's own pass imports
def test_a_model_that_was_traced_and_folded_first_is_accelerated_whole(predicting):
    """The order that the docs advise: torch's passes know nn.Conv1d by its very type."""
    from torch.fx.experimental.optimization import fuse

    theirs = nn.Sequential(nn.Conv1d(4, 6, 3), nn.BatchNorm1d(6), nn.ReLU()).eval()
    folded = fuse(theirs)
    assert accelerate(folded).swapped == ("0",)
    x = torch.randn(2, 4, 20)
    torch.testing.assert_close(folded(x), theirs(x))
    with torch.no_grad(), autoconv.recorded("l4") as launches:
        folded(x)
    assert len(launches) == 1
    assert not any(isinstance(one, nn.BatchNorm1d) for one in folded.modules())
