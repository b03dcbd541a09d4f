"""What the CUDA kernels of pooling promise beyond the grid.

They run on the emulator. The CPU's own operators, which other tests hold against torch, are the
reference.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import devices
import pytest
import torch
import torch.nn.functional as F
from emulator import library

pytestmark = devices.needs_emulator

LAYOUTS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}


# Planes of (1, 1) to many slices, and indices that meet in one position, rise, or are anything.
PLANES = {"small": (5, 7), "slices": (60, 70)}
INDICES: dict[str, Callable[[int, torch.Size], torch.Tensor]] = {
    "one": lambda plane, size: torch.full(size, plane - 1),
    # Slices of every type and layout begin there.
    "the first of a slice": lambda plane, size: torch.full(size, plane // 2048 * 2048),
    "rising": lambda plane, size: torch.arange(size.numel()).view(size) * 3 // 2 % plane,
    "spread": lambda plane, size: torch.arange(size.numel()).view(size) * 4 % plane,
    "any": lambda plane, size: torch.randint(plane, size),
}


def _indexed(
    plane: tuple[int, int], indices: str, layout: str, dtype: torch.dtype
) -> tuple[torch.Tensor, torch.Tensor]:
    """Values of a small tensor (2, 5, ...) and where in the planes they belong."""
    size = torch.Size((2, 5, (plane[0] + 1) // 2, (plane[1] + 1) // 2))
    at = INDICES[indices](plane[0] * plane[1], size)
    values = torch.randn(size).to(dtype)
    memory_format = LAYOUTS[layout]
    return values.contiguous(memory_format=memory_format), at.contiguous(
        memory_format=memory_format
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("indices", INDICES)
@pytest.mark.parametrize("plane", PLANES)
def test_scattering_adds_in_the_order_of_the_cpu(
    emulated: Any, plane: str, indices: str, layout: str, dtype: torch.dtype
) -> None:
    size = PLANES[plane]
    values, at = _indexed(size, indices, layout, dtype)
    for name in ("max_pool_backward", "max_unpool"):
        ours = getattr(emulated, name)(values, at, size)
        expected = getattr(torch.ops.cnnops, name)(values, at, size)
        assert torch.equal(ours, expected)
        assert ours.stride() == expected.stride()


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("plane", PLANES)
@pytest.mark.parametrize("outside", [-1, 0, 2**40, -(2**63)])
@pytest.mark.parametrize("where", [(0, 1), (-1, -1)], ids=["first", "last"])
def test_an_index_outside_makes_its_plane_nan(
    emulated: Any, plane: str, layout: str, outside: int, where: tuple[int, int]
) -> None:
    # Also the slices of the plane that no index near the wrong one touches.
    size = PLANES[plane]
    values, at = _indexed(size, "spread", layout, torch.float32)
    large = torch.randn(2, 5, *size).contiguous(memory_format=LAYOUTS[layout])
    gathered = torch.ops.cnnops.max_pool_gather(large, at)
    wrong = at.clone()
    wrong[(1, 3, *where)] = outside if outside else size[0] * size[1]
    for name in ("max_pool_backward", "max_unpool"):
        expected = getattr(torch.ops.cnnops, name)(values, at, size)
        expected[1, 3] = torch.nan
        ours = getattr(emulated, name)(values, wrong, size)
        torch.testing.assert_close(ours, expected, rtol=0, atol=0, equal_nan=True)
    gathered[(1, 3, *where)] = torch.nan
    ours = emulated.max_pool_gather(large, wrong)
    torch.testing.assert_close(ours, gathered, rtol=0, atol=0, equal_nan=True)


def test_indices_of_many_channels(emulated: Any) -> None:
    # Several blocks of channels, each of several slices and chunks.
    size = (9, 16)
    at = torch.randint(0, 144, (2, 70, 7, 8)).contiguous(memory_format=torch.channels_last)
    values = torch.randn(at.shape).contiguous(memory_format=torch.channels_last)
    for name in ("max_pool_backward", "max_unpool"):
        ours = getattr(emulated, name)(values, at, size)
        assert torch.equal(ours, getattr(torch.ops.cnnops, name)(values, at, size))
    large = torch.randn(2, 70, *size).contiguous(memory_format=torch.channels_last)
    ours = emulated.max_pool_gather(large, at)
    assert torch.equal(ours, torch.ops.cnnops.max_pool_gather(large, at))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_indices_of_planes_smaller_than_what_is_moved(emulated: Any, layout: str) -> None:
    # As of adaptive pools to larger sizes.
    size = (3, 4)
    at = torch.randint(0, 12, (2, 5, 9, 31)).contiguous(memory_format=LAYOUTS[layout])
    values = torch.randn(at.shape).contiguous(memory_format=LAYOUTS[layout])
    large = torch.randn(2, 5, *size).contiguous(memory_format=LAYOUTS[layout])
    cpu = torch.ops.cnnops
    found = emulated.max_pool_gather(large, at)
    assert torch.equal(found, cpu.max_pool_gather(large, at))
    found = emulated.max_pool_backward(values, at, size)
    assert torch.equal(found, cpu.max_pool_backward(values, at, size))


def _kernels(call: Callable[[], object]) -> str:
    """The names of the kernels that `call` runs."""
    with library.counting() as costs:
        call()
        return " ".join({cost.kernel for cost in costs()})


# Each kernel of pooling with a call that it is for: input, kernel_size, stride, padding, layout.
POOLINGS = {
    "pool_tile": ((2, 3, 20, 70), 3, 2, 1, "contiguous"),
    "pool_tile small planes": ((2, 9, 7, 7), 3, 1, 1, "contiguous"),
    "pool_window": ((2, 3, 20, 20), 20, 20, 0, "contiguous"),
    "pool_window channels": ((2, 24, 12, 12), 12, 12, 0, "channels_last"),
    "pool_window many channels": ((2, 264, 6, 6), 6, 6, 0, "channels_last"),
    "pool_window odd channels": ((2, 67, 6, 6), 6, 6, 0, "channels_last"),
    "pool_direct": ((2, 3, 20, 20), 2, 2, 0, "contiguous"),
    "pool_direct channels": ((2, 24, 9, 9), 3, 2, 1, "channels_last"),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16], ids=str)
@pytest.mark.parametrize("name", POOLINGS)
def test_the_plan_runs_the_kernel_made_for_the_shape(
    emulated: Any, name: str, dtype: torch.dtype
) -> None:
    size, kernel, stride, padding, layout = POOLINGS[name]
    x = torch.randn(size).to(dtype).contiguous(memory_format=LAYOUTS[layout])
    windows = ([kernel] * 2, [stride] * 2, [padding] * 2)

    def maxima(operators: object) -> tuple[torch.Tensor, torch.Tensor]:
        return operators.max_pool_with_indices(x, *windows, [1, 1], False)  # type: ignore[attr-defined,no-any-return]

    def means(operators: object) -> torch.Tensor:
        return operators.avg_pool(x, *windows, False, True, None)  # type: ignore[attr-defined,no-any-return]

    for call in (maxima, means):
        assert name.split()[0] in _kernels(lambda call=call: call(emulated))  # type: ignore[misc]
    for ours, expected in zip(maxima(emulated), maxima(torch.ops.cnnops), strict=True):
        assert torch.equal(ours, expected)
    torch.testing.assert_close(means(emulated), means(torch.ops.cnnops))


def _filled(size: tuple[int, ...], values: str) -> torch.Tensor:
    """Random numbers, many of them equal, some or all of them NaN or -infinity."""
    x = torch.randint(-2, 3, size).float()
    if values == "nan":
        x[torch.rand(size) < 0.1] = torch.nan
    elif values == "infinite":
        x[torch.rand(size) < 0.9] = -torch.inf
        x[:, :2] = -torch.inf
    return x


@pytest.mark.parametrize("values", ["ties", "nan", "infinite"])
@pytest.mark.parametrize("name", POOLINGS)
def test_maxima_are_torchs_among_equals(emulated: Any, name: str, values: str) -> None:
    size, kernel, stride, padding, layout = POOLINGS[name]
    x = _filled(size, values)
    expected = F.max_pool2d(x, kernel, stride, padding, return_indices=True)
    x = x.contiguous(memory_format=LAYOUTS[layout])
    windows = ([kernel] * 2, [stride] * 2, [padding] * 2)
    found = emulated.max_pool_with_indices(x, *windows, [1, 1], False)
    torch.testing.assert_close(found, expected, rtol=0, atol=0, equal_nan=True)


# Each kernel with windows that are alike on no two axes: kernel_size, stride, padding, dilation.
VOLUMES = {
    "pool_tile": ((3, 3, 4), (2, 1, 2), (1, 1, 2), (2, 2, 1)),
    "pool_tile, far taps": ((2, 4, 3), (1, 2, 1), (1, 2, 0), (3, 1, 2)),
    "pool_window": ((3, 4, 5), (2, 3, 4), (1, 2, 1), (2, 1, 2)),
    "pool_window, far taps": ((5, 3, 4), (3, 4, 3), (2, 0, 2), (1, 3, 1)),
    "pool_window, one row": ((5, 1, 8), (2, 2, 3), (2, 0, 3), (1, 1, 1)),
    "pool_direct": ((2, 2, 3), (1, 2, 3), (1, 1, 1), (3, 2, 2)),
}
VOLUME = (2, 8, 6, 9, 12)
LAYOUTS_3D = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last_3d}


@pytest.mark.parametrize("values", ["ties", "nan", "infinite"])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("ceil", [False, True])
@pytest.mark.parametrize("name", VOLUMES)
def test_maxima_of_volumes(emulated: Any, name: str, ceil: bool, layout: str, values: str) -> None:
    x = _filled(VOLUME, values)
    arguments = VOLUMES[name]
    expected = F.max_pool3d(x, *arguments, ceil_mode=ceil, return_indices=True)
    x = x.contiguous(memory_format=LAYOUTS_3D[layout])
    windows = [list(argument) for argument in arguments]
    with library.counting() as costs:
        found = emulated.max_pool_with_indices(x, *windows, ceil)
        ran = {cost.kernel for cost in costs()}
    if layout == "contiguous":
        assert all(name.split(",")[0] in kernel for kernel in ran)
    torch.testing.assert_close(found, expected, rtol=0, atol=0, equal_nan=True)


# kernel_size and stride of each kernel along H of 40 rows.
TALL = {"pool_direct": (2, 3), "pool_tile": (5, 1), "pool_window": (20, 21)}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("name", TALL)
def test_windows_that_have_the_input_between_their_taps(
    emulated: Any, name: str, layout: str
) -> None:
    # Of two columns the taps read neither: one is in the padding before, one in that behind them.
    height, stride = TALL[name]
    x = torch.randn(2, 8, 40, 2)
    windows = ([height, 2], [stride, 1], [0, 1], [1, 3])
    expected = F.max_pool2d(x, *windows, return_indices=True)
    x = x.contiguous(memory_format=LAYOUTS[layout])
    with library.counting() as costs:
        found = emulated.max_pool_with_indices(x, *windows, False)
        ran = {cost.kernel for cost in costs()}
    if layout == "contiguous":
        assert all(name in kernel for kernel in ran)
    assert torch.all(expected[0] == -torch.inf)
    torch.testing.assert_close(found, expected, rtol=0, atol=0)


def test_a_tile_begins_as_far_inside_as_taps_are_apart(emulated: Any) -> None:
    # The second one, of 64 windows. It has no place in its patch for what lies before them.
    x = torch.randn(1, 2, 3, 192)
    windows = ([1, 2], [1, 1], [0, 0], [1, 64])
    expected = F.max_pool2d(x, *windows, return_indices=True)
    with library.counting() as costs:
        found = emulated.max_pool_with_indices(x, *windows, False)
        assert all("pool_tile" in cost.kernel for cost in costs())
    assert all(map(torch.equal, found, expected))


@pytest.mark.parametrize("divisor", [None, 6, -7])
@pytest.mark.parametrize("include", [False, True])
@pytest.mark.parametrize("ceil", [False, True])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("name", ["pool_tile", "pool_window", "pool_direct"])
def test_means_of_volumes(
    emulated: Any, name: str, layout: str, ceil: bool, include: bool, divisor: int | None
) -> None:
    kernel, stride, padding, _ = VOLUMES[name]
    x = torch.randint(-9, 10, VOLUME).double().requires_grad_()
    expected = F.avg_pool3d(x, kernel, stride, padding, ceil, include, divisor)
    g = torch.randint_like(expected, -9, 10)
    (input64,) = torch.autograd.grad(expected, x, g)
    windows = [list(argument) for argument in (kernel, stride, padding)]
    how = (*windows, ceil, include, divisor)
    x, g = (it.detach().contiguous(memory_format=LAYOUTS_3D[layout]) for it in (x, g))
    found = emulated.avg_pool(x.float(), *how)
    torch.testing.assert_close(found.double(), expected, rtol=1e-6, atol=1e-6)
    found = emulated.avg_pool_backward(g.float(), list(VOLUME[2:]), *how)
    torch.testing.assert_close(found.double(), input64, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("include", [False, True])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_gradients_of_means_of_several_tiles(emulated: Any, layout: str, include: bool) -> None:
    # Tiles begin at inputs that meet the last window of theirs in any phase of the stride, and
    # windows at the borders, which count fewer elements, belong to the first and last tiles only.
    windows = ([4, 5], [2, 3], [1, 2], True, include, None)
    x = torch.zeros(1, 2, 41, 140, dtype=torch.float64, requires_grad=True)
    y = F.avg_pool2d(x, *windows)
    g = torch.randint_like(y, -9, 10)
    (expected,) = torch.autograd.grad(y, x, g)
    g = g.float().contiguous(memory_format=LAYOUTS[layout])
    found = emulated.avg_pool_backward(g, [41, 140], *windows)
    torch.testing.assert_close(found.double(), expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("name", POOLINGS)
def test_means_are_rounded_once(emulated: Any, name: str, dtype: torch.dtype) -> None:
    # Sums take more bits than the type has. Backward windows have 4 elements, so that the result is
    # the only one that is not exact.
    size, kernel, stride, padding, layout = POOLINGS[name]
    x = torch.randint(-40, 41, size).to(dtype).contiguous(memory_format=LAYOUTS[layout])
    windows = ([kernel] * 2, [stride] * 2, [padding] * 2)
    sums = F.avg_pool2d(x.double(), kernel, stride, padding, divisor_override=1)
    found = emulated.avg_pool(x, *windows, False, True, None)
    assert torch.equal(found, (sums.float() / kernel**2).to(dtype))
    x64 = x.double().requires_grad_()
    y64 = F.avg_pool2d(x64, 2, 1)
    g = torch.randint(-1000, 1001, y64.shape).to(dtype).contiguous(memory_format=LAYOUTS[layout])
    (expected,) = torch.autograd.grad(y64, x64, g.double())
    back = (list(size[2:]), [2, 2], [1, 1], [0, 0], False, True, None)
    found = emulated.avg_pool_backward(g, *back)
    assert torch.equal(found, expected.to(dtype))


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("size, output", [((9, 21), (4, 5)), ((40, 13), (3, 2)), ((3, 4), (7, 6))])
def test_adaptive_windows(
    emulated: Any, size: tuple[int, int], output: tuple[int, int], layout: str
) -> None:
    # Neighbouring windows of different sizes, shared elements, and repeated ones.
    x = _filled((2, 3, *size), "ties").contiguous(memory_format=LAYOUTS[layout])
    expected = F.adaptive_max_pool2d(x, output, return_indices=True)
    found = emulated.adaptive_max_pool(x, list(output))
    assert all(map(torch.equal, found, expected))
    x64 = x.double().requires_grad_()
    y64 = F.adaptive_avg_pool2d(x64, output)
    g = torch.randint_like(y64, -9, 10).contiguous(memory_format=LAYOUTS[layout])
    (input64,) = torch.autograd.grad(y64, x64, g)
    found = emulated.adaptive_avg_pool(x, list(output))
    torch.testing.assert_close(found.double(), y64, rtol=1e-6, atol=1e-6)
    found = emulated.adaptive_avg_pool_backward(g.float(), list(size))
    torch.testing.assert_close(found.double(), input64, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("divisor", [None, 3, -2])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_quotients_of_integers_are_truncated_one_by_one(
    emulated: Any, layout: str, divisor: int | None
) -> None:
    g = torch.randint(-50, 51, (2, 3, 5, 6)).contiguous(memory_format=LAYOUTS[layout])
    back = (g, [9, 11], [3, 3], [2, 2], [1, 1], False, False, divisor)
    found = emulated.avg_pool_backward(*back)
    expected = torch.zeros(2, 3, 11, 13, dtype=torch.int64)
    ones = torch.zeros(11, 13, dtype=torch.int64)
    ones[1:10, 1:12] = 1
    for y in range(5):
        for x in range(6):
            window = (slice(2 * y, 2 * y + 3), slice(2 * x, 2 * x + 3))
            count = int(ones[window].sum()) if divisor is None else divisor
            share = torch.div(g[:, :, y, x], count, rounding_mode="trunc")
            expected[(..., *window)] += share[:, :, None, None]
    assert torch.equal(found, expected[:, :, 1:10, 1:12])


#: Sums with 768 and 2^25 are rounded so far that windows would start behind the last place; the
#: last two make them start just before and just behind 2^31, where integers end.
SAMPLES = [
    -3.0,
    1.0,
    7.5,
    768.0,
    2.0**25,
    1e30,
    -1e30,
    torch.inf,
    torch.nan,
    2**31 * 3 / 7 - 0.5,
    2**31 / 2.75 - 0.5,
]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("sample", SAMPLES)
def test_windows_of_any_samples_lie_inside(
    emulated: Any, sample: float, dtype: torch.dtype
) -> None:
    x = torch.randn(2, 3, 9, 14).to(dtype)
    samples = torch.rand(2, 3, 2).to(dtype)
    samples[1, :, 0] = sample
    samples[0, 2] = sample
    call = (x, [2, 3], [4, 5], samples)
    found = emulated.fractional_max_pool(*call)
    expected = torch.ops.cnnops.fractional_max_pool(*call)
    assert all(map(torch.equal, found, expected))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize(
    "size, output",
    [
        ((3, 8, 150, 130), (61, 47)),
        # A bfloat16 has neither this size nor these numbers of windows.
        ((2, 4, 3, 604), (2, 390)),
    ],
)
def test_windows_of_samples_are_placed_in_16_bits(
    emulated: Any, size: tuple[int, ...], output: tuple[int, int], dtype: torch.dtype
) -> None:
    # Torch rounds every step of the formula to the type of the samples: that decides some places.
    x = torch.randn(size).to(dtype)
    samples = torch.rand(*size[:2], 2).to(dtype)
    found = emulated.fractional_max_pool(x, [2, 2], list(output), samples)
    expected = F.fractional_max_pool2d(x, 2, output, _random_samples=samples, return_indices=True)
    assert all(map(torch.equal, found, expected))


# Poolings whose positions take 64 bits, by a parameter far beyond the plane: kernel_size, stride,
# padding and dilation.
FAR = 2**31 - 1
FAR_POOLINGS = {
    "pool_direct": ([2, 3], [FAR, 2], [1, 1], [1, 1]),
    "pool_window": ([7, 6], [FAR, 3], [3, 1], [1, 1]),
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("name", FAR_POOLINGS)
def test_positions_beyond_32_bits(emulated: Any, name: str, layout: str) -> None:
    kernel, stride, padding, dilation = FAR_POOLINGS[name]
    x = torch.randn(2, 9, 8, 11).contiguous(memory_format=LAYOUTS[layout])
    cpu = torch.ops.cnnops
    windows = (kernel, stride, padding)
    expected = cpu.max_pool_with_indices(x, *windows, dilation, False)
    with library.counting() as costs:
        found = emulated.max_pool_with_indices(x, *windows, dilation, False)
        (kernel_name,) = {cost.kernel for cost in costs()}
    assert name in kernel_name
    assert "long int" in kernel_name
    assert all(map(torch.equal, found, expected))
    expected = cpu.avg_pool(x, *windows, False, False, None)
    found = emulated.avg_pool(x, *windows, False, False, None)
    torch.testing.assert_close(found, expected)
    back = (expected, [8, 11], *windows, False, False, None)
    found = emulated.avg_pool_backward(*back)
    torch.testing.assert_close(found, cpu.avg_pool_backward(*back))


@pytest.mark.parametrize("kernel, name", [(5, "pool_direct"), (40, "pool_window")])
def test_planes_of_more_elements_than_32_bits_count(emulated: Any, kernel: int, name: str) -> None:
    # Of the memory of such a plane only what windows read is ever touched.
    step, count = 2**27, 17
    x = torch.empty(1, 1, (count - 1) * step + kernel, dtype=torch.bfloat16)
    values = torch.stack([torch.randperm(kernel) for _ in range(count)])
    for window in range(count):
        x[0, 0, window * step : window * step + kernel] = values[window]
    windows = ([kernel], [step], [0])
    with library.counting() as costs:
        found, at = emulated.max_pool_with_indices(x, *windows, [1], False)
        assert all(name in cost.kernel for cost in costs())
    assert torch.equal(found[0, 0], values.amax(1).to(x.dtype))
    assert torch.equal(at[0, 0], torch.arange(count) * step + values.argmax(1))
    found = emulated.avg_pool(x, *windows, False, True, None)
    assert torch.equal(found[0, 0], values.float().mean(1).to(x.dtype))
    at[0, 0, 3] = x.numel()
    gathered = values.amax(1).to(x.dtype)
    gathered[3] = torch.nan
    found = emulated.max_pool_gather(x, at)
    torch.testing.assert_close(found[0, 0], gathered, rtol=0, atol=0, equal_nan=True)
    x[..., -kernel:] = -torch.inf
    _, at = emulated.max_pool_with_indices(x, *windows, [1], False)
    assert at[0, 0, -1] == x.numel() - kernel


def test_fractional_windows_of_planes_of_more_elements_than_32_bits_count(emulated: Any) -> None:
    x = torch.empty(1, 1, 1, 2**31 + 2, dtype=torch.bfloat16)
    starts = [0, 2**30, 2**31]
    for start in starts:
        x[..., start : start + 2] = torch.tensor([start / 2**30, start / 2**30 + 1])
    samples = torch.zeros(1, 1, 2, dtype=x.dtype)
    found, at = emulated.fractional_max_pool(x, [1, 2], [1, 3], samples)
    assert found.flatten().tolist() == [1, 2, 3]
    assert at.flatten().tolist() == [start + 1 for start in starts]


def test_adaptive_windows_of_products_beyond_32_bits(emulated: Any) -> None:
    # Window o begins at o * 92681 / 46341.
    x = torch.randn(1, 1, 92681)
    found = emulated.adaptive_avg_pool(x, [46341])
    torch.testing.assert_close(found, torch.nn.functional.adaptive_avg_pool1d(x, 46341))
