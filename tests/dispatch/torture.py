"""Random sequences of calls and of all that may happen between them, held against torch and against Triton.

A session has weights and modules, and remembers calls, which it makes again after some of them have changed,
died or been copied. What a plan launches is compared, argument by argument and down to the compiled kernel,
with what Triton's public path launches for the same tensors; then the plan's own problem is computed of them
by torch. So a plan that is not the call's shows in the result, and a kernel compiled for other pointers in
the launch. Every value is a small whole number, and so exact in every dtype and in any order.
"""

from __future__ import annotations

import copy
import io
import itertools
import os
import pickle
import random
import sys
import threading
import traceback
import warnings
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy
import torch
from torch import nn
from torch.autograd import forward_ad
from torch.nn import functional
from torch.nn.utils import parametrizations, parametrize
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from triton.compiler import CompiledKernel
from triton.runtime import JITFunction

import autoconv
from autoconv.compiler.recording import recording
from autoconv.config import Config
from autoconv.device import find
from autoconv.dispatch.machines import Recorded
from autoconv.dispatch.signature import precision_of, precision_setting
from autoconv.kernels.aten import activations, convolution
from autoconv.kernels.base import Kernel
from autoconv.kernels.registry import kernels
from autoconv.lookup import Found
from autoconv.problem import Problem

DEVICE = "rtx4090"
DTYPES = (torch.float32, torch.float32, torch.float16, torch.bfloat16, torch.float64)
SHAPES = ((8, 4, 3), (4, 4, 3), (8, 8, 1), (4, 2, 5), (6, 1, 4))  # of weights
LENGTHS = (20, 33, 48)
REFUSALS = (RuntimeError, TypeError, ValueError, IndexError, NotImplementedError, AttributeError, KeyError)

OURS = SimpleNamespace(conv1d=autoconv.conv1d, conv_transpose1d=autoconv.conv_transpose1d)


# --- launches -------------------------------------------------------------------------------------


class Launched(NamedTuple):
    """What came to a launcher; tensors by what a kernel sees of them."""

    function: int  # another for each specialisation
    grid: tuple[int, int, int]
    arguments: tuple[Any, ...]


class _Taken(threading.local):
    def __init__(self) -> None:
        self.launches: list[Launched] = []


class Uncompiled(CompiledKernel):  # type: ignore[misc]
    """What Triton's JIT keeps for a specialisation, without its code: its launches are noted by thread."""

    functions = itertools.count(1)
    taken = _Taken()

    def __init__(self, src: Any, **_: Any) -> None:
        self.src, self.name, self.hash = src, src.fn.__name__, ""
        self.metadata, self.metadata_group = SimpleNamespace(shared=0), {}
        self.module = self._module_pid = None
        self.function, self.packed_metadata = next(self.functions), ("packed",)
        self.__dict__["_run" if hasattr(CompiledKernel, "run") else "run"] = self._launched  # or Triton 3.3

    def _init_handles(self) -> None:
        pass

    def _launched(self, *given: Any) -> None:
        x, y, z, _stream, function, packed, _metadata, _enter, _exit, *arguments = given
        assert (function, packed) == (self.function, self.packed_metadata)
        self.taken.launches.append(Launched(function, (x, y, z), tuple(map(_seen, arguments))))


def _seen(argument: Any) -> Any:
    return (argument.data_ptr(), argument.dtype) if isinstance(argument, torch.Tensor) else argument


