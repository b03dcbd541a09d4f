"""Where CUDA kernels compute with 32 bits: every index that they form must fit.

The sizes here are too large for tensors, so that this calls the arithmetic alone
(emulator/limits.cpp) and holds it against Python's integers.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from dataclasses import dataclass, replace

import devices
import pytest
from emulator import library

pytestmark = devices.needs_emulator

MOST = 2**31 - 1


def _numbers(values: list[int]) -> ctypes.Array[ctypes.c_int64]:
    return (ctypes.c_int64 * len(values))(*values)


def test_division_by_multiplication() -> None:
    divisors = {*range(1, 70), *(2**n + d for n in range(7, 31) for d in (-1, 0, 1)), MOST}
    divisors |= {641, 10007, 92681, 6700417, 10**9 + 7}
    for divisor in sorted(divisors):
        multiples = [k * divisor for k in (1, 2, 3, 7, 1000, MOST // divisor)]
        near = {m + d for m in (*multiples, 0, 2**16, 2**30, MOST) for d in (-1, 0, 1)}
        numbers = sorted(n for n in near if 0 <= n <= MOST)
        given = (ctypes.c_int32 * len(numbers))(*numbers)
        found = (ctypes.c_int32 * len(numbers))()
        library.library().emulator_divide(ctypes.c_int64(divisor), given, found, len(numbers))
        assert list(found) == [n // divisor for n in numbers], divisor


def test_grids_have_at_most_as_many_blocks_as_a_gpu_takes() -> None:
    grid_of = library.library().emulator_grid_of
    grid_of.restype = ctypes.c_int64
    for blocks in (1, 65536, MOST - 1, MOST):
        assert grid_of(ctypes.c_int64(blocks)) == blocks
    for blocks in (MOST + 1, 2**32, 2**32 + 7, 2**62):
        assert grid_of(ctypes.c_int64(blocks)) == -1


# ---- convolutions --------------------------------------------------------------------------------


@dataclass(frozen=True)
class Axis:
    """What a contraction does along one axis: csrc/contraction.h, Walk."""

    count: int = 4
    step: int = 2
    size: int = 9
    taps: int = 3
    offset: int = -1
    offset_step: int = 2


@dataclass(frozen=True)
class Nest:
    """A contraction: csrc/contraction.h."""

    batch: int = 3
    groups: int = 2
    rows: int = 5
    depth: int = 7
    axes: tuple[Axis, Axis, Axis] = (Axis(), Axis(), Axis())
    source: tuple[int, ...] = (1,) * 5
    dest: tuple[int, ...] = (1,) * 5
    weight: tuple[int, ...] = (1,) * 6

    def fits(self, of_weight: bool) -> bool:
        """Whether it is computed with 32 bits."""
        numbers = [self.batch, self.groups, self.rows, self.depth]
        for axis in self.axes:
            numbers += [axis.count, axis.step, axis.size, axis.taps, axis.offset, axis.offset_step]
        numbers += [*self.source, *self.dest, *self.weight]
        fits = library.library().emulator_fits_int32
        fits.restype = ctypes.c_bool
        return bool(fits(_numbers(numbers), ctypes.c_bool(of_weight)))


def _with_stride(tensor: str, place: int) -> Callable[[int], Nest]:
    def make(stride: int) -> Nest:
        strides = list(getattr(Nest(), tensor))
        strides[place] = stride
        return replace(Nest(), **{tensor: tuple(strides)})

    return make


def _with_axis(place: int, **fields: int) -> Nest:
    axes = list(Nest().axes)
    axes[place] = replace(axes[place], **fields)
    return replace(Nest(), axes=tuple(axes))


# Strides of the source go with the batch, the channels of all groups, and positions, those of
# destinations with the batch, all channels and counts: how often each is taken at most.
STRIDES = {
    **{("source", i): times for i, times in enumerate((2, 13, 9, 9, 9))},
    **{("dest", i): times for i, times in enumerate((2, 9, 3, 3, 3))},
    **{("weight", i): times for i, times in enumerate((1, 4, 6, 2, 2, 2))},
}


@pytest.mark.parametrize("of_weight", [False, True], ids=["activations", "weight"])
@pytest.mark.parametrize("tensor, place", STRIDES)
def test_offsets_fit(tensor: str, place: int, of_weight: bool) -> None:
    make, times = _with_stride(tensor, place), STRIDES[tensor, place]
    assert not make(MOST // times + 1).fits(of_weight)
    assert make(MOST // times // 4).fits(of_weight)


@pytest.mark.parametrize("of_weight", [False, True], ids=["activations", "weight"])
@pytest.mark.parametrize("place", range(3))
def test_positions_fit(place: int, of_weight: bool) -> None:
    # Kernels mark what is read as zero by a position of -2^30, to which others are added.
    half = 2**29
    for far in ({"offset": -half}, {"offset": half}, {"step": half}, {"offset_step": half},
                {"count": half // 2 + 1}, {"size": half}, {"count": 2**15, "step": 2**15},
                {"offset": -half, "offset_step": half // 2}):  # fmt: skip
        assert not _with_axis(place, **far).fits(of_weight), far
    for near in ({"offset": -half // 16}, {"offset": half // 16}, {"step": half // 16},
                 {"offset_step": half // 16}, {"count": half // 64},
                 {"size": half // 16}):  # fmt: skip
        assert _with_axis(place, **near).fits(of_weight), near


@pytest.mark.parametrize("of_weight", [False, True], ids=["activations", "weight"])
def test_counts_fit(of_weight: bool) -> None:
    # Of pixels and of the weight, with what tiles add to them.
    flat = replace(Nest(), source=(0,) * 5, dest=(0,) * 5, weight=(0,) * 6)
    many = tuple(Axis(count=count, step=1) for count in (2**9, 2**8, 2**7))
    assert replace(flat, axes=many, batch=100).fits(of_weight)
    assert not replace(flat, axes=many, batch=128).fits(of_weight)
    assert not replace(flat, rows=2**20, depth=100).fits(of_weight)
    assert not replace(flat, rows=100, depth=2**20).fits(of_weight)
    assert not replace(flat, groups=2**20, rows=1, depth=1).fits(of_weight)
    assert replace(flat, rows=2**13, depth=1000).fits(of_weight)


# ---- pooling -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Window:
    """The windows along one axis; an axis of adaptive windows has a stride of 0."""

    input: int = 1
    kernel: int = 1
    stride: int = 1
    padding: int = 0
    dilation: int = 1
    output: int = 0

    @property
    def numbers(self) -> list[int]:
        """As emulator_pool_index takes them."""
        reach = self.dilation * (self.kernel - 1) + 1
        room = self.input + 2 * self.padding - reach
        output = self.output or room // self.stride + 1
        return [self.input, output, self.kernel, self.stride, self.padding, self.dilation]


#: How means count their elements: WindowCount.
COUNTS = {"none": 0, "input": 1, "padded": 2, "adaptive": 3}


def _pool(windows: tuple[Window, Window], count: str, planes: tuple[int, int] = (1, 1)) -> int:
    numbers = [*planes, *Window().numbers]
    for window in windows:
        numbers += window.numbers
    return int(library.library().emulator_pool_index(_numbers([*numbers, COUNTS[count]])))


def _greatest(pool: Callable[[int], int]) -> int:
    """The greatest number for which a pooling takes indices of 32 bits."""
    low, high = 1, 2**40
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if pool(middle) != 2 else (low, middle)
    return low


small = Window(5, 3, 2, 1)
POOLS: dict[str, Callable[[int], tuple[tuple[Window, Window], tuple[int, int]]]] = {
    "planes": lambda n: ((small, small), (n, 1)),
    "planes of fewer elements than samples": lambda n: ((Window(), Window()), (n, 1)),
    "channels": lambda n: ((small, small), (1, n)),
    "input": lambda n: ((small, Window(n + 2, 3, 3)), (1, 1)),
    "input of long strides": lambda n: ((small, Window(n + 2, 2, 70000)), (1, 1)),
    "input of long windows": lambda n: ((Window(), Window(n + 5, n + 1, 2)), (1, 1)),
    "outputs of padding": lambda n: ((small, Window(n, 3, 1, 1)), (1, 1)),
    "outputs of single elements": lambda n: (
        (Window(2, 3, 1, 1, output=4), Window(n, 1, 1, 0)),
        (3, 1),
    ),
    "stride": lambda n: ((small, Window(9, 3, n)), (1, 1)),
    "stride of two windows": lambda n: ((small, Window(9, 3, n, 1, output=2)), (1, 1)),
    "padding": lambda n: ((Window(), Window(9, 2 * n, 7, n)), (1, 1)),
    "padding and stride": lambda n: ((Window(), Window(9, 2 * n, 2 * n, n)), (1, 1)),
    "dilation": lambda n: ((small, Window(9, 2, 1, n, 2 * n)), (1, 1)),
    "kernel of both": lambda n: (
        (Window(9, 2 * n, 2 * n, n), Window(9, 2 * n, 2 * n, n)),
        (1, 1),
    ),
    "adaptive, few": lambda n: ((small, Window(n + 6, stride=0, output=7)), (1, 1)),
    "adaptive, odd": lambda n: ((small, Window(2 * n + 1, stride=0, output=n + 1)), (1, 1)),
    "adaptive, many": lambda n: ((small, Window(3, stride=0, output=n + 4)), (1, 1)),
    "adaptive, nearly as many": lambda n: ((small, Window(n, stride=0, output=n + 1)), (1, 1)),
}


@pytest.mark.parametrize(
    "name, count",
    [
        (name, count)
        for name in POOLS
        for count in COUNTS
        if count == "none" or ("adaptive" in name) == (count == "adaptive")
    ],
)
def test_windows_are_the_same_with_32_bits(name: str, count: str) -> None:
    def pool(n: int) -> int:
        windows, planes = POOLS[name](n)
        return _pool(windows, count, planes)

    greatest = _greatest(pool)
    assert greatest > 1000
    for n in (greatest, greatest - 1, greatest - greatest // 1000, greatest // 2 + 1, 1000):
        assert pool(n) == 1, n


#: Windows of taps, whose places count rows and planes of the size of a window.
TAPPED: dict[str, Callable[[int], list[Window]]] = {
    "columns": lambda n: [Window(1, 6, 2, 3), Window(2, 6, 2, 3), Window(n, 6, 2, 3)],
    "rows": lambda n: [Window(1, 6, 2, 3), Window(n, 6, 2, 3), Window(1, 5, 2, 2)],
    "slices": lambda n: [Window(n, 6, 2, 3), Window(1, 5, 2, 2), Window(2, 6, 2, 3)],
    "slices of wide windows": lambda n: [Window(n, 1, 1), Window(1, 6, 2, 3), Window(1, 6, 2, 3)],
}


@pytest.mark.parametrize("name", TAPPED)
def test_taps_are_the_same_with_32_bits(name: str) -> None:
    index = library.library().emulator_tap_index

    def pool(n: int) -> int:
        numbers = [number for window in TAPPED[name](n) for number in window.numbers]
        return int(index(_numbers([1, 1, *numbers])))

    greatest = _greatest(pool)
    assert greatest > MOST // 100
    for n in (greatest, greatest - 1, greatest - greatest // 1000, greatest // 2 + 1, 1000):
        assert pool(n) == 1, n
