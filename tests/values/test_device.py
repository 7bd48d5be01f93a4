from __future__ import annotations

import pickle
import re

import pytest

from autoconv import device as device_module
from autoconv.device import ARCHITECTURES, CATALOGUE, by_product, derived, find, names
from autoconv.errors import DeviceError

KIB, GIB = 2**10, 2**30
DEVICES = pytest.mark.parametrize("device", CATALOGUE.values(), ids=lambda device: device.name)

# CUDA C++ Programming Guide, "Technical Specifications per Compute Capability":
# resident warps and blocks, shared memory per SM and per block in KB.
GUIDE = {
    "sm_80": (64, 32, 164, 163),
    "sm_86": (48, 16, 100, 99),
    "sm_87": (48, 16, 164, 163),
    "sm_89": (48, 24, 100, 99),
    "sm_90": (64, 32, 228, 227),
    "sm_100": (64, 32, 228, 227),
    "sm_103": (64, 32, 228, 227),
    "sm_110": (48, 24, 228, 227),
    "sm_120": (48, 24, 100, 99),
    "sm_121": (48, 24, 100, 99),
}


def test_every_architecture_has_its_occupancy_table():
    assert set(ARCHITECTURES) == set(GUIDE)
    for name, (warps, blocks, shared, per_block) in GUIDE.items():
        arch = ARCHITECTURES[name]
        assert arch.name == name == f"sm_{arch.capability}"
        assert (arch.max_warps_per_sm, arch.max_blocks_per_sm) == (warps, blocks)
        assert (arch.shared_per_sm, arch.shared_per_block_max) == (shared * KIB, per_block * KIB)
        assert arch.shared_per_block_max + arch.shared_reserved_per_block == arch.shared_per_sm
        assert (arch.max_threads_per_block, arch.registers_per_sm) == (1024, 64 * KIB)
        assert (arch.max_registers_per_thread, arch.register_allocation_unit) == (255, 256)
        assert (arch.shared_allocation_unit, arch.warp_allocation_unit) == (128, 4)


def test_the_promised_devices_are_there_once_each():
    promised = (
        "rtx4090 rtx4080 l4 l40 l40s rtx6000-ada rtx3090 a6000 a10 a100-40gb a100-80gb h100-pcie h100-sxm "
        "h20 b200 rtx5090 rtx-pro-6000 agx-orin agx-thor"
    )
    assert set(promised.split()) <= set(names())
    rows = device_module._ROWS
    products = [product for row in rows for product in (row.product, *row.other_products)]
    assert len(rows) == len(CATALOGUE)
    assert len(set(products)) == len(products)
    assert names() == sorted(CATALOGUE)


def test_rtx4090_has_the_figures_of_the_problem_statement():
    device = find("rtx4090")
    assert (device.arch_name, device.sms, device.dram_gbps) == ("sm_89", 128, 1008)
    assert device.tensor_tflops == {"tf32": 82.6, "float16": 165.2, "bfloat16": 165.2}
    assert (device.l2_bytes, device.memory_bytes) == (72 * 2**20, 24 * GIB)


@DEVICES
def test_names_are_plain_and_figures_have_a_source(device):
    assert re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", device.name)
    assert re.search(r"white paper|data sheet", device.source)
    assert device.product.startswith("NVIDIA ") or device.product == "Orin"
    assert ARCHITECTURES[device.arch_name] is device.arch


@DEVICES
def test_memory_figures_are_plausible(device):
    # From 7 us (GA102) to 170 us (L4) to stream the whole L2 from memory.
    microseconds_to_fill_l2 = device.l2_bytes / (device.dram_gbps * 1e3)
    assert 5 < microseconds_to_fill_l2 < 200
    assert device.l2_bytes % 2**20 == 0
    # Whole memory read in 10 ms (RTX 5090: 19) to 100 ms (L4: 86); a Jetson's, which is the host's, in 505.
    assert 10 < device.memory_bytes / (device.dram_gbps * 1e6) < (505 if "agx" in device.name else 100)


@DEVICES
def test_rates_follow_from_clock_and_sms(device):
    """A rate is SMs x clock x a power of two; a slip of a digit in any of them shows here."""
    clocks = device.sms * device.boost_mhz * 1e6
    cuda_cores = 64 if device.arch_name == "sm_80" else 128
    assert device.fp32_tflops * 1e12 / clocks == pytest.approx(2 * cuda_cores, rel=0.005)
    tensor = device.tensor_tflops
    assert set(tensor) == {"tf32", "float16", "bfloat16"}
    assert tensor["float16"] == tensor["bfloat16"] == pytest.approx(2 * tensor["tf32"], rel=0.012)
    # GeForce and L40 halve float32 accumulation; the largest chips' tensor cores run at a lower clock than
    # their CUDA cores; H20's are cut down to a fifth.
    halved = "GeForce" in device.product or device.name == "l40"
    by_arch = {"sm_80": 1024, "sm_87": 1024, "sm_90": 2048, "sm_100": 4096, "sm_110": 4096}
    per_sm = by_arch.get(device.arch_name, 256 if halved else 512)
    slower = {
        "h100-pcie": 1620 / 1755,
        "h100-sxm": 1830 / 1980,
        "h200": 1830 / 1980,
        "h20": 0.21,
        "b200": 1856 / 1980,
    }.get(device.name, 1)
    assert tensor["tf32"] * 1e12 / (clocks * slower) == pytest.approx(per_sm, rel=0.012)


def test_tensor_rate_by_dtype_and_precision():
    device = find("a100-80gb")
    assert device.tensor_rate("float32", "tf32") == 156e12
    assert device.tensor_rate("float32", "tf32x3") == 52e12
    assert device.tensor_rate("float32", "ieee") == 19.5e12
    assert device.tensor_rate("float16", "ieee") == device.tensor_rate("bfloat16", "ieee") == 312e12


