"""The table of devices: vendors' numbers, each with the document that it stands in.

Which of them were compared with what text stands in docs/roofline.md.
"""

from __future__ import annotations

from collections.abc import Mapping

from .limits import Device

_LAUNCH_US = 3.8
_LAUNCH = (
    "time from kernel to kernel in one stream on a V100, for a kernel of 2.9 us: NVIDIA, Getting "
    "Started with CUDA Graphs (2019), https://developer.nvidia.com/blog/cuda-graphs/"
)


def _device(
    name: str,
    names: str,
    *,
    matrix: Mapping[str, float],
    vector: Mapping[str, float],
    gb_s: float,
    gib: int,
    source: tuple[str, str],
    launch: str = f"{_LAUNCH}; taken for every GPU",
) -> Device:
    """Make a device of rates in TFLOP/s, GB/s, and the GB of its memory, each of 2**30 B.

    Data sheets write GB, but a memory chip holds a power of two; a driver keeps some for itself.
    """
    return Device(
        name,
        {kind: round(rate * 1e12) * 1.0 for kind, rate in matrix.items()},
        {kind: round(rate * 1e12) * 1.0 for kind, rate in vector.items()},
        bandwidth=gb_s * 1e9,
        memory=gib * 2**30,
        launch_us=_LAUNCH_US,
        source=source[0],
        url=source[1],
        launch_source=launch,
        names=tuple(part.strip() for part in names.split(",")),
    )


_NVIDIA_DAM = "https://www.nvidia.com/content/dam/en-zz/Solutions/Data-Center"
_T4 = (
    "NVIDIA T4 Tensor Core GPU product brief PB-09256-001",
    f"{_NVIDIA_DAM}/tesla-t4/t4-tensor-core-product-brief.pdf",
)
_V100 = (
    "NVIDIA V100 Tensor Core GPU data sheet (2020)",
    "https://images.nvidia.com/content/technologies/volta/pdf/"
    "volta-v100-datasheet-update-us-1165301-r5.pdf",
)
_A10 = ("NVIDIA A10 Tensor Core GPU data sheet", f"{_NVIDIA_DAM}/a10/pdf/a10-datasheet.pdf")
_A100 = (
    "NVIDIA A100 Tensor Core GPU data sheet; 40 GB: NVIDIA A100 Tensor Core GPU Architecture",
    f"{_NVIDIA_DAM}/a100/pdf/nvidia-a100-datasheet-us-nvidia-1758950-r4-web.pdf",
)
_L4 = ("NVIDIA L4 Tensor Core GPU data sheet", "https://www.nvidia.com/en-us/data-center/l4/")
_L40S = ("NVIDIA L40S GPU data sheet", "https://www.nvidia.com/en-us/data-center/l40s/")
_HOPPER = (
    "NVIDIA H100 Tensor Core GPU Architecture (white paper, v1.04), table of specifications",
    "https://resources.nvidia.com/en-us-tensor-core/gtc22-whitepaper-hopper",
)
_H100_NVL = (
    "NVIDIA H100 Tensor Core GPU data sheet",
    "https://resources.nvidia.com/en-us-tensor-core/nvidia-tensor-core-gpu-datasheet",
)
_H200 = (
    "NVIDIA H200 Tensor Core GPU data sheet; the SXM's rates as the H100's white paper has them",
    "https://www.nvidia.com/en-us/data-center/h200/",
)
_BLACKWELL = (
    "NVIDIA Blackwell (GB200 NVL72, HGX B200) data sheet, individual GPU",
    "https://resources.nvidia.com/en-us-blackwell-architecture/datasheet",
)
_GA102 = (
    "NVIDIA Ampere GA102 GPU Architecture (white paper), appendix A",
    "https://www.nvidia.com/content/PDF/nvidia-ampere-ga-102-gpu-architecture-whitepaper-v2.pdf",
)
_ADA = (
    "NVIDIA Ada GPU Architecture (white paper), appendix A",
    "https://images.nvidia.com/aem-dam/Solutions/geforce/ada/nvidia-ada-gpu-architecture.pdf",
)
_RTX_BLACKWELL = (
    "NVIDIA RTX Blackwell GPU Architecture (white paper), appendix A",
    "https://images.nvidia.com/aem-dam/Solutions/geforce/blackwell/"
    "nvidia-rtx-blackwell-gpu-architecture.pdf",
)
_MI250X = (
    "AMD Instinct MI250X product page; half of it: a driver reports each of its two dies. The name "
    "that it reports is that of the MI250 too, which has 104 of these 110 compute units",
    "https://www.amd.com/en/products/accelerators/instinct/mi200/mi250x.html",
)
_MI300X = (
    "AMD Instinct MI300X data sheet; the rates also in AMD Instinct MI300 series microarchitecture",
    "https://www.amd.com/content/dam/amd/en/documents/instinct-tech-docs/data-sheets/"
    "amd-instinct-mi300x-data-sheet.pdf",
)


