"""GPU models as values: what an SM can hold, and how fast a board computes and moves bytes."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from autoconv.errors import DeviceError, suggestion

_KIB = 1024
_LEAST_MEMORY_SHARE = 0.88  # an L4 with ECC on reports 0.92 of its nominal memory


@dataclass(frozen=True)
class Architecture:
    """Limits and allocation granularities of one SM, shared by all GPUs of a compute capability.

    Sources: "Technical Specifications per Compute Capability" in NVIDIA's CUDA C++ Programming Guide, for
    the limits; NVIDIA's CUDA occupancy calculator (cuda_occupancy.h), for the allocation units.

    Attributes:
        name: the compiler's name for it, such as ``"sm_89"``.
        capability: compute capability as one number, such as 89.
        max_warps_per_sm: warps resident on one SM at most.
        max_blocks_per_sm: blocks resident on one SM at most.
        shared_per_sm: shared memory of one SM, bytes.
        shared_per_block_max: shared memory one block may ask for (opt-in limit), bytes.
        max_threads_per_block: threads in one block at most.
        registers_per_sm: 32-bit registers of one SM.
        register_allocation_unit: registers are handed to a warp in multiples of this many.
        max_registers_per_thread: registers one thread may use at most.
        shared_reserved_per_block: shared memory the system keeps for itself in each block, bytes.
        shared_allocation_unit: shared memory is handed out in multiples of this many bytes.
        warp_allocation_unit: warps are counted in multiples of this when registers are handed out,
            one for each of the SM's four partitions.
        first_triton: the first Triton, of those supported, that compiles for it, and whose cuobjdump reads
            what it compiled; seen by compiling with each.
    """

    name: str
    capability: int
    max_warps_per_sm: int
    max_blocks_per_sm: int
    shared_per_sm: int
    shared_per_block_max: int
    max_threads_per_block: int = 1024
    registers_per_sm: int = 65536
    register_allocation_unit: int = 256
    max_registers_per_thread: int = 255
    shared_reserved_per_block: int = 1024
    shared_allocation_unit: int = 128
    warp_allocation_unit: int = 4
    first_triton: str = "3.3"


ARCHITECTURES: Mapping[str, Architecture] = {
    arch.name: arch
    for arch in (
        #                        warps blocks shared per SM, per block
        Architecture("sm_80", 80, 64, 32, 164 * _KIB, 163 * _KIB),
        Architecture("sm_86", 86, 48, 16, 100 * _KIB, 99 * _KIB),
        Architecture("sm_87", 87, 48, 16, 164 * _KIB, 163 * _KIB),
        Architecture("sm_89", 89, 48, 24, 100 * _KIB, 99 * _KIB),
        Architecture("sm_90", 90, 64, 32, 228 * _KIB, 227 * _KIB),
        Architecture("sm_100", 100, 64, 32, 228 * _KIB, 227 * _KIB),
        Architecture("sm_103", 103, 64, 32, 228 * _KIB, 227 * _KIB, first_triton="3.7"),
        Architecture("sm_110", 110, 48, 24, 228 * _KIB, 227 * _KIB, first_triton="3.7"),
        Architecture("sm_120", 120, 48, 24, 100 * _KIB, 99 * _KIB),
        Architecture("sm_121", 121, 48, 24, 100 * _KIB, 99 * _KIB, first_triton="3.7"),
    )
}
"""Every architecture known, by name."""

_NEAREST = {
    103: 100,
    121: 120,
}  # where the catalogue has no device of a capability: whose rates stand for its


@dataclass(frozen=True)
class Device:
    """One GPU model. The architecture alone is not the device: an L4 and an RTX 4090 are both sm_89.

    Attributes:
        name: the name users write, such as ``"rtx4090"``.
        product: the name the driver reports, as torch.cuda.get_device_name prints it.
        arch: limits of its SMs.
        sms: streaming multiprocessors.
        boost_mhz: boost clock of the CUDA cores, MHz.
        dram_gbps: peak memory bandwidth, GB/s (1e9 bytes per second).
        l2_bytes: L2 cache, bytes.
        memory_bytes: nominal device memory, bytes.
        fp32_tflops: peak float32 rate of the CUDA cores, 1e12 FLOP/s.
        tensor_tflops: peak dense tensor-core rates with float32 accumulation, 1e12 FLOP/s, by
            ``"tf32"``, ``"float16"`` and ``"bfloat16"``.
        source: the documents the figures come from.
        other_products: further names the driver reports for boards with these same figures.
    """

    name: str
    product: str
    arch: Architecture
    sms: int
    boost_mhz: int
    dram_gbps: float
    l2_bytes: int
    memory_bytes: int
    fp32_tflops: float
    tensor_tflops: Mapping[str, float] = field(hash=False)
    source: str
    other_products: tuple[str, ...] = ()

    @property
    def arch_name(self) -> str:
        """The compiler's name for the architecture, such as ``"sm_89"``."""
        return self.arch.name

    def tensor_rate(self, dtype: str, precision: str) -> float:
        """Return the peak rate, in FLOP/s, at which products of this kind are formed and summed.

        float32 at ``"ieee"`` runs on the CUDA cores; ``"tf32x3"`` makes three TF32 products of each.

        Raises:
            DeviceError: no figure is known for this dtype and precision.
        """
        if dtype == "float32" and precision == "ieee":
            return self.fp32_tflops * 1e12
        if dtype == "float32" and precision in ("tf32", "tf32x3"):
            return self.tensor_tflops["tf32"] * 1e12 / (3 if precision == "tf32x3" else 1)
        if dtype in ("float16", "bfloat16") and precision == "ieee":
            return self.tensor_tflops[dtype] * 1e12
        asked = f"{dtype} at {precision}"
        remedy = "ask for float32 at tf32, tf32x3 or ieee, or for float16 or bfloat16 at ieee"
        raise DeviceError(self.name, asked, "has no known rate for it", remedy)

    def to_json(self) -> dict[str, Any]:
        """Return every figure, for another process; `from_json` makes the same device of it."""
        return asdict(self)

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> Device:
        """Make a device from what `to_json` returned."""
        return cls(
            **{
                **fields,
                "arch": Architecture(**fields["arch"]),
                "other_products": tuple(fields["other_products"]),
            }
        )


