"""What each kernel promises: its instructions, its dynamic shared memory, where its data is.

A kernel that no family here names fails the report: state what it is for first.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from cuda_report.sass import Instruction

SOURCES = Path(__file__).resolve().parents[2] / "csrc" / "cuda"

#: Local memory, which registers are spilled to, and atomics, whose order is no order: nowhere.
FORBIDDEN = frozenset({"LDL", "STL", "RED", "REDG", "REDS", "ATOM", "ATOMG", "ATOMS"})


@dataclass(frozen=True)
class Family:
    """Kernels that promise the same.

    Attributes:
        pattern: a regular expression of their whole names.
        loop: what the main loop has, as "LDGSTS.128" with modifiers that it must have.
        code: what the kernel has anywhere.
        from_l2: whether blocks share what they read, so that L2 and not DRAM delivers most of it.
        dynamic: bytes of dynamic shared memory at most, given the kernel's name.

    """

    pattern: str
    loop: tuple[str, ...] = ()
    code: tuple[str, ...] = ()
    from_l2: bool = False
    dynamic: Callable[[str], int] = lambda name: 0


def constant(header: str, name: str) -> int:
    """The constant `name` of a header in csrc/cuda, a literal or a shifted one."""
    text = (SOURCES / header).read_text()
    found = re.search(rf"\b{name} = (\d+)(?: << (\d+))?;", text)
    if found is None:
        raise ValueError(f"{header} has no constant {name} with a literal value")
    return int(found[1]) << int(found[2] or 0)


def _mma_bytes(name: str) -> int:
    """Tile::kSharedBytes of csrc/cuda/mma_tile.cuh."""
    found = re.search(r"\bTile<(\d+), (\d+), \d+, \d+, (\d+), \d+>", name)
    if found is None:
        raise ValueError(f"{name} has no tile")
    m, n, stages = map(int, found.groups())
    return stages * (m + n) * constant("mma_tile.cuh", "kSlabBytes")


def _depthwise_bytes(name: str) -> int:
    return constant("depthwise_plan.h", "kDepthwiseBytes")


def _tile_bytes(name: str) -> int:
    return constant("pool_plan.h", "kTileBytes")


def _mma(pattern: str, *loop: str) -> Family:
    return Family(pattern, loop, from_l2=True, dynamic=_mma_bytes)


FAMILIES = (
    # Tensor cores, operands by ldmatrix from what cp.async brought in whole vectors; m-major tf32
    # has 4-byte elements, which ldmatrix cannot turn; copies by element go through registers.
    _mma(r"implicit_gemm<.*\(Copies\)[01]>", "HMMA", "LDSM.4", "LDGSTS.128"),
    _mma(r"implicit_gemm<.*\(Copies\)2>", "HMMA", "LDSM.4", "LDG"),
    _mma(r"implicit_gemm_weight<float, .*\(Copies\)[01]>", "HMMA", "LDS", "LDGSTS.128"),
    _mma(r"implicit_gemm_weight<float, .*\(Copies\)2>", "HMMA", "LDS", "LDG"),
    _mma(r"implicit_gemm_weight<.*\(Copies\)[01]>", "HMMA", "LDSM.4", "LDGSTS.128"),
    _mma(r"implicit_gemm_weight<.*\(Copies\)2>", "HMMA", "LDSM.4", "LDG"),
    # Multiply-adds in registers, operands in vectors from shared memory.
    Family(r"fma_gemm(_weight)?<(float|bfloat16|float16), .*", ("FFMA", "LDS.128"), from_l2=True),
    Family(r"fma_gemm(_weight)?<double, .*", ("DFMA", "LDS.128"), from_l2=True),
    Family(r"fma_gemm(_weight)?<long, .*", ("IMAD", "LDS.128"), from_l2=True),
    # One pass over memory, through shared memory.
    Family(r"transpose<.*", code=("LDG", "STS", "LDS", "STG")),
    Family(r"pack_k_major<.*", code=("LDG", "STS", "LDS", "STG")),
    Family(r"depthwise_(planar|channels)<.*", code=("LDS",), dynamic=_depthwise_bytes),
    Family(r"depthwise_weight_planar<.*", code=("LDS",), dynamic=_depthwise_bytes),
    Family(r"depthwise_weight_channels<.*", code=("LDG",)),
    Family(r"pool_tile<.*", code=("STS", "LDS"), dynamic=_tile_bytes),
    Family(r"pool_window<.*", code=("LDG", "SHFL")),
    # Vectors of channels, and with each the bytes of its taps.
    Family(r"pool_direct<MaximumTap<b?float16, int>, 8>", code=("LDG.128", "STG.128", "STG.64")),
    Family(r"pool_direct<TapGradient<b?float16, int>, 8>", code=("LDG.128", "LDG.64", "STG.128")),
    Family(r"pool_direct<.*>, [248]>", code=("LDG.128", "STG.128")),
    # Element by element.
    Family(r"(pack_weight|fold_padding|join_chunks|join_shares)<.*", code=("LDG", "STG")),
    Family(r"(list_taps|fill)<.*", code=("STG",)),
    Family(r"pool_(direct|fractional|gather|scatter|index_bounds)<.*", code=("LDG", "STG")),
)


def family_of(name: str) -> Family | None:
    """The first family whose pattern is the whole of a kernel's name."""
    return next((family for family in FAMILIES if re.fullmatch(family.pattern, name)), None)


def missing(wanted: Iterable[str], code: Iterable[Instruction]) -> list[str]:
    """Those of `wanted`, as "LDGSTS.128", that no instruction of `code` is."""
    have = {(i.op, frozenset(i.modifiers)) for i in code}
    lacking = []
    for want in wanted:
        op, *modifiers = want.split(".")
        if not any(op == name and set(modifiers) <= extra for name, extra in have):
            lacking.append(want)
    return lacking
