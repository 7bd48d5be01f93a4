"""`tune`: the convolutions of a whole model, captured without computing anything, and tuned."""

from __future__ import annotations

import logging
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from copy import deepcopy
from dataclasses import dataclass
from itertools import product
from typing import Any, TypeAlias

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeCopyMode, FakeTensorMode
from torch.utils._pytree import tree_leaves, tree_map_only

from autoconv.capturing import Capture, capture
from autoconv.cost.prediction import floor_seconds
from autoconv.errors import FieldError
from autoconv.lookup import HITS, warn_once
from autoconv.problem import Problem
from autoconv.sweep.outcomes import Unavailable, outcome_of
from autoconv.sweep.pool import WorkerPool
from autoconv.sweep.sweep import Progress
from autoconv.targets import Target, target
from autoconv.tuning.asked import Asked, merged
from autoconv.tuning.cover import cover
from autoconv.tuning.effort import Effort, effort_called, seconds_of
from autoconv.tuning.report import Report, section
from autoconv.tuning.scheduler import Ended, Order, Show, tune_all
from autoconv.tuning.tuner import Tuned, no_progress

Inputs: TypeAlias = Callable[
    [int, int], Any
]  # from batch size and length to a tensor, or a tuple of arguments

_log = logging.getLogger("autoconv")


def tune(
    model: nn.Module | Capture,
    *inputs: Any,
    lengths: int | Sequence[int] | None = None,
    batches: int | Sequence[int] | None = None,
    devices: str | Sequence[str] = "auto",
    budget: float | str | None = None,
    effort: str = "normal",
    backward: bool = False,
    progress: Show = no_progress,
) -> Report:
    """Find and record the best config of each convolution of `model`, at all sizes asked for.

    The model is run on fake tensors, which takes no time and no memory; where it needs values, with its own
    tensors. Sizes of one layer that lie within a bucket are one sweep, and what the database has is none.
    The layer with the most time comes first. Whatever ends it, what is finished is recorded, and the same
    call goes on from there.

    Args:
        model: What is called, once for each size; or what `capture` saw, and then no inputs.
        inputs: Its arguments. Or one callable, from a batch size and a length to the argument or a tuple of
            them: for a model whose sizes depend on more than the two options below change.
        lengths: Put in the place of the last dimension of each floating-point tensor of `inputs`.
        batches: Put in the place of the first, but for tensors of one dimension.
        devices: Names in the catalogue; "auto" is the GPU here, or else rtx4090.
        budget: Seconds for all together, or text such as "30m"; None: until all is tuned.
        effort: "quick", "normal" or "exhaustive": how many candidates of a problem are compiled.
        backward: Whether to tune the gradients' convolutions, too.
        progress: Told what is being done, how many problems are done (a part of one, too), and of how many.

    Returns:
        A Report, which prints as a table.

    Raises:
        FieldError: an argument cannot be used, or the model refuses a size.
        DeviceError: no device has that name.
        Unavailable: the machine is at fault, as where its disk is full; what was finished is recorded.
    """
    begun = time.monotonic()
    allowed, tried = seconds_of(budget), effort_called(effort)
    names = dict.fromkeys([devices] if isinstance(devices, str) else devices)
    targets = {at.device.name: at for at in (target(name, warn_once) for name in names)}
    variants = _variants(model, inputs, _several("lengths", lengths), _several("batches", batches), backward)
    tuning = _Tuning(targets, tried, [one for _, seen in variants for one in seen.problems])
    tuning.run(allowed, progress)
    sections = tuple(
        section(f"{at.device.name}{title}", merged(seen.problems), at.tuner, at.job())
        for at in targets.values()
        for title, seen in variants
    )
    left = dict.fromkeys([*(str(one) for _, seen in variants for one in seen.left), *tuning.failed])
    return Report(sections, tuple(left), tuning.swept, tuning.unfinished, time.monotonic() - begun)


class _Tuning:
    """Tunes what is not known yet on each of several devices, a size a bucket."""

    def __init__(self, targets: Mapping[str, Target], effort: Effort, asked: Sequence[Asked]) -> None:
        self._targets = targets
        self._effort = effort
        self._asked = merged(asked)
        self._ordered: set[tuple[str, Problem]] = set()
        self.swept = 0
        self.unfinished = 0
        self.failed: list[str] = []  # a line each

    def run(self, seconds: float, progress: Show) -> None:
        """Tune until all is known, or has been tried, or the time is up."""
        until = time.monotonic() + seconds
        # A bucket may turn out not to serve a size in it: no config that passed may run there.
        while not self.unfinished and (orders := self._orders()):
            self.unfinished = len(orders)
            left = until - time.monotonic()
            with closing(tune_all(orders, self._tune_one, seconds=left, show=progress)) as results:
                for ended in results:
                    self._take(ended)

    def _orders(self) -> list[Order]:
        return [order for at in self._targets.values() for order in self._orders_of(at)]

    def _orders_of(self, at: Target) -> list[Order]:
        job = at.job(effort=self._effort)
        unknown = {
            one.problem: one
            for one in self._asked
            if (at.device.name, one.problem) not in self._ordered
            and not at.tuner.known(one.problem, job, HITS)
        }
        chosen = cover(unknown)
        self._ordered |= {(at.device.name, problem) for problem in chosen}
        # By the roofline: estimates of every config take half a second each, and only an order is wanted.
        least = {problem: floor_seconds(problem, at.device) for problem in chosen}
        return [Order(problem, job, unknown[problem].calls * least[problem]) for problem in chosen]

    def _tune_one(self, order: Order, workers: WorkerPool, progress: Progress) -> Tuned:
        tuner = self._targets[order.job.device.name].tuner
        return tuner.tune(order.problem, order.job, content=order.content, pool=workers, progress=progress)

    def _take(self, ended: Ended) -> None:
        if isinstance(ended.error, Unavailable):
            raise ended.error
        if ended.tuned is not None and ended.tuned.pending:
            return
        self.unfinished -= 1
        if ended.tuned is not None and ended.tuned.swept is not None:
            self.swept += 1
        if ended.tuned is None or ended.tuned.found is None:
            why = ended.error or "no candidate passed its check"
            self.failed.append(f"{ended.order.problem} on {ended.order.job.device.name}: {why}")


