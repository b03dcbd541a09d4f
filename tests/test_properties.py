"""Properties that hold for every geometry, over random ones.

The three contractions are tied together by one number: <conv(x, w), g>, computed three ways. With
torch's own padding and convolution as the fourth, neither a wrong border nor a wrong tap survives.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import pytest
import torch
import torch.nn.functional as torchs
from hypothesis import assume, given
from hypothesis import strategies as st
from torch import Tensor

import cnnops.functional as ours

pytestmark = pytest.mark.usefixtures("device")

OPS = torch.ops.cnnops
MODES = ("zeros", "reflect", "replicate", "circular")


@dataclass(frozen=True)
class Geometry:
    """One convolution: sizes, and the trailing arguments of the operators."""

    batch: int | None
    groups: int
    group_inputs: int
    group_outputs: int
    size: tuple[int, ...]
    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]
    mode: str
    seed: int

    @property
    def rank(self) -> int:
        return len(self.size)

    @property
    def arguments(self) -> tuple[list[int], list[int], list[int], int, str]:
        """stride, padding, dilation, groups, padding_mode."""
        return (list(self.stride), list(self.padding), list(self.dilation), self.groups, self.mode)

    @property
    def output(self) -> tuple[int, ...]:
        """Spatial size of the output; not positive where the kernel does not fit."""
        begin, end = self.padding[0::2], self.padding[1::2]
        return tuple(
            (m + a + b - d * (k - 1) - 1) // s + 1
            for m, a, b, d, k, s in zip(
                self.size, begin, end, self.dilation, self.kernel, self.stride, strict=True
            )
        )

    def tensors(self) -> tuple[Tensor, Tensor, Tensor]:
        """Input, weight and a gradient for the output, in float64."""
        generator = torch.Generator(torch.get_default_device()).manual_seed(self.seed)

        def normal(*shape: int) -> Tensor:
            return torch.randn(shape, dtype=torch.float64, generator=generator)

        batch = () if self.batch is None else (self.batch,)
        out_channels = self.groups * self.group_outputs
        return (
            normal(*batch, self.groups * self.group_inputs, *self.size),
            normal(out_channels, self.group_inputs, *self.kernel),
            normal(*batch, out_channels, *self.output),
        )


@st.composite
def geometries(draw: st.DrawFn, modes: tuple[str, ...] = MODES) -> Geometry:
    """Small convolutions of all kinds; padding stays within what the mode allows."""
    rank = draw(st.integers(1, 3))
    mode = draw(st.sampled_from(modes))

    def each(low: int, high: int) -> tuple[int, ...]:
        return tuple(draw(st.integers(low, high)) for _ in range(rank))

    size = each(1, (40, 11, 7)[rank - 1])
    padding = []
    for length in size:
        most = {"zeros": 4, "reflect": length - 1, "replicate": 4, "circular": length}[mode]
        padding += [draw(st.integers(0, min(most, 4))) for _ in range(2)]
    geometry = Geometry(
        batch=draw(st.sampled_from([None, 1, 2, 3])),
        groups=draw(st.sampled_from([1, 1, 2, 3, 7])),
        group_inputs=draw(st.sampled_from([1, 2, 3, 9])),
        group_outputs=draw(st.sampled_from([1, 2, 5, 8])),
        size=size,
        kernel=each(1, 5),
        stride=each(1, 4),
        padding=tuple(padding),
        dilation=each(1, 3),
        mode=mode,
        seed=draw(st.integers(0, 2**31)),
    )
    assume(min(geometry.output) > 0)
    return geometry


def pad(x: Tensor, geometry: Geometry) -> Tensor:
    """torch's own padding: its list runs from the last axis, (begin, end) for each."""
    reversed_pairs = []
    for axis in reversed(range(geometry.rank)):
        reversed_pairs += geometry.padding[2 * axis : 2 * axis + 2]
    mode = "constant" if geometry.mode == "zeros" else geometry.mode
    return torchs.pad(x, reversed_pairs, mode=mode)


def torchs_convolution(x: Tensor, weight: Tensor, geometry: Geometry) -> Tensor:
    """The same convolution by torch: pad first, then convolve without padding."""
    conv = getattr(torchs, f"conv{geometry.rank}d")
    batched = x if geometry.batch is not None else x[None]
    out = conv(
        pad(batched, geometry), weight, None, geometry.stride, 0, geometry.dilation, geometry.groups
    )
    return out if geometry.batch is not None else out[0]


