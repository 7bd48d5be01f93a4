"""The hit path: from the arguments of a call to its plan, by one look into a dictionary."""

from __future__ import annotations

from typing import Any

import torch

from autoconv.dispatch.figures import Figures, Served
from autoconv.dispatch.launchers import Launcher
from autoconv.dispatch.machines import Machine
from autoconv.dispatch.planning import Planner
from autoconv.dispatch.plans import Plan
from autoconv.dispatch.recent import MOST, Place, Recent, comparison, recent
from autoconv.dispatch.signature import (
    NO_MEMORY,
    Call,
    Numbers,
    Padding,
    Sides,
    plain_number,
    precision_setting,
)
from autoconv.problem import Problem
from autoconv.settings import Settings, policy

UNKEYED = Served(why="its tensors have no memory of their own")

_FLOAT32 = torch.float32  # one lookup less in every call


class Dispatcher:
    """Serves convolutions on one kind of machine; keeps one plan for each call signature seen.

    Attributes:
        machine: where.
        serves: whether convolutions of an x run there.
        recent: calls by their places, to be tried before the plan is looked up.
    """

    def __init__(self, machine: Machine, settings: Settings) -> None:
        """Serve what `machine` serves, with the files and the policy on misses that `settings` name."""
        self.machine = machine
        self.serves = machine.serves
        self._planner = Planner(machine, settings)
        self._plans = self._planner.plans.by_key
        self.recent: dict[Place, Recent] = {}
        self._planner.plans.on_eviction = self.recent.clear  # a plan that is not kept is not renewed
        comparison()  # tried now, not in a call

    @property
    def launchers(self) -> tuple[Launcher, ...]:
        """What serves the plans that are kept now."""
        return tuple(plan.launch for plan in list(self._plans.values()))

    @property
    def swept(self) -> frozenset[Problem]:
        """The problems that calls of this process sweep or have swept."""
        return frozenset(subject.problem for subject in self._planner.chooser.swept)

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until the tuner of the background has nothing to do; return whether it has not."""
        return self._planner.background.wait(timeout)

    def figures(self) -> Figures:
        """Return the counts so far."""
        plans, chooser = self._planner.plans, self._planner.chooser
        sweeps = self._planner.background.sweeps + chooser.swept.added
        return Figures(plans.counts(), plans.misses, sweeps, len(plans.by_key), plans.evicted)

    def plan(
        self,
        x: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        stride: Numbers,
        padding: Padding,
        dilation: Numbers,
        groups: int,
        *kind: Any,
    ) -> Plan:
        """Return the plan of this call and every later one of its signature, which is counted as one call.

        The arguments are the fields of Call, as the caller gave them; `kind` is those from `op` on. On a hit
        this reads a dictionary: it takes no lock, does no I/O and allocates no memory of the device.

        Raises:
            MissError: the policy is strict, and the database has no entry.
        """
        dtype = x.dtype
        try:
            x_at, weight_at = x.data_ptr(), weight.data_ptr()
            key = (
                # Strides matter to a kernel only where x is not packed; no kernel reads an unpacked weight.
                x.shape, x.is_contiguous() or x.stride(), x.is_neg(), dtype, x.get_device(),
                weight.shape, weight.is_contiguous(), weight.is_neg(), weight.dtype, weight.get_device(),
                # The compiler was told which pointers are multiples of 16.
                x_at % 16 if x_at > NO_MEMORY else None, weight_at % 16 if weight_at > NO_MEMORY else None,
                bias is not None and (
                    bias.shape, bias.is_contiguous(), bias.is_neg(), bias.dtype, bias.get_device(),
                    bias_at % 16 if (bias_at := bias.data_ptr()) > NO_MEMORY else None,
                ),
                # 1 == 1.0 == True, of which torch takes the first alone, itself or alone in a tuple.
                stride, type(stride) is int or type(stride[0]),  # type: ignore[index]
                padding, type(padding) is int or type(padding) is Sides or type(padding[0]),  # type: ignore[index]
                dilation, type(dilation) is int or type(dilation[0]),  # type: ignore[index]
                groups, type(groups) is int or type(groups[0]),  # type: ignore[index]
                kind, kind and (type(kind[1]) is int or type(kind[1][0])),
                dtype is _FLOAT32 and precision_setting(),
                policy.name,
            )  # fmt: skip
            plan = self._plans.get(key)
        except (RuntimeError, TypeError, IndexError):
            return self._unkeyed(Call(x, weight, bias, stride, padding, dilation, groups, *kind))
        if plan is None:
            plan = self._planner.planned(key, Call(x, weight, bias, stride, padding, dilation, groups, *kind))
        plan.calls += 1
        return plan

    def remember(self, plan: Plan, call: tuple[Any, ...], output_padding: Any, activation: str) -> None:
        """Have a call like this one recognised, if that can be.

        From the second on: a plan for one call alone is not called again.

        Args:
            plan: Of the call.
            call: The arguments of `plan`.
            output_padding: None of conv1d.
            activation: As in Call.
        """
        if plan.total < 2:
            return
        x, weight, bias, *window = call[:7]
        tensors = [x, weight] if bias is None else [x, weight, bias]
        made = recent(tensors, plan, (*window, output_padding, activation), precision_setting())
        if made is None or self.plan(*call) is not plan:  # another thread has changed a tensor meanwhile
            return
        plan.calls -= 1
        if len(self.recent) >= MOST:
            self.recent.clear()
        self.recent[id(weight), id(bias), x.numel()] = made

    def _unkeyed(self, call: Call) -> Plan:
        """Plan a call without a key: with numbers of other types, or tensors without memory, as in vmap."""
        plain = Call(*map(plain_number, call))
        if any(one is not given for one, given in zip(plain, call, strict=True)):
            return self.plan(*plain)
        return self._planner.passing(call, UNKEYED)
