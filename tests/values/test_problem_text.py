from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autoconv.errors import ProblemError
from autoconv.problem import PRECISIONS, Problem

SEED_TEXT = "N=64,Cin=64,Cout=128,K=3,L=224280,stride=3,dilation=4"
SMALL_TEXT = "N=1,Cin=4,Cout=6,K=3,L=20"


@st.composite
def problems(draw):
    """Any problem at all: every op, dtype, precision, layout, padding, and sizes from 1 to billions."""
    groups, size = draw(st.integers(1, 64)), st.integers(1, 4096)
    op = draw(st.sampled_from(["conv", "conv_transpose"]))
    kernel, dilation, stride = draw(size), draw(size), draw(st.integers(1, 512))
    side = st.integers(0, dilation * (kernel - 1))
    pads = draw(st.one_of(side, st.tuples(side, side)))
    reach = dilation * (kernel - 1) + 1
    # Long enough for both ops: a conv's window fits, a transposed conv's padding is outgrown.
    length = reach + 2 * dilation * kernel + draw(st.integers(0, 2**31))
    dtype = draw(st.sampled_from(sorted(PRECISIONS)))
    transposed = op == "conv_transpose"
    return Problem(
        N=draw(st.integers(1, 256)),
        Cin=groups * draw(st.integers(1, 32)),
        Cout=groups * draw(st.integers(1, 32)),
        K=kernel,
        L=length,
        stride=stride,
        dilation=dilation,
        op=op,
        padding=pads,
        groups=groups,
        output_padding=draw(st.integers(0, max(stride, dilation) - 1)) if transposed else 0,
        bias=draw(st.booleans()),
        dtype=dtype,
        precision=draw(st.sampled_from(["", *PRECISIONS[dtype]])),
        layout=draw(st.sampled_from(["ncl", "nlc"])),
    )


@given(problems())
def test_parse_is_the_inverse_of_str(problem):
    assert Problem.parse(str(problem)) == problem


@given(problems(), st.randoms(use_true_random=False))
def test_fields_may_come_in_any_order_with_spaces(problem, random):
    pairs = [pair.replace("=", " = ") for pair in str(problem).split(",")]
    random.shuffle(pairs)
    assert Problem.parse(" , ".join(pairs)) == problem


@given(problems(), problems())
def test_text_and_key_tell_problems_apart(one, other):
    assert (str(one) == str(other)) == (one == other)
    assert (one.key() == other.key()) == (one == other)


@given(problems())
def test_a_problem_reads_back_from_its_key(problem):
    assert Problem.from_key(problem.key()) == problem


@given(problems())
def test_key_holds_every_field_by_name_as_compact_sorted_json(problem):
    fields = json.loads(problem.key())
    assert fields.pop("v") == 1
    assert fields == problem.to_json()
    assert set(fields) == {field.name for field in dataclasses.fields(Problem)}
    canonical = json.dumps({"v": 1, **fields}, sort_keys=True, separators=(",", ":"))
    assert problem.key() == canonical


@given(problems())
def test_to_json_is_the_arguments_of_the_same_problem(problem):
    assert Problem(**json.loads(json.dumps(problem.to_json()))) == problem


def test_the_five_sizes_are_always_shown_and_defaults_never():
    assert str(Problem.parse(SEED_TEXT)) == SEED_TEXT
    defaults = "op=conv,stride=1,padding=0,dilation=1,groups=1,output_padding=0,bias=0,dtype=float32"
    assert str(Problem.parse(f"{SMALL_TEXT},{defaults},precision=tf32,layout=ncl")) == SMALL_TEXT


def test_fields_are_shown_in_one_order():
    text = (
        "N=2,Cin=4,Cout=8,K=3,L=20,stride=2,dilation=3,op=conv_transpose,padding=1:2,groups=2,"
        "output_padding=1,bias=1,dtype=float32,precision=ieee,layout=nlc"
    )
    shown = text.replace("dtype=float32,", "")
    assert str(Problem.parse(text)) == shown
    assert str(Problem.parse(f"{SMALL_TEXT},dtype=float16")) == f"{SMALL_TEXT},dtype=float16"
    assert str(Problem.parse(f"{SMALL_TEXT},padding=1:1")) == f"{SMALL_TEXT},padding=1"