# --- the catalogue --------------------------------------------------------------------------------

# All rates are dense (NVIDIA's headline figures often count skipped zeros, and are twice these) and with
# float32 accumulation, which GeForce boards run at half the rate of float16 accumulation.

_ADA = "NVIDIA Ada GPU Architecture white paper v2.1"
_GA102 = "NVIDIA Ampere GA102 GPU Architecture white paper v2.0"
_A100 = "NVIDIA A100 Tensor Core GPU Architecture white paper"
_H100 = "NVIDIA H100 Tensor Core GPU Architecture white paper"
_BLACKWELL = "NVIDIA RTX Blackwell GPU Architecture white paper"


def _device(
    name: str,
    product: str,
    arch: str,
    sms: int,
    boost_mhz: int,
    dram_gbps: float,
    l2_mib: int,
    memory_gib: int,
    fp32: float,
    tf32: float,
    half: float,
    source: str,
    *other_products: str,
) -> Device:
    """One row of the table below; `half` is the rate of both float16 and bfloat16."""
    return Device(
        name=name,
        product=product,
        arch=ARCHITECTURES[arch],
        sms=sms,
        boost_mhz=boost_mhz,
        dram_gbps=dram_gbps,
        l2_bytes=l2_mib * 2**20,
        memory_bytes=memory_gib * 2**30,
        fp32_tflops=fp32,
        tensor_tflops={"tf32": tf32, "float16": half, "bfloat16": half},
        source=source,
        other_products=other_products,
    )