@given(geometries())
def test_convolution_is_torchs_after_torchs_padding(geometry: Geometry) -> None:
    x, weight, _ = geometry.tensors()
    out = OPS.convolution(x, weight, None, *geometry.arguments)
    torch.testing.assert_close(out, torchs_convolution(x, weight, geometry))


@given(geometries())
def test_gradients_are_torchs_through_torchs_padding(geometry: Geometry) -> None:
    x, weight, grad = geometry.tensors()
    x.requires_grad_()
    weight.requires_grad_()
    to_x, to_weight = torch.autograd.grad(
        torchs_convolution(x, weight, geometry), (x, weight), grad
    )
    x, weight = x.detach(), weight.detach()
    ours_x = OPS.convolution_grad_input(
        grad, weight, None, list(geometry.size), *geometry.arguments
    )
    ours_weight = OPS.convolution_grad_weight(grad, x, list(geometry.kernel), *geometry.arguments)
    torch.testing.assert_close(ours_x, to_x)
    torch.testing.assert_close(ours_weight, to_weight)


@given(geometries())
def test_three_contractions_of_one_form(geometry: Geometry) -> None:
    x, weight, grad = geometry.tensors()
    arguments = geometry.arguments
    forward = OPS.convolution(x, weight, None, *arguments)
    to_x = OPS.convolution_grad_input(grad, weight, None, list(geometry.size), *arguments)
    to_weight = OPS.convolution_grad_weight(grad, x, list(geometry.kernel), *arguments)
    form = (forward * grad).sum()
    # What rounding can do to a sum of this many products, however they cancel.
    scale = OPS.convolution(x.abs(), weight.abs(), None, *arguments).mul(grad.abs()).sum()
    tolerance = {"rtol": 0.0, "atol": 1e-13 * float(scale)}
    torch.testing.assert_close((x * to_x).sum(), form, **tolerance)
    torch.testing.assert_close((weight * to_weight).sum(), form, **tolerance)


@given(geometries())
def test_bias_is_added_to_each_channel(geometry: Geometry) -> None:
    x, weight, grad = geometry.tensors()
    channels = geometry.groups * geometry.group_outputs
    bias = torch.arange(1.0, channels + 1, dtype=torch.float64)
    column = bias.view(-1, *(1,) * geometry.rank)
    arguments = geometry.arguments
    torch.testing.assert_close(
        OPS.convolution(x, weight, bias, *arguments),
        OPS.convolution(x, weight, None, *arguments) + column,
    )
    inputs = geometry.groups * geometry.group_inputs
    bias = torch.arange(1.0, inputs + 1, dtype=torch.float64)
    size = list(geometry.size)
    torch.testing.assert_close(
        OPS.convolution_grad_input(grad, weight, bias, size, *arguments),
        OPS.convolution_grad_input(grad, weight, None, size, *arguments)
        + bias.view(-1, *(1,) * geometry.rank),
    )


@given(geometries(), st.sampled_from(["channels_last", "sliced", "transposed"]))
def test_layouts_do_not_change_values(geometry: Geometry, layout: str) -> None:
    from cnnops.check.reference import lay_out

    if geometry.batch is None or (geometry.rank == 1 and layout == "channels_last"):
        layout = "sliced"
    x, weight, grad = geometry.tensors()
    laid_x, laid_grad = lay_out(x, layout), lay_out(grad, layout)
    arguments = geometry.arguments
    size, kernel = list(geometry.size), list(geometry.kernel)
    torch.testing.assert_close(
        OPS.convolution(laid_x, weight, None, *arguments),
        OPS.convolution(x, weight, None, *arguments),
    )
    torch.testing.assert_close(
        OPS.convolution_grad_input(laid_grad, weight, None, size, *arguments),
        OPS.convolution_grad_input(grad, weight, None, size, *arguments),
    )
    for one, other in ((laid_grad, laid_x), (laid_grad, x), (grad, laid_x)):
        torch.testing.assert_close(
            OPS.convolution_grad_weight(one, other, kernel, *arguments),
            OPS.convolution_grad_weight(grad, x, kernel, *arguments),
        )


