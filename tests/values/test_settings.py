from __future__ import annotations

import os
import re
from collections import UserDict
from pathlib import Path

import platformdirs
import pytest

from autoconv import settings
from autoconv.errors import SettingError


@pytest.fixture(autouse=True)
def no_variables(monkeypatch):
    for name in settings.VARIABLES:
        monkeypatch.delenv(name, raising=False)


def test_defaults():
    loaded = settings.load()
    assert loaded.database == Path(platformdirs.user_data_dir("autoconv", False)) / "tuning.db"
    assert loaded.cache == Path(platformdirs.user_cache_dir("autoconv", False))
    assert (loaded.site_databases, loaded.on_miss, loaded.sweep_seconds) == ((), "background", 60.0)


def test_an_empty_variable_is_an_unset_one(monkeypatch):
    unset = settings.load()
    for name in settings.VARIABLES:
        monkeypatch.setenv(name, "")
    assert settings.load() == unset


def test_every_variable_is_heeded_and_read_anew(monkeypatch, tmp_path):
    settings.load()
    monkeypatch.chdir(tmp_path)
    sites = os.pathsep.join(["one.db", "", str(tmp_path / "two.db")])
    monkeypatch.setenv("AUTOCONV_DB", "mine.db")
    monkeypatch.setenv("AUTOCONV_SITE_DB", sites)
    monkeypatch.setenv("AUTOCONV_ON_MISS", " Strict ")
    monkeypatch.setenv("AUTOCONV_CACHE", "~/cache")
    monkeypatch.setenv("AUTOCONV_SWEEP_SECONDS", "2.5")
    assert settings.load() == settings.Settings(
        database=tmp_path / "mine.db",
        site_databases=(tmp_path / "one.db", tmp_path / "two.db"),
        on_miss="strict",
        cache=Path.home() / "cache",
        sweep_seconds=2.5,
    )


@pytest.mark.parametrize("policy", ["sweep", "background", "predict", "strict"])
def test_each_policy_is_accepted(monkeypatch, policy):
    monkeypatch.setenv("AUTOCONV_ON_MISS", policy)
    assert settings.load().on_miss == policy


@pytest.mark.parametrize(
    ("variable", "value", "message"),
    [
        ("AUTOCONV_ON_MISS", "maybe", "is not a policy; give background, sweep, predict or strict"),
        (
            "AUTOCONV_ON_MISS",
            "sweeep",
            "is not a policy, did you mean sweep?; give background, sweep, predict or strict",
        ),
        ("AUTOCONV_SWEEP_SECONDS", "soon", "is not a number of seconds above 0; give such as 60"),
        ("AUTOCONV_SWEEP_SECONDS", "0", "is not a number of seconds above 0; give such as 60"),
        ("AUTOCONV_SWEEP_SECONDS", "-1", "is not a number of seconds above 0; give such as 60"),
        ("AUTOCONV_SWEEP_SECONDS", "inf", "is not a number of seconds above 0; give such as 60"),
        ("AUTOCONV_SWEEP_SECONDS", "nan", "is not a number of seconds above 0; give such as 60"),
    ],
)
def test_bad_values_name_variable_value_and_choices(monkeypatch, variable, value, message):
    monkeypatch.setenv(variable, value)
    with pytest.raises(SettingError) as caught:
        settings.load()
    assert str(caught.value) == f"setting: {variable}={value}: {message}"


@pytest.mark.parametrize("variable", ["AUTOCONV_DB", "AUTOCONV_SITE_DB", "AUTOCONV_CACHE"])
def test_a_home_folder_that_is_nobodys(monkeypatch, variable):
    monkeypatch.setenv(variable, "~no-such-user-here/x.db")
    with pytest.raises(
        SettingError, match=f"^setting: {variable}=~no-such-user-here/x.db: has a home folder"
    ):
        settings.load()


def test_child_environment_is_a_copy_with_extras(monkeypatch):
    monkeypatch.setenv("AUTOCONV_DB", "mine.db")
    child = settings.child_environment(TRITON_INTERPRET="1", AUTOCONV_ON_MISS="predict")
    assert (child["AUTOCONV_DB"], child["TRITON_INTERPRET"]) == ("mine.db", "1")
    child["AUTOCONV_DB"] = "other.db"
    assert os.environ["AUTOCONV_DB"] == "mine.db"
    assert "AUTOCONV_ON_MISS" not in os.environ


def test_a_variable_unset_by_another_thread_meanwhile_is_left_out(monkeypatch):
    """As a call does, for the time that Triton compiles, while the tuner's thread starts a worker."""

    class Changing(UserDict[str, str]):
        def __iter__(self):
            names = list(self.data)
            self.data.pop("TRITON_CACHE_DIR", None)
            return iter(names)

    changing = Changing({"AUTOCONV_DB": "mine.db", "TRITON_CACHE_DIR": "of a call"})
    with monkeypatch.context() as meanwhile:
        meanwhile.setattr(os, "environ", changing)
        child = settings.child_environment(TRITON_INTERPRET="1")
    assert child == {"AUTOCONV_DB": "mine.db", "TRITON_INTERPRET": "1"}


def test_the_table_of_variables_is_the_variables_read():
    source = Path(settings.__file__).read_text(encoding="utf-8")
    read = set(re.findall(r"environ\.get\(\"(\w+)\"", source))
    assert read == set(settings.VARIABLES)
    assert len(read) <= 5
