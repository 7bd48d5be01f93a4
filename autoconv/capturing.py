"""`capture`: the convolutions that a program poses, whoever computes them, and the modules that asked.

A TorchDispatchMode sees them: it is asked below autocast and autograd, so it sees the dtypes that are
computed with, the backward pass in whatever thread that runs, TorchScript, and fake and meta tensors. Two
things are lost there, and a TorchFunctionMode keeps them: torch pads x for padding="same" where the sides
differ, and an activation that autoconv's functions fuse.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from types import SimpleNamespace, TracebackType
from typing import Any

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensor
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from autoconv import library, ops
from autoconv.dispatch.signature import DTYPES, Call, precision_of, precision_setting, problem_of
from autoconv.tuning.asked import Asked

_ATEN = torch.ops.aten
_OURS = torch.ops.autoconv
_SEEN = {torch.Tensor, nn.Parameter, FakeTensor}


@dataclass(frozen=True)
class Left:
    """A convolution that torch alone computes."""

    what: str  # its tensors
    why: str
    calls: int
    names: tuple[str, ...]  # of the modules that asked

    def __str__(self) -> str:
        """One line."""
        return f"{self.what}{_by(self.names)}: {self.why}"


class Capture:
    """What was seen in the block of a with statement; `capture` makes one.

    Seen are the calls of the thread that entered the block, and their backward passes.
    """

    def __init__(self, model: nn.Module | None = None) -> None:
        """See `capture`."""
        self._names = _Names(model)
        self._calls: dict[Any, Counter[str]] = {}  # by Problem, or by what and why of a Left
        self._stack = ExitStack()

    def __enter__(self) -> Capture:
        """Begin to look."""
        with ExitStack() as stack:
            stack.enter_context(self._names)
            operators = stack.enter_context(_Operators(self))
            stack.enter_context(_Functions(operators))
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Look no further."""
        self._stack.close()

    @property
    def problems(self) -> tuple[Asked, ...]:
        """The problems, in the order in which they were first posed."""
        return tuple(
            Asked(key, names.total(), tuple(filter(None, names)))
            for key, names in self._calls.items()
            if not isinstance(key, tuple)
        )

    @property
    def left(self) -> tuple[Left, ...]:
        """What no kernel runs, whatever the device."""
        unserved = ((key, names) for key, names in self._calls.items() if isinstance(key, tuple))
        return tuple(
            Left(what, why, names.total(), tuple(filter(None, names))) for (what, why), names in unserved
        )

    def __str__(self) -> str:
        """One line for each problem, and one for each convolution that is left to torch."""
        problems = [f"{one.calls} x {one.problem}{_by(one.names)}" for one in self.problems]
        left = [f"{one.calls} x left to torch: {one}" for one in self.left]
        return "\n".join([*problems, *left])

    def note(self, call: Call, of: Sequence[torch.Tensor], with_it: Sequence[torch.Tensor] = ()) -> None:
        """Take down a call of the module that runs now, or else that ran with one of the tensors `of`.

        It is remembered that the module ran with the tensors `with_it`.
        """
        problem = problem_of(call, precision_of(precision_setting()), stored=False)
        names = self._calls.setdefault(_unserved(call) if problem is None else problem, Counter())
        names[self._names.running(with_it) or self._names.that_ran(of)] += 1


def capture(model: nn.Module | None = None) -> Capture:
    """Return what takes down, in a with statement, the 1-D convolutions that this thread's program poses.

    Those of torch's functions and modules are seen, accelerated or not, on any device, and on fake tensors
    (torch's FakeTensorMode) and meta tensors, which hold no values: so a model is captured that this machine
    could not run. The backward pass counts where it is computed in the block: its convolutions are problems
    of their own. What is computed does not change, but for padding="same" of uneven sides, which the operator
    `autoconv::convolution` computes.

    Args:
        model: Its modules go by their qualified names there; otherwise each goes by the class of the
            outermost module that is called, and its name in it.

    Returns:
        A Capture: `problems` and `left`. `autoconv.tune` takes it.

    >>> layer = nn.Conv1d(4, 8, 3, padding=1)
    >>> with capture() as seen:
    ...     y = layer(torch.zeros(2, 4, 100))
    >>> print(seen)
    1 x N=2,Cin=4,Cout=8,K=3,L=100,padding=1,bias=1 by Conv1d
    """
    return Capture(model)