@given(geometries(modes=("zeros",)))
def test_conv_transpose_is_the_adjoint(geometry: Geometry) -> None:
    # conv_transpose takes one padding per axis, here the first of each, and reaches sizes through
    # output_padding.
    x, weight, _ = geometry.tensors()
    conv = getattr(ours, f"conv{geometry.rank}d")
    transpose = getattr(ours, f"conv_transpose{geometry.rank}d")
    begin = geometry.padding[0::2]
    reach = [
        m + 2 * p - d * (k - 1) - 1
        for m, p, d, k in zip(x.shape[-geometry.rank :], begin, geometry.dilation, geometry.kernel,
                              strict=True)
    ]  # fmt: skip
    assume(min(reach) >= 0)
    out = conv(x, weight, None, geometry.stride, begin, geometry.dilation, geometry.groups)
    back = transpose(
        torch.ones_like(out),
        weight,
        None,
        geometry.stride,
        begin,
        tuple(r % s for r, s in zip(reach, geometry.stride, strict=True)),
        geometry.groups,
        geometry.dilation,
    )
    assert back.shape == x.shape
    torch.testing.assert_close((back * x).sum(), out.sum(), rtol=0.0, atol=1e-9)


@dataclass(frozen=True)
class Window:
    """One pooling: the size of a plane and the arguments of max_pool and avg_pool."""

    size: tuple[int, ...]
    channels: int
    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]
    ceil_mode: bool
    last: bool
    seed: int

    @property
    def rank(self) -> int:
        return len(self.size)

    def input(self, values: int = 0) -> Tensor:
        """(2, channels, *size) in float32: normal, or `values` different integers for ties."""
        generator = torch.Generator(torch.get_default_device()).manual_seed(self.seed)
        shape = (2, self.channels, *self.size)
        if values:
            x = torch.randint(values, shape, generator=generator).float()
        else:
            x = torch.randn(shape, generator=generator)
        if self.last and self.rank > 1:
            formats = {2: torch.channels_last, 3: torch.channels_last_3d}
            x = x.to(memory_format=formats[self.rank])
        return x


@st.composite
def windows(draw: st.DrawFn) -> Window:
    """Small poolings of all kinds, those that torch refuses included."""
    rank = draw(st.integers(1, 3))

    def each(low: int, high: int) -> tuple[int, ...]:
        return tuple(draw(st.integers(low, high)) for _ in range(rank))

    return Window(
        size=each(1, (40, 12, 7)[rank - 1]),
        channels=draw(st.sampled_from([1, 2, 5, 17])),
        kernel=each(1, 5),
        stride=each(1, 4),
        padding=each(0, 2),
        dilation=each(1, 3),
        ceil_mode=draw(st.booleans()),
        last=draw(st.booleans()),
        seed=draw(st.integers(0, 2**31)),
    )


@given(windows(), st.sampled_from([0, 2]))
def test_max_pool_is_torchs(window: Window, values: int) -> None:
    x = window.input(values)
    name = f"max_pool{window.rank}d"
    arguments = (window.kernel, window.stride, window.padding, window.dilation, window.ceil_mode)
    try:
        expected = getattr(torchs, name)(x, *arguments, return_indices=True)
    except RuntimeError:
        try:
            getattr(ours, name)(x, *arguments, return_indices=True)
        except RuntimeError:
            return
        raise
    out, where = getattr(ours, name)(x, *arguments, return_indices=True)
    assert torch.equal(out, expected[0])
    assert torch.equal(where, expected[1])
    # A maximum is where the index says. Dilation can leave a window without any pixel: -inf.
    if out.isfinite().all():
        assert torch.equal(x.flatten(2).gather(2, where.flatten(2)).view_as(out), out)


@given(windows(), st.booleans(), st.sampled_from([None, 1, 3, -2]))
def test_avg_pool_is_torchs(window: Window, include: bool, divisor: int | None) -> None:
    x = window.input().double()
    name = f"avg_pool{window.rank}d"
    arguments = (window.kernel, window.stride, window.padding, window.ceil_mode, include)
    divided = () if window.rank == 1 else (divisor,)
    try:
        expected = getattr(torchs, name)(x, *arguments, *divided)
    except RuntimeError:
        try:
            getattr(ours, name)(x, *arguments, *divided)
        except RuntimeError:
            return
        raise
    torch.testing.assert_close(getattr(ours, name)(x, *arguments, *divided), expected)


