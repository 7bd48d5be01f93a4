"""Sectors and lines: what the requests of one block touch, counted on sampled addresses.

A block's tile is laid out in memory by its address map. For a few blocks in launch order, and a few steps of
each, the addresses of all lanes of a warp are formed and the 32-byte sectors and 128-byte lines under them
counted: once for each request by itself, and once for the whole step together, which is what a cache that
keeps a step's lines would fetch.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import numpy as np
import numpy.ma  # np.unique imports it when first called; in a thread, a child forked meanwhile would hang
import numpy.typing as npt

from autoconv.kernels.work import Access, AddressMap, Axis, Work

SECTOR, LINE = 32, 128  # bytes
SAMPLES = 4  # blocks, spread over the launch order, each at another main-loop step
MOST_ELEMENTS = 2048  # of one tile that are looked at; a larger one repeats itself

Addresses = npt.NDArray[np.int64]


class Counted(NamedTuple):
    """One access in one main-loop step of a block (a write: in all of the block)."""

    requests: float  # warp-wide instructions
    sectors: float  # of all requests, each by itself
    lines: float  # likewise: look-ups in the L1
    ragged_lines: float  # of them, those with a sector that a store does not cover whole; 0 of a read
    unique_sectors: float  # of all requests together


def count(access: Access, work: Work, *, per_step: bool) -> Counted:
    """Return what `access` touches in a step, or in the block's whole life where `per_step` is false."""
    elements = access.elements / (work.steps if per_step else 1)
    extents = dict(work.raster)
    moves = tuple((extents.get(axis, 1), shift) for axis, shift in access.map.moves)
    lanes, rows, *_ = access.map
    sample = _sample(
        lanes, rows, moves, access.map.reduction, access.vector_bytes, access.element_bytes, access.apart
    )
    requests = elements * access.element_bytes / (32 * access.vector_bytes)
    scale = elements / sample.requests
    return Counted(
        requests,
        requests * sample.sectors,
        requests * sample.lines,
        requests * sample.ragged_lines,
        sample.unique_sectors * scale,
    )


@lru_cache(maxsize=65536)
def _sample(
    lanes: Axis,
    rows: Axis,
    moves: tuple[tuple[float, int], ...],
    reduction: str,
    vector: int,
    element: int,
    apart: int = 1,
) -> Counted:
    """Return figures of one request, `requests` being the elements looked at and their sectors together."""
    width = max(1, vector // element)
    across = max(1, lanes.extent // width)
    down = max(1, min(rows.extent, MOST_ELEMENTS // (across * width)))
    sectors = lines = ragged = unique = 0.0
    for number in range(SAMPLES):
        base = sum(int(extent * number / SAMPLES) * shift for extent, shift in moves)
        step = number if reduction else 0
        first = _offsets(lanes, across, width, step * lanes.extent if reduction == "lanes" else 0)
        first = first.reshape(-1, apart).T.ravel()
        other = _offsets(rows, down, 1, step * rows.extent if reduction == "rows" else 0)
        addresses = (base + other[:, None] + first[None, :]).ravel()
        requests = _whole_requests(addresses)
        sectors += _distinct(requests // SECTOR)
        lines += _distinct(requests // LINE)
        ragged += 0.0 if reduction else _ragged(requests, vector)
        unique += len(np.unique(addresses // SECTOR)) + _spill_over(addresses, vector)
    return Counted(
        float(across * width * down),
        sectors / SAMPLES,
        lines / SAMPLES,
        ragged / SAMPLES,
        unique / SAMPLES,
    )


def count_map(address_map: AddressMap, vector: int, element: int) -> Counted:
    """Return the figures of one request of `address_map`, for tables and tests."""
    return _sample(
        address_map.lanes, address_map.rows, tuple((1 << 20, shift) for _, shift in address_map.moves),
        address_map.reduction, vector, element,
    )  # fmt: skip


def _offsets(axis: Axis, extent: int, width: int, start: int) -> Addresses:
    index = start + width * np.arange(extent, dtype=np.int64)
    return (index % axis.inner) * axis.near + (index // axis.inner) * axis.far


def _whole_requests(addresses: Addresses) -> Addresses:
    """Cut into rows of 32 lanes; a last row is filled up with its own addresses."""
    short = -len(addresses) % 32
    return np.resize(addresses, len(addresses) + short).reshape(-1, 32)


def _distinct(numbers: Addresses) -> float:
    """Return the mean count of different numbers in a row."""
    ordered = np.sort(numbers, axis=1)
    return 1.0 + float((ordered[:, 1:] != ordered[:, :-1]).sum(axis=1).mean())


def _ragged(requests: Addresses, vector: int) -> float:
    """Return the mean count of lines in a row where its vectors, apart and aligned, fill a sector in part."""
    number = np.arange(len(requests), dtype=np.int64)[:, None] << 52  # sets rows apart
    sectors, lanes = np.unique(number + requests // SECTOR, return_counts=True)
    part_filled = sectors[lanes * vector < SECTOR]
    return len(np.unique(part_filled // (LINE // SECTOR))) / len(requests)


def _spill_over(addresses: Addresses, vector: int) -> float:
    """Return the sectors that only the far ends of vectors touch; aligned vectors touch none."""
    near, far = addresses // SECTOR, (addresses + vector - 1) // SECTOR
    return float(len(np.setdiff1d(far, near))) if (near != far).any() else 0.0
