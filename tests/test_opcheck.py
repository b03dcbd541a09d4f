"""torch.library.opcheck of every operator: schema, derivative registration, fake kernel, AOT."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

OPS = torch.ops.cnnops
FORMATS = {2: torch.channels_last, 3: torch.channels_last_3d}
LAYOUTS = ["contiguous", "channels_last", "unbatched"]


def tensor(layout: str, *size: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """Distinct values of this size in a layout; "unbatched" drops the first axis."""
    values = torch.randperm(int(torch.tensor(size).prod())).reshape(size).to(dtype)
    if layout == "channels_last" and len(size) > 3:
        values = values.contiguous(memory_format=FORMATS[len(size) - 2])
    elif layout == "unbatched":
        values = values[0].clone()
    return values.requires_grad_(dtype.is_floating_point)


def batched(tensor: Tensor, rank: int) -> Tensor:
    return tensor if tensor.dim() == rank + 2 else tensor.unsqueeze(0)


def samples(layout: str, rank: int) -> dict[str, tuple[Any, ...]]:
    """Arguments for each operator; planes of 5 and channels 4 throughout."""
    x = tensor(layout, 2, 4, *[5] * rank)
    plane = (5,) * rank
    weight = torch.randn(6, 2, *[3] * rank, requires_grad=True)
    if layout == "channels_last" and rank > 1:
        weight = weight.detach().contiguous(memory_format=FORMATS[rank]).requires_grad_()
    padding = (1, 0) * rank
    convolution = ((2,) * rank, padding, (1,) * rank, 2, "zeros")
    kernel, stride, pad, one = (3,) * rank, (2,) * rank, (1,) * rank, (1,) * rank
    max_pool = (kernel, stride, pad, one, False)
    avg_pool = (kernel, stride, pad, True, False, None)
    grad = tensor(layout, 2, 6, *[2] * rank)
    pooled = tensor(layout, 2, 4, *[3] * rank)
    indices = torch.arange(3**rank).reshape([3] * rank).expand(pooled.shape).contiguous()
    channels = () if layout == "unbatched" else (2,)
    return {
        "convolution": (x, weight, torch.randn(6, requires_grad=True), *convolution),
        "convolution_grad_input": (grad, weight, None, plane, *convolution),
        "convolution_grad_weight": (grad, x, kernel, *convolution),
        "max_pool": (x, *max_pool),
        "max_pool_with_indices": (x, *max_pool),
        "max_pool_with_taps": (x, *max_pool),
        "max_pool_taps_backward": (
            pooled,
            OPS.max_pool_with_taps(x, *max_pool)[1],
            plane,
            *max_pool,
        ),
        "adaptive_max_pool": (x, (3,) * rank),
        "fractional_max_pool": (x, (2,) * rank, (3,) * rank, torch.rand(*channels, 4, rank)),
        "max_pool_backward": (pooled, indices, plane),
        "max_pool_gather": (batched(x, rank), batched(indices, rank)),
        "max_unpool": (pooled, indices, plane),
        "avg_pool": (x, *avg_pool),
        "avg_pool_backward": (pooled, plane, *avg_pool),
        "adaptive_avg_pool": (x, (3,) * rank),
        "adaptive_avg_pool_backward": (pooled, plane),
    }


NAMES = list(samples("contiguous", 1))


def test_every_operator_is_sampled():
    schemas = torch._C._jit_get_all_schemas()
    assert {s.name for s in schemas if s.name.startswith("cnnops::")} == {
        f"cnnops::{name}" for name in NAMES
    }


# Fractional pooling exists in 2-d and 3-d only.
NAMES_AND_RANKS = [
    (name, rank)
    for name in NAMES
    for rank in (1, 2, 3)
    if (name, rank) != ("fractional_max_pool", 1)
]


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(("name", "rank"), NAMES_AND_RANKS)
def test_opcheck(name, rank, layout):
    args = samples(layout, rank)[name]
    if name == "fractional_max_pool" and layout == "unbatched":
        args = (*args[:-1], args[-1].unsqueeze(0))
    torch.library.opcheck(getattr(OPS, name).default, args)


@pytest.mark.parametrize("mode", ["reflect", "replicate", "circular"])
@pytest.mark.parametrize(
    "name", ["convolution", "convolution_grad_input", "convolution_grad_weight"]
)
def test_opcheck_of_padding_modes(name, mode):
    args = samples("channels_last", 2)[name]
    torch.library.opcheck(getattr(OPS, name).default, (*args[:-1], mode))


@pytest.mark.parametrize("rank", [1, 2, 3])
@pytest.mark.parametrize("name", ["max_pool", "avg_pool"])
def test_fake_sizes_in_ceil_mode(name, rank):
    """The one rule of pooling sizes that is more than a division, over sizes and strides."""
    for size in range(3, 9):
        for stride in (1, 2, 3, 4):
            for padding in (0, 1):
                x = torch.rand(1, 1, *[size] * rank)
                each = [(3,) * rank, (stride,) * rank, (padding,) * rank]
                rest = ((1,) * rank, True) if name == "max_pool" else (True, True, None)
                op = getattr(OPS, name)
                assert op(x.to("meta"), *each, *rest).shape == op(x, *each, *rest).shape


@pytest.mark.parametrize(
    "name",
    [
        name
        for name in NAMES
        if sum(isinstance(a, Tensor) for a in samples("contiguous", 2)[name]) > 1
    ],
)
def test_a_meta_tensor_among_real_ones_is_refused(name):
    args = list(samples("contiguous", 2)[name])
    for position in [i for i, value in enumerate(args) if isinstance(value, Tensor)]:
        mixed = [value.to("meta") if i == position else value for i, value in enumerate(args)]
        with pytest.raises(RuntimeError, match="same device"):
            getattr(OPS, name)(*mixed)
