"""The order in which CUDA kernels join partial sums, emulated: always that of the shares.

With float32 sums of 2^27, -2^27 and 1 only this order gives 1: where the 1 comes earlier, the
others swallow it.
"""

from __future__ import annotations

from collections.abc import Iterator

import devices
import pytest
import torch
from emulator import library

pytestmark = devices.needs_emulator

SUMS = (2.0**27, -(2.0**27), 1.0)
GEOMETRY = ([1, 1], [0] * 4, [1, 1])


@pytest.fixture(scope="module", autouse=True)
def _emulated() -> Iterator[None]:
    with library.emulated_cuda():
        yield


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_shares_of_channels_on_tensor_cores(dtype: torch.dtype) -> None:
    # Three shares of 8 slabs of the reduction axis, of 64 bytes each.
    share = 8 * 64 // torch.finfo(dtype).bits * 8
    x = torch.zeros(1, 3 * share, 1, 2, dtype=dtype)
    for number, value in enumerate(SUMS):
        x[:, number * share + 5 * number] = value
    x = x.contiguous(memory_format=torch.channels_last)
    w = torch.ones(40, 3 * share, 1, 1, dtype=dtype)
    with devices.tf32(True), library.counting() as costs:
        y = torch.ops.cnnops.convolution(x, w, None, *GEOMETRY, 1, "zeros")
        assert any("join_shares" in cost.kernel for cost in costs())
    assert torch.equal(y, torch.ones_like(y))


@pytest.mark.parametrize(
    "channels, groups, kernel, dtype",
    [
        (16, 1, "implicit_gemm_weight", torch.float32),
        (16, 1, "implicit_gemm_weight", torch.bfloat16),
        (3, 1, "fma_gemm_weight", torch.float32),
        (3, 3, "depthwise_weight", torch.float32),
    ],
)
def test_shares_of_pixels(channels: int, groups: int, kernel: str, dtype: torch.dtype) -> None:
    # Three images of as many pixels as the least share of each kernel has.
    pixels = 8 * 64 // (torch.finfo(dtype).bits // 8) if "implicit" in kernel else 64
    x = torch.zeros(3, channels, 1, pixels, dtype=dtype)
    for number, value in enumerate(SUMS):
        x[number, ..., 7 * number] = value
    g = torch.ones(3, channels, 1, pixels, dtype=dtype)
    if "implicit" in kernel:
        x, g = (it.contiguous(memory_format=torch.channels_last) for it in (x, g))
    with devices.tf32("implicit" in kernel), library.counting() as costs:
        w = torch.ops.cnnops.convolution_grad_weight(g, x, [1, 1], *GEOMETRY, groups, "zeros")
        ran = " ".join(cost.kernel for cost in costs())
    assert kernel in ran
    assert "join_chunks" in ran
    assert torch.equal(w, torch.ones_like(w))
