"""The functions of a file that allocate and launch, and the one that leaves it to torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from autoconv.config import Config
from autoconv.emit.expressions import TILE, Key, Number, denied, parts_between, parts_of, text_of
from autoconv.emit.kinds import Kind, declared, known_activations
from autoconv.emit.layout import (
    INDENT,
    WIDTH,
    assigned,
    declared_with,
    either,
    enclosed,
    fitted,
    indented,
    spread,
)  # fmt: skip
from autoconv.emit.tracing import X_STRIDES, Traced, parameters
from autoconv.kernels.base import Kernel, Launch
from autoconv.problem import Problem

_UNITS = "Triton specialises an int on divisibility by 16 alone, so sizes go in units of what divides them."
WHY = {
    "x_align": _UNITS,
    "y_align": _UNITS,
    "index_64": "Whether an offset, that of the last tile's overshoot included, passes 32 bits.",
}
"""What there is to say about the arguments that `kernels.bindings` gives to every kernel."""

LONG = 60  # characters of an argument that is better named first
WINDOW = ("stride", "padding", "dilation", "output_padding", "groups")  # as torch's functions have them


@dataclass(frozen=True)
class Tuning:
    """What of a config is written at the launch; the rest is in the decorator that tunes it."""

    config: Config
    over: frozenset[str] = frozenset()  # tiles, or num_warps and num_stages


def by_torch(problem: Problem, kind: Kind) -> list[str]:
    """Return the function that computes the same by torch."""
    given = parameters(problem)
    head, operands = _head(f"def {kind.name}_torch(", problem, kind, defaults=False)
    transposed, pair = problem.op == "conv_transpose", isinstance(problem.padding, tuple)
    window = [f"{name}={name}" for name in given if name in WINDOW and not (pair and name == "padding")]
    function = f"nn.functional.{kind.name}("
    if problem.op == "conv_weight":
        channels = "x.shape[1] // groups" if "groups" in given else "x.shape[1]"
        function, operands = (
            "nn.grad.conv1d_weight(",
            ["x", f"(grad.shape[1], {channels}, kernel_size)", "grad"],
        )
    cropped, activated = pair and transposed, "activation" in given
    lines = [f"{INDENT}x = nn.functional.pad(x, padding)"] if pair and not transposed else []
    made = "y =" if cropped or activated else "return"
    lines += enclosed(f"{INDENT}{made} {function}", [*operands, *window], ")")
    if cropped:
        lines.append(
            f"{INDENT}{'y =' if activated else 'return'} y[..., padding[0] : y.shape[-1] - padding[1]]"
        )
    if activated:
        lines.append(f'{INDENT}return y if activation == "none" else getattr(nn.functional, activation)(y)')
    return [*head, f'{INDENT}"""Return the same, computed by torch."""', *lines]


def by_kernel(kernel: Kernel, problem: Problem, kind: Kind, traced: Traced, tuning: Tuning) -> list[str]:
    """Return the function that computes the grid and launches."""
    head, operands = _head(f"def {kind.name}_triton(", problem, kind, defaults=True)
    locals_, held = _locals(traced, problem, kind), outside_grids(kernel, traced)
    names: dict[Key, str] = {(TILE, (tile,)): tile for tile in held}
    names.update({one.key: name for name, one in locals_.items()})
    names[("//", (kind.of_group,), ("groups",))] = f"{kind.of_group.lower()}_g"
    opening = [
        "N, Cin, L = x.shape",
        *kind.unpacking,
        *(["left, right = padding"] if isinstance(problem.padding, tuple) else []),
        f"L_out = {text_of(traced.L_out)}",
    ]
    lines = [
        f'{INDENT}"""Return {kind.gives}."""',
        f"{INDENT}# Torch computes what the kernel does not run, and refuses what is wrong.",
        *_by_torch_if(_no_window(problem), problem, kind, operands),
        *indented(opening),
        *_by_torch_if(_not_run(problem, kind, traced), problem, kind, operands),
        "",
        *indented(_packed(problem, kind)),
        *(f"{INDENT}{tile} = {tuning.config.tiles[tile]}" for tile in kernel.tiles if tile in held),
        *_assignments(locals_, names),
        *_allocated(traced, kind, names),
    ]
    for launch in traced.launches:
        fixed = tuning if launch.jit is kernel.jit else None
        lines += ["", *_launch(launch, kind, names, held, fixed)]
    return [*head, *lines, f"{INDENT}return y"]


def _allocated(traced: Traced, kind: Kind, names: Mapping[Key, str]) -> list[str]:
    """Return the lines that allocate y and, where the launches share it, scratch memory."""
    shape = ", ".join(text_of(one, names) for one in traced.y_shape)
    sizes = {"y": (f"({shape})", "x.dtype")}
    for name in (one for launch in traced.launches for one in launch.tensors):
        if name not in (*kind.tensors, "b"):
            sizes[name] = text_of(traced.scratch, names), "torch.float32"
    return [
        line
        for name, (size, dtype) in sizes.items()
        for line in enclosed(
            f"{INDENT}{name} = torch.empty(", [size, "device=x.device", f"dtype={dtype}"], ")"
        )
    ]


def _head(opening: str, problem: Problem, kind: Kind, *, defaults: bool) -> tuple[list[str], list[str]]:
    """Return the head of a function, and what its tensors are called."""
    operands = [kind.tensors[one] for one in ("x", "w", "b") if one in kind.tensors]
    typed = [f"{name}: torch.Tensor" for name in operands]
    further = declared(problem)
    if not defaults:
        further = [one.partition(" = ")[0] for one in further]
    if "b" in kind.tensors:
        typed[-1] = "bias: torch.Tensor | None" + " = None" * defaults
    return declared_with(opening, [*typed, *further], ") -> torch.Tensor:"), operands


def _by_torch_if(
    tests: Sequence[Sequence[str]], problem: Problem, kind: Kind, operands: Sequence[str]
) -> list[str]:
    """Return the statement that leaves the call to torch where one of the tests holds."""
    return [
        *either(f"{INDENT}if", tests, ":"),
        *enclosed(f"{INDENT * 2}return {kind.name}_torch(", [*operands, *parameters(problem)], ")"),
    ]


def _no_window(problem: Problem) -> list[list[str]]:
    """Return the tests that the numbers make no window, before any size is computed of them."""
    least = {"kernel_size": 1, "stride": 1, "dilation": 1, "groups": 1, "padding": 0, "output_padding": 0}
    pair = isinstance(problem.padding, tuple)
    shown = {name: f"min({name})" if pair and name == "padding" else name for name in least}
    tests = [[f"{shown[name]} < {least[name]}"] for name in parameters(problem) if name in least]
    return tests + [["output_padding >= max(stride, dilation)"]] * (problem.op == "conv_transpose")


def _not_run(problem: Problem, kind: Kind, traced: Traced) -> list[list[str]]:
    """Return the tests that the kernel does not run tensors of these dtypes and sizes."""
    second = kind.tensors["w"]
    bias = ["(bias is not None and (bias.shape != (Cout,) or bias.dtype != x.dtype))"]
    return [
        ["x.dtype not in (torch.float32, torch.float16, torch.bfloat16)"],
        [f"{second}.dtype != x.dtype"],
        *([one] for one in kind.refused),
        *([bias] if "b" in kind.tensors else []),
        [f"0 in (*x.shape, *{second}.shape)"],
        ["L_out < 1"],
        *([[known_activations()]] if "activation" in parameters(problem) else []),
        *(denied(condition) for condition in traced.conditions),
    ]


def _packed(problem: Problem, kind: Kind) -> list[str]:
    """Return the lines that bring the tensors into the layout that the kernel was tuned for."""
    lines = []
    if problem.layout == "nlc":
        lines.append("x = x.mT.contiguous().mT  # channels side by side; no copy where they are so already")
    else:
        lines.append("x = x.contiguous()")
    second = kind.tensors["w"]
    lines.append(f"{second} = {second}.contiguous()")
    if "b" in kind.tensors:
        lines.append("bias = None if bias is None else bias.contiguous()")
    return [*lines, f"{', '.join(X_STRIDES)} = x.stride()"]


def _locals(traced: Traced, problem: Problem, kind: Kind) -> dict[str, Number]:
    """Return the arguments that are named before the launch: those in others, and those that are long."""
    taken = {"N", "Cin", "Cout", "K", "L", "L_out", *X_STRIDES, *parameters(problem)}
    everything = [
        *_arguments(traced),
        traced.scratch,
        *(axis for one in traced.launches for axis in one.grid),
    ]
    found: dict[Key, tuple[str, Number]] = {}
    for launch in traced.launches:
        for name, value in launch.keywords.items():
            if not isinstance(value, Number) or not value.operands or value.of == TILE:
                continue
            if value.key == ("//", (kind.of_group,), ("groups",)):
                continue  # it has a name
            elsewhere = sum(
                part.key == value.key for one in everything for part in parts_of(one) if part is not one
            )
            if elsewhere or len(text_of(value)) > LONG:
                plain = name.lower()
                found.setdefault(value.key, (plain if plain not in taken else f"{plain}_", value))
    return dict(sorted(found.values(), key=lambda one: sum(1 for _ in parts_of(one[1]))))


def _arguments(traced: Traced) -> list[Number]:
    given = [value for launch in traced.launches for value in launch.keywords.values()]
    distinct = {value.key: value for value in given if isinstance(value, Number)}
    return list(distinct.values())


def outside_grids(kernel: Kernel, traced: Traced) -> set[str]:
    """Return the tiles that scratch memory or another launch depends on, where there is no META."""
    further = [
        value
        for launch in traced.launches
        for value in launch.keywords.values()
        if isinstance(value, Number) and (launch.jit is not kernel.jit or value.of != TILE)
    ]
    return {str(part.operands[0]) for one in [traced.scratch, *further] for part in parts_of(one)
            if part.of == TILE}  # fmt: skip


def _assignments(locals_: Mapping[str, Number], names: Mapping[Key, str]) -> list[str]:
    """Return the assignments of named arguments, with what there is to say about them."""
    lines, said = [], set()
    for name, one in locals_.items():
        others = {key: given for key, given in names.items() if given != name}
        why = WHY.get(name)
        if why is not None and why not in said:
            said.add(why)
            lines.append(f"{INDENT}# {why}")
        lines += assigned(f"{INDENT}{name}", parts_between(one, others))
    return lines


def _launch(
    launch: Launch, kind: Kind, names: Mapping[Key, str], held: set[str], tuning: Tuning | None
) -> list[str]:
    """Return the lines of one launch."""
    tensors = [kind.tensors.get(one, "None" if one == "b" else one) for one in launch.tensors]
    arguments = [
        f"{name}={_argument(value, names, held, tuning)}"
        for name, value in launch.keywords.items()
        if tuning is None or name not in tuning.over
    ]
    called = f"{INDENT}{launch.jit.fn.__name__}[grid]("
    return [*_grid(launch, names), *spread(called, [*tensors, *arguments], ")")]


def _argument(value: Any, names: Mapping[Key, str], held: set[str], tuning: Tuning | None) -> str:
    if isinstance(value, Number) and value.of == TILE:
        tile = str(value.operands[0])
        return tile if tile in held or tuning is None else str(tuning.config.tiles[tile])
    return text_of(value, names)


def _grid(launch: Launch, names: Mapping[Key, str]) -> list[str]:
    """Return the assignment of the grid; tiles are taken from META alone, where it has them."""
    axes = list(launch.grid)
    while len(axes) > 1 and text_of(axes[-1]) == "1":
        axes.pop()
    within = {key: name for key, name in names.items() if key[0] != TILE}
    blocks = {value: name for name, value in launch.keywords.items()
              if name.startswith("BLOCK") and type(value) is int}  # fmt: skip
    parts = [parts_between(_by_meta(axis, blocks), within) for axis in axes]
    head = f"{INDENT}grid = lambda {TILE}: ("
    whole = f"{head}{', '.join(map(' '.join, parts))}{',' * (len(parts) == 1)})"
    if len(whole) <= WIDTH:
        return [whole]
    lines = []
    for one in parts:
        *first, last = fitted(one, INDENT * 2, more=1)
        lines += [*first, f"{last},"]
    return [head, *lines, f"{INDENT})"]


def _by_meta(axis: Any, blocks: Mapping[int, str]) -> Any:
    """Return an axis with the divisor of a cdiv that is a BLOCK of the launch taken from META."""
    if not isinstance(axis, Number):
        return axis
    operands = [_by_meta(one, blocks) for one in axis.operands]
    if axis.of == "triton.cdiv" and type(operands[1]) is int and operands[1] in blocks:
        operands[1] = Number(axis.trace, TILE, (blocks[operands[1]],), operands[1])
    return Number(axis.trace, axis.of, tuple(operands), axis.value)
