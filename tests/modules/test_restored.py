"""`accelerate` of some modules with a policy of their own, and `restore`, which undoes it."""

from __future__ import annotations

import copy
import gc
import pickle
import threading
import weakref

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, parametrize
from torch.nn.utils import weight_norm as weight_norm_by_hook

import autoconv
from autoconv import accelerate, restore

X = torch.randn(2, 4, 20)


class Own(nn.Conv1d):
    """A user's own class."""


def model() -> nn.Sequential:
    return nn.Sequential(nn.Conv1d(4, 6, 3), nn.ReLU(), Own(6, 6, 3), nn.ConvTranspose1d(6, 4, 3))


def classes(module: nn.Module) -> list[type]:
    return [type(one) for one in module.modules()]


def state(module: nn.Module) -> list[dict]:
    return [dict(one.__dict__) for one in module.modules()]


def test_restored_modules_are_as_they_were():
    made = model()
    parametrizations.weight_norm(made[2])
    made[0].register_forward_hook(lambda *_: None)
    before, held, expected = classes(made), state(made), made(X)
    assert accelerate(made, on_miss="strict").swapped == restore(made) == ("0", "2", "3")
    assert classes(made) == before
    assert [list(one) for one in state(made)] == [list(one) for one in held]
    assert all(now[name] is then[name] for now, then in zip(state(made), held, strict=True) for name in then)
    assert torch.equal(made(X), expected)
    assert restore(made) == ()


def test_modules_that_were_made_tuned_stay_so():
    made = nn.Sequential(autoconv.Conv1d(4, 6, 3), nn.Conv1d(6, 4, 3))
    accelerate(made)
    assert restore(made) == ("1",)
    assert classes(made)[1:] == [autoconv.Conv1d, nn.Conv1d]


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda one: pickle.loads(pickle.dumps(one))])
def test_copies_are_restored_too(copied):
    made = model()
    accelerate(made)
    other = copied(made)
    assert restore(other) == ("0", "2", "3")
    assert classes(other) == classes(model())
    assert restore(made) == ("0", "2", "3")


def test_a_parametrization_made_meanwhile_outlives_it():
    made = model()
    accelerate(made)
    for one in (made[0], made[2]):
        parametrizations.weight_norm(one)
    expected = made(X)
    restore(made)
    assert not any(issubclass(one, autoconv.Conv1d) for one in classes(made))
    assert torch.equal(made(X), expected)
    for one in (made[0], made[2]):
        parametrize.remove_parametrizations(one, "weight")
    assert [type(made[0]), type(made[2])] == [nn.Conv1d, Own]


class Doubled(nn.Module):
    """A parametrization."""

    def forward(self, value: torch.Tensor) -> torch.Tensor:
        return 2 * value


def doubled(*names: str) -> nn.Conv1d:
    conv = nn.Conv1d(4, 6, 3)
    for name in names:
        parametrize.register_parametrization(conv, name, Doubled())
    return conv


def test_a_parametrization_added_to_another_outlives_it():
    conv = doubled("weight")
    accelerate(conv)
    parametrize.register_parametrization(conv, "bias", Doubled())
    expected = conv(X)
    restore(conv)
    assert not isinstance(conv, autoconv.Conv1d)
    assert torch.equal(conv.bias, 2 * conv.parametrizations.bias.original)
    assert torch.equal(conv(X), expected)


def test_a_parametrization_removed_beside_another_stays_so():
    conv = doubled("weight", "bias")
    accelerate(conv)
    parametrize.remove_parametrizations(conv, "bias")
    expected = conv(X)
    restore(conv)
    assert isinstance(conv.bias, nn.Parameter)
    assert torch.equal(conv(X), expected)
    parametrize.remove_parametrizations(conv, "weight")
    assert type(conv) is nn.Conv1d
    assert torch.equal(conv(X), expected)


@pytest.mark.parametrize("change", [parametrize.remove_parametrizations, None], ids=["removed", "added"])
def test_what_is_swapped_again_has_the_parametrizations_of_now(change):
    conv = doubled("weight", "bias") if change else doubled("weight")
    accelerate(conv)
    restore(conv)
    if change:
        change(conv, "bias")
    else:
        parametrize.register_parametrization(conv, "bias", Doubled())
    expected = conv(X)
    before = type(conv)
    accelerate(conv)
    assert isinstance(conv, autoconv.Conv1d)
    assert torch.equal(conv(X), expected)
    restore(conv)
    assert type(conv) is before


def test_the_classes_of_a_parametrized_module_go_with_it():
    conv = doubled("weight")
    plain = weakref.ref(type(conv))
    accelerate(conv)
    tuned = weakref.ref(type(conv))
    del conv
    gc.collect()
    assert (plain(), tuned()) == (None, None)


@pytest.mark.parametrize(
    ("only", "swapped"), [("0", ("0",)), ("*", ("0", "2", "3")), (["3", "[12]"], ("2", "3")), ([], ())]
)
def test_only_some_are_swapped(only, swapped):
    made = model()
    report = accelerate(made, only=only)
    assert (report.swapped, report.left) == (swapped, ())


@pytest.mark.parametrize("only", ["conv*", ["0", "1"]])
def test_a_pattern_that_fits_nothing_is_an_error_and_swaps_nothing(only):
    made = model()
    with pytest.raises(autoconv.FieldError, match=r"only=.* fits no convolution .* such as 0, 2, 3"):
        accelerate(made, only=only)
    assert classes(made) == classes(model())


def test_an_unknown_policy_is_an_error_that_names_it():
    with pytest.raises(autoconv.SettingError, match="on_miss=predcit: is not a policy, did you mean predict"):
        accelerate(model(), on_miss="predcit")


