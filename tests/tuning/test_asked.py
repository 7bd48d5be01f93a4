"""Problems read from text, ranges and files of either kind."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from autoconv.errors import FieldError
from autoconv.lookup.buckets import serves
from autoconv.problem import Problem
from autoconv.tuning.asked import Asked, merged, parsed, read

SMALL = "N=1,Cin=16,Cout=16,K=3,L=40"
LAYER = {  # as published workloads have it
    "model": "hifi-gan", "layer": "ups.0", "scenario": "infer", "source": "a paper", "count": 3,
    "N": 1, "Cin": 16, "Cout": 8, "K": 4, "L": 40, "stride": 2, "padding": 1, "dilation": 1, "groups": 1,
    "bias": True, "transposed": True, "output_padding": 0, "dtype": "float16", "input_contiguous": False,
    "L_out": 80, "flops": 1, "ideal_bytes": 1, "assumed": "dtype",
}  # fmt: skip
UNSPELT = {name: LAYER[name] for name in ("N", "Cin", "Cout", "K", "L")}
PROBLEM = Problem(
    1, 16, 8, 4, 40, stride=2, padding=1, bias=True, op="conv_transpose", dtype="float16", layout="nlc"
)


def test_a_layer_of_a_workload_is_a_problem_its_calls_and_its_name() -> None:
    assert read(json.dumps([LAYER]), "w.json") == [Asked(PROBLEM, 3, ("hifi-gan ups.0",))]


def test_both_spellings_are_one_problem() -> None:
    ours = {key: value for key, value in LAYER.items() if key not in ("transposed", "input_contiguous")}
    ours |= {"op": "conv_transpose", "layout": "nlc"}
    (asked,) = read(json.dumps(ours), "w.jsonl")
    assert asked.problem == PROBLEM


def test_lines_are_texts_or_objects_and_come_back_as_they_were_written() -> None:
    uneven = Asked(Problem(1, 16, 16, 4, 40, padding=(1, 2)), 7, ("encoder.0", "encoder.1"))
    text = f"# a comment\n\n {SMALL}\n{json.dumps(uneven.to_json())}\n" + json.dumps({"padding": [1, 2], **{
        name: LAYER[name] for name in ("N", "Cin", "Cout", "K", "L")}})  # fmt: skip
    first, second, third = read(text, "f")
    assert (first, second) == (Asked(Problem.parse(SMALL)), uneven)
    assert third.problem.padding == (1, 2)


def test_a_list_of_misses_is_such_a_file() -> None:
    line = json.dumps({"problem": SMALL, "device": "l4", "calls": 12, "estimated_ms": 1.5, "served": "torch"})
    assert read(line, "f") == [Asked(Problem.parse(SMALL), 12)]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("N=1,Cin=16\nnonsense", "f, line 1: Cout: is missing; add Cout= with"),
        (f"{SMALL}\n{{", "f, line 2: text={: is not JSON"),
        ("[3]", "f, entry 1: entry=3: is neither an object nor a text;"),
        ("[[]]", "f, entry 1: entry=[]: is neither"),
        ("[", "f: text=[: is not JSON"),
        (json.dumps({**LAYER, "transposed": 1}), "f, line 1: transposed=1: is not true or false;"),
        (json.dumps({**LAYER, "op": "conv"}), "f, line 1: transposed=True: is given beside op;"),
        (json.dumps({**LAYER, "count": 0}), "f, line 1: calls=0: is not a number of calls;"),
        (json.dumps({**LAYER, "K": 3.5}), "f, line 1: K=3.5: is not a whole number"),
        ('{"N": 1, "Cin": 4, "Cout": 4, "K": 3, "L": 9, "stides": 2}',
         "f, line 1: stides=2: is not a field, did you mean stride?; leave it out"),
        (json.dumps({**UNSPELT, "transpose": True}),
         "f, line 1: transpose=True: is not a field, did you mean transposed?; leave it out"),
        (json.dumps({**UNSPELT, "is_transposed": True}),
         "f, line 1: is_transposed=True: is not a field, did you mean transposed?; leave it out"),
        (json.dumps({**UNSPELT, "input_contigous": False}),
         "f, line 1: input_contigous=False: is not a field, did you mean input_contiguous?; leave it out"),
        (json.dumps({"problem": SMALL, "transposed": True}),
         'f, line 1: transposed=True: is given beside "problem"; write it into'),
        (json.dumps({"problem": SMALL, "dtype": "float16"}),
         'f, line 1: dtype=float16: is given beside "problem"; write it into'),
        (json.dumps({**LAYER, "N": True}), "f, line 1: N=True: is not one value of that field; give"),
        (json.dumps({**LAYER, "dtype": "float16,stride=2"}),
         "f, line 1: dtype=float16,stride=2: is not one value of that field;"),
        ('{"problem": "N=1,L=4..3"}', "f, line 1: L=4..3: ends before it begins; write L=3..4"),
    ],
)  # fmt: skip
def test_what_is_no_problem_is_told_with_its_place(text: str, message: str) -> None:
    with pytest.raises(FieldError) as caught:
        read(text, "f")
    assert str(caught.value).startswith(message)


def test_a_problem_that_is_asked_for_twice_is_one_with_all_its_calls() -> None:
    one, other = Problem.parse(SMALL), PROBLEM
    asked = [Asked(one, 2, ("a",)), Asked(other), Asked(one, 3, ("b", "a"))]
    assert merged(asked) == [Asked(one, 5, ("a", "b")), Asked(other)]


@pytest.mark.parametrize(
    ("shape", "batches", "lengths"),
    [
        (Problem(1, 4, 4, 3, 4000), range(1, 2), range(200, 4001, 7)),
        (Problem(1, 4, 4, 5, 70, stride=3), range(3, 21), range(9, 71)),
        (Problem(1, 4, 4, 5, 70, stride=3, op="conv_transpose"), range(1, 9), range(1, 50)),
    ],
    ids=str,
)
def test_every_size_of_a_range_lies_in_the_bucket_of_one_that_is_tuned(
    shape: Problem, batches: range, lengths: range
) -> None:
    text = str(shape).replace("N=1,", f"N={batches[0]}..{batches[-1]},")
    text = text.replace(f"L={shape.L}", f"L={lengths[0]}..{lengths[-1]}")
    tuned = [one.problem for one in parsed(text)]
    for batch in batches:
        for length in lengths:
            asked = replace(shape, N=batch, L=length)
            assert any(serves(one, asked) for one in tuned), asked


def test_a_range_takes_no_more_sizes_than_its_octaves_need() -> None:
    assert len(parsed("N=1,Cin=4,Cout=4,K=1,L=100..1600")) == 2  # a bucket reaches over two octaves
    assert [one.problem.L for one in parsed("N=1,Cin=4,Cout=4,K=1,L=7..7")] == [7]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("N=1,Cin=4..8,Cout=4,K=3,L=9", "problem: Cin=4..8: is not a field that takes a range"),
        ("N=1,Cin=4,Cout=4,K=3,L=2..9", "problem: L=2: is too short for K=3"),
        ("N=1,Cin=4,Cout=4,K=3,L=9..", "problem: L=9..: is not a whole number"),
    ],
)
def test_a_range_that_is_none(text: str, message: str) -> None:
    with pytest.raises(FieldError) as caught:
        parsed(text)
    assert str(caught.value).startswith(message)
