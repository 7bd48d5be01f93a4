"""PyTorch Inductor's `mm` template as the cost model sees a kernel: work, launch order, addresses.

C[M, N] = A[M, K] B[K, N] on a grid of one axis, swizzled in groups of GROUP_M rows of tiles; the layout says
for A and B whether they lie row-major (N) or transposed (T). The measured times in a calibration file are of
this kernel.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from autoconv.config import Config
from autoconv.kernels.sizes import cdiv
from autoconv.kernels.work import Access, AddressMap, Work, plain
from autoconv.problem import Problem

GROUP_M = 8
TILES = ("BLOCK_M", "BLOCK_N", "BLOCK_K")
DTYPES = {"float16": "float16", "bfloat16": "bfloat16", "tf32": "float32"}


@dataclass(frozen=True)
class Gemm:
    """One measured problem."""

    dtype: str
    M: int
    N: int
    K: int
    layout: str

    @property
    def problem(self) -> Problem:
        """The 1x1 convolution of the same sizes; the model reads its dtype and precision."""
        return Problem(1, self.K, self.M, 1, self.N, dtype=DTYPES[self.dtype])


@dataclass(frozen=True)
class Measured:
    """A config and its median time."""

    config: Config
    seconds: float


def read(path: Path) -> Iterator[tuple[Gemm, list[Measured]]]:
    """Yield every problem of a calibration file, or of a folder of them, with its measured configs."""
    found: dict[Gemm, list[Measured]] = {}
    for file in sorted(path.glob("*.tsv")) if path.is_dir() else [path]:
        for row in csv.DictReader(file.read_text().splitlines(), delimiter="\t"):
            gemm = Gemm(row["dtype"], int(row["M"]), int(row["N"]), int(row["K"]), row["layout"])
            config = Config(
                "gemm",
                {tile: int(row[tile]) for tile in TILES},
                num_warps=int(row["num_warps"]),
                num_stages=int(row["num_stages"]),
            )
            found.setdefault(gemm, []).append(Measured(config, float(row["median_us"]) * 1e-6))
    yield from found.items()


def work(gemm: Gemm, config: Config) -> Work:
    """Return what one launch asks of the machine."""
    rows, columns, depth = (config.tiles[tile] for tile in TILES)
    size = gemm.problem.dtype_bytes
    steps = cdiv(gemm.K, depth)
    tiles_m, tiles_n = cdiv(gemm.M, rows), cdiv(gemm.N, columns)
    group = min(GROUP_M, tiles_m)
    a = _operand(gemm, "x", rows, depth, steps, by_row=gemm.layout[0] == "N", length=gemm.M)
    b = _operand(gemm, "w", columns, depth, steps, by_row=gemm.layout[1] == "T", length=gemm.N)
    c = Access(
        "y", rows * columns, size, _vector(gemm.N, columns, size), rows * columns * size,
        gemm.M * gemm.N * size,
        AddressMap(
            plain(columns, size), plain(rows, gemm.N * size),
            (("m", rows * gemm.N * size), ("n", columns * size), ("group", group * rows * gemm.N * size)), "",
        ),
    )  # fmt: skip
    return Work(
        raster=(("m", group), ("n", tiles_n), ("group", tiles_m / group)),
        steps=steps,
        flops=2.0 * rows * columns * depth * steps,
        reads=(a, b),
        write=c,
        tile=(rows, columns),
        stage_bytes_by_operand=(rows * depth * size, columns * depth * size),
        address_instructions=0.0,  # two adds a pointer, counted with the copies
    )


def _operand(
    gemm: Gemm, name: str, rows: int, depth: int, steps: int, *, by_row: bool, length: int
) -> Access:
    """Return the reads of A (its rows of length K) or of B (its columns, as rows of its transpose)."""
    size = gemm.problem.dtype_bytes
    pitch = (gemm.K if by_row else length) * size
    along_k, along_rows = (depth, rows) if by_row else (rows, depth)
    tile = rows * (pitch if by_row else size)
    return Access(
        name,
        rows * depth * steps,
        size,
        _vector(pitch // size, along_k, size),
        rows * gemm.K * size,
        length * gemm.K * size,
        AddressMap(
            plain(along_k, size),
            plain(along_rows, pitch),
            (("m", tile), ("group", GROUP_M * tile)) if name == "x" else (("n", tile),),
            "lanes" if by_row else "rows",
        ),
    )


def _vector(pitch: int, contiguous: int, size: int) -> int:
    """Return the bytes of a load: 16 where Triton knows the pitch to be a multiple of 16, else an element."""
    return min(16, contiguous * size) if pitch % 16 == 0 else size
