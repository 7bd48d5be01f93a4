"""The class of a file: torch's module with the kernel in its forward pass, or in its backward one."""

from __future__ import annotations

from autoconv.emit.kinds import Kind, declared
from autoconv.emit.layout import INDENT, declared_with, enclosed, indented
from autoconv.emit.tracing import parameters
from autoconv.problem import Problem

_FUNCTION = '''\
class Convolution(torch.autograd.Function):
    """The kernel forwards, torch's gradients backwards."""

    @staticmethod
    def forward(ctx, x, weight, bias, *window):
        ctx.save_for_backward(x, weight, bias)
        ctx.window = window
        return {name}_triton(x, weight, bias, *window)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad):
        needed = ctx.needs_input_grad
        given = [one if one is None else one.detach() for one in ctx.saved_tensors]
        wanted = [given[i].requires_grad_() for i in range(3) if needed[i]]
        with torch.enable_grad():
            y = {name}_torch(*given, *ctx.window)
        grads = iter(torch.autograd.grad(y, wanted, grad))
        return tuple(next(grads) if one else None for one in needed)
'''

_GRADIENT = '''\
class Convolution(torch.autograd.Function):
    """torch's convolution forwards; backwards the weight's gradient by the kernel, the others by torch."""

    @staticmethod
    def forward(ctx, x, weight, bias, {window}):
        ctx.save_for_backward(x, weight)
        ctx.window = ({window})
{forward}

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad):
        x, weight = ctx.saved_tensors
        {window} = ctx.window
        grad_x = grad_weight = grad_bias = None
        if ctx.needs_input_grad[0]:
{grad_x}
        if ctx.needs_input_grad[1]:
            grad_weight = conv1d_weight_triton(x, grad, weight.shape[2], {window})
        if ctx.needs_input_grad[2]:
            grad_bias = grad.sum((0, 2))
        return grad_x, grad_weight, grad_bias, {nothing}
'''


def autograd_function(problem: Problem, kind: Kind) -> list[str]:
    """Return the class through which autograd sees a call."""
    if problem.op != "conv_weight":
        return _FUNCTION.format(name=kind.name).splitlines()
    names = [name for name in parameters(problem) if name != "kernel_size"]
    pair = isinstance(problem.padding, tuple)
    window = [f"{name}={name}" for name in names if not (pair and name == "padding")]
    at, deep = " " * 8, " " * 12
    forward = [f"{at}x = nn.functional.pad(x, padding)"] if pair else []
    forward += enclosed(f"{at}return nn.functional.conv1d(", ["x", "weight", "bias", *window], ")")
    shape = "x.shape"
    grad_x = []
    if pair:
        grad_x, shape = [f"{deep}shape = (*x.shape[:2], x.shape[2] + sum(padding))"], "shape"
    grad_x += enclosed(f"{deep}grad_x = nn.grad.conv1d_input(", [shape, "weight", "grad", *window], ")")
    if pair:
        grad_x.append(f"{deep}grad_x = nn.functional.pad(grad_x, (-padding[0], -padding[1]))")
    return _GRADIENT.format(
        window=", ".join(names),
        forward="\n".join(forward),
        grad_x="\n".join(grad_x),
        nothing=", ".join(["None"] * len(names)),
    ).splitlines()


def module(problem: Problem, kind: Kind) -> list[str]:
    """Return ModelNew, with the constructor of torch's module as far as the problem bears on it."""
    transposed, pair = problem.op == "conv_transpose", isinstance(problem.padding, tuple)
    of_torch, own = ("ConvTranspose1d", "conv1d_transpose") if transposed else ("Conv1d", "conv1d")
    window = [name for name in parameters(problem) if name != "kernel_size"]
    further = [one for one in declared(problem) if not one.startswith("kernel_size")]
    stated = ["self", "in_channels: int", "out_channels: int", "kernel_size: int", *further]
    stated.insert(len(stated) - ("activation" in window), "bias: bool = False")
    theirs = [f"{one}={one}" for one in window if one != "activation" and not (pair and one == "padding")]
    made = ["in_channels", "out_channels", "kernel_size", *theirs, "bias=bias"]
    what = "its weight's gradient computed" if problem.op == "conv_weight" else "computed"
    tensors = ["x", f"self.{own}.weight", f"self.{own}.bias"]
    given = [*tensors, "*self.window"]
    by_torch = [f"            return self.{own}(x)"]
    if problem.op == "conv_weight" and pair:
        by_torch = [f"            return self.{own}(nn.functional.pad(x, self.window[1]))"]
    elif pair or "activation" in window:
        by_torch = enclosed(f"            return {kind.name}_torch(", given, ")")
    return [
        "class ModelNew(nn.Module):",
        *indented([
            f'"""torch.nn.{of_torch}, {what} by the kernel above; on the CPU by torch."""',
            "",
        ]),
        *declared_with("    def __init__(", stated, ") -> None:"),
        *indented(["super().__init__()"], 2),
        *enclosed(f"        self.{own} = nn.{of_torch}(", made, ")"),
        *indented([f"self.window = ({', '.join(window)}{',' * (len(window) == 1)})"], 2),
        "",
        *indented(["def forward(self, x: torch.Tensor) -> torch.Tensor:"]),
        *indented(["if not x.is_cuda or x.dim() != 3:"], 2),
        *by_torch,
        *indented([
            f"given = [{', '.join(tensors)}]",
            'if torch.is_autocast_enabled("cuda") and x.dtype != torch.float64:',
            f'{INDENT}dtype = torch.get_autocast_dtype("cuda")',
            f"{INDENT}given = [one if one is None else one.to(dtype) for one in given]",
            "with torch.cuda.device_of(x):  # which need not be the current one",
            f"{INDENT}return Convolution.apply(*given, *self.window)",
        ], 2),
    ]  # fmt: skip
