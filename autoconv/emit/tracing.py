"""A kernel's own host code, run on sizes that remember where they came from: its launches as expressions.

Nothing of a kernel is said again here. Its methods run as they do for a launch, on a problem and a config
whose numbers are traced; only the names that no operator reaches, `math`, `max`, `min` and `alignment`, are
other ones while they do. What comes out holds for every problem for which the conditions do that were met
on the way.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType, ModuleType, SimpleNamespace
from typing import Any

from autoconv.config import Config
from autoconv.emit.expressions import FUNCTIONS, TILE, Condition, Key, Number, Trace, call, key_of, value_of
from autoconv.kernels.base import Kernel, Launch
from autoconv.kernels.sizes import x_strides_of
from autoconv.problem import Problem

SIZES = ("N", "Cin", "Cout", "K", "L", "stride", "dilation")
X_STRIDES = ("x_batch", "x_channel", "x_step")
NO_ACTIVATION = "none"


class TracedProblem(Problem):
    """A problem of traced numbers; L_out and the bytes of an element have names of their own."""

    @property
    def L_out(self) -> Any:  # noqa: N802 - the field's own name
        """Output length."""
        stated = length_of(self)
        assert isinstance(stated, Number)
        return Number(stated.trace, "L_out", (), stated.value)

    @property
    def dtype_bytes(self) -> Any:
        """Bytes of one element."""
        return Number(length_of(self).trace, "x.element_size()", (), super().dtype_bytes)


def length_of(problem: Problem) -> Any:
    """Return the output length as the problem's other fields give it."""
    return Problem.L_out.fget(problem)  # type: ignore[attr-defined]  # a property has it


@dataclass(frozen=True)
class Traced:
    """What one call of a kernel is, for every size: numbers and words are plain or `Number`."""

    launches: tuple[Launch, ...]
    scratch: Any  # float32 elements of what the launches share
    L_out: Any
    y_shape: tuple[Any, ...]
    conditions: tuple[Condition, ...]  # under which the kernel runs, and all of this holds


def parameters(problem: Problem) -> tuple[str, ...]:
    """Return the names that a call of `problem` takes beside its tensors: those that bear on its kind."""
    transposed = problem.op == "conv_transpose"
    shown = {
        "kernel_size": problem.op == "conv_weight",
        "stride": True,
        "padding": transposed or problem.padding != 0,
        "dilation": True,
        "output_padding": transposed,
        "groups": problem.groups > 1,
        "activation": problem.activation != NO_ACTIVATION,
    }
    return tuple(name for name, is_shown in shown.items() if is_shown)


def traced(kernel: Kernel, problem: Problem, config: Config) -> Traced:
    """Return what a call of `kernel` with `config` is, for `problem` and its like."""
    with _symbolic(_modules(kernel)):
        trace = Trace()
        made, tiles = _traced_problem(problem, trace), _traced_config(config, trace)
        strides = tuple(map(partial(_named, trace), X_STRIDES, x_strides_of(problem)))
        launches = kernel.launches(made, tiles, strides)  # type: ignore[arg-type]  # numbers like any
        scratch = kernel.workspace(made, tiles)
        same = _same_tile(kernel, problem, config)
        conditions = [*_supported(kernel, problem), *same, *trace.conditions.values()]
        return Traced(launches, scratch, length_of(made), made.y_shape, _distinct(conditions))


def _distinct(conditions: list[Condition]) -> tuple[Condition, ...]:
    """Return them each once, without those on a number that another one gives."""
    given = {key_of(one.number.operands[0]) for one in conditions if one.holds and one.number.of == "=="}
    return tuple(
        {
            one.key: one
            for one in conditions
            if not one.number.operands
            or key_of(one.number.operands[0]) not in given
            or (one.holds and one.number.of == "==")
            or isinstance(one.number.operands[-1], Number)
        }.values()
    )


def _named(trace: Trace, name: str, value: Any) -> Number:
    return Number(trace, name, (), value)


