from __future__ import annotations

import dataclasses
import math
import pickle

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode

from autoconv.errors import ProblemError
from autoconv.problem import Problem

SEED = Problem(64, 64, 128, 3, 224280, stride=3, dilation=4)
SMALL = {"N": 1, "Cin": 4, "Cout": 6, "K": 3, "L": 20}


def run_torch(problem: Problem) -> torch.Tensor:
    """The output of torch's own op on tensors of the problem's shapes."""
    bias = torch.zeros(problem.Cout) if problem.bias else None
    shared = {"stride": problem.stride, "dilation": problem.dilation, "groups": problem.groups}
    x, weight = torch.zeros(problem.x_shape), torch.zeros(problem.w_shape)
    if problem.op == "conv":
        padded = functional.pad(x, (problem.pad_left, problem.pad_right))
        return functional.conv1d(padded, weight, bias, **shared)
    more = {"padding": problem.padding, "output_padding": problem.output_padding}
    return functional.conv_transpose1d(x, weight, bias, **shared, **more)


@st.composite
def small_fields(draw):
    groups = draw(st.integers(1, 3))
    transposed = draw(st.booleans())
    return {
        "op": "conv_transpose" if transposed else "conv",
        "N": draw(st.integers(1, 2)),
        "Cin": groups * draw(st.integers(1, 2)),
        "Cout": groups * draw(st.integers(1, 2)),
        "K": draw(st.integers(1, 5)),
        "L": draw(st.integers(1, 14)),
        "stride": draw(st.integers(1, 4)),
        "dilation": draw(st.integers(1, 4)),
        "padding": draw(st.integers(0, 6)),
        "output_padding": draw(st.integers(0, 4)) if transposed else 0,
        "groups": groups,
        "bias": draw(st.booleans()),
    }


