"""A config: which kernel to launch, and with which tile sizes, warps and pipeline stages."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from autoconv.errors import ConfigError, suggestion

_TILE_NAME = re.compile(r"[A-Z][A-Z0-9_]*")
_KERNEL_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_COUNTS = ("num_warps", "num_stages")
_MOST_WARPS = 32  # 1024 threads, the most a block may have on every NVIDIA GPU


@dataclass(frozen=True)
class Config:
    """A kernel's name and the numbers it is compiled with; the launch grid is a function of them.

    Two configs with the same tiles in another order are equal and hash alike.

    Attributes:
        kernel: the kernel's name in the registry, such as ``"dense"``.
        tiles: the kernel's compile-time sizes by upper-case name; a read-only mapping.
            Those named BLOCK_* are powers of two, as Triton's ranges must be.
        num_warps: warps in one block, of 32 threads each; a power of two up to 32.
        num_stages: depth of the load pipeline.

    Raises:
        ConfigError: a field is impossible; the error names it.

    >>> str(Config("dense", {"BLOCK_L": 128, "BLOCK_CO": 64}, num_warps=4, num_stages=3))
    'dense[BLOCK_CO=64 BLOCK_L=128 num_warps=4 num_stages=3]'
    """

    kernel: str
    tiles: Mapping[str, int]
    num_warps: int
    num_stages: int

    def __post_init__(self) -> None:
        """Check every field, and keep a private sorted copy of the tiles."""
        if not isinstance(self.kernel, str) or not _KERNEL_NAME.fullmatch(self.kernel):
            raise ConfigError("kernel", self.kernel, "is not a kernel's name", "give a name such as dense")
        if not isinstance(self.tiles, Mapping):
            raise ConfigError("tiles", self.tiles, "must map names to sizes", 'give such as {"BLOCK_L": 128}')
        for name, size in self.tiles.items():
            _check_tile(name, size)
        _check_count("num_warps", self.num_warps)
        _check_count("num_stages", self.num_stages)
        if not _is_power_of_two(self.num_warps) or self.num_warps > _MOST_WARPS:
            reason = f"must be a power of two up to {_MOST_WARPS}"
            raise ConfigError("num_warps", self.num_warps, reason, "give 1, 2, 4, 8, 16 or 32")
        object.__setattr__(self, "tiles", MappingProxyType(dict(sorted(self.tiles.items()))))

    def __hash__(self) -> int:
        """Hash of all four fields; the tiles count as a sorted tuple."""
        return hash((self.kernel, tuple(self.tiles.items()), self.num_warps, self.num_stages))

    def __reduce__(self) -> tuple[type[Config], tuple[str, dict[str, int], int, int]]:
        """Pickle by constructor arguments, because a read-only mapping does not pickle."""
        return type(self), (self.kernel, dict(self.tiles), self.num_warps, self.num_stages)

    def __str__(self) -> str:
        """The kernel's name and every number, tiles in the order of their names."""
        numbers = " ".join(f"{name}={value}" for name, value in self.to_json().items())
        return f"{self.kernel}[{numbers}]"

    @property
    def meta(self) -> dict[str, int]:
        """The tiles alone, as a grid function receives them."""
        return dict(self.tiles)

    def to_json(self) -> dict[str, int]:
        """Return the flat form: tiles, num_warps and num_stages, without the kernel's name."""
        return {**self.tiles, "num_warps": self.num_warps, "num_stages": self.num_stages}

    @classmethod
    def from_json(cls, kernel: str, numbers: Mapping[str, Any]) -> Config:
        """Read a config from its flat form; the inverse of `to_json`.

        Raises:
            ConfigError: a field is unknown, missing or impossible.
        """
        if not isinstance(numbers, Mapping):
            raise ConfigError("config", numbers, "must map names to numbers", 'give such as {"BLOCK_L": 128}')
        tiles = {name: value for name, value in numbers.items() if name not in _COUNTS}
        for name in _COUNTS:
            if name not in numbers:
                raise ConfigError(name, None, "is missing", f"add {name}")
        return cls(kernel, tiles, num_warps=numbers["num_warps"], num_stages=numbers["num_stages"])

    def document(self) -> dict[str, str | int]:
        """Return the flat form with the kernel's name, as the database keeps it."""
        return {"kernel": self.kernel, **self.to_json()}

    @classmethod
    def from_document(cls, document: Mapping[str, Any]) -> Config:
        """Read a config from its document; the inverse of `document`.

        Raises:
            ConfigError: a field is unknown, missing or impossible.
        """
        if not isinstance(document, Mapping) or "kernel" not in document:
            raise ConfigError("kernel", None, "is missing", "add the kernel's name, such as dense")
        numbers = {name: value for name, value in document.items() if name != "kernel"}
        return cls.from_json(document["kernel"], numbers)


def _check_tile(name: object, size: object) -> None:
    if not isinstance(name, str) or not _TILE_NAME.fullmatch(name):
        near = suggestion(str(name), _COUNTS)
        reason = f"is not a tile's name{near}"
        raise ConfigError(str(name), size, reason, "name tiles in capitals, such as BLOCK_L")
    _check_count(name, size)
    assert isinstance(size, int)
    if name.startswith("BLOCK_") and not _is_power_of_two(size):
        below = 1 << (size.bit_length() - 1)
        raise ConfigError(name, size, "must be a power of two", f"give {below} or {2 * below}")


def _check_count(name: str, value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, int):
        reason = f"must be a whole number, not {type(value).__name__}"
        raise ConfigError(name, value, reason, f"give {name} as a number")
    if value < 1:
        raise ConfigError(name, value, "must be at least 1", f"give a positive {name}")


def _is_power_of_two(number: int) -> bool:
    return number & (number - 1) == 0
