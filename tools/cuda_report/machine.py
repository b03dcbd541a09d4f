"""Figures of GPUs: how many blocks an SM holds, and what its pipes do in a cycle."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from cuda_report.sass import Instruction


@dataclass(frozen=True)
class Sm:
    """What a multiprocessor can hold, as the CUDA C++ Programming Guide lists it."""

    warps: int
    blocks: int
    shared: int
    registers: int = 65536


KIB = 1024
SMS = {
    "sm_80": Sm(64, 32, 164 * KIB),
    "sm_86": Sm(48, 16, 100 * KIB),
    "sm_89": Sm(48, 24, 100 * KIB),
    "sm_90": Sm(64, 32, 228 * KIB),
    "sm_100": Sm(64, 32, 228 * KIB),
    "sm_103": Sm(64, 32, 228 * KIB),
    "sm_120": Sm(48, 24, 100 * KIB),
}

#: Shared memory that the system takes of each block.
RESERVED = 1024


def blocks(arch: str, registers: int, shared: int, threads: int) -> int:
    """Blocks that one SM of `arch` holds at once, each of `threads` with `registers` each.

    `shared` is the block's static and dynamic shared memory together.
    """
    sm = SMS[arch]
    warps = -(-threads // 32)
    # Registers are given to warps in units of 256, to each of the four parts of an SM by itself.
    of_warp = -(-max(registers, 1) * 32 // 256) * 256
    by_registers = sm.registers // 4 // of_warp * 4 // warps
    of_block = -(-(shared + RESERVED) // 128) * 128
    return min(sm.blocks, sm.warps // warps, by_registers, sm.shared // of_block)


# ---- an H100 (SXM) ------------------------------------------------------------------------------
#
# Cycles that a warp's instructions take of each pipe of its quarter of an SM. Four quarters share
# shared memory, 128 bytes a cycle; all SMs share L2 and DRAM, of which each gets its part:
# 3.35 TB/s of DRAM, and of L2 the 5.5 TB/s that benchmarks reach, at 132 SMs and 1.755 GHz.

_SHARED_BYTES = 128 / 4
_L2_BYTES = 5.5e12 / (132 * 1.755e9) / 4
_DRAM_BYTES = 3.35e12 / (132 * 1.755e9) / 4

#: Multiply-adds of a tensor core in a cycle, by the type of the operands; mma.sync reaches about
#: two thirds of that on Hopper, whose full rate takes instructions of four warps (wgmma).
_TENSOR = {"TF32": 256, "": 512}
_MMA_SYNC = 2 / 3
#: Lanes of a quarter that do the operation, of 32.
_LANES = {"FFMA": 32, "FADD": 32, "FMUL": 32, "DFMA": 16, "DADD": 16, "DMUL": 16, "MUFU": 4}
_INTEGER = ("IMAD", "IADD3", "ISETP", "LOP3", "SHF", "LEA", "IMNMX", "VIADD", "SEL", "PRMT")


def cycles(loop: Sequence[Instruction], from_l2: bool) -> dict[str, float]:
    """Cycles that each pipe of an H100 needs for one warp's pass through `loop`.

    Memory instructions count as if no two lanes read the same and no bank conflicted.

    `from_l2`: several blocks read the same, as tiles of a product do, so that L2 serves what is
    read from global memory; otherwise DRAM does.
    """
    pipes = {"issue": float(sum(i.op != "NOP" for i in loop))}

    def add(pipe: str, more: float) -> None:
        pipes[pipe] = pipes.get(pipe, 0.0) + more

    for i in loop:
        moved = 32 * i.bytes
        if i.op == "HMMA":
            rate = _TENSOR["TF32" if "TF32" in i.modifiers else ""]
            add("tensor", _products(i.modifiers[0]) / rate / _MMA_SYNC)
        elif i.op in _LANES:
            add("fp", 32 / _LANES[i.op])
        elif i.op in _INTEGER:
            add("integer", 2.0)
        elif i.op in ("LDS", "STS", "LDSM"):
            add("LSU", moved / _SHARED_BYTES)
        elif i.op in ("LDG", "STG", "LDGSTS"):
            add("LSU", moved / _SHARED_BYTES)
            add("L2" if from_l2 else "DRAM", moved / (_L2_BYTES if from_l2 else _DRAM_BYTES))
    return pipes


def _products(shape: str) -> int:
    """Multiply-adds of "16816", m16n8k16."""
    return {"16816": 16 * 8 * 16, "1688": 16 * 8 * 8, "1684": 16 * 8 * 4}[shape]
