"""The resources of a compiled candidate, and the cache on disk that remembers them."""

from __future__ import annotations

import hashlib
import json
import tempfile
from contextlib import ExitStack, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path

import triton

from autoconv.config import Config
from autoconv.device import Device
from autoconv.kernels.base import Kernel
from autoconv.problem import Problem

FORMAT = 1  # of a cache entry; another number is a miss


@dataclass(frozen=True)
class Resources:
    """What one block of a compiled candidate takes, and the instructions it runs."""

    registers: int  # of a thread
    spills: int  # bytes a thread spills to local memory
    shared: int  # bytes of shared memory of a block
    instructions: dict[str, int] = field(default_factory=dict)  # of the whole kernel, by opcode
    loop: dict[str, int] = field(default_factory=dict)  # of its main loop

    def unrunnable(self, config: Config, device: Device) -> str | None:
        """Return why `device` cannot launch a block that takes this much, or None."""
        arch = device.arch
        threads = 32 * config.num_warps
        if self.shared > arch.shared_per_block_max:
            return f"shared memory: {self.shared} bytes a block, {arch.shared_per_block_max} at most"
        if threads > arch.max_threads_per_block:
            return f"threads: {threads} a block, {arch.max_threads_per_block} at most"
        if threads * self.registers > arch.registers_per_sm:
            return f"registers: {threads} x {self.registers} a block, {arch.registers_per_sm} at most"
        return None


def cache_file(folder: Path, kernel: Kernel, problem: Problem, config: Config, capability: int) -> Path:
    """Return where the resources of this candidate are kept: one small JSON file each.

    The name is a hash over all that decides the cubin: the kernel's source with that of the functions and
    globals it uses (Triton's own cache key), every argument, the dtype, the compute capability and Triton's
    exact version.
    """
    main = kernel.main_launch(problem, config)
    identity = {
        "format": FORMAT,
        "triton": triton.__version__,
        "capability": capability,
        "kernel": kernel.name,
        "source": main.jit.cache_key,
        "dtype": problem.dtype,
        "keywords": dict(main.keywords),
    }
    digest = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()
    return folder / "resources" / digest[:2] / f"{digest[2:34]}.json"


def load(file: Path) -> Resources | None:
    """Return the resources kept in `file`; None where there is none or it cannot be read as such."""
    try:
        kept = Resources(**json.loads(file.read_text()))
    except (OSError, ValueError, TypeError, RecursionError):
        return None  # a cache: whatever is wrong with an entry, compiling again is the remedy
    return kept if _sound(kept) else None


def _sound(resources: Resources) -> bool:
    """Return whether every field is of its type, which JSON does not promise."""
    mixes = resources.instructions, resources.loop
    if not all(isinstance(mix, dict) for mix in mixes):
        return False
    numbers = [resources.registers, resources.spills, resources.shared]
    numbers += [count for mix in mixes for count in mix.values()]
    return all(type(number) is int and number >= 0 for number in numbers)


def save(file: Path, resources: Resources) -> None:
    """Keep `resources` in `file`, whole or not at all; a folder that cannot be written is not an error."""
    with suppress(OSError), ExitStack() as on_failure:
        file.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile("w", dir=file.parent, delete=False) as partial:
            on_failure.callback(Path(partial.name).unlink)
            json.dump(asdict(resources), partial)
        Path(partial.name).replace(file)
        on_failure.pop_all()