def _halves(rate: float) -> dict[str, float]:
    return {"float16": rate, "bfloat16": rate}


def _eights(rate: float) -> dict[str, float]:
    return {"float8": rate, "int8": rate}


def _v100(form: str, gib: int, float64: float, float32: float, tensor: float) -> Device:
    vector = {"float64": float64, "float32": float32}
    return _device(
        f"V100 {form} {gib}GB",
        f"Tesla V100-{form}-{gib}GB",
        matrix={**vector, "float16": tensor},
        vector=vector,
        gb_s=900,
        gib=gib,
        source=_V100,
    )


def _a100(name: str, driver: str, gib: int, gb_s: float) -> Device:
    rates = {"float64": 19.5, "float32": 19.5, "tf32": 156, **_halves(312), "int8": 624}
    vector = {"float64": 9.7, "float32": 19.5}
    return _device(name, driver, matrix=rates, vector=vector, gb_s=gb_s, gib=gib, source=_A100)


def _h100(name: str, names: str, gib: int, gb_s: float, source: tuple[str, str]) -> Device:
    """Make a device with the chip of the H100 SXM."""
    matrix = {"float64": 66.9, "float32": 66.9, "tf32": 494.7, **_halves(989.4), **_eights(1978.9)}
    vector = {"float64": 33.5, "float32": 66.9}
    return _device(name, names, matrix=matrix, vector=vector, gb_s=gb_s, gib=gib, source=source)


def _hopper_nvl(name: str, names: str, gib: int, gb_s: float, source: tuple[str, str]) -> Device:
    """Make a device with the chip of the H100 NVL: half of what is printed with sparsity."""
    matrix = {"float64": 60, "float32": 60, "tf32": 417.5, **_halves(835.5), **_eights(1670.5)}
    vector = {"float64": 30, "float32": 60}
    return _device(name, names, matrix=matrix, vector=vector, gb_s=gb_s, gib=gib, source=source)


def _geforce(
    name: str,
    rates: Mapping[str, float],
    gb_s: float,
    gib: int,
    source: tuple[str, str],
) -> Device:
    """Make a GeForce; float16 and float8 accumulate in float32, as torch has them do.

    The white papers give float64 as a 64th of float32.
    """
    vector = {"float64": rates["float32"] / 64, "float32": rates["float32"]}
    return _device(
        name,
        f"NVIDIA GeForce {name}",
        matrix={**vector, **rates},
        vector=vector,
        gb_s=gb_s,
        gib=gib,
        source=source,
    )


