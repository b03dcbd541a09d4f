"""The depthwise CUDA convolutions, emulated: every kernel, on the shapes that it is for.

The CPU's own operators in float64, which other tests hold against torch, are the reference.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from emulator import build, library

pytestmark = pytest.mark.skipif(
    build.missing() is not None, reason=f"the emulator cannot be built: {build.missing()}"
)

LAYOUTS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}


@pytest.fixture(scope="module")
def emulated() -> object:
    """The emulated operators."""
    assert "convolution" in library.names()
    return torch.ops.cnnops_emulated


def _kernels(call: Callable[[], object]) -> str:
    """The names of the kernels that `call` runs."""
    with library.counting() as costs:
        call()
        return " ".join({cost.kernel for cost in costs()})


# Each depthwise kernel with a call that it is for: input, multiplier, kernel, stride, layout. With
# 16 planes there are blocks enough, so that one takes several tiles of the batch one after another.
DEPTHWISE = {
    "depthwise_planar<float, true>": ((3, 16, 12, 20), 1, 5, 1, "contiguous"),
    "depthwise_planar<float, false>": ((2, 3, 20, 37), 2, 3, 2, "contiguous"),
    "depthwise_channels<float, 4, true>": ((2, 40, 9, 11), 1, 5, 1, "channels_last"),
    "depthwise_channels<float, 4, false>": ((2, 40, 9, 11), 1, 3, 2, "channels_last"),
    "depthwise_channels<float, 1, true>": ((2, 5, 9, 11), 2, 3, 1, "channels_last"),
    "depthwise_channels<float, 1, false>": ((2, 5, 9, 11), 2, 3, 2, "channels_last"),
}


@pytest.mark.parametrize("name", DEPTHWISE)
def test_depthwise_convolutions_run_depthwise_kernels(emulated: object, name: str) -> None:
    size, multiplier, kernel, stride, layout = DEPTHWISE[name]
    channels = size[1]
    memory_format = LAYOUTS[layout]
    x = torch.randn(size).contiguous(memory_format=memory_format)
    weight = torch.randn(channels * multiplier, 1, kernel, kernel)
    arguments = ([stride] * 2, [kernel // 2] * 4, [1, 1], channels, "zeros")
    exact = torch.ops.cnnops.convolution(x.double(), weight.double(), None, *arguments)
    grad = torch.randn_like(exact).float()

    def forward() -> torch.Tensor:
        return emulated.convolution(x, weight, None, *arguments)  # type: ignore[attr-defined,no-any-return]

    def backward() -> torch.Tensor:
        return emulated.convolution_grad_weight(grad, x, [kernel] * 2, *arguments)  # type: ignore[attr-defined,no-any-return]

    assert name in _kernels(forward)
    assert name.replace("depthwise", "depthwise_weight") in _kernels(backward)
    torch.testing.assert_close(forward().double(), exact, rtol=1e-5, atol=1e-5)
    exact = torch.ops.cnnops.convolution_grad_weight(
        grad.double(), x.double(), [kernel] * 2, *arguments
    )
    torch.testing.assert_close(backward().double(), exact, rtol=1e-5, atol=1e-4)
    assert torch.equal(backward(), backward())
