"""The cache of resources on disk: used, keyed by all that decides a cubin, and never in the way."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from autoconv.compiler import sass
from autoconv.compiler.candidate import compile_candidate
from autoconv.compiler.resources import Resources, cache_file, load, save
from autoconv.config import Config
from autoconv.device import find
from autoconv.kernels.registry import kernel as kernel_called
from autoconv.problem import Problem

RTX4090 = find("rtx4090")
SMALL = Problem(2, 16, 16, 3, 100)
CONFIG = Config("dense", {"BLOCK_CO": 16, "BLOCK_L": 16, "BLOCK_R": 16}, num_warps=1, num_stages=2)


@pytest.fixture
def no_tools(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Takes away the program that every compilation ends with."""
    return lambda: monkeypatch.setattr(sass, "CUOBJDUMP", "/nonexistent/cuobjdump")


def test_the_second_call_compiles_nothing(tmp_path: Path, no_tools: Callable[[], None]) -> None:
    first = compile_candidate(SMALL, CONFIG, RTX4090, tmp_path)
    no_tools()
    assert compile_candidate(SMALL, CONFIG, RTX4090, tmp_path) == first
    for other in (replace(SMALL, dtype="float16", precision=""), replace(SMALL, bias=True)):
        with pytest.raises(FileNotFoundError):
            compile_candidate(other, CONFIG, RTX4090, tmp_path)


def test_all_that_decides_the_cubin_is_in_the_name(tmp_path: Path) -> None:
    kernel = kernel_called("dense")
    names = [
        cache_file(tmp_path, kernel, problem, config, capability)
        for problem, config, capability in (
            (SMALL, CONFIG, 89),
            (SMALL, CONFIG, 90),
            (SMALL, replace(CONFIG, num_warps=2), 89),
            (SMALL, replace(CONFIG, num_stages=3), 89),
            (SMALL, replace(CONFIG, tiles={**CONFIG.tiles, "BLOCK_L": 32}), 89),
            (replace(SMALL, L=101), CONFIG, 89),
            (replace(SMALL, stride=2), CONFIG, 89),
            (replace(SMALL, bias=True), CONFIG, 89),
            (replace(SMALL, dtype="bfloat16", precision=""), CONFIG, 89),
            (replace(SMALL, dtype="float16", precision=""), CONFIG, 89),
            (replace(SMALL, precision="ieee"), CONFIG, 89),
            (replace(SMALL, layout="nlc"), CONFIG, 89),
        )
    ]
    assert len(set(names)) == len(names)
    assert cache_file(tmp_path, kernel, SMALL, CONFIG, 89) == names[0]


DAMAGE = {
    "empty": b"",
    "cut off": b'{"registers": 40, "spi',
    "no JSON": b"\x00\xff\xfe",
    "no object": b"[1, 2]",
    "a field too few": b'{"registers": 40, "spills": 0}',
    "a field too many": b'{"registers": 40, "spills": 0, "shared": 0, "colour": 1}',
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_entry_is_a_miss(damage: str, tmp_path: Path) -> None:
    file = tmp_path / "entry.json"
    save(file, Resources(40, 0, 1024, {"FFMA": 3}, {"FFMA": 2}))
    assert load(file) == Resources(40, 0, 1024, {"FFMA": 3}, {"FFMA": 2})
    file.write_bytes(DAMAGE[damage])
    assert load(file) is None


def test_a_damaged_entry_is_compiled_anew_and_mended(tmp_path: Path) -> None:
    first = compile_candidate(SMALL, CONFIG, RTX4090, tmp_path)
    (file,) = (path for path in tmp_path.rglob("*") if path.is_file())
    file.write_text(file.read_text(encoding="utf-8")[:-9], encoding="utf-8")
    assert compile_candidate(SMALL, CONFIG, RTX4090, tmp_path) == first
    assert json.loads(file.read_text(encoding="utf-8"))["registers"] == first.registers


@pytest.mark.parametrize("kind", ["a file", "a missing folder in a file"])
def test_a_folder_that_cannot_be_written_is_no_error(kind: str, tmp_path: Path) -> None:
    in_the_way = tmp_path / "in the way"
    in_the_way.write_text("not a folder", encoding="utf-8")
    folder = in_the_way if kind == "a file" else in_the_way / "deeper"
    assert compile_candidate(SMALL, CONFIG, RTX4090, folder).registers > 0
    assert in_the_way.read_text(encoding="utf-8") == "not a folder"


def test_an_entry_that_cannot_be_put_in_place_leaves_nothing_behind(tmp_path: Path) -> None:
    file = tmp_path / "resources" / "entry.json"
    file.mkdir(parents=True)  # so that the last step, the renaming, fails
    (file / "keep").touch()
    save(file, Resources(40, 0, 1024))
    assert [path.name for path in file.parent.iterdir()] == ["entry.json"]


GOOD = '{"registers": 32, "spills": 0, "shared": 0, "instructions": {"EXIT": 1}, "loop": {}}'


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *(("32", wrong) for wrong in ("null", '"32"', "[32]", "1e400", "32.0", "true", "-1", "{}", "NaN")),
        *(('{"EXIT": 1}', wrong) for wrong in ("null", '"EXIT"', "[]", '["EXIT"]', "7")),
        *(("1}", wrong) for wrong in ("null}", '"1"}', "1e400}", "[]}", "{}}")),
        ('{"registers"', "[" * 100_000),
    ],
)
def test_an_entry_of_the_wrong_type_is_compiled_anew(field: str, value: str, tmp_path: Path) -> None:
    file = cache_file(tmp_path, kernel_called("dense"), SMALL, CONFIG, 89)
    file.parent.mkdir(parents=True)
    file.write_text(GOOD)
    assert load(file) == Resources(32, 0, 0, {"EXIT": 1}, {})
    file.write_text(GOOD.replace(field, value, 1))
    assert load(file) is None
    assert compile_candidate(SMALL, CONFIG, RTX4090, tmp_path) == load(file)
