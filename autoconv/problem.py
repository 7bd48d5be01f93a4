"""A problem: everything that decides which config is best, apart from the machine."""

from __future__ import annotations

import dataclasses
import json
import math
import re
from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass
from typing import Any

from autoconv.errors import ProblemError, suggestion

KEY_VERSION = 1
"""Version of the canonical key's schema; raised whenever a field is added or its meaning changes."""

OPS = ("conv", "conv_transpose", "conv_weight")
"""conv and conv_transpose compute y from x and w; conv_weight computes the gradient of a conv's weight from
x and the gradient of y."""

ACTIVATIONS = ("none", "relu", "leaky_relu", "gelu", "silu", "tanh")
LAYOUTS = ("ncl", "nlc")
DTYPE_BYTES: Mapping[str, int] = {"float32": 4, "float16": 2, "bfloat16": 2}
PRECISIONS: Mapping[str, tuple[str, ...]] = {
    # The default comes first. Half-precision products are exact in a float32 accumulator,
    # so there is nothing to choose for them.
    "float32": ("tf32", "tf32x3", "ieee"),
    "float16": ("ieee",),
    "bfloat16": ("ieee",),
}

_MAX_INT = 2**63 - 1  # SQLite's and torch's largest integer
_SIZES = ("N", "Cin", "Cout", "K", "L")
_TEXT_ORDER = (
    *_SIZES, "stride", "dilation", "op", "padding", "groups", "output_padding",
    "bias", "activation", "dtype", "precision", "layout",
)  # fmt: skip
_WORDS = ("op", "activation", "dtype", "precision", "layout")  # fields whose value is a name
_MEANING = {
    "N": "the batch size",
    "Cin": "the number of input channels",
    "Cout": "the number of output channels",
    "K": "the kernel's length",
    "L": "the input's length",
    "stride": "the step between windows",
    "dilation": "the step between taps",
    "groups": "the number of channel groups",
    "padding": "the zeros on each side, or left:right",
    "output_padding": "the extra length on the output's right",
}
_OTHER_NAMES = {  # that other tools have for what a field may be
    "dtype": {
        "fp32": "float32", "f32": "float32", "float": "float32", "single": "float32", "fp16": "float16",
        "f16": "float16", "half": "float16", "bf16": "bfloat16",
    },
    "op": {"conv1d": "conv", "conv_transpose1d": "conv_transpose", "convtranspose1d": "conv_transpose",
           "deconv": "conv_transpose", "transposed": "conv_transpose", "wgrad": "conv_weight"},
    "precision": {"fp32": "ieee", "float32": "ieee", "highest": "ieee", "3xtf32": "tf32x3", "high": "tf32"},
    "layout": {"channels_last": "nlc", "nwc": "nlc", "contiguous": "ncl", "ncw": "ncl"},
    "activation": {"swish": "silu", "leakyrelu": "leaky_relu", "identity": "none"},
}  # fmt: skip
_LEAST = {"padding": 0, "output_padding": 0}  # every other whole number is at least 1