def _by(names: Sequence[str]) -> str:
    return f" by {', '.join(names)}" if names else ""


def _unserved(call: Call) -> tuple[str, str]:
    """Return what a call is that has no problem, and why."""
    x, weight = call.x, call.weight
    what = f"{call.op} of x {tuple(x.shape)} and weight {tuple(weight.shape)}, {x.dtype}"
    if x.dtype not in DTYPES:
        return what, f"no kernel computes in {x.dtype}"
    return what, "no kernel takes its shapes"


class _Operators(TorchDispatchMode):
    """Sees the operators that convolve."""

    def __init__(self, seen: Capture, of: tuple[torch.Tensor, ...] = ()) -> None:
        """Have `seen` take down what they compute, in the name of the module that ran with `of`, if given."""
        super().__init__()  # type: ignore[no-untyped-call]
        self._seen = seen
        self._of = of
        self._posed: dict[Any, Callable[..., None]] = {
            _ATEN.convolution.default: self._convolution,
            _ATEN._convolution.default: self._convolution,  # of what torch.jit.trace made
            _ATEN.convolution_backward.default: self._backward,
            _OURS.convolution.default: self._own,
            _OURS.convolution_weight.default: self._own_weight,
        }
        self.activation = "none"  # that a kernel would fuse into the call in progress

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: Sequence[Any] = (), kwargs: Any = None
    ) -> Any:
        """Take it down, and compute it as ever; what another tensor subclass makes of it is seen inside."""
        keywords = kwargs or {}
        posed = self._posed.get(func)
        if posed is None and torch.is_inference_mode_enabled():
            # There an operator made of others arrives whole, such as conv1d, which is made of convolution.
            with self:
                result = func.decompose(*args, **keywords)
            if result is not NotImplemented:
                return result
        if posed is not None and set(types) <= _SEEN:
            posed(*args, **keywords)
        return func(*args, **keywords)

    def _convolution(
        self, x: torch.Tensor, w: torch.Tensor, b: torch.Tensor | None, stride: list[int], padding: list[int],
        dilation: list[int], transposed: bool, output_padding: list[int], groups: int, *_flags: bool,
    ) -> None:  # fmt: skip
        if x.dim() == 3:
            window = stride[0], [padding[0]] * 2, dilation[0], groups
            self._own(x, w, b, *window, transposed, output_padding[0])

    def _backward(
        self, gradient: torch.Tensor, x: torch.Tensor, w: torch.Tensor, _bias_sizes: object,
        stride: list[int], padding: list[int], dilation: list[int], transposed: bool,
        output_padding: list[int], groups: int, needed: list[bool],
    ) -> None:  # fmt: skip
        """Take down what the backward of our operator computes, by having it compute with meta tensors."""
        if x.dim() != 3:
            return
        window = stride[0], [padding[0]] * 2, dilation[0], groups
        context = SimpleNamespace(
            saved_tensors=(_meta(x), _meta(w)),
            bias_shape=None,
            numbers=(*window, transposed, output_padding[0]),
            needs_input_grad=needed,
        )
        with torch.no_grad(), _Operators(self._seen, of=(w,)):
            library.convolution_backward(context, _meta(gradient))

    def _own(
        self, x: torch.Tensor, w: torch.Tensor, b: torch.Tensor | None, stride: int, padding: list[int],
        dilation: int, groups: int, transposed: bool, output_padding: int,
    ) -> None:  # fmt: skip
        op = "conv_transpose" if transposed else "conv"
        window = stride, library.sides(padding), dilation, groups
        call = Call(x, w, b, *window, op, output_padding, self.activation)
        self._seen.note(call, self._of or (w,), () if self._of else (w, x))

    def _own_weight(
        self, x: torch.Tensor, gradient: torch.Tensor, taps: int, stride: int, padding: list[int],
        dilation: int, groups: int,
    ) -> None:  # fmt: skip
        window = stride, library.sides(padding), dilation, groups
        call = Call(x, gradient, None, *window, "conv_weight", taps=taps)
        self._seen.note(call, self._of or (x, gradient))