class Checked(Recorded):
    """Launches nothing; compares each launch with the public path's, and computes in the kernel's place."""

    def __init__(self, kinds: Callable[[Kernel], bool] = lambda _: True) -> None:
        super().__init__(find(DEVICE))
        self.faults: list[str] = []
        self.launched = 0
        self._kinds = kinds

    def config(self, problem: Problem) -> Config | None:
        """One config for `problem`, of any kernel that runs it: another problem gets another one."""
        can = [one for one in kernels().values() if self._kinds(one) and not one.unsupported(problem)]
        for kernel in sorted(can, key=lambda one: hash((one.name, str(problem)))):
            for config in kernel.space(problem, self._device):
                return config
        return None

    def take(self) -> list[Any]:
        """What this thread has launched since it last asked."""
        taken, Uncompiled.taken.launches = Uncompiled.taken.launches, []
        return taken

    def bind(self, kernel: Kernel, problem: Problem, config: Config, *tensors: Any, **rest: Any) -> Any:
        launch = super().bind(kernel, problem, config, *tensors, **rest)

        def checked(x: torch.Tensor, w: torch.Tensor, b: torch.Tensor | None) -> torch.Tensor:
            try:
                self.take()
                y = launch(x, w, b)
                planned = self.take()
                kernel.launch(problem, config, x, w, b, y)
                self._compare(kernel, problem, config, (x, w, b, y), planned, self.take())
                with torch.no_grad(), torch.autocast("cpu", enabled=False):
                    y.copy_(activations()[problem.activation](convolution(problem, x, w, b)))
                self.launched += 1
            except BaseException:  # a failing launch would be torch's to serve
                self.faults.append(traceback.format_exc())
                raise
            return y

        return checked

    def _compare(
        self,
        kernel: Kernel,
        problem: Problem,
        config: Config,
        tensors: tuple[Any, ...],
        planned: list[Any],
        public: list[Any],
    ) -> None:
        steps = kernel.launches(problem, config, tensors[0].stride())
        given = dict(zip("xwby", tensors, strict=True))
        assert len(planned) == len(public) == len(steps)
        for one, other, step in zip(planned, public, steps, strict=True):
            scratch = step.tensors.index("partials") if "partials" in step.tensors else None
            for launch in (one, other):
                assert launch.grid == step.grid
                named = dict(zip(step.tensors, launch.arguments, strict=False))
                assert all(named[name] == _seen(given[name]) for name in named if name != "partials")
            assert one.function == other.function, f"{kernel.name} is compiled for other arguments: {one}"
            rest = [
                [value for place, value in enumerate(launch.arguments) if place != scratch]
                for launch in (one, other)
            ]
            assert rest[0] == rest[1]
        if problem.dtype == "float32":
            assert problem.precision == precision_of(precision_setting())


@contextmanager
def uncompiled() -> Iterator[None]:
    """Have Triton's JIT bind, specialise and launch as ever, on a device of its own, and compile nothing."""
    from triton import compiler

    def uncompiling(src: Any, **_: Any) -> Uncompiled:
        return Uncompiled(src)

    compile_before = compiler.compile
    compiler.compile = uncompiling  # taken up, for all devices, where a jit function first runs on another
    try:
        with recording(find(DEVICE)) as driver:
            ordinal = -1000 - next(Uncompiled.functions)
            driver.get_current_device = lambda: ordinal  # type: ignore[method-assign]
            yield
    finally:
        compiler.compile = compile_before
        for jit in _jit_functions():
            if vars(jit).get("compile") is uncompiling:
                jit.compile = compile_before


def _jit_functions() -> Iterator[Any]:
    for name, module in list(sys.modules.items()):
        if name.startswith("autoconv.kernels"):
            yield from (value for value in vars(module).values() if isinstance(value, JITFunction))


# --- what is called -------------------------------------------------------------------------------


class Seen(TorchFunctionMode):
    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return function(*args, **(kwargs or {}))


class Passed(TorchDispatchMode):
    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return function(*args, **(kwargs or {}))


class Sub(torch.Tensor):
    pass


MODES: dict[str, Callable[[], Any]] = {
    "no_grad": torch.no_grad,
    "gradients": nullcontext,
    "inference": torch.inference_mode,
    "autocast": lambda: torch.autocast("cpu", torch.bfloat16),
    "function mode": Seen,
    "dispatch mode": Passed,
    "forward mode": forward_ad.dual_level,
}
LAYOUTS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "packed": lambda x: x,
    "misaligned": lambda x: torch.cat([x.new_zeros(1), x.flatten()])[1:].view(x.shape),
    "sliced": lambda x: functional.pad(x, (2, 3))[:, :, 2:-3],
    "strided": lambda x: torch.stack([x, -x], 3).flatten(2)[:, :, ::2],
    "channels last": lambda x: x.transpose(1, 2).contiguous().transpose(1, 2),
    "samples inside": lambda x: x.transpose(0, 1).contiguous().transpose(0, 1),
    "expanded": lambda x: x[:1].expand(x.shape),
    "one sample": lambda x: x[0],
    "no samples": lambda x: x[:0],
    "negated": lambda x: torch.complex(x.float(), -x.float()).conj().imag if x.dtype != torch.float64 else x,
    "wants a gradient": lambda x: x.clone().requires_grad_(),
    "a parameter": lambda x: nn.Parameter(x, requires_grad=False),
    "of a subclass": lambda x: x.as_subclass(Sub),
    "no tensor": lambda x: x.tolist(),
    "too many axes": lambda x: x[None],
    "a channel short": lambda x: x[:, 1:],
}
SPELLINGS: tuple[Callable[[int], Any], ...] = (
    *[lambda n: n] * 24, lambda n: (n,), lambda n: (n,), lambda n: [n],
    lambda n: numpy.int64(n), float, bool, lambda n: (n, n), lambda n: -n, lambda n: (float(n),),
)  # fmt: skip


