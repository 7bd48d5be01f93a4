"""The project's own papers agree with each other and with the code."""

from __future__ import annotations

import ast
import re
from importlib.metadata import metadata
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("autoconv", "tuning_db", "scripts")
SOURCES = [path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))]
PAPERS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]


def relative(path: Path) -> str:
    return str(path.relative_to(ROOT))


def read(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", read("README.md"), re.MULTILINE | re.DOTALL)


def test_the_changelog_begins_with_this_version() -> None:
    entries = re.findall(r"^## \[(.+?)\]", read("CHANGELOG.md"), re.MULTILINE)
    stated = re.search(r'^version = "(.+)"$', read("pyproject.toml"), re.MULTILINE)
    assert stated is not None and entries[0] == stated[1]
    assert metadata("autoconv")["Version"] == stated[1], "another version is installed: pip install -e ."


def test_the_licence_is_apache_2() -> None:
    text = read("LICENSE")
    assert metadata("autoconv")["License-Expression"] == "Apache-2.0"
    for part in ("Apache License", "Version 2.0, January 2004", "Grant of Patent License", "END OF TERMS"):
        assert part in text


@pytest.mark.parametrize("paper", PAPERS, ids=relative)
def test_every_make_command_exists(paper: Path) -> None:
    targets = set(re.findall(r"^([a-z][a-z-]*):", read("Makefile"), re.MULTILINE))
    commands = re.findall(r"(?:^|`)make ([a-z-]+)", paper.read_text(encoding="utf-8"), re.MULTILINE)
    assert set(commands) <= targets


def test_the_readme_gives_the_two_commands() -> None:
    assert "make demo\nmake test\n" in blocks("sh")


@pytest.mark.parametrize("paper", PAPERS, ids=relative)
def test_every_link_to_a_file_leads_somewhere(paper: Path) -> None:
    links = re.findall(r"\]\((?!https?:|#)([^)#]+)", paper.read_text(encoding="utf-8"))
    assert [link for link in links if not (paper.parent / link).exists()] == []


@pytest.mark.parametrize("example", blocks("python"))
def test_the_readme_s_python_runs(example: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AUTOCONV_ON_MISS", "predict")  # where there is a GPU: no sweep in a test
    names: dict[str, object] = {}
    exec(compile(example, "README.md", "exec"), names)
    assert tuple(getattr(names["y"], "shape", ())) == (4, 128, 331)  # (1000 - 4 * (3 - 1) - 1) // 3 + 1


@pytest.mark.parametrize("path", SOURCES, ids=relative)
def test_every_module_says_what_it_is(path: Path) -> None:
    assert ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))


def test_the_settings_are_five_at_most_and_the_readme_names_them_all() -> None:
    variables = set(re.findall(r"\bAUTOCONV_[A-Z_]+\b", read("autoconv/settings.py")))
    assert 0 < len(variables) <= 5
    assert set(re.findall(r"\bAUTOCONV_[A-Z_]+\b", read("README.md"))) == variables
