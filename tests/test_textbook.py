"""Worked examples with known answers, as a course on convolutional networks sets them.

Conv layers compute cross-correlation: the kernel is not flipped. Where a true convolution is
meant, the kernel is rotated by 180 degrees first.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

import cnnops.functional as F


def plane(rows: list[list[float]]) -> Tensor:
    """One image of one channel, or one kernel from one channel to one: (1, 1, H, W)."""
    return torch.tensor(rows, dtype=torch.float32)[None, None]


def line(values: list[float]) -> Tensor:
    """One signal of one channel: (1, 1, L)."""
    return torch.tensor(values, dtype=torch.float32)[None, None]


def rot180(kernel: Tensor) -> Tensor:
    """The kernel read backwards along both axes."""
    return kernel.flip(-1, -2)


# One dimension: filters of a signal


def test_moving_average() -> None:
    out = F.conv1d(line([3, 6, 9, 0, 3]), line([1 / 3, 1 / 3, 1 / 3]))
    torch.testing.assert_close(out, line([6, 5, 4]))


def test_second_difference_of_squares_is_two() -> None:
    # x(t+1) + x(t-1) - 2 x(t) approximates the second derivative; for t^2 it is exactly 2.
    out = F.conv1d(line([0, 1, 4, 9, 16, 25]), line([1, -2, 1]))
    assert torch.equal(out, line([2, 2, 2, 2]))


def test_true_convolution_is_cross_correlation_with_the_kernel_flipped() -> None:
    # y_t = sum_k w_k x_(t-k+1) of an impulse gives the kernel itself ...
    impulse, kernel = line([0, 0, 1, 0, 0]), line([1, 2, 3])
    assert torch.equal(F.conv1d(impulse, kernel.flip(-1)), line([1, 2, 3]))
    # ... and cross-correlation gives it mirrored.
    assert torch.equal(F.conv1d(impulse, kernel), line([3, 2, 1]))


# Two dimensions: convolution and cross-correlation, image filters


def test_cross_correlation_is_convolution_with_the_kernel_rotated() -> None:
    image, kernel = torch.randn(1, 1, 6, 7), torch.randn(1, 1, 3, 3)
    convolution = torch.zeros(4, 5)
    for i in range(4):
        for j in range(5):
            for u in range(3):
                for v in range(3):
                    convolution[i, j] += kernel[0, 0, u, v] * image[0, 0, i + 2 - u, j + 2 - v]
    torch.testing.assert_close(F.conv2d(image, rot180(kernel))[0, 0], convolution)


def test_mean_filter_is_average_pooling_with_stride_one() -> None:
    image = torch.randn(1, 1, 8, 9)
    mean = F.conv2d(image, torch.full((1, 1, 3, 3), 1 / 9))
    torch.testing.assert_close(mean, F.avg_pool2d(image, 3, 1))


EDGE = [[0.0, 1.0, 1.0], [-1.0, 0.0, 1.0], [-1.0, -1.0, 0.0]]
LAPLACIAN = [[0.0, 1.0, 0.0], [1.0, -4.0, 1.0], [0.0, 1.0, 0.0]]


@pytest.mark.parametrize("filter_rows", [EDGE, LAPLACIAN])
def test_edge_filters_are_silent_on_a_flat_image(filter_rows: list[list[float]]) -> None:
    assert torch.equal(
        F.conv2d(torch.ones(1, 1, 5, 5), plane(filter_rows)), torch.zeros(1, 1, 3, 3)
    )


def test_laplacian_of_an_impulse_is_the_filter() -> None:
    image = torch.zeros(1, 1, 5, 5)
    image[0, 0, 2, 2] = 1
    assert torch.equal(F.conv2d(image, plane(LAPLACIAN)), plane(LAPLACIAN))


def test_laplacian_of_a_paraboloid_is_four() -> None:
    i, j = torch.meshgrid(torch.arange(6.0), torch.arange(7.0), indexing="ij")
    out = F.conv2d((i * i + j * j)[None, None], plane(LAPLACIAN))
    assert torch.equal(out, torch.full((1, 1, 4, 5), 4.0))


def test_edge_filter_answers_to_a_diagonal_edge() -> None:
    image = torch.triu(torch.ones(5, 5))[None, None]  # bright above the diagonal
    out = F.conv2d(image, plane(EDGE))[0, 0]
    assert out.diagonal().tolist() == [3, 3, 3]
    assert out.abs().max() == 3


def test_gaussian_is_separable() -> None:
    weights = torch.tensor([1.0, 4.0, 6.0, 4.0, 1.0]) / 16
    image = torch.randn(2, 1, 9, 9)
    whole = F.conv2d(image, torch.outer(weights, weights)[None, None], padding=2)
    rows = F.conv2d(image, weights.view(1, 1, 5, 1), padding=(2, 0))
    torch.testing.assert_close(F.conv2d(rows, weights.view(1, 1, 1, 5), padding=(0, 2)), whole)


# Output sizes


@pytest.mark.parametrize(
    ("length", "kernel", "padding", "stride", "dilation", "expected"),
    [
        pytest.param(10, 5, 1, 2, 1, 4, id="worked example"),
        pytest.param(10, 3, 0, 1, 1, 10 - 3 + 1, id="narrow"),
        pytest.param(10, 3, 2, 1, 1, 10 + 3 - 1, id="wide: P = K - 1"),
        pytest.param(10, 3, 1, 1, 1, 10, id="equal width: P = (K - 1) / 2"),
        pytest.param(10, 3, 2, 1, 2, 10, id="with holes: P = D (K - 1) / 2"),
        pytest.param(10, 5, 6, 1, 3, 10, id="with larger holes"),
    ],
)
def test_output_size(
    length: int, kernel: int, padding: int, stride: int, dilation: int, expected: int
) -> None:
    out = F.conv1d(
        torch.zeros(1, 1, length), torch.zeros(1, 1, kernel), None, stride, padding, dilation
    )
    assert out.shape[-1] == expected
    reach = dilation * (kernel - 1) + 1
    assert expected == (length + 2 * padding - reach) // stride + 1


# Exercises with numbers


def test_review_exercise() -> None:
    image = plane([[1, 2, 0, 3], [0, 1, 2, 3], [1, 2, 1, 0], [5, 2, 3, 1]])
    kernel = plane([[1, 2, 1], [0, 1, 0], [2, 1, 0]])
    out = F.conv2d(image, kernel, torch.tensor([1.0]), padding=1)
    expected = [[2, 4, 5, 11], [6, 11, 13, 12], [8, 19, 17, 16], [10, 9, 8, 3]]
    assert torch.equal(out, plane(expected))
    # The entry at the top left by hand: bias, then the taps that fall on the image.
    assert out[0, 0, 0, 0] == 1 + (1 * 1 + 0 * 2) + (1 * 0 + 0 * 1)


def test_two_input_channels() -> None:
    image = torch.arange(9.0).view(1, 1, 3, 3)
    image = torch.cat([image, image + 1], dim=1)
    kernel = torch.tensor([[[[0.0, 1.0], [2.0, 3.0]], [[1.0, 2.0], [3.0, 4.0]]]])
    out = F.conv2d(image, kernel)
    assert out[0, 0, 0, 0] == (1 * 1 + 2 * 2 + 4 * 3 + 5 * 4) + (0 * 0 + 1 * 1 + 3 * 2 + 4 * 3)
    assert torch.equal(out, plane([[56, 72], [104, 120]]))


def test_vertical_edge_and_the_shift_that_max_pooling_forgives() -> None:
    kernel = plane([[1, -1]])
    edge = F.conv2d(plane([[1, 1, 0, 0, 0]] * 4), kernel)
    shifted = F.conv2d(plane([[1, 0, 0, 0, 0]] * 4), kernel)
    assert torch.equal(edge, plane([[0, 1, 0, 0]] * 4))
    assert torch.equal(shifted, plane([[1, 0, 0, 0]] * 4))
    # Moved by one pixel, the edge has no position in common with what it was; after 2x2 pooling
    # with stride 1 it has one.
    assert (edge * shifted).sum() == 0
    assert torch.equal(F.max_pool2d(edge, 2, 1), plane([[1, 1, 0]] * 3))
    assert torch.equal(F.max_pool2d(shifted, 2, 1), plane([[1, 0, 0]] * 3))


def test_max_pooling() -> None:
    image = plane([[1, 1, 2, 0], [0, 1, 1, 2], [0, 0, 1, 3], [0, 0, 1, 1]])
    assert torch.equal(F.max_pool2d(image, 2, 2), plane([[1, 2], [0, 3]]))


# Derivatives


def test_derivatives_of_convolution_are_convolutions() -> None:
    x = torch.randn(1, 1, 6, 7, requires_grad=True)
    weight = torch.randn(1, 1, 3, 2, requires_grad=True)
    bias = torch.randn(1, requires_grad=True)
    out = F.conv2d(x, weight, bias)
    error = torch.randn_like(out)
    to_x, to_weight, to_bias = torch.autograd.grad(out, (x, weight, bias), error)
    # df/dW = df/dY (x) X; df/dX = rot180(W) wide (x) df/dY; db = sum of df/dY
    torch.testing.assert_close(to_weight, F.conv2d(x, error))
    torch.testing.assert_close(to_x, F.conv2d(error, rot180(weight), padding=(2, 1)))
    torch.testing.assert_close(to_bias, error.sum().view(1))


def test_max_pooling_sends_the_error_to_the_maximum() -> None:
    image = plane([[1, 5, 2, 0], [0, 1, 1, 2]]).requires_grad_()
    F.max_pool2d(image, 2).backward(plane([[10, 20]]))
    assert torch.equal(image.grad, plane([[0, 10, 20, 0], [0, 0, 0, 0]]))


def test_average_pooling_spreads_the_error_evenly() -> None:
    image = plane([[1, 5, 2, 0], [0, 1, 1, 2]]).requires_grad_()
    F.avg_pool2d(image, 2).backward(plane([[4, 8]]))
    assert torch.equal(image.grad, plane([[1, 1, 2, 2], [1, 1, 2, 2]]))


def test_wide_convolution_commutes() -> None:
    x, weight = torch.randn(1, 1, 5, 5), torch.randn(1, 1, 3, 3)
    one = F.conv2d(x, rot180(weight), padding=2)
    other = F.conv2d(weight, rot180(x), padding=4)
    torch.testing.assert_close(one, other)


# Convolution as a matrix


def matrix_of(function: Callable[[Tensor], Tensor], shape: tuple[int, ...]) -> Tensor:
    """The matrix of a linear map of one image: its columns are the images of the unit vectors."""
    count = math.prod(shape)
    return function(torch.eye(count).view(count, 1, *shape)).flatten(1).T


def test_convolution_of_a_signal_as_a_band_matrix() -> None:
    weight = line([1, 2, 3])
    c = torch.tensor([[1.0, 2, 3, 0, 0], [0, 1, 2, 3, 0], [0, 0, 1, 2, 3]])
    assert torch.equal(matrix_of(lambda x: F.conv1d(x, weight), (5,)), c)
    # Its transpose is the transposed convolution ...
    assert torch.equal(matrix_of(lambda z: F.conv_transpose1d(z, weight), (3,)), c.T)
    # ... and padding 1 makes it the square band matrix.
    band = torch.tensor(
        [[2.0, 3, 0, 0, 0], [1, 2, 3, 0, 0], [0, 1, 2, 3, 0], [0, 0, 1, 2, 3], [0, 0, 0, 1, 2]]
    )
    assert torch.equal(matrix_of(lambda x: F.conv1d(x, weight, padding=1), (5,)), band)


def test_convolution_of_an_image_as_a_matrix() -> None:
    weight = plane([[1, 2], [3, 4]])
    expected = torch.tensor(
        [
            [1.0, 2, 0, 3, 4, 0, 0, 0, 0],
            [0, 1, 2, 0, 3, 4, 0, 0, 0],
            [0, 0, 0, 1, 2, 0, 3, 4, 0],
            [0, 0, 0, 0, 1, 2, 0, 3, 4],
        ]
    )
    assert torch.equal(matrix_of(lambda x: F.conv2d(x, weight), (3, 3)), expected)
    assert torch.equal(matrix_of(lambda z: F.conv_transpose2d(z, weight), (2, 2)), expected.T)


def test_convolution_as_im2col_times_kernel() -> None:
    x, weight = torch.randn(1, 3, 6, 6), torch.randn(5, 3, 3, 3)
    columns = torch.nn.functional.unfold(x, 3)
    product = (weight.flatten(1) @ columns).view(1, 5, 4, 4)
    torch.testing.assert_close(F.conv2d(x, weight), product)


def test_micro_strided_convolution_is_transposed_convolution() -> None:
    # A stride of 1/2: one zero between the inputs, then an ordinary wide convolution.
    x, weight = torch.randn(1, 1, 4, 4), torch.randn(1, 1, 3, 3)
    spread = torch.zeros(1, 1, 7, 7)
    spread[..., ::2, ::2] = x
    wide = F.conv2d(spread, rot180(weight), padding=2)
    torch.testing.assert_close(F.conv_transpose2d(x, weight, stride=2), wide)


def test_dilation_is_a_kernel_with_holes() -> None:
    x, weight = torch.randn(1, 2, 9, 9), torch.randn(3, 2, 3, 3)
    holes = torch.zeros(3, 2, 5, 5)
    holes[..., ::2, ::2] = weight
    torch.testing.assert_close(F.conv2d(x, weight, dilation=2), F.conv2d(x, holes))


def test_an_output_group_sees_its_input_group_only() -> None:
    x = torch.randn(1, 4, 5, 5, requires_grad=True)
    out = F.conv2d(x, torch.randn(6, 2, 3, 3), groups=2)
    (gradient,) = torch.autograd.grad(out[:, :3].sum(), x)
    assert gradient[:, :2].abs().min() > 0
    assert torch.equal(gradient[:, 2:], torch.zeros_like(gradient[:, 2:]))


# Costs


def multiply_adds(channels: int, out_channels: int, kernel: int, side: int) -> int:
    """Counted, not computed: without padding, ones under ones add up to the number of products.

    In float64, which no transform rounds.
    """
    x = torch.ones(1, channels, side + kernel - 1, side + kernel - 1, dtype=torch.float64)
    out = F.conv2d(x, torch.ones(out_channels, channels, kernel, kernel, dtype=torch.float64))
    assert out.shape == (1, out_channels, side, side)
    return int(out.sum())


def test_one_gigaflop() -> None:
    # 100 -> 100 channels, 5x5 kernel, 64x64 output.
    assert multiply_adds(100, 100, 5, 64) == 1_024_000_000


def test_a_1x1_bottleneck_saves_more_than_two_thirds() -> None:
    # On a map of 10x10; 100x100 costs a hundred times as much, in both columns.
    direct = multiply_adds(256, 256, 3, 10)
    squeezed = multiply_adds(256, 64, 1, 10) + multiply_adds(64, 256, 3, 10)
    assert direct == 58_982_400
    assert squeezed == 16_384_000


def test_one_kernel_over_a_small_image() -> None:
    # One 3x3 kernel, no bias, 32x32 input, P = 1, S = 2: 9 parameters, 16x16 outputs.
    weight = torch.ones(1, 1, 3, 3)
    out = F.conv2d(torch.ones(1, 1, 32, 32), weight, stride=2, padding=1)
    assert weight.numel() == 9
    assert out.shape == (1, 1, 16, 16)
    # 16 * 16 * 9 multiply-adds, of which those in the first row and column meet padding.
    assert out.numel() * weight.numel() == 2304
    assert out.sum() == (16 * 3 - 1) ** 2