# --- what the model is asked to do --------------------------------------------------------------------


def _several(name: str, sizes: int | Sequence[int] | None) -> tuple[int | None, ...]:
    given = (sizes,) if sizes is None or isinstance(sizes, int) else tuple(sizes)
    for one in given:
        if one is not None and (isinstance(one, bool) or not isinstance(one, int) or one < 1):
            raise FieldError("tune", name, one, "is not a size", "give whole numbers from 1 on")
    if not given:
        raise FieldError("tune", name, None, "names no size", "give one at least, or leave it out")
    return given


def _variants(
    model: nn.Module | Capture,
    inputs: tuple[Any, ...],
    lengths: tuple[int | None, ...],
    batches: tuple[int | None, ...],
    backward: bool,
) -> list[tuple[str, Capture]]:
    """Return what the model poses at each size asked for, with a title that says which."""
    if isinstance(model, Capture):
        if inputs or lengths != (None,) or batches != (None,):
            raise FieldError(
                "tune", "inputs", None, "go with no capture", "give the capture alone, or a model"
            )
        return [("", model)]
    found = []
    for batch, length in product(batches, lengths):
        told = {"batch": batch, "length": length}
        title = "".join(f", {name} {size}" for name, size in told.items() if size is not None)
        found.append((title, _captured(model, _Arguments(inputs, batch, length), backward)))
    return found


@dataclass(frozen=True)
class _Arguments:
    """The model's arguments at one size."""

    inputs: tuple[Any, ...]
    batch: int | None
    length: int | None

    def made(self) -> tuple[Any, ...]:
        """Return them.

        Raises:
            FieldError: a callable lacks the batch size or the length.
        """
        if len(self.inputs) != 1 or isinstance(self.inputs[0], nn.Module) or not callable(self.inputs[0]):
            made: tuple[Any, ...] = tree_map_only(torch.Tensor, self._sized, self.inputs)
            return made
        if self.length is None:
            raise FieldError(
                "tune", "lengths", None, "is missing", "give the lengths to call the inputs with"
            )
        given = self.inputs[0](self.batch or 1, self.length)
        return given if isinstance(given, tuple) else (given,)

    def _sized(self, tensor: torch.Tensor) -> torch.Tensor:
        """Return a tensor that lies in memory as `tensor` does, at this size."""
        shape = list(tensor.shape)
        if not shape or not tensor.is_floating_point():
            return tensor
        if self.batch is not None and len(shape) > 1:
            shape[0] = self.batch
        shape[-1] = self.length or shape[-1]
        if shape == list(tensor.shape):
            return tensor
        order = sorted(range(len(shape)), key=lambda axis: -tensor.stride()[axis])
        packed = tensor.new_zeros([shape[axis] for axis in order])
        return packed.permute([order.index(axis) for axis in range(len(shape))])


def _captured(model: nn.Module, arguments: _Arguments, backward: bool) -> Capture:
    """Return what the model poses, on fake tensors if it lets itself be run on them, or else on its own.

    Raises:
        FieldError: the model refuses the arguments.
    """
    model = getattr(model, "_orig_mod", model)  # of torch.compile
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the model's own, once for each size and try
        try:
            with FakeTensorMode(allow_non_fake_inputs=True) as fake:
                with FakeCopyMode(fake):
                    copied = deepcopy(model)
                given = tree_map_only(torch.Tensor, fake.from_tensor, arguments.made())
                return _posed(copied, given, backward)
        except FieldError:
            raise
        except Exception as error:  # whatever a model does that fake tensors do not let it
            _log.info("%s is run on its own tensors: %s", type(model).__name__, outcome_of(error).reason)
        try:
            return _posed_apart(model, arguments.made(), backward)
        except FieldError:
            raise
        except Exception as error:  # whatever the model raises of a size that it does not take
            shown = f"batch {arguments.batch}, length {arguments.length}"
            reason = f"are refused by the model ({outcome_of(error).reason})"
            remedy = "give sizes that it takes, or a callable that makes all its inputs"
            raise FieldError("tune", "inputs", shown, reason, remedy) from error


def _posed_apart(model: nn.Module, given: tuple[Any, ...], backward: bool) -> Capture:
    """Do as `_posed`, and leave the tensors of model and inputs and torch's random numbers as they are."""

    def apart(tensor: torch.Tensor) -> torch.Tensor:
        return tensor.detach().clone().requires_grad_(tensor.requires_grad)

    with torch.random.fork_rng():
        return _posed(deepcopy(model), tree_map_only(torch.Tensor, apart, given), backward)


def _posed(model: nn.Module, given: tuple[Any, ...], backward: bool) -> Capture:
    with capture(model) as seen, torch.set_grad_enabled(backward):
        results = [one for one in tree_leaves(model(*given)) if isinstance(one, torch.Tensor)]
        wanted = [one.sum() for one in results if one.requires_grad and one.is_floating_point()]
        if wanted:
            torch.stack(wanted).sum().backward()
    return seen
