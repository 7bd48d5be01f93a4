from __future__ import annotations

import hashlib
import json
import math
import os
import subprocess
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tuning_db import EnvironmentRecord, ProblemRecord, Trial

scalars = (
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text()
)
configs = st.dictionaries(st.text(), scalars, max_size=6)
details = st.dictionaries(
    st.text(), st.recursive(scalars, lambda inner: st.lists(inner, max_size=3)), max_size=4
)


def spelled(value: Any) -> str:
    """JSON tells 1, 1.0 and True apart, which == does not."""
    return json.dumps(value, sort_keys=True)


@given(configs)
def test_hashes_do_not_depend_on_the_order_of_fields(config: dict[str, Any]) -> None:
    backwards = dict(reversed(config.items()))
    assert Trial(config, "ok").config_hash == Trial(backwards, "ok").config_hash
    assert EnvironmentRecord(config, config).hash == EnvironmentRecord(backwards, backwards).hash


@given(configs, configs)
def test_other_configs_have_other_hashes(one: dict[str, Any], other: dict[str, Any]) -> None:
    same = Trial(one, "ok").config_hash == Trial(other, "ok").config_hash
    assert same == (spelled(one) == spelled(other))


def test_every_field_of_an_environment_counts() -> None:
    hard, soft = {"arch": "sm_89", "source": "a"}, {"device": "L4", "driver": "570"}
    original = EnvironmentRecord(hard, soft)
    for name in hard:
        changed = EnvironmentRecord({**hard, name: "other"}, soft)
        assert changed.hard_hash != original.hard_hash and changed.hash != original.hash
    for name in soft:
        changed = EnvironmentRecord(hard, {**soft, name: "other"})
        assert changed.hard_hash == original.hard_hash and changed.hash != original.hash
    assert EnvironmentRecord({**hard, **soft}, {}).hash != original.hash


def test_hashes_are_the_same_in_every_process(script: Callable[..., subprocess.Popen[str]]) -> None:
    code = """
from tuning_db import EnvironmentRecord, Trial
environment = EnvironmentRecord({"b": 1, "a": "x"}, {"d": None, "c": 2.5})
print(environment.hash, environment.hard_hash, Trial({"z": 1, "a": True}, "ok").config_hash)"""
    printed = set()
    for seed in ("0", "1", "12345"):
        out, _ = script(code, env={**os.environ, "PYTHONHASHSEED": seed}).communicate()
        printed.add(out.strip())
    # Every stored row refers to these: another canonical form would orphan all databases there are.
    texts = ('{"hard":{"a":"x","b":1},"soft":{"c":2.5,"d":null}}', '{"a":"x","b":1}', '{"a":true,"z":1}')
    assert printed == {" ".join(hashlib.sha256(text.encode()).hexdigest() for text in texts)}


@given(configs, details)
def test_a_trial_keeps_what_it_was_given(config: dict[str, Any], detail: dict[str, Any]) -> None:
    trial = Trial(config, "ok", detail=detail)
    assert (spelled(trial.config), spelled(trial.detail)) == (spelled(config), spelled(detail))


def test_a_trial_does_not_change_with_what_it_was_made_from() -> None:
    config, detail = {"B": 1}, {"mix": [1, 2]}
    trial = Trial(config, "ok", detail=detail)
    config["B"] = 2
    detail["mix"].append(3)
    assert trial == Trial({"B": 1}, "ok", detail={"mix": (1, 2)})


def test_the_measured_time_is_the_median_of_the_samples() -> None:
    assert Trial({}, "ok", samples_us=(9, 1, 2)).measured_us == 2.0
    assert Trial({}, "ok", samples_us=(1, 2)).measured_us == 1.5
    assert Trial({}, "ok", samples_us=(1, 2), measured_us=1).measured_us == 1.0
    assert Trial({}, "ok").measured_us is None


@pytest.mark.parametrize("max_err", [math.nan, math.inf])
def test_an_error_that_is_no_number_is_left_out(max_err: float) -> None:
    assert Trial({}, "wrong", max_err=max_err).max_err is None


def test_only_a_started_trial_is_unfinished() -> None:
    assert not Trial({}, "started").finished
    assert Trial({}, "crash").finished


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (lambda: Trial({}, "good"), ["outcome='good'", "timeout"]),
        (lambda: Trial({}, "ok", predicted_us=0.0), ["predicted_us=0.0", "above 0"]),
        (lambda: Trial({}, "ok", measured_us=math.inf), ["measured_us=inf"]),
        (lambda: Trial({}, "ok", samples_us=(1.0, math.nan)), ["samples_us=nan"]),
        (lambda: Trial({}, "ok", predicted_us="fast"), ["predicted_us='fast'", "no number"]),  # type: ignore[arg-type]
        (lambda: Trial({}, "ok", predicted_us=10**400), ["predicted_us=1000", "no number"]),
        (lambda: Trial({"B": [1]}, "ok"), ["config['B']=[1]", "scalar"]),
        (lambda: Trial({1: 2}, "ok"), ["config", "key 1"]),  # type: ignore[dict-item]
        (lambda: Trial({"B": math.nan}, "ok"), ["config['B']=nan"]),
        (lambda: Trial([("B", 1)], "ok"), ["config=", "dict"]),  # type: ignore[arg-type]
        (lambda: Trial({}, "ok", error=5), ["error=5"]),  # type: ignore[arg-type]
        (lambda: Trial({}, "ok", detail={"x": math.inf}), ["detail=", "finite"]),
        (lambda: Trial({}, "ok", detail={"x": object()}), ["detail=", "JSON"]),
        (lambda: EnvironmentRecord({"arch": ("sm", 89)}, {}), ["hard['arch']"]),  # type: ignore[dict-item]
        (lambda: EnvironmentRecord({}, {"x": object()}), ["soft['x']"]),  # type: ignore[dict-item]
        (lambda: ProblemRecord(""), ["key=''", "non-empty"]),
        (lambda: ProblemRecord("\ud800"), ["key=", "UTF-8"]),
        (lambda: ProblemRecord("k", {"N": 2**63}), ["columns['N']", "64 bits"]),
        (lambda: ProblemRecord("k", {"N": 0.5}), ["columns['N']=0.5"]),  # type: ignore[dict-item]
        (lambda: ProblemRecord("k", {"N": "\udcff"}), ["columns['N']"]),
    ],
)
def test_a_bad_value_is_named_with_its_field(wrong: Callable[[], object], words: list[str]) -> None:
    with pytest.raises(ValueError) as caught:
        wrong()
    assert all(word in str(caught.value) for word in words), str(caught.value)
    assert "\n" not in str(caught.value)