@dataclass(frozen=True)
class Problem:
    """One 1-D convolution, as a value.

    The five sizes come first; all else is by keyword. The fields are checked when the problem is made,
    so a Problem that exists is one torch could compute.

    Attributes:
        N: batch size.
        Cin: input channels.
        Cout: output channels.
        K: kernel length, in taps.
        L: input length, in elements.
        stride: step between windows (conv), or between the inputs' places in the output (conv_transpose).
        dilation: step between taps.
        op: one of OPS.
        padding: zeros on each side, or a pair (left, right) where the sides differ.
        groups: channel groups; divides Cin and Cout.
        output_padding: extra output length on the right, conv_transpose only.
        bias: whether one number per output channel is added.
        activation: what is applied to the sum, one of ACTIVATIONS, as torch.nn.functional defaults to.
        dtype: ``"float32"``, ``"float16"`` or ``"bfloat16"``; sums are always kept in float32.
        precision: how products are formed: ``"tf32"``, ``"tf32x3"`` (three TF32 products that together
            are nearly float32) or ``"ieee"``. Left empty, it is ``"tf32"`` for float32, else ``"ieee"``.
        layout: how the input lies in memory: ``"ncl"`` (torch's own), or ``"nlc"`` (channels last), as a
            transposed view does. The output is always contiguous.

    Raises:
        ProblemError: a field is impossible; the error names it.

    >>> seed = Problem(64, 64, 128, 3, 224280, stride=3, dilation=4)
    >>> seed.L_out
    74758
    >>> str(seed)
    'N=64,Cin=64,Cout=128,K=3,L=224280,stride=3,dilation=4'
    """

    N: int
    Cin: int
    Cout: int
    K: int
    L: int
    _: KW_ONLY
    stride: int = 1
    dilation: int = 1
    op: str = "conv"
    padding: int | tuple[int, int] = 0
    groups: int = 1
    output_padding: int = 0
    bias: bool = False
    activation: str = "none"
    dtype: str = "float32"
    precision: str = ""
    layout: str = "ncl"

    def __post_init__(self) -> None:
        """Normalise padding and precision, then check every field."""
        object.__setattr__(self, "padding", _normal_padding(self.padding))
        _check_choice("dtype", self.dtype, tuple(DTYPE_BYTES))
        object.__setattr__(self, "precision", self.precision or PRECISIONS[self.dtype][0])
        _check_fields(self)
        _check_shapes(self)

    @classmethod
    def parse(cls, text: str) -> Problem:
        """Read a problem from its text form; the inverse of ``str``.

        Args:
            text: ``name=value`` pairs set apart by commas, in any order; spaces are allowed round
                commas and equals signs.

        Raises:
            ProblemError: a field is unknown, repeated, missing or impossible.

        >>> Problem.parse("N=2, Cin=5, Cout=7, K=4, L=61, padding=1:2").L_out
        61
        """
        values: dict[str, Any] = {}
        for name, value in _pairs(text):
            if name not in _TEXT_ORDER:
                reason = f"is not a field{suggestion(name, _TEXT_ORDER)}"
                raise ProblemError(name, value, reason, f"the fields are {', '.join(_TEXT_ORDER)}")
            if name in values:
                raise ProblemError(name, value, "given more than once", f"keep one {name}=")
            values[name] = _from_text(name, value)
        for name in _SIZES:
            if name not in values:
                raise ProblemError(name, None, "is missing", f"add {name}= with {_MEANING[name]}")
        return cls(**values)

    def __str__(self) -> str:
        """The text form: the five sizes, then every field that is not at its default."""
        shown = [
            name
            for name in _TEXT_ORDER
            if name in _SIZES or getattr(self, name) != _default(name, self.dtype)
        ]
        return ",".join(f"{name}={_to_text(getattr(self, name))}" for name in shown)

    def key(self) -> str:
        """Return the canonical database key: compact sorted JSON of a schema version and every field."""
        return json.dumps({"v": KEY_VERSION, **self.to_json()}, sort_keys=True, separators=(",", ":"))

    @classmethod
    def from_key(cls, key: str) -> Problem:
        """Read a problem from its key; the inverse of `key`.

        Raises:
            ProblemError: it is the key of no problem, or not of this version, or not in canonical form.
        """
        try:
            fields = json.loads(key)
            version = fields.pop("v")
            problem = cls(**fields)
        except (TypeError, KeyError, AttributeError, RecursionError, ValueError) as error:
            reason = f"is the key of no problem ({error})"
            raise ProblemError("key", key, reason, "tune the problem anew") from None
        if version != KEY_VERSION or problem.key() != key:
            reason = f"is not a canonical key of version {KEY_VERSION}"
            raise ProblemError("key", key, reason, "tune the problem anew")
        return problem

    def columns(self) -> dict[str, int | str]:
        """Return the fields a database keeps in columns of their own, for people's queries."""
        names = (*_SIZES, "stride", "dilation", "groups", "op", "dtype")
        return {name: getattr(self, name) for name in names}

    @classmethod
    def fields(cls) -> dict[str, Any]:
        """Return the fields of a key in the order of the text form, each with its default; None: it has none.

        Precision's is that of float32.
        """
        return {name: None if name in _SIZES else _default(name, "float32") for name in _TEXT_ORDER}

    def to_json(self) -> dict[str, Any]:
        """Return every field by name, as values JSON can hold; an uneven padding is a list of two."""
        fields = {name: getattr(self, name) for name in _TEXT_ORDER}
        if isinstance(self.padding, tuple):
            fields["padding"] = list(self.padding)
        return fields

    @property
    def pad_left(self) -> int:
        """Zeros before the first input element."""
        return self.padding[0] if isinstance(self.padding, tuple) else self.padding

    @property
    def pad_right(self) -> int:
        """Zeros after the last input element."""
        return self.padding[1] if isinstance(self.padding, tuple) else self.padding

    @property
    def L_out(self) -> int:  # noqa: N802 - the field's own name
        """Output length, by the formulas of torch.nn.Conv1d and torch.nn.ConvTranspose1d."""
        pads = self.pad_left + self.pad_right
        span = self.dilation * (self.K - 1) + 1  # input elements one window spans
        if self.op != "conv_transpose":
            return (self.L + pads - span) // self.stride + 1
        return (self.L - 1) * self.stride - pads + span + self.output_padding

    @property
    def dtype_bytes(self) -> int:
        """Bytes of one element of input, weight and output."""
        return DTYPE_BYTES[self.dtype]

    @property
    def Cin_per_group(self) -> int:  # noqa: N802 - the field's own name
        """Input channels in one group."""
        return self.Cin // self.groups

    @property
    def Cout_per_group(self) -> int:  # noqa: N802 - the field's own name
        """Output channels in one group."""
        return self.Cout // self.groups

    @property
    def reduction(self) -> int:
        """Products summed into one output element of a conv: Cin / groups * K."""
        return self.Cin_per_group * self.K

    @property
    def flops(self) -> int:
        """Floating-point operations, a multiply-add counted as two; products with padding included."""
        if self.op != "conv_transpose":
            return 2 * self.N * self.Cout * self.L_out * self.reduction
        return 2 * self.N * self.Cin * self.L * self.Cout_per_group * self.K

    @property
    def x_shape(self) -> tuple[int, int, int]:
        """Shape of the input, (N, Cin, L), whatever the layout in memory."""
        return (self.N, self.Cin, self.L)

    @property
    def w_shape(self) -> tuple[int, int, int]:
        """Shape of the second operand.

        conv: the weight, (Cout, Cin / groups, K). conv_transpose: the weight, (Cin, Cout / groups, K).
        conv_weight: the gradient of the conv's output, (N, Cout, L_out).
        """
        if self.op == "conv":
            return (self.Cout, self.Cin_per_group, self.K)
        if self.op == "conv_transpose":
            return (self.Cin, self.Cout_per_group, self.K)
        return (self.N, self.Cout, self.L_out)

    @property
    def y_shape(self) -> tuple[int, int, int]:
        """Shape of the result: (N, Cout, L_out), or (Cout, Cin / groups, K) for conv_weight."""
        if self.op == "conv_weight":
            return (self.Cout, self.Cin_per_group, self.K)
        return (self.N, self.Cout, self.L_out)

    @property
    def ideal_bytes(self) -> int:
        """Bytes of input, weight, output and bias, each moved once."""
        elements = math.prod(self.x_shape) + math.prod(self.w_shape) + math.prod(self.y_shape)
        return (elements + (self.Cout if self.bias else 0)) * self.dtype_bytes


