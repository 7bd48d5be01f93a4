"""Every kernel of the registry computes what torch does, on problems drawn at random and on known traps."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from autoconv.config import Config
from autoconv.kernels.base import Kernel
from autoconv.kernels.registry import kernels, supporting
from autoconv.problem import OPS, PRECISIONS, Problem
from autoconv.sweep.outcomes import Outcome
from autoconv.sweep.verify import Verdict

ProblemsOf = Callable[[Kernel, bool], "st.SearchStrategy[Problem]"]
ConfigsOf = Callable[[str, Problem, int], list[Config]]
Verified = Callable[[Problem, Config, int], Verdict | Outcome]

# fmt: off
TRAPS = {
    "an even K": "N=2,Cin=5,Cout=7,K=4,L=61,stride=3,dilation=2,padding=3,bias=1",
    "same padding of an even K": "N=1,Cin=3,Cout=5,K=4,L=50,padding=1:2",
    "padding on the left alone": "N=2,Cin=4,Cout=4,K=3,L=40,dilation=2,padding=4:0",
    "padding on the right alone": "N=2,Cin=4,Cout=4,K=3,L=40,dilation=2,padding=0:4",
    "windows that lie in the padding alone": "N=1,Cin=2,Cout=3,K=2,L=9,padding=20:25,bias=1",
    "L shorter than a tile": "N=3,Cin=6,Cout=20,K=3,L=6",
    "one output": "N=2,Cin=3,Cout=4,K=7,L=7",
    "one output channel": "N=2,Cin=7,Cout=1,K=5,L=90,padding=2,bias=1",
    "one input channel": "N=2,Cin=1,Cout=33,K=10,L=120,stride=5",
    "one of everything": "N=1,Cin=1,Cout=1,K=1,L=1,bias=1",
    "K longer than L": "N=2,Cin=3,Cout=4,K=9,L=4,padding=4",
    "a stride past the window": "N=2,Cin=4,Cout=8,K=2,L=83,stride=7",
    "a window past the input's end by padding": "N=1,Cin=2,Cout=2,K=3,L=5,dilation=4,padding=6:3,stride=2",
    "many short samples": "N=12,Cin=3,Cout=4,K=3,L=3",
    "samples that end inside a tile": "N=7,Cin=5,Cout=20,K=3,L=38,padding=2:0,bias=1",
    "samples that end inside a tile, K = 1": "N=7,Cin=5,Cout=20,K=1,L=27,bias=1",
    "lengths that are multiples of 16": "N=2,Cin=16,Cout=32,K=1,L=96",
    "lengths that are multiples of 8 alone": "N=2,Cin=16,Cout=16,K=3,L=72,padding=1",
    "a reduction that fills its tiles": "N=1,Cin=32,Cout=16,K=2,L=49",
    "a reduction one past its tiles": "N=1,Cin=11,Cout=16,K=3,L=49,bias=1",
    "a last tile one short": "N=2,Cin=4,Cout=31,K=1,L=127",
    "channels last": "N=2,Cin=16,Cout=20,K=3,L=70,padding=1,layout=nlc",
    "channels last and strided": "N=2,Cin=5,Cout=6,K=3,L=70,stride=2,dilation=3,layout=nlc,bias=1",
    "float16": "N=2,Cin=20,Cout=24,K=3,L=64,padding=1,bias=1,dtype=float16",
    "bfloat16": "N=2,Cin=20,Cout=24,K=3,L=64,padding=1,bias=1,dtype=bfloat16",
    "bfloat16, channels last": "N=1,Cin=8,Cout=24,K=5,L=64,stride=2,dtype=bfloat16,layout=nlc",
    "three TF32 products": "N=1,Cin=9,Cout=9,K=3,L=40,precision=tf32x3",
    "IEEE products": "N=1,Cin=9,Cout=9,K=3,L=40,precision=ieee",
    "an activation of half precision": "N=1,Cin=9,Cout=9,K=3,L=40,bias=1,activation=gelu,dtype=float16",
    "a pointwise stride": "N=2,Cin=20,Cout=36,K=1,L=90,stride=3,padding=1,bias=1",
    "groups that no pack divides": "N=2,Cin=15,Cout=10,K=3,L=50,padding=1,groups=5,bias=1",
    "groups of many channels": "N=1,Cin=40,Cout=36,K=5,L=50,groups=2,stride=2",
    "groups, channels last":
        "N=3,Cin=32,Cout=24,K=16,L=70,stride=2,dilation=2,padding=9,groups=2,layout=nlc,dtype=float16",
    "groups, channels last, taps and channels left over":
        "N=2,Cin=36,Cout=20,K=11,L=50,padding=5,groups=2,layout=nlc,bias=1",
    "depthwise": "N=2,Cin=7,Cout=7,K=3,L=90,padding=1,groups=7,bias=1",
    "depthwise with a multiplier": "N=2,Cin=5,Cout=15,K=4,L=61,stride=2,dilation=3,groups=5",
    "depthwise with a long filter": "N=1,Cin=3,Cout=3,K=40,L=150,stride=2,dilation=2,padding=39,groups=3",
    "depthwise with a longer one": "N=1,Cin=2,Cout=2,K=63,L=300,padding=31,groups=2,bias=1",
    "transposed": "N=2,Cin=5,Cout=7,K=4,L=20,stride=2,op=conv_transpose,padding=1,output_padding=1,bias=1",
    "phases without taps": "N=1,Cin=4,Cout=6,K=3,L=20,stride=4,dilation=2,op=conv_transpose,bias=1",
    "fewer taps than phases": "N=1,Cin=4,Cout=6,K=2,L=20,stride=5,op=conv_transpose,bias=1",
    "odd stride and dilation": "N=1,Cin=4,Cout=6,K=5,L=20,stride=3,dilation=5,op=conv_transpose",
    "transposed in groups": "N=2,Cin=6,Cout=9,K=8,L=15,stride=4,op=conv_transpose,padding=2,groups=3",
    "cropped past its first taps": "N=1,Cin=3,Cout=3,K=3,L=30,stride=2,op=conv_transpose,padding=5:2",
    "outputs past the last tap": "N=1,Cin=3,Cout=3,K=1,L=9,stride=3,op=conv_transpose,output_padding=2",
    "a weight's gradient": "N=3,Cin=5,Cout=7,K=4,L=61,stride=3,dilation=2,op=conv_weight,padding=3",
    "a weight's gradient in groups": "N=2,Cin=6,Cout=4,K=3,L=50,op=conv_weight,groups=2,layout=nlc",
    "a weight's gradient of inputs left over": "N=1,Cin=2,Cout=3,K=2,L=40,stride=7,op=conv_weight",
    "a long reduction": "N=1,Cin=60,Cout=5,K=3,L=17,bias=1,activation=relu",
    "groups of one output": "N=1,Cin=12,Cout=4,K=3,L=40,groups=4",
    "depthwise, channels last": "N=1,Cin=5,Cout=5,K=3,L=40,groups=5,layout=nlc,activation=silu",
    "a depthwise filter longer than L": "N=1,Cin=2,Cout=2,K=40,L=20,padding=20,groups=2,bias=1",
    "leaky_relu": "N=1,Cin=4,Cout=6,K=3,L=30,bias=1,activation=leaky_relu",
    "tanh": "N=1,Cin=4,Cout=6,K=3,L=30,bias=1,activation=tanh",
    "transposed, channels last": "N=2,Cin=8,Cout=4,K=3,L=15,op=conv_transpose,stride=2,layout=nlc",
    "transposed, of many short samples":
        "N=9,Cin=5,Cout=6,K=16,L=5,stride=8,op=conv_transpose,padding=4,bias=1",
    "transposed, short and channels last":
        "N=9,Cin=20,Cout=6,K=7,L=5,stride=4,op=conv_transpose,padding=1,layout=nlc",
    "transposed depthwise": "N=2,Cin=7,Cout=7,K=12,L=61,stride=2,op=conv_transpose,groups=7",
    "transposed depthwise, its columns off the stride":
        "N=2,Cin=5,Cout=15,K=5,L=40,stride=2,op=conv_transpose,padding=3:1,groups=5,bias=1",
    "transposed depthwise, dilated":
        "N=1,Cin=5,Cout=5,K=4,L=40,dilation=3,op=conv_transpose,padding=2,groups=5",
    "transposed depthwise by 3, fewer taps":
        "N=2,Cin=4,Cout=4,K=2,L=30,stride=3,op=conv_transpose,padding=1,groups=4,bias=1",
    "transposed depthwise by 2, one tap":
        "N=1,Cin=2,Cout=2,K=1,L=9,stride=2,dilation=2,op=conv_transpose,padding=1,groups=2",
    "transposed depthwise by 5":
        "N=1,Cin=4,Cout=8,K=11,L=30,stride=5,op=conv_transpose,padding=2,groups=4,dtype=float16",
    "transposed depthwise with a long filter":
        "N=1,Cin=3,Cout=3,K=67,L=90,stride=2,op=conv_transpose,padding=33,groups=3,layout=nlc",
    "transposed by 6": "N=1,Cin=4,Cout=3,K=3,L=9,op=conv_transpose,stride=6,dilation=4,padding=2:5",
}
# fmt: on
# Almost every trap of a plain convolution is run by these: each time by one half of them, by turns; by all of
# them with --stress.
PLAIN = ("dense", "im2col_rows", "narrow", "split_k", "tap_major")


def _runs() -> Iterator[Any]:
    for number, (trap, text) in enumerate(TRAPS.items()):
        problem = Problem.parse(text)
        names = [kernel.name for kernel in supporting(problem)]
        taking_turns = [name for name in names if name in PLAIN]
        rest = taking_turns[(number + 1) % 2 :: 2] if len(taking_turns) > 1 else []
        for name in names:
            marks = [pytest.mark.long] if name in rest else []
            yield pytest.param(name, problem, id=f"{trap}-{name}", marks=marks)


RUNS = list(_runs())
EXAMPLES = -(-int(os.environ.get("FUZZ_EXAMPLES", "120")) // len(kernels()))  # of each kernel


@pytest.mark.parametrize("name", kernels())
@settings(max_examples=EXAMPLES, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(data=st.data(), seed=st.integers(0, 2**31 - 1))
def test_kernels_agree_with_float64(
    name: str,
    data: st.DataObject,
    seed: int,
    problems_of: ProblemsOf,
    configs_of: ConfigsOf,
    verified: Verified,
) -> None:
    problem = data.draw(problems_of(kernels()[name], False))
    configs = configs_of(name, problem, 8)
    assume(configs)  # a kernel may leave a problem to others
    config = data.draw(st.sampled_from(configs[:8]) | st.sampled_from(configs))
    verdict = verified(problem, config, seed)
    assert isinstance(verdict, Verdict) and verdict.ok, f"{problem} with {config}: {verdict}"


@pytest.mark.parametrize(("name", "problem"), RUNS)
def test_known_traps(name: str, problem: Problem, configs_of: ConfigsOf, verified: Verified) -> None:
    for config in configs_of(name, problem, 8)[:1]:
        verdict = verified(problem, config, 1)
        assert isinstance(verdict, Verdict) and verdict.ok, f"{problem} with {config}: {verdict}"


def test_the_rounding_of_a_product_below_the_least_normal_number_is_no_error(verified: Verified) -> None:
    """Found by `make fuzz`: one product an output, and one that float16 holds with two bits."""
    problem = Problem.parse("N=2,Cin=4,Cout=24,K=1,L=7,op=conv_transpose,groups=4,dtype=float16")
    tiles = {"BLOCK_CO": 16, "BLOCK_L": 16, "BLOCK_R": 16}
    verdict = verified(problem, Config("transposed_phases", tiles, num_warps=2, num_stages=2), 1947)
    assert isinstance(verdict, Verdict) and verdict.ok, verdict


def test_every_kernel_is_run_by_some_trap() -> None:
    each_time = [param.values for param in RUNS if not param.marks]
    assert {name for name, _ in each_time} == set(kernels())
    assert {problem.dtype for _, problem in each_time} == set(PRECISIONS)
    assert {problem.op for _, problem in each_time} == set(OPS)
