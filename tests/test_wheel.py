"""The wheel brings the packaged database along, and finds it where nothing but the wheel is installed."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SEED = "N=64,Cin=64,Cout=128,K=3,L=224280,stride=3,dilation=4"


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy of the sources without the database, as from a fresh checkout."""
    folder = tmp_path_factory.mktemp("sources")
    for name in ("autoconv", "tuning_db"):
        ignored = shutil.ignore_patterns("__pycache__", "*.db", "*.db.*")
        shutil.copytree(ROOT / name, folder / name, ignore=ignored)
    for name in ("pyproject.toml", "hatch_build.py", "README.md", "LICENSE"):
        shutil.copyfile(ROOT / name, folder / name)
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", "dist"]
    subprocess.run(command, cwd=folder, check=True, capture_output=True)
    (built,) = (folder / "dist").glob("*.whl")
    return built


def test_an_empty_environment_finds_the_packaged_database(wheel: Path, tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", tmp_path / "venv"], check=True)
    (packages,) = (tmp_path / "venv" / "lib").glob("python*/site-packages")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(packages)
    # What autoconv depends on is here already. A path in a .pth file brings no .pth files along, so
    # not the editable autoconv either.
    (packages / "dependencies.pth").write_text(sysconfig.get_path("purelib"), encoding="utf-8")

    def run(*arguments: str) -> dict[str, object]:
        command = [tmp_path / "venv" / "bin" / "python", "-m", "autoconv", *arguments, "--json"]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        fields: dict[str, object] = json.loads(done.stdout)
        return fields

    assert (packages / "autoconv" / "report" / "page.html").is_file()
    checked = run("db", "check", "--packaged")
    assert checked["path"] == str(packages / "tuning_db" / "prebuilt" / "autoconv.db")
    assert checked["ok"] and checked["trials"]
    found = run("lookup", SEED, "--device", "rtx4090")
    assert (found["grade"], found["layer"]) == ("exact", "prebuilt")