def _traced_problem(problem: Problem, trace: Trace) -> TracedProblem:
    """Return the problem with every field traced that a call of its kind may set otherwise."""
    made = object.__new__(TracedProblem)
    fields = {name: getattr(problem, name) for name in problem.to_json()}
    for name in {*SIZES, *parameters(problem)} & fields.keys():
        fields[name] = _named(trace, name, fields[name])
    if isinstance(problem.padding, tuple):
        fields["padding"] = tuple(map(partial(_named, trace), ("left", "right"), problem.padding))
    if problem.op != "conv_weight":
        fields["bias"] = _named(trace, "bias is not None", problem.bias)
    for name, value in fields.items():
        object.__setattr__(made, name, value)
    return made


def _traced_config(config: Config, trace: Trace) -> Config:
    made = object.__new__(Config)
    tiles = {name: Number(trace, TILE, (name,), size) for name, size in config.tiles.items()}
    fields = {"kernel": config.kernel, "tiles": MappingProxyType(tiles)}
    for name, value in {**fields, "num_warps": config.num_warps, "num_stages": config.num_stages}.items():
        object.__setattr__(made, name, value)
    return made


def _supported(kernel: Kernel, problem: Problem) -> list[Condition]:
    """Return conditions under which `kernel` runs problems like this one, no more than it needs.

    The kernel's answer for this problem rests on all that it asked. What may as well be the other way round,
    without anything new being asked, it does not need: one of two that are joined by an `or`.
    """
    asked = _asked(kernel, problem, None)
    assert asked is not None, f"{kernel.name} does not run {problem}"
    needed = []
    for key, condition in asked.items():
        otherwise = _asked(kernel, problem, key)
        if otherwise is None or not otherwise.keys() <= {*asked, (*key[:-1], not key[-1])}:
            needed.append(condition)
    return needed


def _asked(kernel: Kernel, problem: Problem, flipped: Key | None) -> dict[Key, Condition] | None:
    """Return what `kernel` asks of a problem that it runs, with one answer flipped, or None."""
    trace = Trace(flipped=flipped)
    reason = kernel.unsupported(_traced_problem(problem, trace))
    return trace.conditions if reason is None else None


def _same_tile(kernel: Kernel, problem: Problem, config: Config) -> list[Condition]:
    """Return the conditions that a block's tile is the one it is here, where sizes bear on it as tiles do."""
    unit = Config(config.kernel, dict.fromkeys(config.tiles, 1), config.num_warps, config.num_stages)
    made = _traced_problem(problem, Trace())
    sides = kernel.work(made, unit).tile  # what it rests on otherwise is of no account
    return [Condition(side == value_of(side), True) for side in sides if isinstance(side, Number)]


# --- the names that no operator reaches -----------------------------------------------------------


def _modules(kernel: Kernel) -> list[ModuleType]:
    """Return the modules that host code of kernels lies in; a kernel of the tests' own may lie elsewhere."""
    package = Kernel.__module__.rpartition(".")[0]
    names = {name for name in sys.modules if name.startswith(f"{package}.")} | {type(kernel).__module__}
    return [sys.modules[name] for name in sorted(names)]


@contextmanager
def _symbolic(modules: list[ModuleType]) -> Iterator[None]:
    """Have these modules find functions for traced numbers under the names that no operator reaches.

    Not safe while another thread runs their host code on traced numbers; on plain ones it computes the same.
    """
    stand_ins = {
        "math": SimpleNamespace(**{**vars(math), "gcd": partial(_called, "math.gcd")}),
        "max": partial(_called, "max"),
        "min": partial(_called, "min"),
        "alignment": _alignment,
    }
    before = [(module, {name: vars(module)[name] for name in stand_ins if name in vars(module)})
              for module in modules]  # fmt: skip
    for module in modules:
        vars(module).update(stand_ins)
    try:
        yield
    finally:
        for module, names in before:
            for name in stand_ins:
                del vars(module)[name]
            vars(module).update(names)


def _alignment(*counts: Any, most: int = 16) -> Any:
    """Return what kernels.sizes.alignment does: `most`, a power of two, as far as it divides every count."""
    return _called("math.gcd", most, *counts)


def _called(name: str, *arguments: Any, **keywords: Any) -> Any:
    """Return the result of math.gcd, max or min."""
    found = next((one for one in arguments if isinstance(one, Number)), None)
    if found is None or keywords:
        return FUNCTIONS[name](*arguments, **keywords)
    return call(found.trace, name, *arguments)