@pytest.mark.parametrize(
    ("dtype", "precision"), [("float64", "ieee"), ("float16", "tf32"), ("float32", "tf64")]
)
def test_tensor_rate_of_the_unknown(dtype, precision):
    with pytest.raises(DeviceError, match=f"^device: l4={dtype} at {precision}: has no known rate"):
        find("l4").tensor_rate(dtype, precision)


@pytest.mark.parametrize("written", ["rtx4090", "RTX4090", " Rtx4090 "])
def test_find_ignores_case_and_spaces(written):
    assert find(written).name == "rtx4090"


@pytest.mark.parametrize(
    ("written", "closest"),
    [
        ("rtx490", ", did you mean rtx4090?"),
        ("4090", ", did you mean rtx4090?"),
        ("H100", ", did you mean h100-pcie or h100-sxm?"),
        ("rtx_6000_ada", ", did you mean rtx6000-ada?"),
        ("mi300", ""),
        ("", ""),
    ],
)
def test_unknown_device_names_the_closest_and_lists_all(written, closest):
    with pytest.raises(DeviceError) as caught:
        find(written)
    expected = f"device: name={written}: is not a known device{closest}; give one of {', '.join(names())}"
    assert str(caught.value) == expected


@DEVICES
def test_a_device_is_recognised_by_what_its_driver_reports(device):
    for product in (device.product, *device.other_products):
        assert by_product(product, device.sms, int(0.93 * device.memory_bytes)) is device
    assert by_product(device.product, device.sms - 1, device.memory_bytes) is None
    assert by_product(device.product, device.sms, device.memory_bytes // 2) is None
    assert by_product(device.product, device.sms, 2 * device.memory_bytes) is None


@pytest.mark.parametrize(
    ("product", "sms", "memory_gib", "name"),
    [
        # Device memory as torch reports it, in GiB.
        ("NVIDIA A100-SXM4-40GB", 108, 39.4, "a100-40gb"),
        ("NVIDIA A100-PCIE-40GB", 108, 39.4, "a100-40gb"),
        ("NVIDIA A100-SXM4-80GB", 108, 79.2, "a100-80gb"),
        ("NVIDIA A100 80GB PCIe", 108, 79.2, "a100-80gb-pcie"),
        ("NVIDIA H100 PCIe", 114, 79.1, "h100-pcie"),
        ("NVIDIA H100 80GB HBM3", 132, 79.1, "h100-sxm"),
        ("NVIDIA H200", 132, 139.8, "h200"),
        ("NVIDIA L40S", 142, 44.5, "l40s"),
        ("NVIDIA L4", 58, 22.0, "l4"),
        ("NVIDIA A100-SXM4-40GB MIG 1g.5gb", 14, 4.9, None),
        ("NVIDIA H100 NVL", 132, 93.1, None),
        ("NVIDIA H20", 78, 95.1, "h20"),
        ("NVIDIA L40", 142, 44.5, "l40"),
        ("NVIDIA B200", 148, 178.4, "b200"),
        ("NVIDIA GeForce RTX 4090 D", 114, 23.6, None),
        ("NVIDIA GeForce RTX 4090 Laptop GPU", 76, 15.7, None),
    ],
)
def test_boards_of_one_family_are_told_apart(product, sms, memory_gib, name):
    device = by_product(product, sms, int(memory_gib * GIB))
    assert (device.name if device else None) == name


DERIVED = [
    # What the driver reports of a GPU that the catalogue lacks: name, capability, SMs; whose rates it gets.
    ("NVIDIA GB200", 100, 152, "b200"),
    ("NVIDIA B300 SXM6 AC", 103, 148, "b200"),
    ("NVIDIA GB10", 121, 48, "rtx5090"),
    ("NVIDIA RTX PRO 6000 Blackwell Server Edition", 120, 188, "rtx-pro-6000"),
    ("Orin", 87, 14, "agx-orin"),
    ("NVIDIA H20-3e", 90, 78, "h20"),
]


def reported(product, capability, sms):
    nothing = {"l2_bytes": 0, "boost_mhz": 0, "memory_mhz": 0, "memory_bus_bits": 0}
    return derived(product, capability=capability, sms=sms, memory_bytes=100 * GIB, **nothing)


@pytest.mark.parametrize(("product", "capability", "sms", "like"), DERIVED)
def test_a_gpu_that_is_not_in_the_catalogue_has_the_rates_of_the_nearest(product, capability, sms, like):
    device, kin = reported(product, capability, sms), find(like)
    assert device.arch == ARCHITECTURES[f"sm_{capability}"]
    assert (device.product, device.sms) == (product, sms)
    assert device.tensor_tflops["float16"] == pytest.approx(kin.tensor_tflops["float16"] * sms / kin.sms)
    assert f"rates scaled from {like} ({kin.arch_name}) by SMs and clock" in device.source


def test_a_gpu_of_an_unknown_capability_is_none():
    for capability in (75, 130):
        assert reported("NVIDIA Nothing", capability, 100) is None


def test_every_architecture_has_rates_to_scale_and_constants_of_the_model():
    from autoconv.cost.constants import CONSTANTS

    for arch in ARCHITECTURES.values():
        assert reported("NVIDIA Something", arch.capability, 100).arch is arch
        assert arch.capability in CONSTANTS


def test_devices_hash_and_pickle():
    device = find("l40s")
    assert pickle.loads(pickle.dumps(device)) == device
    assert len({device, find("L40S"), find("l4")}) == 2