def _meta(tensor: torch.Tensor) -> torch.Tensor:
    return torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device="meta")


class _Functions(TorchFunctionMode):
    """Sees what a function is told and the operators below it are not."""

    def __init__(self, operators: _Operators) -> None:
        super().__init__()
        self._operators = operators

    def __torch_function__(
        self, func: Any, types: Sequence[type], args: Sequence[Any] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        if func in (torch.conv1d, ops.conv1d) and "same" in (kwargs.get("padding"), *args[4:5]):
            return _same(*args, **kwargs)
        if func in (ops.conv1d, ops.conv_transpose1d):
            self._operators.activation = _fused(kwargs["activation"], args)
        try:
            return func(*args, **kwargs)
        finally:
            self._operators.activation = "none"


def _fused(activation: str, tensors: Sequence[Any]) -> str:
    """Return the activation that a kernel would fuse: none where a gradient is wanted."""
    wanted = torch.is_grad_enabled() and any(
        isinstance(one, torch.Tensor) and one.requires_grad for one in tensors
    )
    return "none" if wanted else activation


def _same(
    input: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None = None,
    stride: Any = 1,
    padding: str = "same",
    dilation: Any = 1,
    groups: int = 1,
    activation: str = "none",
) -> torch.Tensor:
    """Compute a call with padding="same" by our operator: torch would pad x first where the sides differ."""
    return ops.by_operator(input, weight, bias, (stride, padding, dilation, groups), activation)


class _Names:
    """Which module of the program runs, in each thread, and which ran with a tensor; a context manager."""

    def __init__(self, model: nn.Module | None) -> None:
        """Name modules as `capture` says."""
        self._known = {} if model is None else _named(model, "")
        self._running = threading.local()
        self._ran_with: dict[tuple[object, ...], str] = {}
        self._hooks = ExitStack()

    def __enter__(self) -> None:
        self._hooks.callback(register_module_forward_pre_hook(self._begin).remove)
        self._hooks.callback(register_module_forward_hook(self._end, always_call=True).remove)

    def __exit__(self, *_: object) -> None:
        self._hooks.close()

    @property
    def _stack(self) -> list[nn.Module]:
        if not hasattr(self._running, "stack"):
            self._running.stack = []
        stack: list[nn.Module] = self._running.stack
        return stack

    def _begin(self, module: nn.Module, _args: object) -> None:
        if not self._stack and module not in self._known:
            self._known |= _named(module, type(module).__name__)
        self._stack.append(module)

    def _end(self, *_: object) -> None:
        if self._stack:  # else it began before the capture did
            self._stack.pop()

    def running(self, tensors: Sequence[torch.Tensor]) -> str:
        """Return the innermost module that runs, "" if none does, and remember that it did with these."""
        names = [self._known[module] for module in self._stack if module in self._known]
        if not names:
            return ""
        self._ran_with |= dict.fromkeys(map(_place, tensors), names[-1])
        return names[-1]

    def that_ran(self, tensors: Sequence[torch.Tensor]) -> str:
        """Return the module that ran with the first of these that one did, "" if none: of a backward pass."""
        places = map(_place, tensors)
        return next((self._ran_with[place] for place in places if place in self._ran_with), "")


def _named(model: nn.Module, root: str) -> dict[nn.Module, str]:
    """Return the modules of `model` by name; that of the model itself is `root`, or its class's."""
    names = {module: ".".join(filter(None, [root, name])) for name, module in model.named_modules()}
    return {module: name or type(module).__name__ for module, name in names.items()}


def _place(tensor: torch.Tensor) -> tuple[object, ...]:
    """Return what tells a tensor, or what autograd saves of it, from others."""
    return tensor.untyped_storage()._cdata, tensor.storage_offset(), *tensor.shape
