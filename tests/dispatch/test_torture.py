"""Calls in any order, whatever happens to their tensors in between: `torture` says how they are checked.

`make fuzz` runs FUZZ_EXAMPLES sequences; a failing one is shrunk, and its steps are printed.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from autoconv import serving
from autoconv.dispatch.choosing import Chooser
from autoconv.dispatch.dispatcher import Dispatcher
from autoconv.settings import load
from tests.dispatch.torture import STEPS, Checked, Session, found_by, uncompiled

pytestmark = pytest.mark.filterwarnings("ignore:Using padding='same'")  # torch's own, once a process

EXAMPLES = int(os.environ.get("FUZZ_EXAMPLES", "60"))


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch, predicting: None) -> Iterator[Checked]:
    machine, threads, tf32 = Checked(), torch.get_num_threads(), torch.backends.cudnn.allow_tf32
    monkeypatch.setattr(Chooser, "choose", found_by(machine))
    torch.set_num_threads(1)  # a forked child has none of OpenMP's others
    with uncompiled():
        yield machine
    torch.set_num_threads(threads)
    torch.backends.cudnn.allow_tf32 = tf32


@settings(
    max_examples=EXAMPLES,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(st.lists(st.tuples(st.sampled_from(STEPS), st.integers(0, 1 << 20)), min_size=20, max_size=60))
def test_whatever_happens_calls_compute_what_torch_does_and_launch_what_triton_does(
    machine: Checked, steps: list[tuple[str, int]]
) -> None:
    with serving.served_by(Dispatcher(machine, load())):
        session = Session(machine)
        for kind, seed in steps:
            session.step(kind, seed)


def test_most_of_the_calls_drawn_are_launches(machine: Checked) -> None:
    """Not refusals, nor torch's."""
    with serving.served_by(Dispatcher(machine, load())):
        session = Session(machine)
        for seed in range(60):
            session.step("call_function", seed)
    assert machine.launched > 20