def test_each_module_has_its_own_policy(monkeypatch):
    monkeypatch.setenv("AUTOCONV_ON_MISS", "predict")
    made = model()
    accelerate(made, only="0", on_miss="strict")
    accelerate(made, only=["2", "3"])
    x = torch.randn(2, 6, 20)
    with torch.no_grad(), autoconv.recorded("l4") as launches:
        made[3](made[2](x))
        with pytest.raises(autoconv.MissError):
            made[0](X)
        restore(made)
        accelerate(made)
        made[0](X)
    assert len(launches) == 3


def test_a_policy_is_of_its_module_whoever_planned_that_shape_before(monkeypatch):
    monkeypatch.setenv("AUTOCONV_ON_MISS", "predict")
    made = nn.ModuleList([nn.Conv1d(4, 6, 3, bias=False), nn.Conv1d(4, 6, 3, bias=False)])
    accelerate(made[0], on_miss="strict")
    accelerate(made[1])
    with torch.no_grad(), autoconv.recorded("l4") as launches:
        for _ in range(3):
            made[1](X)
            with pytest.raises(autoconv.MissError):
                made[0](X)
    assert len(launches) == 3


# --- what a module has of its own ---------------------------------------------------------------------


class Gained(nn.Conv1d):
    """A user's, with attributes of its own."""

    def __init__(self, *sizes: int) -> None:
        super().__init__(*sizes)
        self.activation, self.on_miss = nn.GELU(), "skip"

    def _conv_forward(self, *given):
        return self.activation(super()._conv_forward(*given))


class Masked(nn.Conv1d):
    """A weight that is computed from the parameter of that name."""

    @property
    def weight(self) -> torch.Tensor:
        return 2 * self._parameters["weight"] if "weight" in self._parameters else None


class Locked(nn.Conv1d):
    """Has what cannot be copied, and says what of it can."""

    def __init__(self, *sizes: int) -> None:
        super().__init__(*sizes)
        self.lock = threading.Lock()

    def __getstate__(self) -> dict:
        return {name: value for name, value in self.__dict__.items() if name != "lock"}


def masked() -> nn.Conv1d:
    made = nn.Conv1d(4, 6, 3)
    made.__class__ = Masked
    return made


def with_activation(value: object) -> nn.Conv1d:
    made = nn.Conv1d(4, 6, 3)
    made.activation = value
    return made


@pytest.mark.parametrize(
    "made", [Gained(4, 6, 3), masked(), with_activation("relu"), with_activation(None)], ids=repr
)
def test_names_that_a_module_has_for_its_own_mean_what_they_did(made):
    expected = made(X)
    assert accelerate(made).swapped
    assert torch.equal(made(X), expected)
    restore(made)
    assert torch.equal(made(X), expected)


def test_a_class_with_its_own_way_to_be_copied_is_copied_so():
    made = Locked(4, 6, 3)
    accelerate(made)
    other = copy.deepcopy(made)
    assert not hasattr(other, "lock") and torch.equal(other(X), made(X))
    assert restore(other) and type(other) is Locked


class Sharded:
    """Stands in for FSDPModule, which torch puts before a module's own class."""


@pytest.mark.parametrize("plain", [nn.Conv1d, Own])
def test_a_class_derived_meanwhile_keeps_its_other_bases(plain):
    made = plain(4, 6, 3)
    expected = made(X)
    accelerate(made)
    made.__class__ = type("FSDPConv1d", (Sharded, type(made)), {})
    assert restore(made) and type(made).__mro__[1:3] == (Sharded, plain)
    assert torch.equal(made(X), expected) and restore(made) == ()


# --- parameters are those of the moment -------------------------------------------------------------


def tied(conv: nn.Module) -> None:
    conv.weight = nn.Conv1d(4, 6, 3).weight


def replaced(conv: nn.Module) -> None:
    conv._parameters["weight"] = nn.Parameter(torch.randn(6, 4, 3))


def plain_tensor(conv: nn.Module) -> None:
    del conv.weight
    conv.weight = torch.randn(6, 4, 3)


@pytest.mark.parametrize(
    "change",
    [
        tied, replaced, plain_tensor, weight_norm_by_hook, parametrizations.spectral_norm, nn.Module.double,
        lambda conv: setattr(conv, "bias", None),
    ],
)  # fmt: skip
@pytest.mark.filterwarnings("ignore:.*weight_norm. is deprecated:FutureWarning")
@pytest.mark.parametrize("kind", [autoconv.Conv1d, autoconv.ModelNew])
def test_a_weight_that_is_changed_is_the_one_used(change, kind):
    made = kind(4, 6, 3, bias=True).eval()
    held = made.conv1d if kind is autoconv.ModelNew else made
    made(X)
    change(held)
    x = X.to(held.weight.dtype)
    if change is weight_norm_by_hook:
        with torch.no_grad():
            held.weight_g *= 2  # what an optimiser does, after which the hook computes the weight
    y = made(x)
    assert torch.equal(y, held(x)) and torch.equal(y, nn.functional.conv1d(x, held.weight, held.bias))


def test_a_convolution_put_in_the_place_of_another_is_the_one_used():
    made = autoconv.ModelNew(4, 6, 3)
    made.conv1d = nn.Conv1d(4, 6, 5, stride=2)
    assert torch.equal(made(X), made.conv1d(X))
    made.conv1d = nn.Conv1d(4, 6, 5, padding=2, padding_mode="circular")
    assert torch.equal(made(X), made.conv1d(X))


def test_a_model_s_hooks_on_its_convolution_are_called():
    made, seen = autoconv.ModelNew(4, 6, 3), []
    made.conv1d.register_forward_hook(lambda *told: seen.append(told[-1]))
    y = made(X)
    assert len(seen) == 1 and torch.equal(y, seen[0])
