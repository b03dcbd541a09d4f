"""The emulated ldmatrix and mma against the tables of the PTX ISA manual, written out here.

From "Matrix fragments for mma.m16n8k16 with floating point type", "... for mma.m16n8k8" and
"ldmatrix": element i of a fragment that a lane holds is at (row, column) of the matrix.
"""

from __future__ import annotations

import ctypes

import devices
import pytest
import torch
from emulator import library

pytestmark = devices.needs_emulator

LANES = range(32)


def a_16bit(lane: int, i: int) -> tuple[int, int]:
    """A of m16n8k16: a0..a7."""
    group, thread = lane >> 2, lane % 4
    row = group if 0 <= i < 2 or 4 <= i < 6 else group + 8
    column = thread * 2 + (i & 1) if i < 4 else thread * 2 + (i & 1) + 8
    return row, column


def b_16bit(lane: int, i: int) -> tuple[int, int]:
    """B of m16n8k16: b0..b3."""
    group, thread = lane >> 2, lane % 4
    return (thread * 2 + (i & 1) if i < 2 else thread * 2 + (i & 1) + 8), group


def a_tf32(lane: int, i: int) -> tuple[int, int]:
    """A of m16n8k8: a0..a3."""
    group, thread = lane >> 2, lane % 4
    return (group if i in (0, 2) else group + 8), (thread if i in (0, 1) else thread + 4)


def b_tf32(lane: int, i: int) -> tuple[int, int]:
    """B of m16n8k8: b0, b1."""
    group, thread = lane >> 2, lane % 4
    return (thread if i == 0 else thread + 4), group


def accumulator(lane: int, i: int) -> tuple[int, int]:
    """C and D: c0..c3."""
    group, thread = lane >> 2, lane % 4
    return (group if i < 2 else group + 8), thread * 2 + (i & 1)


def address(tensor: torch.Tensor) -> ctypes.c_void_p:
    return ctypes.c_void_p(tensor.data_ptr())


@pytest.mark.parametrize(
    "name, dtype, depth, a_at, b_at",
    [
        ("bf16", torch.bfloat16, 16, a_16bit, b_16bit),
        ("f16", torch.float16, 16, a_16bit, b_16bit),
        ("tf32", torch.float32, 8, a_tf32, b_tf32),
    ],
)
def test_mma(name, dtype, depth, a_at, b_at):
    # Small integers: every sum is exact, and few are alike by chance.
    left = torch.randint(-8, 9, (16, depth)).to(dtype)
    right = torch.randint(-8, 9, (depth, 8)).to(dtype)
    sums = torch.randint(-99, 99, (16, 8)).float()
    per_lane = depth // 2
    a = torch.stack([torch.stack([left[a_at(lane, i)] for i in range(per_lane)]) for lane in LANES])
    b = torch.stack(
        [torch.stack([right[b_at(lane, i)] for i in range(per_lane // 2)]) for lane in LANES]
    )
    d = torch.stack([torch.stack([sums[accumulator(lane, i)] for i in range(4)]) for lane in LANES])
    library.library().emulator_multiply(name.encode(), address(a), address(b), address(d))
    expected = sums.double() + left.double() @ right.double()
    for lane in LANES:
        for i in range(4):
            assert d[lane, i] == expected[accumulator(lane, i)]


@pytest.mark.parametrize("transposed", [False, True])
def test_ldmatrix(transposed):
    # Lane 8 * m + row gives the address of a row of matrix m.
    matrices = torch.arange(4 * 8 * 8, dtype=torch.int16).view(4, 8, 8)
    out = torch.zeros(32, 4, 2, dtype=torch.int16)
    library.library().emulator_load_matrices(transposed, address(matrices), address(out))
    for lane in LANES:
        for matrix in range(4):
            for half in range(2):
                row, column = lane // 4, lane % 4 * 2 + half
                if transposed:
                    row, column = column, row
                assert out[lane, matrix, half] == matrices[matrix, row, column]


def test_mma_drops_the_bits_that_tf32_lacks():
    # 1 + 2**-11 lies halfway between two numbers of tf32: mma cuts it off.
    a, b, d = torch.zeros(32, 4), torch.zeros(32, 2), torch.zeros(32, 4)
    a[0, 0], b[0, 0] = 1 + 2**-11, 1.0
    library.library().emulator_multiply(b"tf32", address(a), address(b), address(d))
    assert d[0, 0] == 1.0