# fmt: off
_ROWS = (
    #       name, product,
    #           arch, SMs, boost MHz, DRAM GB/s, L2 MiB, memory GiB, TFLOPS: float32, TF32, half,
    #           source
    _device("rtx4090", "NVIDIA GeForce RTX 4090",
            "sm_89", 128, 2520, 1008.0, 72, 24, 82.6, 82.6, 165.2,
            f"{_ADA}, GeForce RTX 4090"),
    _device("rtx4080", "NVIDIA GeForce RTX 4080",
            "sm_89", 76, 2505, 716.8, 64, 16, 48.7, 48.7, 97.5,
            f"{_ADA}, GeForce RTX 4080"),
    _device("l4", "NVIDIA L4",
            "sm_89", 58, 2040, 300.0, 48, 24, 30.3, 60.0, 121.0,
            "NVIDIA L4 Tensor Core GPU data sheet (its tensor rates are sparse: halved); "
            f"SMs, clock and L2: {_ADA}, L4"),
    _device("l40", "NVIDIA L40",
            "sm_89", 142, 2490, 864.0, 96, 48, 90.5, 90.5, 181.05,
            f"NVIDIA L40 GPU data sheet; L2: {_ADA}, L40"),
    _device("l40s", "NVIDIA L40S",
            "sm_89", 142, 2520, 864.0, 96, 48, 91.6, 183.0, 362.05,
            "NVIDIA L40S GPU data sheet; clock: NVIDIA L40S product brief; "
            f"L2: {_ADA}, L40, the same chip"),
    _device("rtx6000-ada", "NVIDIA RTX 6000 Ada Generation",
            "sm_89", 142, 2505, 960.0, 96, 48, 91.1, 182.1, 364.2,
            "NVIDIA RTX 6000 Ada Generation data sheet (its 1457 tensor TFLOPS are sparse float8: a quarter "
            f"is half's rate; the clock is the one that gives its 91.1); L2: {_ADA}, AD102"),
    _device("rtx3090", "NVIDIA GeForce RTX 3090",
            "sm_86", 82, 1695, 936.0, 6, 24, 35.6, 35.6, 71.0,
            f"{_GA102}, Appendix A, GeForce RTX 3090"),
    _device("a6000", "NVIDIA RTX A6000",
            "sm_86", 84, 1800, 768.0, 6, 48, 38.7, 77.4, 154.8,
            f"{_GA102}, Appendix C, RTX A6000"),
    _device("a10", "NVIDIA A10",
            "sm_86", 72, 1695, 600.0, 6, 24, 31.2, 62.5, 125.0,
            "NVIDIA A10 Tensor Core GPU data sheet; clock: NVIDIA A10 product brief; "
            f"L2: {_GA102}, 512 KB for each of 12 memory controllers"),
    _device("agx-orin", "Orin",
            "sm_87", 16, 1300, 204.8, 4, 64, 5.3, 21.25, 42.5,
            "NVIDIA Jetson AGX Orin Series technical brief and data sheet, 64 GB (the GPU's 170 INT8 TOPS "
            "are sparse: a quarter is half's rate); the memory is the host's, too"),
    _device("a100-40gb", "NVIDIA A100-SXM4-40GB",
            "sm_80", 108, 1410, 1555.0, 40, 40, 19.5, 156.0, 312.0,
            _A100, "NVIDIA A100-PCIE-40GB"),
    _device("a100-80gb", "NVIDIA A100-SXM4-80GB",
            "sm_80", 108, 1410, 2039.0, 40, 80, 19.5, 156.0, 312.0,
            f"{_A100}; memory: NVIDIA A100 80GB Tensor Core GPU data sheet (SXM)"),
    _device("a100-80gb-pcie", "NVIDIA A100 80GB PCIe",
            "sm_80", 108, 1410, 1935.0, 40, 80, 19.5, 156.0, 312.0,
            f"{_A100}; memory: NVIDIA A100 80GB Tensor Core GPU data sheet (PCIe)"),
    _device("h100-pcie", "NVIDIA H100 PCIe",
            "sm_90", 114, 1755, 2039.0, 50, 80, 51.2, 378.0, 756.0,
            f"{_H100}, PCIe (its tensor rates are at 1620 MHz)"),
    _device("h100-sxm", "NVIDIA H100 80GB HBM3",
            "sm_90", 132, 1980, 3352.0, 50, 80, 66.9, 494.7, 989.4,
            f"{_H100}, SXM5 (its tensor rates are at 1830 MHz)"),
    _device("h200", "NVIDIA H200",
            "sm_90", 132, 1980, 4800.0, 60, 141, 66.9, 494.7, 989.4,
            "memory: NVIDIA H200 Tensor Core GPU data sheet; L2: as CUDA reports it; "
            f"the rest: {_H100}, SXM5, the same chip"),
    _device("h20", "NVIDIA H20",
            "sm_90", 78, 2203, 4000.0, 60, 96, 44.0, 74.0, 148.0,
            "NVIDIA H20 GPU data sheet (the clock is the one that gives its 44); SMs and L2: as CUDA reports "
            "them"),
    _device("b200", "NVIDIA B200",
            "sm_100", 148, 1980, 7700.0, 126, 180, 75.0, 1125.0, 2250.0,
            "NVIDIA Blackwell data sheet, HGX B200 (its tensor rates are sparse: halved; that of TF32 is "
            "rounded: half of half's; the clock is the one that gives its 75); SMs and L2: as CUDA reports "
            "them"),
    _device("agx-thor", "NVIDIA Thor",
            "sm_110", 20, 1570, 273.0, 32, 128, 8.04, 129.4, 258.75,
            "NVIDIA Jetson T5000 data sheet (its 2070 tensor TFLOPS are sparse float4: an eighth is half's "
            "rate); SMs and L2: as CUDA reports them; the memory is the host's, too"),
    _device("rtx-pro-6000", "NVIDIA RTX PRO 6000 Blackwell Workstation Edition",
            "sm_120", 188, 2597, 1792.0, 128, 96, 125.0, 250.0, 500.0,
            "NVIDIA RTX PRO 6000 Blackwell Workstation Edition data sheet (its 4000 tensor TOPS are sparse "
            "float4: an eighth is half's rate; the clock is the one that gives its 125)"),
    _device("rtx5090", "NVIDIA GeForce RTX 5090",
            "sm_120", 170, 2407, 1792.0, 96, 32, 104.8, 104.8, 209.5,
            f"{_BLACKWELL}, GeForce RTX 5090"),
)
# fmt: on