DEVICES: tuple[Device, ...] = (
    _device(
        "T4",
        "Tesla T4, NVIDIA T4",
        matrix={"float32": 8.1, "float16": 65, "int8": 130},
        vector={"float32": 8.1},
        gb_s=320,
        gib=16,
        source=_T4,
    ),
    _v100("SXM2", 16, 7.8, 15.7, 125),
    _v100("SXM2", 32, 7.8, 15.7, 125),
    _v100("PCIe", 16, 7, 14, 112),
    _v100("PCIe", 32, 7, 14, 112),
    _device(
        "A10",
        "NVIDIA A10",
        matrix={"float32": 31.2, "tf32": 62.5, **_halves(125), "int8": 250},
        vector={"float32": 31.2},
        gb_s=600,
        gib=24,
        source=_A10,
    ),
    _a100("A100 PCIe 40GB", "NVIDIA A100-PCIE-40GB", 40, 1555),
    _a100("A100 PCIe 80GB", "NVIDIA A100 80GB PCIe", 80, 1935),
    _a100("A100 SXM 40GB", "NVIDIA A100-SXM4-40GB", 40, 1555),
    _a100("A100 SXM 80GB", "NVIDIA A100-SXM4-80GB", 80, 2039),
    _device(
        "L4",
        "NVIDIA L4",
        matrix={"float32": 30.3, "tf32": 60, **_halves(121), **_eights(242.5)},
        vector={"float32": 30.3},
        gb_s=300,
        gib=24,
        source=_L4,
    ),
    _device(
        "L40S",
        "NVIDIA L40S",
        matrix={"float32": 91.6, "tf32": 183, **_halves(362.05), **_eights(733)},
        vector={"float32": 91.6},
        gb_s=864,
        gib=48,
        source=_L40S,
    ),
    _device(
        "H100 PCIe",
        "NVIDIA H100 PCIe, NVIDIA H100 80GB PCIe",
        matrix={"float64": 51.2, "float32": 51.2, "tf32": 378, **_halves(756), **_eights(1513)},
        vector={"float64": 25.6, "float32": 51.2},
        gb_s=2039,
        gib=80,
        source=_HOPPER,
    ),
    _h100("H100 SXM", "NVIDIA H100 80GB HBM3, NVIDIA H100 SXM5 80GB", 80, 3352, _HOPPER),
    _hopper_nvl("H100 NVL", "NVIDIA H100 NVL", 94, 3900, _H100_NVL),
    _h100("H200", "NVIDIA H200, NVIDIA H200 SXM 141GB", 141, 4800, _H200),
    _hopper_nvl("H200 NVL", "NVIDIA H200 NVL", 141, 4800, _H200),
    _device(
        "B200",
        "NVIDIA B200",
        matrix={"float64": 37, "float32": 75, "tf32": 1100, **_halves(2250), **_eights(4500)},
        vector={"float64": 37, "float32": 75},
        gb_s=7700,
        gib=180,
        source=_BLACKWELL,
    ),
    _device(
        "GB200",
        "NVIDIA GB200",
        matrix={"float64": 40, "float32": 80, "tf32": 1250, **_halves(2500), **_eights(5000)},
        vector={"float64": 40, "float32": 80},
        gb_s=8000,
        gib=186,
        source=_BLACKWELL,
    ),
    _geforce(
        "RTX 3090",
        {"float32": 35.6, "tf32": 35.6, **_halves(71), "int8": 284},
        936,
        24,
        _GA102,
    ),
    _geforce(
        "RTX 4090",
        {"float32": 82.6, "tf32": 82.6, **_halves(165.2), "float8": 330.3, "int8": 660.6},
        1008,
        24,
        _ADA,
    ),
    _geforce(
        "RTX 5090",
        {"float32": 104.8, "tf32": 104.8, **_halves(209.5), "float8": 419, "int8": 838},
        1792,
        32,
        _RTX_BLACKWELL,
    ),
    _device(
        "MI250X",
        "AMD Instinct MI250X, AMD Instinct MI250X / MI250",
        matrix={"float64": 47.85, "float32": 47.85, **_halves(191.5), "int8": 191.5},
        vector={"float64": 23.95, "float32": 23.95},
        gb_s=1638.4,
        gib=64,
        source=_MI250X,
        launch=f"assumed as for GPUs of NVIDIA; {_LAUNCH}",
    ),
    _device(
        "MI300X",
        "AMD Instinct MI300X, AMD Instinct MI300X OAM, AMD Instinct MI300X VF",
        matrix={
            "float64": 163.4,
            "float32": 163.4,
            "tf32": 653.7,
            **_halves(1307.4),
            **_eights(2614.9),
        },
        vector={"float64": 81.7, "float32": 163.4},
        gb_s=5300,
        gib=192,
        source=_MI300X,
        launch=f"assumed as for GPUs of NVIDIA; {_LAUNCH}",
    ),
    Device(
        "CPU",
        {"float64": 0.64e12, "float32": 1.28e12, **_halves(1.28e12)},
        {"float64": 0.64e12, "float32": 1.28e12},
        bandwidth=102.4e9,
        launch_us=1.0,
        source="no product: 16 cores at 2.5 GHz with two 256-bit multiply-add units each, and four "
        "channels of DDR4-3200; narrower types computed as float32",
        url="https://www.intel.com/content/www/us/en/docs/intrinsics-guide/",
        launch_source="assumed: a microsecond to choose and call a kernel",
        names=("generic CPU",),
    ),
)
"""The devices that `find` knows, oldest first."""