_DEFAULTS = {field.name: field.default for field in dataclasses.fields(Problem)}


def _default(name: str, dtype: str) -> object:
    return PRECISIONS[dtype][0] if name == "precision" else _DEFAULTS[name]


# --- checks ---------------------------------------------------------------------------------------


def _check_fields(problem: Problem) -> None:
    for name in (*_SIZES, "stride", "dilation", "groups", "output_padding"):
        _check_int(name, getattr(problem, name))
    _check_choice("op", problem.op, OPS)
    _check_choice("layout", problem.layout, LAYOUTS)
    _check_choice("activation", problem.activation, ACTIVATIONS)
    _check_plain_gradient(problem)
    _check_precision(problem)
    if not isinstance(problem.bias, bool):
        raise ProblemError("bias", problem.bias, "must be True or False", "say whether a bias is added")
    for name in ("Cin", "Cout"):
        channels = getattr(problem, name)
        if channels % problem.groups:
            raise ProblemError(
                "groups", problem.groups, f"does not divide {name}={channels}",
                f"give a common divisor of Cin={problem.Cin} and Cout={problem.Cout}",
            )  # fmt: skip


def _check_plain_gradient(problem: Problem) -> None:
    if problem.op != "conv_weight":
        return
    remedy = "leave it out, or set op=conv"
    if problem.bias:
        raise ProblemError("bias", problem.bias, "has no part in a weight's gradient", remedy)
    if problem.activation != "none":
        raise ProblemError("activation", problem.activation, "has no part in a weight's gradient", remedy)


def _check_precision(problem: Problem) -> None:
    legal = PRECISIONS[problem.dtype]
    if problem.precision not in legal:
        near = _near("precision", problem.precision, legal) if isinstance(problem.precision, str) else ""
        reason = f"is not a precision of dtype={problem.dtype}{near}"
        raise ProblemError("precision", problem.precision, reason, f"give {_choices(legal)}, or leave it out")


def _check_shapes(problem: Problem) -> None:
    _check_output_padding(problem)
    least = _smallest_length(problem)
    length = problem.L
    if length < least:
        padding = _to_text(problem.padding)
        reason = f"is too short for K={problem.K}, dilation={problem.dilation} and padding={padding}"
        raise ProblemError("L", length, reason, f"the smallest L that works is {least}")
    shapes = {"input": problem.x_shape, "weight": problem.w_shape, "output": problem.y_shape}
    for tensor, shape in shapes.items():
        if math.prod(shape) * problem.dtype_bytes > _MAX_INT:
            name = largest_field(problem)
            reason = f"makes the {tensor} of shape {shape} larger than 2**63 bytes"
            raise ProblemError(name, getattr(problem, name), reason, f"give a smaller {name}")