CATALOGUE: Mapping[str, Device] = {device.name: device for device in _ROWS}
"""Every device known, by name."""

# --- looking devices up ---------------------------------------------------------------------------


def names() -> list[str]:
    """Return the names of all devices in the catalogue, sorted."""
    return sorted(CATALOGUE)


def find(name: str) -> Device:
    """Return the device of that name; letter case and surrounding spaces do not matter.

    Raises:
        DeviceError: no device has that name; the error suggests the closest and lists all.

    >>> find("RTX4090").sms
    128
    """
    device = CATALOGUE.get(name.strip().lower())
    if device is None:
        reason = f"is not a known device{suggestion(name.strip(), names())}"
        raise DeviceError("name", name, reason, f"give one of {', '.join(names())}")
    return device


def by_product(product: str, sms: int, memory_bytes: int) -> Device | None:
    """Return the catalogue's device for a GPU as the driver describes it, or None where it has none.

    The name alone does not do: a partition of a GPU or a cut-down board can carry the full one's name.

    Args:
        product: the name the driver reports.
        sms: streaming multiprocessors it reports.
        memory_bytes: device memory it reports, bytes; somewhat under the nominal size.
    """
    for device in CATALOGUE.values():
        named = product.strip() in (device.product, *device.other_products)
        share = memory_bytes / device.memory_bytes
        if named and sms == device.sms and _LEAST_MEMORY_SHARE <= share <= 1:
            return device
    return None


def derived(
    product: str,
    *,
    capability: int,
    sms: int,
    memory_bytes: int,
    l2_bytes: int,
    boost_mhz: int,
    memory_mhz: int,
    memory_bus_bits: int,
) -> Device | None:
    """Return a device for a GPU that the catalogue does not have, or None where its architecture is unknown.

    What the driver reports is taken as it is (0 where it reports nothing). The rates, which no driver
    reports, are those of the catalogue's device of the same architecture, or else of the nearest one that it
    has devices of, with the most similar number of SMs, scaled by SMs and clock, and `source` says whose;
    bandwidth is memory clock x 2 transfers x bus width.

    Args:
        product: the name the driver reports.
        capability: compute capability as one number, such as 89.
        sms: streaming multiprocessors.
        memory_bytes: device memory, bytes.
        l2_bytes: L2 cache, bytes.
        boost_mhz: highest clock of the SMs, MHz.
        memory_mhz: memory clock, MHz.
        memory_bus_bits: width of the memory bus, bits.
    """
    arch = ARCHITECTURES.get(f"sm_{capability}")
    if arch is None:
        return None
    nearest = _NEAREST.get(capability, capability)
    kin = [device for device in CATALOGUE.values() if device.arch.capability == nearest]
    like = min(kin, key=lambda device: (abs(device.sms - sms), device.name))
    clock = boost_mhz or like.boost_mhz
    scale = sms * clock / (like.sms * like.boost_mhz)
    bandwidth = 2 * memory_mhz * memory_bus_bits / 8 / 1e3
    return replace(
        like,
        name=re.sub(r"[^a-z0-9]+", "-", product.lower()).strip("-"),
        product=product,
        arch=arch,
        sms=sms,
        boost_mhz=clock,
        dram_gbps=bandwidth or like.dram_gbps * sms / like.sms,
        l2_bytes=l2_bytes or like.l2_bytes,
        memory_bytes=memory_bytes,
        fp32_tflops=like.fp32_tflops * scale,
        tensor_tflops={name: rate * scale for name, rate in like.tensor_tflops.items()},
        source=f"as the driver reports it; rates scaled from {like.name} ({like.arch.name}) by SMs and clock",
        other_products=(),
    )


def recalled(name: str, arch: str, sms: int, memory_gib: int) -> Device | None:
    """Return the device that an environment names, for estimates; None where nothing is known of its arch.

    The catalogue's where that is as large; else one like its kin.

    Args:
        name: what the environment calls it.
        arch: the compiler's name for its architecture, such as ``"sm_89"``.
        sms: streaming multiprocessors.
        memory_gib: device memory, GiB, rounded up.
    """
    known = CATALOGUE.get(name)
    if known is not None and (known.sms, -(-known.memory_bytes // 2**30)) == (sms, memory_gib):
        return known
    if arch not in ARCHITECTURES or min(sms, memory_gib) < 1:
        return None
    return derived(
        name, capability=ARCHITECTURES[arch].capability, sms=sms, memory_bytes=memory_gib << 30, l2_bytes=0,
        boost_mhz=0, memory_mhz=0, memory_bus_bits=0,
    )  # fmt: skip