def torch_accepts(fields) -> bool:
    """Whether torch computes these fields into an output with at least one element."""
    x = torch.zeros(fields["N"], fields["Cin"], fields["L"])
    shared = {name: fields[name] for name in ("stride", "padding", "dilation", "groups")}
    try:
        if fields["op"] == "conv":
            weight = torch.zeros(fields["Cout"], fields["Cin"] // fields["groups"], fields["K"])
            return functional.conv1d(x, weight, **shared).numel() > 0
        weight = torch.zeros(fields["Cin"], fields["Cout"] // fields["groups"], fields["K"])
        shared["output_padding"] = fields["output_padding"]
        return functional.conv_transpose1d(x, weight, **shared).numel() > 0
    except RuntimeError:
        return False


@settings(max_examples=200)
@given(small_fields())
def test_shapes_flops_and_legality_are_torchs(fields):
    try:
        problem = Problem(**fields)
    except ProblemError:
        assert not torch_accepts(fields)
        return
    with FlopCounterMode(display=False) as counter:
        y = run_torch(problem)
    assert tuple(y.shape) == problem.y_shape
    assert problem.y_shape == (problem.N, problem.Cout, problem.L_out)
    assert counter.get_total_flops() == problem.flops


@given(st.integers(0, 5), st.integers(0, 5), st.integers(1, 3))
def test_uneven_padding_pads_each_side(left, right, stride):
    problem = Problem(**SMALL, padding=(left, right), stride=stride)
    assert (problem.pad_left, problem.pad_right) == (left, right)
    assert tuple(run_torch(problem).shape) == problem.y_shape


def test_same_padding_with_an_even_kernel():
    problem = Problem(1, 4, 6, 4, 20, padding=(1, 2))
    same = functional.pad(torch.zeros(problem.x_shape), (1, 2))
    assert functional.conv1d(same, torch.zeros(problem.w_shape)).shape[-1] == problem.L_out == 20


def test_a_pair_of_equals_is_the_number():
    assert Problem(**SMALL, padding=(2, 2)) == Problem(**SMALL, padding=2)
    assert Problem(**SMALL, padding=[1, 2]) == Problem(**SMALL, padding=(1, 2))
    assert Problem(**SMALL, padding=(1, 2)) != Problem(**SMALL, padding=(2, 1))


def test_seed_problem_has_the_published_figures():
    # 149,516 blocks of 64 x 64, 6.12 GB, 235 GFLOP: the figures measured and published for it.
    assert SEED.L_out == 74758
    assert math.ceil(SEED.N * SEED.L_out / 64) * math.ceil(SEED.Cout / 64) == 149516
    assert round(SEED.ideal_bytes / 1e9, 2) == 6.12
    assert round(SEED.flops / 1e9) == 235
    assert SEED.reduction == 192


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("bias", [False, True])
def test_ideal_bytes_are_the_tensors_own(dtype, bias):
    problem = Problem(2, 4, 6, 3, 20, groups=2, bias=bias, dtype=dtype)
    shapes = [problem.x_shape, problem.w_shape, problem.y_shape, *([(problem.Cout,)] if bias else [])]
    tensors = [torch.empty(shape, dtype=getattr(torch, dtype)) for shape in shapes]
    assert problem.ideal_bytes == sum(tensor.nbytes for tensor in tensors)
    assert problem.dtype_bytes == tensors[0].element_size()
    assert (problem.Cin_per_group, problem.Cout_per_group, problem.reduction) == (2, 3, 6)


@pytest.mark.parametrize(
    ("dtype", "given_precision", "kept"),
    [
        ("float32", "", "tf32"),
        ("float32", None, "tf32"),
        ("float32", "ieee", "ieee"),
        ("float32", "tf32x3", "tf32x3"),
        ("float16", "", "ieee"),
        ("bfloat16", None, "ieee"),
        ("bfloat16", "ieee", "ieee"),
    ],
)
def test_precision_default_depends_on_dtype(dtype, given_precision, kept):
    assert Problem(**SMALL, dtype=dtype, precision=given_precision).precision == kept


HUGE = 2**62
IMPOSSIBLE = [
    ({"Cin": 0}, "Cin=0: must be at least 1; give the number of input channels"),
    ({"N": -1}, "N=-1: must be at least 1; give the batch size"),
    ({"N": True}, "N=True: must be a whole number, not bool; give the batch size"),
    ({"Cout": 2.0}, "Cout=2.0: must be a whole number, not float; give the number of output channels"),
    ({"K": "3"}, "K=3: must be a whole number, not str; give the kernel's length"),
    ({"K": 0}, "K=0: must be at least 1; give the kernel's length"),
    ({"L": None}, "L: must be a whole number, not NoneType; give the input's length"),
    ({"L": 2**63}, f"L={2**63}: must be below 2**63; give the input's length"),
    ({"stride": 0}, "stride=0: must be at least 1; give the step between windows"),
    ({"dilation": 0}, "dilation=0: must be at least 1; give the step between taps"),
    ({"groups": 0}, "groups=0: must be at least 1; give the number of channel groups"),
    (
        {"groups": 3},
        "groups=3: does not divide Cin=4; give a common divisor of Cin=4 and Cout=6",
    ),
    (
        {"groups": 4},
        "groups=4: does not divide Cout=6; give a common divisor of Cin=4 and Cout=6",
    ),
    ({"padding": -1}, "padding=-1: must be at least 0; give the zeros on each side, or left:right"),
    (
        {"padding": (1, 2, 3)},
        "padding=(1, 2, 3): must be one number or two; give the zeros on each side, or left:right",
    ),
    ({"padding": (1, -2)}, "padding=-2: must be at least 0; give the zeros on each side, or left:right"),
    (
        {"padding": "same"},
        "padding=same: must be a whole number, not str; give the zeros on each side, or left:right",
    ),
    (
        {"output_padding": 1},
        "output_padding=1: belongs to op=conv_transpose only; leave it out, or set op=conv_transpose",
    ),
    (
        {"output_padding": 3, "stride": 2, "dilation": 3, "op": "conv_transpose"},
        "output_padding=3: must be smaller than the larger of stride=2 and dilation=3; give at most 2",
    ),
    (
        {"output_padding": -1, "op": "conv_transpose"},
        "output_padding=-1: must be at least 0; give the extra length on the output's right",
    ),
    (
        {"op": "conv1d"},
        "op=conv1d: is not a known op, did you mean conv?; give conv, conv_transpose or conv_weight",
    ),
    (
        {"dtype": "fp16"},
        "dtype=fp16: is not a known dtype, did you mean float16?; give float32, float16 or bfloat16",
    ),
    (
        {"precision": "fp32"},
        "precision=fp32: is not a precision of dtype=float32, did you mean ieee?; give tf32, tf32x3 or ieee, "
        "or leave it out",
    ),
    ({"layout": "nwc"}, "layout=nwc: is not a known layout, did you mean nlc?; give ncl or nlc"),
    (
        {"dtype": "float61"},
        "dtype=float61: is not a known dtype, did you mean float16?; give float32, float16 or bfloat16",
    ),
    (
        {"dtype": torch.float16},
        "dtype=torch.float16: is not a known dtype; give float32, float16 or bfloat16",
    ),
    (
        {"dtype": "float16", "precision": "tf32"},
        "precision=tf32: is not a precision of dtype=float16; give ieee, or leave it out",
    ),
    (
        {"precision": "fp64"},
        "precision=fp64: is not a precision of dtype=float32; give tf32, tf32x3 or ieee, or leave it out",
    ),
    ({"bias": 1}, "bias=1: must be True or False; say whether a bias is added"),
    (
        {"K": 9, "dilation": 3, "padding": 1},
        "L=20: is too short for K=9, dilation=3 and padding=1; the smallest L that works is 23",
    ),
    (
        {"padding": (9, 14), "op": "conv_transpose", "K": 1},
        "L=20: is too short for K=1, dilation=1 and padding=9:14; the smallest L that works is 24",
    ),
    (
        {"L": HUGE},
        f"L={HUGE}: makes the input of shape (1, 4, {HUGE}) larger than 2**63 bytes; give a smaller L",
    ),
    (
        {"padding": (0, HUGE)},
        f"padding=(0, {HUGE}): makes the output of shape (1, 6, {HUGE + 18}) larger than 2**63 bytes; "
        "give a smaller padding",
    ),
]


@pytest.mark.parametrize(("fields", "message"), IMPOSSIBLE, ids=lambda value: str(value)[:40])
def test_impossible_fields_are_named_with_value_and_remedy(fields, message):
    with pytest.raises(ProblemError) as caught:
        Problem(**{**SMALL, **fields})
    assert str(caught.value) == f"problem: {message}"
    assert caught.value.field == message.split("=")[0].split(":")[0]


@given(
    st.sampled_from(["conv", "conv_transpose"]),
    st.integers(1, 9),
    st.integers(1, 5),
    st.integers(1, 5),
    st.integers(0, 20),
)
def test_the_smallest_length_named_is_the_smallest_that_works(op, kernel, stride, dilation, padding):
    fields = {**SMALL, "op": op, "K": kernel, "stride": stride, "dilation": dilation, "padding": padding}
    lengths = range(1, 60)
    works = [length for length in lengths if _length_works({**fields, "L": length})]
    if works[0] == 1:
        return
    with pytest.raises(ProblemError) as caught:
        Problem(**{**fields, "L": works[0] - 1})
    assert caught.value.remedy == f"the smallest L that works is {works[0]}"
    assert works == list(lengths[works[0] - 1 :])


def _length_works(fields) -> bool:
    try:
        return Problem(**fields).L_out >= 1
    except ProblemError:
        return False


def test_problems_are_frozen_hashable_and_pickle():
    assert pickle.loads(pickle.dumps(SEED)) == SEED
    assert {SEED: 1}[Problem.parse(str(SEED))] == 1
    with pytest.raises(dataclasses.FrozenInstanceError):
        SEED.N = 2


def test_replace_checks_again():
    assert dataclasses.replace(SEED, L=100).L_out == 31
    with pytest.raises(ProblemError, match="L=8: is too short"):
        dataclasses.replace(SEED, L=8)
    with pytest.raises(ProblemError, match="precision=tf32: is not a precision of dtype=float16"):
        dataclasses.replace(SEED, dtype="float16")
    assert dataclasses.replace(SEED, dtype="float16", precision="").precision == "ieee"


def test_only_the_five_sizes_are_positional():
    with pytest.raises(TypeError):
        Problem(1, 4, 6, 3, 20, 1)
