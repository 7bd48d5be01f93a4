from __future__ import annotations

import pickle

import pytest

from autoconv.errors import (
    AutoconvError,
    ConfigError,
    DeviceError,
    FieldError,
    MissError,
    ProblemError,
    SettingError,
    suggestion,
)

SUBJECTS = {ProblemError: "problem", ConfigError: "config", DeviceError: "device", SettingError: "setting"}


@pytest.mark.parametrize(("kind", "subject"), SUBJECTS.items())
def test_field_error_names_subject_field_value_reason_and_remedy(kind, subject):
    error = kind("Cin", 0, "must be at least 1", "give the number of input channels")
    assert str(error) == f"{subject}: Cin=0: must be at least 1; give the number of input channels"
    assert (error.subject, error.field, error.value) == (subject, "Cin", 0)
    assert (error.reason, error.remedy) == ("must be at least 1", "give the number of input channels")


def test_field_error_without_a_value_shows_the_field_alone():
    assert str(ProblemError("K", None, "is missing", "add K")) == "problem: K: is missing; add K"


def test_message_is_one_line_however_long_and_ragged_the_value():
    message = str(SettingError("AUTOCONV_DB", "a\nb" * 5000, "is odd", "mend it"))
    assert "\n" not in message
    assert len(message) < 300
    assert message.endswith("...: is odd; mend it")


@pytest.mark.parametrize("kind", SUBJECTS)
def test_field_errors_pickle(kind):
    error = kind(field="L", value=(1, 2), reason="is odd", remedy="mend it")
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is kind
    assert vars(copy) == vars(error)
    assert str(copy) == str(error)


def test_plain_field_error_pickles():
    error = FieldError("plan", "grid", [1], "is odd", "mend it")
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is FieldError
    assert str(copy) == "plan: grid=[1]: is odd; mend it"


def test_miss_error_carries_problem_and_reasons_and_pickles():
    error = MissError("N=1,Cin=2", ["nearest has L=9", "triton 3.6\nis not 3.7"])
    copy = pickle.loads(pickle.dumps(error))
    assert (copy.problem, copy.why) == ("N=1,Cin=2", ["nearest has L=9", "triton 3.6\nis not 3.7"])
    assert str(copy) == (
        "no tuned config for N=1,Cin=2: nearest has L=9; triton 3.6 is not 3.7; "
        'run `autoconv tune "N=1,Cin=2"` or set AUTOCONV_ON_MISS to sweep, background or predict'
    )


def test_miss_error_without_reasons_still_says_why():
    assert "holds nothing near it" in str(MissError("N=1", []))


def test_errors_are_what_callers_expect_to_catch():
    for kind in SUBJECTS:
        assert issubclass(kind, (ValueError,))
        assert issubclass(kind, AutoconvError)
    assert issubclass(MissError, LookupError)
    assert issubclass(MissError, AutoconvError)
    assert not issubclass(MissError, ValueError)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("cin", ", did you mean Cin?"),
        ("diluton", ", did you mean dilation?"),
        ("C", ", did you mean Cin or Cout?"),
        ("", ""),
        ("zebra", ""),
    ],
)
def test_suggestion(name, expected):
    assert suggestion(name, ["Cin", "Cout", "dilation", "L"]) == expected