def _check_output_padding(problem: Problem) -> None:
    extra, limit = problem.output_padding, max(problem.stride, problem.dilation)
    if extra and problem.op != "conv_transpose":
        remedy = "leave it out, or set op=conv_transpose"
        raise ProblemError("output_padding", extra, "belongs to op=conv_transpose only", remedy)
    if extra >= limit:
        reason = f"must be smaller than the larger of stride={problem.stride} and dilation={problem.dilation}"
        raise ProblemError("output_padding", extra, reason, f"give at most {limit - 1}")


def _smallest_length(problem: Problem) -> int:
    """Least L for which L_out is at least 1."""
    pads = problem.pad_left + problem.pad_right
    reach = problem.dilation * (problem.K - 1)
    if problem.op != "conv_transpose":
        return max(1, reach + 1 - pads)
    lacking = pads - reach - problem.output_padding
    return 1 + max(0, -(-lacking // problem.stride))


def largest_field(problem: Problem) -> str:
    """Return the name of the size most at fault where a problem is too large."""
    sizes = {name: getattr(problem, name) for name in (*_SIZES, "stride", "dilation")}
    sizes["padding"] = max(problem.pad_left, problem.pad_right)
    return max(sizes, key=lambda name: sizes[name])


def _check_int(name: str, value: object) -> None:
    remedy = f"give {_MEANING[name]}"
    if isinstance(value, bool) or not isinstance(value, int):
        raise ProblemError(name, value, f"must be a whole number, not {type(value).__name__}", remedy)
    least = _LEAST.get(name, 1)
    if value < least:
        raise ProblemError(name, value, f"must be at least {least}", remedy)
    if value > _MAX_INT:
        raise ProblemError(name, value, "must be below 2**63", remedy)


def _check_choice(name: str, value: object, choices: tuple[str, ...]) -> None:
    if value not in choices:
        near = _near(name, value, choices) if isinstance(value, str) else ""
        raise ProblemError(name, value, f"is not a known {name}{near}", f"give {_choices(choices)}")


def _near(name: str, value: str, choices: tuple[str, ...]) -> str:
    """Return ", did you mean X?": what another tool calls so, if it is one of the choices, or the closest."""
    meant = _OTHER_NAMES.get(name, {}).get(value.lower().removeprefix("torch."))
    return f", did you mean {meant}?" if meant in choices else suggestion(value, choices)


def _choices(names: tuple[str, ...]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} or {names[-1]}"


def _normal_padding(padding: object) -> int | tuple[int, int]:
    """Check padding; a pair of equals becomes one number, so that one problem has one key."""
    if isinstance(padding, (tuple, list)):
        if len(padding) != 2:
            raise ProblemError("padding", padding, "must be one number or two", f"give {_MEANING['padding']}")
        left, right = padding
        _check_int("padding", left)
        _check_int("padding", right)
        return int(left) if left == right else (left, right)
    _check_int("padding", padding)
    assert isinstance(padding, int)
    return padding


# --- text -----------------------------------------------------------------------------------------


def _pairs(text: str) -> list[tuple[str, str]]:
    """Split the text form into names and values, both stripped of spaces."""
    pairs = []
    for part in text.split(","):
        name, equals, value = (piece.strip() for piece in part.partition("="))
        if not equals or not name or not value:
            remedy = "write it as in N=64,Cin=64,Cout=128,K=3,L=4096"
            raise ProblemError(name or "text", value or None, "is not name=value", remedy)
        pairs.append((name, value))
    return pairs


def _from_text(name: str, value: str) -> object:
    """Read one field's value and check what can be checked of it alone."""
    if name in _WORDS:
        return value
    if name == "bias":
        if value not in ("0", "1"):
            raise ProblemError(name, value, "must be 0 or 1", "write bias=1 where a bias is added")
        return value == "1"
    if name == "padding":
        sides = tuple(_number(name, side) for side in value.split(":"))
        return _normal_padding(sides if len(sides) > 1 else sides[0])
    number = _number(name, value)
    _check_int(name, number)
    return number


def _number(name: str, text: str) -> int:
    # Twenty digits hold any number below 2**63 and a few above, which are refused by size.
    if not re.fullmatch(r"-?[0-9]{1,20}", text):
        raise ProblemError(name, text, "is not a whole number below 2**63", f"give {_MEANING[name]}")
    return int(text)


def _to_text(value: object) -> str:
    if isinstance(value, tuple):
        return ":".join(str(side) for side in value)
    return str(int(value)) if isinstance(value, bool) else str(value)
