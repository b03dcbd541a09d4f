"""torch.autocast acts on cnnops.functional as on torch.nn.functional."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import cnnops.functional as C

Call = Callable[[Any, Tensor], Tensor]


def calls(rank: int) -> dict[str, Call]:
    """One call of each function of `rank` on an input (2, 4, 6, ...)."""
    weight, bias = torch.randn(4, 4, *[3] * rank), torch.randn(4)
    indices = (2 * torch.arange(6**rank)).reshape([6] * rank).expand(2, 4, *[6] * rank)

    def named(name: str) -> Callable[[Any], Callable[..., Tensor]]:
        return lambda module: getattr(module, f"{name}{rank}d")

    both: dict[str, Call] = {
        "conv": lambda m, x: named("conv")(m)(x, weight.to(x.dtype), bias.to(x.dtype)),
        "conv same": lambda m, x: named("conv")(m)(x, weight.to(x.dtype), padding="same"),
        "conv_transpose": lambda m, x: named("conv_transpose")(m)(x, weight.to(x.dtype)),
        "max_pool": lambda m, x: named("max_pool")(m)(x, 2),
        "max_pool indices": lambda m, x: named("max_pool")(m)(x, 2, return_indices=True)[0],
        "avg_pool": lambda m, x: named("avg_pool")(m)(x, 2),
        "adaptive_max_pool": lambda m, x: named("adaptive_max_pool")(m)(x, 2),
        "adaptive_avg_pool": lambda m, x: named("adaptive_avg_pool")(m)(x, 2),
        "lp_pool": lambda m, x: named("lp_pool")(m)(x, 2, 2),
        "max_unpool": lambda m, x: named("max_unpool")(m)(x, indices, 2),
    }
    if rank > 1:

        def fractional(module: Any, x: Tensor) -> Tensor:
            torch.manual_seed(0)
            return named("fractional_max_pool")(module)(x, 2, 2)

        both["fractional_max_pool"] = fractional
    return both


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("autocast", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize(
    ("rank", "name"), [(rank, name) for rank in (1, 2, 3) for name in calls(rank)]
)
def test_result_dtype_is_that_of_torch(rank, name, autocast, dtype):
    torch.manual_seed(0)
    call = calls(rank)[name]
    x = torch.randn(2, 4, *[6] * rank).to(dtype)
    with torch.autocast("cpu", dtype=autocast):
        expected, actual = call(F, x), call(C, x)
        with torch.autocast("cpu", enabled=False):
            assert call(C, x).dtype == dtype
    assert actual.dtype == expected.dtype
    tolerance = 0.06 if expected.dtype in (torch.bfloat16, torch.float16) else 1e-4
    torch.testing.assert_close(actual, expected, atol=tolerance, rtol=tolerance)


def test_gradients_come_back_in_the_parameters_dtype():
    x = torch.randn(1, 2, 6, 6, requires_grad=True)
    weight, bias = torch.randn(3, 2, 3, 3, requires_grad=True), torch.randn(3, requires_grad=True)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        C.conv2d(x, weight, bias).float().sum().backward()
    assert x.grad.dtype == weight.grad.dtype == bias.grad.dtype == torch.float32