class Call(NamedTuple):
    """A call to make, once or often: its x is made anew each time, elsewhere in memory."""

    what: str  # for who reads of a failure
    of: Callable[[Any, torch.Tensor], Any]  # from OURS or torch.nn.functional, and x
    shape: tuple[int, int, int]
    dtype: torch.dtype
    layout: str
    mode: str


class Session:
    """Weights, modules, calls made, and the random numbers that decide what happens to them."""

    def __init__(self, machine: Checked) -> None:
        self.machine = machine
        self.random = random.Random(0)
        self.weights: list[torch.Tensor] = [self.weight() for _ in range(4)]
        self.modules: list[nn.Module] = [self.module() for _ in range(3)]
        self.calls: deque[Call] = deque(maxlen=10)

    def step(self, kind: str, seed: int) -> None:
        """Do one thing, wholly decided by `seed` and by what was done before."""
        self.random = random.Random(seed)
        getattr(self, kind)()
        assert not self.machine.faults, self.machine.faults[0]

    # --- numbers ----------------------------------------------------------------------------------

    def whole(self, shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
        generator = torch.Generator().manual_seed(self.random.randrange(1 << 30))
        return torch.randint(-2, 3, shape, generator=generator).to(dtype)

    def weight(self) -> torch.Tensor:
        made = self.whole(self.random.choice(SHAPES), self.random.choice(DTYPES))
        kind = self.random.randrange(4)
        if kind == 0:
            return LAYOUTS[self.random.choice(["misaligned", "channels last"])](made)
        return nn.Parameter(made, requires_grad=kind == 1) if kind < 3 else made

    def module(self) -> nn.Module:
        cout, cin, taps = self.random.choice(SHAPES)
        bias, window = self.random.random() < 0.5, {"stride": self.random.choice((1, 2))}
        kinds: list[Callable[..., nn.Module]] = [
            autoconv.Conv1d, autoconv.ConvTranspose1d, autoconv.ModelNew, nn.Conv1d,
        ]  # fmt: skip
        made = self.random.choice(kinds)(cin, cout, taps, bias=bias, **window)
        autoconv.accelerate(made)
        for parameter in made.parameters():
            parameter.data = self.whole(tuple(parameter.shape), parameter.dtype)
        return made.requires_grad_(self.random.random() < 0.5)

    # --- calls ------------------------------------------------------------------------------------

    def call_function(self) -> None:
        """Call one of the functions on one of the weights, now and perhaps later."""
        pick, weight = self.random.choice, self.random.choice(self.weights)
        name = pick(("conv1d", "conv1d", "conv_transpose1d"))
        groups = pick((1, 1, 1, 2))
        channels = weight.shape[0] if name == "conv_transpose1d" else weight.shape[-2] * groups
        outputs = weight.shape[-2] * groups if name == "conv_transpose1d" else weight.shape[0]
        bias = self.whole((outputs,), weight.dtype) if self.random.random() < 0.4 else None
        numbers = {
            "stride": pick(SPELLINGS)(pick((1, 1, 2))),
            "padding": pick(SPELLINGS)(pick((0, 1, 2)))
            if pick((0, 1, 1))
            else pick(("same", "valid", "all")),
            "dilation": pick(SPELLINGS)(pick((1, 1, 2))),
            "groups": pick(SPELLINGS)(groups),
        }
        activation = pick(("none", "none", "relu", "gelu"))
        self._make(weight, bias, name, numbers, activation, channels)

    def _make(
        self,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        name: str,
        numbers: dict[str, Any],
        activation: str,
        channels: int,
    ) -> None:
        def of(functions: Any, x: torch.Tensor) -> Any:
            if functions is OURS:
                return getattr(OURS, name)(x, weight, bias, **numbers, activation=activation)
            return activations()[activation](getattr(functional, name)(x, weight, bias, **numbers))

        what = f"{name} of {weight.dtype} {tuple(weight.shape)}, {numbers}, {activation}"
        self._made(what, of, channels, weight.dtype)

    def call_module(self) -> None:
        """Call one of the modules, whose weight is found when it is called."""
        module = self.random.choice(self.modules)
        held: Any = module.conv1d if isinstance(module, autoconv.ModelNew) else module

        def of(functions: Any, x: torch.Tensor) -> Any:
            if functions is OURS:
                return module(x)
            if isinstance(held, nn.ConvTranspose1d):
                return nn.ConvTranspose1d.forward(held, x)
            return nn.Conv1d._conv_forward(held, x, held.weight, held.bias)

        self._made(str(module), of, held.in_channels, next(held.parameters()).dtype)

    def _made(
        self, what: str, of: Callable[[Any, torch.Tensor], Any], channels: int, dtype: torch.dtype
    ) -> None:
        pick = self.random.choice
        layout = pick([*["packed"] * 12, *LAYOUTS])
        mode = pick([*["no_grad"] * 8, *MODES])
        dtype = pick([*[dtype] * 8, *DTYPES])
        call = Call(what, of, (pick((1, 2)), channels, pick(LENGTHS)), dtype, layout, mode)
        self.calls.append(call)
        for _ in range(pick((1, 3))):
            self._hold(call)

    def call_again(self, but: str = "") -> None:
        """Make a call that was made before, in another mode than `but`."""
        calls = [call for call in self.calls if call.mode != but]
        if calls:
            self._hold(self.random.choice(calls))

    def _hold(self, call: Call) -> None:
        """Make a call by ours and by torch, and compare results, or refusals."""
        x = LAYOUTS[call.layout](self.whole(call.shape, call.dtype))
        gradients = call.mode == "gradients" and self.random.random() < 0.3
        with MODES[call.mode]():
            expected = _outcome(lambda: call.of(functional, x), x, gradients)
            got = _outcome(lambda: call.of(OURS, x), x, gradients)
        assert not self.machine.faults, self.machine.faults[0]
        for one, other in zip(got, expected, strict=True):
            same = isinstance(one, torch.Tensor) and isinstance(other, torch.Tensor)
            if same:
                torch.testing.assert_close(one, other, msg=lambda text: f"{call}: {text}")
                assert type(one) is type(other)
            else:
                assert one == other, f"{call}: {one} where torch gives {other}"

    # --- between calls ----------------------------------------------------------------------------

    def change_weight(self) -> None:
        """Change one of the weights in one of the ways there are."""
        w, shape = self.random.choice(self.weights), self.random.choice(SHAPES)
        like = self.whole(tuple(w.shape), w.dtype)
        other = self.weight().detach()
        ways: list[Callable[[], Any]] = [
            lambda: w.copy_(like),
            lambda: w.data.copy_(like),
            lambda: w.detach().add_(1),
            lambda: w.detach().view(-1)[0].fill_(2),
            lambda: numpy.copyto(w.detach().numpy(), 1),
            lambda: w.untyped_storage().fill_(0),
            lambda: setattr(w, "data", like),
            lambda: setattr(w, "data", self.whole(shape, w.dtype)),
            lambda: setattr(w, "data", w.data.to(self.random.choice(DTYPES))),
            lambda: setattr(w, "data", LAYOUTS["misaligned"](like)),
            lambda: setattr(w, "data", w.data.reshape(*reversed(w.shape))),
            lambda: w.set_(like),
            lambda: w.set_(self.whole(shape, w.dtype)),
            lambda: w.transpose_(0, 1),
            lambda: w.requires_grad_(not w.requires_grad),
            lambda: torch.utils.swap_tensors(w, self.random.choice(self.weights)),
            lambda: torch._foreach_mul_([w], -1),
            lambda: w.copy_(other),
        ]
        with torch.no_grad():
            _outcome(self.random.choice(ways))

    def let_weight_die(self) -> None:
        """Make another in the place of one, perhaps at its address and with its identity."""
        place = self.random.randrange(len(self.weights))
        for call in [call for call in self.calls if self.random.random() < 0.7]:
            self.calls.remove(call)
        self.weights[place] = torch.zeros(0)
        self.weights[place] = self.weight()

    def change_module(self) -> None:
        """Change one of the modules in one of the ways there are."""
        place = self.random.randrange(len(self.modules))
        module = self.modules[place]
        held: Any = module.conv1d if isinstance(module, autoconv.ModelNew) else module
        state = {name: self.whole(tuple(one.shape), one.dtype) for name, one in module.state_dict().items()}
        dtype = self.random.choice(DTYPES)
        ways: list[Callable[[], Any]] = [
            lambda: module.load_state_dict(state),
            lambda: module.load_state_dict(state, assign=True),
            lambda: module.to(dtype),
            lambda: module.half(),
            lambda: module.float(),
            lambda: module.requires_grad_(self.random.random() < 0.5),
            lambda: self._optimise(module),
            lambda: setattr(held, "weight", nn.Parameter(self.whole(tuple(held.weight.shape), dtype))),
            lambda: parametrize.is_parametrized(held) or parametrizations.weight_norm(held),
            lambda: parametrize.remove_parametrizations(held, "weight"),
            lambda: self._replace(place, copy.deepcopy(module)),
            lambda: self._replace(place, copy.copy(module)),
            lambda: self._replace(place, pickle.loads(pickle.dumps(module))),
            lambda: self._replace(place, _saved(module)),
            lambda: self._replace(place, self.module()),
            lambda: (autoconv.restore(module), autoconv.accelerate(module)),
        ]
        _outcome(self.random.choice(ways))

    def _replace(self, place: int, module: nn.Module) -> None:
        self.modules[place] = module

    def _optimise(self, module: nn.Module) -> None:
        for parameter in module.parameters():
            parameter.requires_grad_(True)
            parameter.grad = self.whole(tuple(parameter.shape), parameter.dtype)
        foreach = self.random.random() < 0.5
        torch.optim.SGD(module.parameters(), lr=1.0, foreach=foreach).step()

    def change_precision(self) -> None:
        torch.backends.cudnn.allow_tf32 = not torch.backends.cudnn.allow_tf32

    def call_in_threads(self) -> None:
        """Make calls that were made before, in threads at once."""
        seeds = [self.random.randrange(1 << 30) for _ in range(3)]
        threads = [_Thread(self, seed) for seed in seeds]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        failures = [thread.failure for thread in threads if thread.failure]
        assert not failures, failures[0]

    def call_in_child(self) -> None:
        """Fork, and call in the child."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # of a fork beside other threads
            child = os.fork()
        if child:
            assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
            return
        thread = _Thread(self, self.random.randrange(1 << 30))
        thread.run()
        os.write(2, thread.failure.encode())
        os._exit(1 if thread.failure else 0)


class _Thread(threading.Thread):
    """Makes calls of a session's; `failure` tells what came of it."""

    def __init__(self, session: Session, seed: int) -> None:
        super().__init__()
        self.failure = ""
        self._session = copy.copy(session)
        self._session.random = random.Random(seed)

    def run(self) -> None:
        try:
            for _ in range(4):
                self._session.call_again(but="forward mode")  # of which a process has one level
        except BaseException:  # all of them are for who waits
            self.failure = traceback.format_exc()


def _saved(module: nn.Module) -> nn.Module:
    file = io.BytesIO()
    torch.save(module, file)
    file.seek(0)
    loaded: nn.Module = torch.load(file, weights_only=False)
    return loaded


def _outcome(call: Callable[[], Any], x: Any = None, gradients: bool = False) -> list[Any]:
    """What a call returns, and the gradient of its sum for x; or that it is refused, with torch's errors."""
    try:
        y = call()
        if gradients and y.requires_grad and x.requires_grad:
            return [y, *torch.autograd.grad(y.sum(), x)]
    except REFUSALS:  # which of two faults of one call is named is not compared here
        return ["refused"]
    return [y]


STEPS = (
    *["call_function"] * 6, *["call_module"] * 4, *["call_again"] * 12, *["change_weight"] * 6,
    *["let_weight_die"] * 2, *["change_module"] * 4, "change_precision", "call_in_threads", "call_in_child",
)  # fmt: skip


def found_by(machine: Checked) -> Callable[..., Found | None]:
    """What chooses in the place of a lookup: the machine's own config for a problem."""

    def choose(_chooser: Any, plan: Any) -> Found | None:
        config = machine.config(plan.subject.problem)
        return None if config is None else Found(config, "predicted", "exact", "user", None, 1.0)

    return choose