@given(windows())
def test_average_backward_is_the_adjoint(window: Window) -> None:
    assume(all(2 * p <= k for p, k in zip(window.padding, window.kernel, strict=True)))
    assume(all(m >= k for m, k in zip(window.size, window.kernel, strict=True)))
    x = window.input().double()
    lists = [list(it) for it in (window.kernel, window.stride, window.padding)]
    trailing = (*lists, window.ceil_mode, False, None)
    out = OPS.avg_pool(x, *trailing)
    grad = torch.randn(out.shape, dtype=torch.float64)
    back = OPS.avg_pool_backward(grad, list(window.size), *trailing)
    torch.testing.assert_close((back * x).sum(), (grad * out).sum(), rtol=0.0, atol=1e-9)


@given(windows(), st.integers(1, 9))
def test_adaptive_pools_are_torchs(window: Window, target: int) -> None:
    x = window.input()
    for kind in ("avg", "max"):
        name = f"adaptive_{kind}_pool{window.rank}d"
        options = {"return_indices": True} if kind == "max" else {}
        out = getattr(ours, name)(x, target, **options)
        expected = getattr(torchs, name)(x, target, **options)
        torch.testing.assert_close(out, expected)
        if kind == "max":
            assert torch.equal(out[0], expected[0])
            assert torch.equal(out[1], expected[1])


@given(windows(), st.integers(1, 9))
def test_adaptive_average_backward_is_the_adjoint(window: Window, target: int) -> None:
    x = window.input().double()
    out = OPS.adaptive_avg_pool(x, [target] * window.rank)
    grad = torch.randn(out.shape, dtype=torch.float64)
    back = OPS.adaptive_avg_pool_backward(grad, list(window.size))
    torch.testing.assert_close((back * x).sum(), (grad * out).sum(), rtol=0.0, atol=1e-9)


@given(st.integers(1, 5), st.integers(1, 60), st.integers(1, 60), st.integers(0, 2**31))
def test_scatter_and_gather_are_adjoint(planes: int, inputs: int, picks: int, seed: int) -> None:
    generator = torch.Generator(torch.get_default_device()).manual_seed(seed)
    x = torch.randn(2, planes, inputs, dtype=torch.float64, generator=generator)
    where = torch.randint(inputs, (2, planes, picks), generator=generator)
    grad = torch.randn(2, planes, picks, dtype=torch.float64, generator=generator)
    gathered = OPS.max_pool_gather(x, where)
    assert torch.equal(gathered, x.gather(2, where))
    scattered = OPS.max_pool_backward(grad, where, [inputs])
    torch.testing.assert_close(scattered, torch.zeros_like(x).scatter_add(2, where, grad))
    torch.testing.assert_close((scattered * x).sum(), (gathered * grad).sum())


@given(st.integers(1, 3), st.integers(0, 2**31))
def test_unpool_then_gather_is_the_identity(rank: int, seed: int) -> None:
    generator = torch.Generator(torch.get_default_device()).manual_seed(seed)
    size = (6,) * rank
    where = torch.stack(
        [torch.randperm(6**rank, generator=generator)[: 3**rank] for _ in range(4)]
    ).view(2, 2, *(3,) * rank)
    x = torch.randn(where.shape, generator=generator)
    out = OPS.max_unpool(x, where, list(size))
    assert out.shape == (2, 2, *size)
    flat = out.flatten(2)
    assert torch.equal(flat.gather(2, where.flatten(2)).view_as(x), x)
    assert int((flat != 0).sum()) == x.numel()


@given(windows())
def test_pooling_commutes_with_monotone_and_linear_maps(window: Window) -> None:
    assume(all(2 * p <= k for p, k in zip(window.padding, window.kernel, strict=True)))
    assume(all(m >= k for m, k in zip(window.size, window.kernel, strict=True)))
    x = window.input().double()
    maximum = getattr(ours, f"max_pool{window.rank}d")
    average = getattr(ours, f"avg_pool{window.rank}d")
    arguments = (window.kernel, window.stride, window.padding)
    assert torch.equal(maximum(x.exp(), *arguments), maximum(x, *arguments).exp())
    mean = average(x, *arguments, count_include_pad=False)
    torch.testing.assert_close(
        average(3 * x + 1, *arguments, count_include_pad=False), 3 * mean + 1
    )
    assert bool((mean <= maximum(x, *arguments) + 1e-12).all())
    whole = average(x, window.kernel, window.stride, window.padding)
    padded = torchs.pad(x, [p for pad in reversed(window.padding) for p in (pad, pad)])
    unpadded = average(padded, window.kernel, window.stride)
    torch.testing.assert_close(whole, unpadded)
    assert math.isfinite(float(whole.sum()))
