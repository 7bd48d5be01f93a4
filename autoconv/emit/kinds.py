"""The three ops as a file says them: names, shapes and what torch calls them."""

from __future__ import annotations

from dataclasses import dataclass

from autoconv.emit.tracing import parameters
from autoconv.problem import ACTIVATIONS, Problem


@dataclass(frozen=True)
class Kind:
    """How the functions of an op are called, and what they take beside x."""

    name: str  # of the functions, in front of _triton and _torch
    tensors: dict[str, str]  # what a launch's tensors are called
    unpacking: tuple[str, ...]  # lines from the shapes to Cin, Cout and K
    refused: tuple[str, ...]  # shapes that fit no convolution
    gives: str  # for the docstring
    of_group: str = ""  # "Cin" or "Cout", where the unpacking gives those of a group the name cin_g or cout_g


def kind_of(problem: Problem) -> Kind:
    """Return the kind of a problem."""
    grouped = problem.groups > 1
    cin, cout = ("Cin / groups", "Cout / groups") if grouped else ("Cin", "Cout")
    if problem.op == "conv_weight":
        return Kind(
            "conv1d_weight",
            {"x": "x", "w": "grad", "y": "y"},
            ("Cout, K = grad.shape[1], kernel_size",),
            (
                "grad.shape != (N, Cout, L_out)",
                *(("Cin % groups != 0", "Cout % groups != 0") if grouped else ()),
            ),
            f"grad_weight (Cout, {cin}, K) from x (N, Cin, L) and grad (N, Cout, L_out)",
        )
    named = {"x": "x", "w": "weight", "b": "bias", "y": "y"}
    if problem.op == "conv_transpose":
        unpacking = "Cin_w, cout_g, K = weight.shape", "Cout = cout_g * groups"
        return Kind(
            "conv_transpose1d",
            named,
            unpacking if grouped else ("Cin_w, Cout, K = weight.shape",),
            ("Cin != Cin_w", *(("Cin % groups != 0",) if grouped else ())),
            f"y (N, Cout, L_out) from x (N, Cin, L), weight (Cin, {cout}, K) and bias (Cout,)",
            "Cout" * grouped,
        )
    return Kind(
        "conv1d",
        named,
        ("Cout, cin_g, K = weight.shape",) if grouped else ("Cout, Cin_w, K = weight.shape",),
        ("Cin != cin_g * groups", "Cout % groups != 0") if grouped else ("Cin != Cin_w",),
        f"y (N, Cout, L_out) from x (N, Cin, L), weight (Cout, {cin}, K) and bias (Cout,)",
        "Cin" * grouped,
    )


def declared(problem: Problem) -> list[str]:
    """Return the parameters of a call beside its tensors, with types and defaults."""
    pair = isinstance(problem.padding, tuple)
    stated = {
        "kernel_size": "kernel_size: int",
        "stride": "stride: int = 1",
        "padding": "padding: tuple[int, int] = (0, 0)" if pair else "padding: int = 0",
        "dilation": "dilation: int = 1",
        "output_padding": "output_padding: int = 0",
        "groups": "groups: int = 1",
        "activation": f'activation: str = "{problem.activation}"',
    }
    return [stated[name] for name in parameters(problem)]


def known_activations() -> str:
    """Return the test that a kernel does not know an activation."""
    return f"activation not in {ACTIVATIONS}".replace("'", '"')
