"""First and second derivatives of every functional and operator, by finite differences.

Both modes: backward, and forward with forward over backward.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import forward_ad, gradcheck, gradgradcheck

import cnnops.functional as C
from cnnops import autograd, ops

# Derivatives are Python over the operators: a few of them show that the emulated ones fit.
pytestmark = [pytest.mark.usefixtures("device"), pytest.mark.emulated_share(4)]


def randn(*size: int) -> Tensor:
    return torch.randn(*size, dtype=torch.float64, requires_grad=True)


def distinct(*size: int) -> Tensor:
    """Values so far apart that finite differences do not change which is the largest."""
    count = int(torch.tensor(size).prod())
    return (torch.randperm(count).double() / 4).reshape(size).requires_grad_()


def check(function: Callable[..., Any], *inputs: Any, forward: bool = True) -> None:
    assert gradcheck(function, inputs, check_forward_ad=forward)
    assert gradgradcheck(function, inputs, check_fwd_over_rev=forward)


CONVOLUTIONS: dict[str, tuple[str, tuple[int, ...], tuple[int, ...], dict[str, Any]]] = {
    "1d": ("conv1d", (2, 2, 6), (3, 2, 3), {"stride": 2, "padding": 1}),
    "1d dilated": ("conv1d", (2, 2, 7), (2, 2, 2), {"dilation": 3}),
    "2d": ("conv2d", (2, 2, 4, 5), (3, 2, 3, 2), {"padding": (1, 0)}),
    "2d strided with a rest": ("conv2d", (1, 2, 6, 5), (2, 2, 3, 2), {"stride": (2, 3)}),
    "2d groups": ("conv2d", (1, 4, 4, 4), (6, 2, 2, 2), {"groups": 2}),
    "2d depthwise": ("conv2d", (2, 3, 4, 4), (6, 1, 3, 3), {"groups": 3, "padding": 1}),
    "2d same even": ("conv2d", (1, 1, 4, 4), (2, 1, 2, 4), {"padding": "same"}),
    "2d unbatched": ("conv2d", (2, 4, 4), (2, 2, 3, 3), {"padding": 1}),
    "3d": ("conv3d", (1, 1, 3, 3, 4), (2, 1, 2, 2, 2), {"padding": 1, "stride": 2}),
    "transposed 1d": ("conv_transpose1d", (2, 2, 4), (2, 3, 3), {"stride": 2, "padding": 1}),
    "transposed 2d": (
        "conv_transpose2d",
        (1, 2, 3, 3),
        (2, 2, 3, 2),
        {"stride": 2, "output_padding": (1, 0)},
    ),
    "transposed 2d groups": ("conv_transpose2d", (1, 4, 3, 3), (4, 1, 2, 2), {"groups": 2}),
    "transposed output_padding beyond stride": (
        "conv_transpose1d",
        (1, 2, 4),
        (2, 2, 3),
        {"dilation": 2, "output_padding": 1, "padding": 1},
    ),
    "transposed 2d unbatched": ("conv_transpose2d", (2, 3, 3), (2, 1, 2, 2), {"stride": 2}),
    "transposed 3d": ("conv_transpose3d", (1, 1, 2, 2, 3), (1, 2, 2, 2, 2), {"padding": 1}),
}


@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no bias"])
@pytest.mark.parametrize(
    "name, input, weight, options", CONVOLUTIONS.values(), ids=CONVOLUTIONS.keys()
)
def test_convolution(name, input, weight, options, bias):
    function = getattr(C, name)
    x, w = randn(*input), randn(*weight)
    channels = weight[1] * options.get("groups", 1) if "transpose" in name else weight[0]
    tensors = (x, w, randn(channels)) if bias else (x, w)
    check(lambda *tensors: function(*tensors, **options), *tensors)


PADDED = [((2, 1), "1d"), ((2, 1, 0, 2), "2d"), ((1, 0, 1, 1, 0, 1), "3d")]


@pytest.mark.parametrize("mode", ["zeros", "reflect", "replicate", "circular"])
@pytest.mark.parametrize(
    "padding, rank", [(p, len(p) // 2) for p, _ in PADDED], ids=lambda v: f"{v}"
)
def test_padding_modes(mode, padding, rank):
    ones = (1,) * rank
    x, w = randn(1, 2, *[3] * rank), randn(2, 1, *[2] * rank)
    check(lambda x, w: ops.convolution(x, w, None, ones, padding, ones, 2, mode), x, w)


POOLS: dict[str, tuple[str, tuple[int, ...], tuple[Any, ...], dict[str, Any]]] = {
    "max 1d": ("max_pool1d", (2, 2, 7), (3,), {"stride": 2, "padding": 1}),
    "max 2d": ("max_pool2d", (2, 2, 5, 4), (2,), {"ceil_mode": True}),
    "max 2d overlapping": ("max_pool2d", (1, 2, 5, 5), (3, 1), {"dilation": 2}),
    "max 2d unbatched": ("max_pool2d", (2, 5, 4), ((2, 3),), {}),
    "max 3d": ("max_pool3d", (1, 2, 3, 4, 4), (2, 1), {"padding": 1}),
    "avg 1d": ("avg_pool1d", (2, 2, 7), (3,), {"stride": 2, "padding": 1}),
    "avg 2d": ("avg_pool2d", (1, 2, 5, 4), (3, 2, 1), {"count_include_pad": False}),
    "avg 2d ceil": ("avg_pool2d", (1, 2, 5, 4), (2,), {"ceil_mode": True}),
    "avg 2d divisor": ("avg_pool2d", (2, 5, 4), (2,), {"divisor_override": 3}),
    "avg 3d": ("avg_pool3d", (1, 2, 3, 4, 4), (2, 1, 1), {}),
    "adaptive max 1d": ("adaptive_max_pool1d", (2, 2, 7), (3,), {}),
    "adaptive max 2d": ("adaptive_max_pool2d", (2, 2, 5, 4), ((3, None),), {}),
    "adaptive max 3d": ("adaptive_max_pool3d", (1, 2, 3, 4, 5), (2,), {}),
    "adaptive avg 1d": ("adaptive_avg_pool1d", (2, 2, 7), (3,), {}),
    "adaptive avg 2d": ("adaptive_avg_pool2d", (2, 5, 4), ((3, None),), {}),
    "adaptive avg 3d": ("adaptive_avg_pool3d", (1, 2, 3, 4, 5), (2,), {}),
    "lp 1d": ("lp_pool1d", (2, 2, 6), (2, 3), {}),
    "lp 2d": ("lp_pool2d", (1, 2, 4, 4), (3, 2, 1), {}),
    "lp 3d": ("lp_pool3d", (1, 1, 3, 4, 4), (2, 2), {}),
    "lp inf": ("lp_pool2d", (1, 2, 4, 4), (float("inf"), 2), {}),
}


@pytest.mark.parametrize("name, size, args, options", POOLS.values(), ids=POOLS.keys())
def test_pooling(name, size, args, options):
    function = getattr(C, name)
    input = (distinct(*size) + 1).detach().requires_grad_()
    check(lambda x: function(x, *args, **options), input)
    if "max" in name:
        check(lambda x: function(x, *args, **options, return_indices=True)[0], input)


@pytest.mark.parametrize("rank", [2, 3])
def test_fractional_max_pool(rank):
    function = getattr(C, f"fractional_max_pool{rank}d")
    samples = torch.rand(1, 2, rank, dtype=torch.float64)
    check(lambda x: function(x, 2, 3, _random_samples=samples), distinct(1, 2, *[5] * rank))


@pytest.mark.parametrize("rank", [1, 2, 3])
@pytest.mark.parametrize("batch", [(2,), ()], ids=["batched", "unbatched"])
def test_max_unpool(rank, batch):
    function = getattr(C, f"max_unpool{rank}d")
    pooled = getattr(F, f"max_pool{rank}d")
    values, indices = pooled(distinct(*batch, 2, *[4] * rank), 2, return_indices=True)
    check(lambda x: function(x, indices, 2), values.detach().requires_grad_())


@pytest.mark.devices("cpu")
@pytest.mark.parametrize("rank", [1, 2, 3])
def test_gradients_by_taps_are_differentiable(rank):
    x = distinct(2, 3, *(7, 6, 5)[:rank])
    windows = ((3,) * rank, (2, 1, 2)[:rank], (1,) * rank, (1,) * rank, True)
    pooled, taps = autograd.max_pool_with_taps(x, *windows)
    size = x.shape[2:]
    check(lambda g: autograd.max_pool_taps_backward(g, taps, size, *windows), randn(*pooled.shape))


def test_scatter_and_gather_are_differentiable():
    indices = torch.tensor([[[0, 3, 3], [1, 1, 2]]])
    check(lambda g: ops.max_pool_backward(g, indices, (4,)), randn(1, 2, 3))
    check(lambda x: ops.max_pool_gather(x, indices), randn(1, 2, 4))


def test_adjoints_of_average_pooling_are_differentiable():
    geometry = ((2, 2), (1, 1), (1, 0), False, True, None)
    check(lambda g: ops.avg_pool_backward(g, (3, 4), *geometry), randn(1, 2, 4, 3))
    check(lambda g: ops.adaptive_avg_pool_backward(g, (5, 4)), randn(1, 2, 3, 2))


def test_third_derivative_of_a_convolution():
    x, w = randn(1, 1, 4, 4), randn(1, 1, 2, 2)

    def second(x: Tensor, w: Tensor) -> Sequence[Tensor]:
        first = torch.autograd.grad(C.conv2d(x, w).pow(3).sum(), (x, w), create_graph=True)
        return torch.autograd.grad(sum(g.pow(2).sum() for g in first), (x, w), create_graph=True)

    assert gradgradcheck(second, (x, w))


def test_only_gradients_that_are_asked_for_are_computed(monkeypatch):
    for needed, forbidden in (("x", "grad_weight"), ("w", "grad_input")):
        x, w = randn(1, 2, 4, 4), randn(2, 2, 3, 3)
        (x if needed == "w" else w).requires_grad_(False)
        output = C.conv2d(x, w).sum()
        with monkeypatch.context() as patch:
            patch.setattr(autograd, f"convolution_{forbidden}", None)
            output.backward()
        assert (x.grad is None) == (needed == "w")
        assert (w.grad is None) == (needed == "x")


def test_indices_are_not_differentiable():
    for call in (
        lambda x: C.max_pool2d(x, 2, return_indices=True),
        lambda x: C.adaptive_max_pool2d(x, 2, return_indices=True),
        lambda x: C.fractional_max_pool2d(x, 2, 2, return_indices=True),
    ):
        values, indices = call(distinct(1, 2, 4, 4))
        assert values.requires_grad
        assert not indices.requires_grad
        assert indices.dtype is torch.int64


def test_the_dispatcher_operators_are_differentiable_themselves():
    library = torch.ops.cnnops
    x, w = distinct(1, 2, 5, 5), randn(2, 2, 3, 3)
    pair, one = (2, 2), (1, 1)
    for function, *inputs in (
        (lambda x, w: library.convolution(x, w, None, one, (1,) * 4, one, 1, "reflect"), x, w),
        (lambda x: library.max_pool(x, pair, pair, (0, 0), one, False), x),
        (lambda x: library.max_pool_with_indices(x, pair, pair, (0, 0), one, False)[0], x),
        (lambda x: library.max_pool_with_taps(x, pair, pair, (0, 0), one, False)[0], x),
        (lambda x: library.avg_pool(x, pair, pair, (0, 0), False, True, None), x),
    ):
        # torch.library knows backward mode alone; in forward mode its operators raise.
        check(function, *inputs, forward=False)


@pytest.mark.parametrize(
    "context", [torch.no_grad, torch.inference_mode], ids=["no_grad", "inference"]
)
def test_without_gradient(context):
    x, w = randn(1, 2, 6, 6), randn(2, 2, 3, 3)
    with context():
        output = C.max_pool2d(C.conv2d(x, w), 2)
    assert not output.requires_grad
    assert output.is_inference() == (context is torch.inference_mode)
    torch.testing.assert_close(output, F.max_pool2d(F.conv2d(x, w), 2).detach())


def test_torch_func_grad():
    x, w = randn(1, 2, 6, 6).detach(), randn(2, 2, 3, 3).detach()

    def loss(module: Any) -> Callable[..., Tensor]:
        def first(x: Tensor, w: Tensor) -> Tensor:
            return module.avg_pool2d(module.max_pool2d(module.conv2d(x, w), 2), 2).pow(2).sum()

        def second(x: Tensor, w: Tensor) -> Tensor:
            return sum(g.pow(2).sum() for g in torch.func.grad(first, (0, 1))(x, w))  # type: ignore

        return torch.func.grad(second, (0, 1))

    torch.testing.assert_close(loss(C)(x, w), loss(F)(x, w))


def test_forward_mode_of_one_argument_alone():
    x, w, b = randn(1, 2, 5), randn(2, 2, 3), randn(2)
    for tangents in ((x, None, None), (None, w, None), (None, None, b)):
        actual, expected = (_tangent(module.conv1d, (x, w, b), tangents) for module in (C, F))
        torch.testing.assert_close(actual, expected)


def _tangent(function: Callable[..., Tensor], inputs: Any, tangents: Any) -> Tensor:
    with forward_ad.dual_level():
        duals = [
            x if tangent is None else forward_ad.make_dual(x.detach(), tangent.detach())
            for x, tangent in zip(inputs, tangents, strict=True)
        ]
        return forward_ad.unpack_dual(function(*duals)).tangent


def test_forward_mode_of_the_values_of_max_pooling_alone():
    x = distinct(1, 2, 4, 4).detach()
    arguments = ((2, 2), (2, 2), (0, 0), (1, 1), False)
    tangent = _tangent(lambda x: autograd.max_pool(x, *arguments), (x,), (x,))
    torch.testing.assert_close(tangent, F.max_pool2d(x, 2))


def test_torch_func_jvp():
    x, w = randn(1, 2, 6, 6).detach(), randn(2, 2, 3, 3).detach()
    actual, expected = (
        torch.func.jvp(lambda x, w, f=module.conv2d: f(x, w, padding=1), (x, w), (x, w))
        for module in (C, F)
    )
    torch.testing.assert_close(actual, expected)


@pytest.mark.parametrize("rank", [1, 2, 3])
@pytest.mark.parametrize("kind", ["avg", "max"])
def test_an_empty_adaptive_result_has_no_gradient(kind, rank):
    output = getattr(C, f"adaptive_{kind}_pool{rank}d")(randn(1, 2, *[4] * rank), 0)
    with pytest.raises(RuntimeError, match="non-zero size for non-batch dimensions"):
        output.sum().backward()


def test_gradients_of_output_padding_beyond_stride_are_dense():
    x, w = randn(1, 2, 3, 3), randn(2, 1, 2, 2)
    C.conv_transpose2d(x, w, dilation=2, output_padding=1).sum().backward()
    assert x.grad.is_contiguous()