ORDER = (
    "the fields are N, Cin, Cout, K, L, stride, dilation, op, padding, groups, output_padding, bias, "
    "activation, dtype, precision, layout"
)
UNREADABLE = [
    ("N=64,Cin=0", "Cin=0: must be at least 1; give the number of input channels"),
    ("N=1,Cim=4", f"Cim=4: is not a field, did you mean Cin?; {ORDER}"),
    ("n=1", f"n=1: is not a field, did you mean N?; {ORDER}"),
    ("N=1,zebra=4", f"zebra=4: is not a field; {ORDER}"),
    ("N=1,N=1", "N=1: given more than once; keep one N="),
    ("N=1,Cin=4,K=3,L=20", "Cout: is missing; add Cout= with the number of output channels"),
    ("N=1,Cin=4,Cout=6,K=3", "L: is missing; add L= with the input's length"),
    ("N=1.5", "N=1.5: is not a whole number below 2**63; give the batch size"),
    ("N=1_0", "N=1_0: is not a whole number below 2**63; give the batch size"),
    ("N=٣", "N=٣: is not a whole number below 2**63; give the batch size"),
    ("L=99999999999999999999", "L=99999999999999999999: must be below 2**63; give the input's length"),
    ("N=-4", "N=-4: must be at least 1; give the batch size"),
    ("", "text: is not name=value; write it as in N=64,Cin=64,Cout=128,K=3,L=4096"),
    ("N=1,,K=3", "text: is not name=value; write it as in N=64,Cin=64,Cout=128,K=3,L=4096"),
    ("N", "N: is not name=value; write it as in N=64,Cin=64,Cout=128,K=3,L=4096"),
    ("N=", "N: is not name=value; write it as in N=64,Cin=64,Cout=128,K=3,L=4096"),
    ("=3", "text=3: is not name=value; write it as in N=64,Cin=64,Cout=128,K=3,L=4096"),
    (f"{SMALL_TEXT},bias=yes", "bias=yes: must be 0 or 1; write bias=1 where a bias is added"),
    (
        f"{SMALL_TEXT},padding=1:x",
        "padding=x: is not a whole number below 2**63; give the zeros on each side, or left:right",
    ),
    (
        f"{SMALL_TEXT},padding=1:2:3",
        "padding=(1, 2, 3): must be one number or two; give the zeros on each side, or left:right",
    ),
    (f"{SMALL_TEXT},stride=0", "stride=0: must be at least 1; give the step between windows"),
    (
        f"{SMALL_TEXT},dtype=half",
        "dtype=half: is not a known dtype, did you mean float16?; give float32, float16 or bfloat16",
    ),
]


@pytest.mark.parametrize(("text", "message"), UNREADABLE)
def test_unreadable_text_names_the_field(text, message):
    with pytest.raises(ProblemError) as caught:
        Problem.parse(text)
    assert str(caught.value) == f"problem: {message}"


BASE = Problem(1, 4, 6, 3, 20, stride=2, dilation=2, op="conv_transpose", padding=1)
MUTATIONS = {
    "N": 2, "Cin": 8, "Cout": 12, "K": 4, "L": 21, "stride": 3, "dilation": 3, "op": "conv",
    "padding": (1, 0), "groups": 2, "output_padding": 1, "bias": True, "activation": "relu",
    "dtype": "float16",
    "precision": "ieee", "layout": "nlc",
}  # fmt: skip


def test_every_field_alone_makes_another_key_and_another_text():
    assert set(MUTATIONS) == {field.name for field in dataclasses.fields(Problem)}
    changed = [BASE]
    for name, value in MUTATIONS.items():
        renewed = {"precision": ""} if name == "dtype" else {}
        changed.append(dataclasses.replace(BASE, **{**renewed, name: value}))
    assert len({problem.key() for problem in changed}) == len(changed)
    assert len({str(problem) for problem in changed}) == len(changed)


def test_key_of_the_seed_problem_stays_as_released():
    # Databases hold this text: if it must change, KEY_VERSION must change with it.
    assert Problem.parse(SEED_TEXT).key() == (
        '{"Cin":64,"Cout":128,"K":3,"L":224280,"N":64,"activation":"none","bias":false,"dilation":4,"dtype":"float32",'
        '"groups":1,"layout":"ncl","op":"conv","output_padding":0,"padding":0,"precision":"tf32",'
        '"stride":3,"v":1}'
    )


@pytest.mark.parametrize("hash_seed", ["1", "2"])
def test_key_is_the_same_in_another_process(hash_seed):
    code = "import sys; from autoconv.problem import Problem; print(Problem.parse(sys.argv[1]).key())"
    ran = subprocess.run(
        [sys.executable, "-c", code, str(BASE)],
        env={**os.environ, "PYTHONHASHSEED": hash_seed, "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert ran.stdout.strip() == BASE.key()


def test_columns_are_the_named_ones():
    assert Problem.parse(SEED_TEXT + ",dtype=float16").columns() == {
        "N": 64, "Cin": 64, "Cout": 128, "K": 3, "L": 224280, "stride": 3, "dilation": 4,
        "groups": 1, "op": "conv", "dtype": "float16",
    }  # fmt: skip
