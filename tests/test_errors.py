"""Bad arguments: the exception type of torch, its words where they are stable, and never a crash.

Each row of the first table is one bad call. It is made on torch.nn.functional first, which has to
raise too; then on cnnops.functional, which has to raise the same type or a subclass of it. The
second table calls the operators directly, past the checks in Python.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import pytest
import torch
import torch.nn.functional as torchs
from torch import Tensor

import cnnops.functional as ours
from cnnops import UnsupportedError

pytestmark = [
    pytest.mark.usefixtures("device"),
    pytest.mark.devices("cpu", "cuda-emulated"),
]

BIG = 2**62


def t(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """A tensor of ones."""
    return torch.ones(shape, dtype=dtype)


def indices(*shape: int, value: int = 0) -> Tensor:
    """An index tensor full of `value`."""
    return torch.full(shape, value, dtype=torch.int64)


@dataclass(frozen=True)
class Bad:
    """One bad call of a function that both namespaces have.

    Attributes:
        function: its name.
        arguments: positional arguments.
        options: keyword arguments.
        words: pieces of the message that torch's and ours share.
    """

    function: str
    arguments: tuple[Any, ...]
    options: dict[str, Any]
    words: tuple[str, ...]

    def call(self, namespace: ModuleType) -> Any:
        return getattr(namespace, self.function)(*self.arguments, **self.options)

    def __str__(self) -> str:
        def show(value: Any) -> str:
            if isinstance(value, Tensor):
                dtype = "" if value.dtype == torch.float32 else f":{str(value.dtype)[6:]}"
                return "x".join(map(str, value.shape)) + dtype
            return str(value)

        parts = [show(value) for value in self.arguments]
        parts += [f"{key}={show(value)}" for key, value in self.options.items()]
        return f"{self.function}({', '.join(parts)})"


def bad(function: str, *arguments: Any, words: tuple[str, ...] = (), **options: Any) -> Bad:
    return Bad(function, arguments, options, words)


def _convolutions() -> list[Bad]:
    rows = []
    for rank in (1, 2, 3):
        name = f"conv{rank}d"
        plane, kernel = (8,) * rank, (3,) * rank
        x, w = t(2, 4, *plane), t(6, 4, *kernel)
        rows += [
            bad(name, x, w, stride=0, words=("non-positive stride is not supported",)),
            bad(name, x, w, stride=-1, words=("non-positive stride is not supported",)),
            bad(name, x, w, stride=(1,) * (rank - 1) + (0,), words=("stride",)),
            bad(name, x, w, dilation=0, words=("dilation",)),
            bad(name, x, w, dilation=-2, words=("dilation",)),
            bad(name, x, w, padding=-1, words=("negative padding is not supported",)),
            bad(name, x, w, groups=0, words=("non-positive groups is not supported",)),
            bad(name, x, w, groups=-1, words=("non-positive groups is not supported",)),
            bad(name, x, w, groups=3),
            bad(name, t(2, 8, *plane), t(5, 4, *kernel), groups=2),
            bad(
                name, t(2, 5, *plane), w, words=("to have 4 channels, but got 5 channels instead",)
            ),
            bad(name, x, w, t(5), words=("expected bias to be 1-dimensional with 6 elements",)),
            bad(name, x, w, t(6, 1), words=("expected bias to be 1-dimensional with 6 elements",)),
            bad(name, x, t(6, 4, *(9,) * rank), words=("Kernel size can't be greater than",)),
            bad(name, x, w, dilation=4, words=("Kernel size can't be greater than",)),
            bad(name, t(2, 4, *(0,) * rank), w),
            bad(name, x, t(6, 4, *(0,) * rank)),
            bad(name, x, t(0, 4, *kernel)),
            bad(name, t(*plane), w),
            bad(name, t(1, 2, 4, *plane), w),
            bad(name, x, t(6, *kernel)),
            bad(name, x, t(1, 6, 4, *kernel)),
            bad(name, t(), w),
            bad(name, x, t()),
            bad(name, x, w, stride=(1,) * (rank + 1), words=("stride",)),
            bad(name, x, w, padding=(1,) * (rank + 1), words=("padding",)),
            bad(name, x, w, dilation=(1,) * (rank + 1), words=("dilation",)),
            bad(name, x, w, stride=()),
            bad(name, x, w, padding="full"),
            bad(name, x, w, padding="same", stride=2, words=("strided convolutions",)),
            bad(name, x, w, stride=1.5),
            bad(name, x, w, stride=None),
            bad(name, x, w, stride="1"),
            bad(name, x, w, dilation=None),
            bad(name, x, w, groups=None),
            bad(name, x, w, groups=1.0),
            bad(name, x, w, padding=None),
            bad(name, None, w),
            bad(name, x, None),
            bad(name, x, w, 3),
            bad(name, x, w.double()),
            bad(name, x.double(), w),
            bad(name, x.bfloat16(), w.half()),
            bad(name, x, w, t(6).double()),
            bad(name, x.long(), w),
            bad(name, x, w, padding=BIG),
            bad(name, x, w, dilation=BIG),
            bad(name, x, w, stride=2**63),
            bad(name, x, w, unknown=1),
        ]
    return rows


def _transposed() -> list[Bad]:
    rows = []
    for rank in (1, 2, 3):
        name = f"conv_transpose{rank}d"
        plane, kernel = (8,) * rank, (3,) * rank
        x, w = t(2, 4, *plane), t(4, 6, *kernel)
        rows += [
            bad(name, x, w, stride=0, words=("non-positive stride is not supported",)),
            bad(name, x, w, stride=-1, words=("non-positive stride is not supported",)),
            bad(name, x, w, dilation=0),
            bad(name, x, w, padding=-1, words=("negative padding is not supported",)),
            bad(name, x, w, output_padding=-1, words=("negative output_padding is not supported",)),
            bad(name, x, w, output_padding=1, words=("output padding must be smaller than",)),
            bad(name, x, w, output_padding=2, stride=2, words=("output padding must be smaller",)),
            bad(name, x, w, groups=0, words=("non-positive groups is not supported",)),
            bad(name, x, w, groups=3),
            bad(name, t(2, 5, *plane), w),
            bad(name, x, w, t(5)),
            bad(name, x, w, padding=6),
            bad(name, x, w, padding=BIG),
            bad(name, x, w, stride=BIG),
            bad(name, x, w, dilation=BIG),
            bad(name, t(*plane), w),
            bad(name, t(1, 2, 4, *plane), w),
            bad(name, x, t(4, *kernel)),
            bad(name, x, w, stride=(1,) * (rank + 1), words=("stride",)),
            bad(name, x, w, output_padding=(0,) * (rank + 1), words=("output_padding",)),
            bad(name, x, w, padding="same"),
            bad(name, x, w, stride=None),
            bad(name, x, w.double()),
            bad(name, None, w),
            bad(name, x, w, unknown=1),
        ]
    return rows


def _windows() -> list[Bad]:
    """What max_pool and avg_pool refuse alike, and what only one of them has."""
    rows = []
    for rank in (1, 2, 3):
        x = t(2, 3, *(8,) * rank)
        for kind in ("max", "avg"):
            name = f"{kind}_pool{rank}d"
            rows += [
                bad(name, x, 0),
                bad(name, x, -2),
                bad(name, x, 2, 0),
                bad(name, x, 2, -1),
                bad(name, x, 2, padding=-1),
                bad(name, x, 3, padding=2, words=("pad",)),
                bad(name, x, 9),
                bad(name, x, (2,) * (rank + 1)),
                bad(name, x, 2, (2,) * (rank + 1)),
                bad(name, x, 2, padding=(0,) * (rank + 1)),
                bad(name, x, ()),
                bad(name, x, None),
                bad(name, x, 2.5),
                bad(name, x, "2"),
                bad(name, None, 2),
                bad(name, t(1, 1, 1, *(8,) * rank), 2),
                bad(name, t(2, 3, *(0,) * rank), 2),
                bad(name, x, 2, unknown=1),
                bad(name, x.bool(), 2),
            ]
        rows += [
            bad(f"max_pool{rank}d", t(*(8,) * rank), 2),
            bad(f"max_pool{rank}d", x, 2, dilation=0),
            bad(f"max_pool{rank}d", x, 2, dilation=-1),
            bad(f"max_pool{rank}d", x, 3, dilation=4),
            bad(f"max_pool{rank}d", x, 2, dilation=(1,) * (rank + 1)),
        ]
        if rank > 1:
            rows.append(
                bad(
                    f"avg_pool{rank}d",
                    x,
                    2,
                    divisor_override=0,
                    words=("divisor must be not zero",),
                )
            )
    return rows


def _adaptive() -> list[Bad]:
    rows = []
    for rank in (1, 2, 3):
        x = t(2, 3, *(8,) * rank)
        for kind in ("max", "avg"):
            name = f"adaptive_{kind}_pool{rank}d"
            rows += [
                bad(name, x, -1),
                bad(name, x, (2,) * (rank + 1)),
                bad(name, x, 2.5),
                bad(name, x, "2"),
                bad(name, t(*(8,) * (rank - 1)), 2),
                bad(name, t(1, 1, 1, *(8,) * rank), 2),
                bad(name, t(2, 3, *(0,) * rank), 2),
                bad(name, x.long(), 2),
                bad(name, x, BIG),
            ]
    return rows


def _indices_beyond_the_plane() -> list[Bad]:
    rows = []
    for rank in (1, 2, 3):
        x, where = t(1, 2, *(3,) * rank), indices(1, 2, *(3,) * rank)
        for beyond in (where + 10**9, where - 1, where + 6**rank):
            rows.append(bad(f"max_unpool{rank}d", x, beyond, 2))
    return rows


def _others() -> list[Bad]:
    rows = []
    for rank in (1, 2, 3):
        unpool = f"max_unpool{rank}d"
        x, where = t(1, 2, *(3,) * rank), indices(1, 2, *(3,) * rank)
        rows += [
            bad(unpool, x, where.int(), 2),
            bad(unpool, x, x, 2),
            bad(unpool, x, indices(1, 2, *(2,) * rank), 2),
            bad(unpool, x, where, 2, output_size=(99,) * rank),
            bad(unpool, x, where, 2, output_size=(6,) * (rank + 3)),
            bad(unpool, t(*(3,) * rank), indices(*(3,) * rank), 2),
            bad(unpool, x, where, None),
            bad(unpool, None, where, 2),
        ]
    for rank in (2, 3):
        name = f"fractional_max_pool{rank}d"
        x = t(2, 3, *(8,) * rank)
        samples = torch.rand(2, 3, rank)
        rows += [
            bad(name, x, 2),
            bad(name, x, 2, output_size=9),
            bad(name, x, 2, output_size=8),
            bad(name, x, 9, output_size=4),
            bad(name, x, 2, output_ratio=(1.5,) * rank),
            bad(name, x, 2, output_size=4, _random_samples=samples[:1]),
            bad(name, x, 2, output_size=4, _random_samples=samples[:, :2]),
            bad(name, x, 2, output_size=4, _random_samples=samples[0]),
            bad(name, x, 2, output_size=4, _random_samples=samples.double()),
            bad(name, t(8, 8), 2, output_size=4, _random_samples=samples),
        ]
    for rank in (1, 2, 3):
        name = f"lp_pool{rank}d"
        x = t(2, 3, *(8,) * rank)
        rows += [
            bad(name, x, 2.0, 0),
            bad(name, x, 2.0, 9),
            bad(name, x, 2.0, 2, -1),
            bad(name, x, "2", 2),
            bad(name, x, 2.0, None),
        ]
    return rows


BAD_CALLS = [*_convolutions(), *_transposed(), *_windows(), *_adaptive(), *_others()]


@pytest.mark.parametrize("row", BAD_CALLS, ids=str)
def test_raises_what_torch_raises(row: Bad) -> None:
    with pytest.raises(Exception) as torchs_error:  # noqa: PT011
        row.call(torchs)
    with pytest.raises(torchs_error.type) as our_error:
        row.call(ours)
    for word in row.words:
        assert word in str(torchs_error.value), "torch's own words changed"
        assert word in str(our_error.value)


# CUDA kernels cannot raise without waiting for the GPU: test_cuda_pool.py has what they do.
@pytest.mark.devices("cpu")
@pytest.mark.parametrize("row", _indices_beyond_the_plane(), ids=str)
def test_indices_beyond_the_plane_raise_what_torch_raises(row: Bad) -> None:
    test_raises_what_torch_raises(row)


def _stricter() -> list[Bad]:
    """Calls that torch answers with wrapped integers, memory it does not own, or not at all."""
    x = t(2, 3, 8)
    rows = [
        bad("max_pool1d", x, BIG),
        bad("max_pool1d", x, 2, dilation=BIG),
        bad("max_pool1d", x, 2, padding=BIG),
        bad("avg_pool1d", x, BIG),
        bad("avg_pool2d", t(8, 8), 2),  # torch: an IndexError from looking for the channels
        bad("adaptive_avg_pool1d", x, 2**63),
    ]
    for rank in (2, 3):
        x = t(2, 3, *(8,) * rank)
        rows += [
            bad(f"max_pool{rank}d", x, BIG),
            bad(f"max_pool{rank}d", x, 2, dilation=BIG),
            bad(f"avg_pool{rank}d", x, BIG),
            bad(f"fractional_max_pool{rank}d", x, 0, output_size=4),
            bad(f"fractional_max_pool{rank}d", x, 2, output_size=BIG),
            bad(f"fractional_max_pool{rank}d", x, 2, output_ratio=(0.5,) * (rank + 1)),
        ]
    return rows


@pytest.mark.parametrize("row", _stricter(), ids=str)
def test_raises_whatever_torch_does(row: Bad) -> None:
    with pytest.raises((RuntimeError, ValueError, OverflowError)):
        row.call(ours)


# The operators themselves, past the checks in Python. Every list has one entry per axis (padding
# of convolutions two), which is what the first block of each builder breaks.

OPS = torch.ops.cnnops
REFUSALS = (RuntimeError, ValueError, TypeError, IndexError)


def _conv_arguments(**changes: Any) -> dict[str, Any]:
    """Good trailing arguments of the three contractions for one pair of axes, then `changes`."""
    good = {
        "stride": [1, 1],
        "padding": [0, 0, 0, 0],
        "dilation": [1, 1],
        "groups": 1,
        "padding_mode": "zeros",
    }
    return {**good, **changes}


CONV_CHANGES: list[dict[str, Any]] = [
    {"stride": []},
    {"stride": [1]},
    {"stride": [1, 1, 1]},
    {"stride": [1, 1, 1, 1], "padding": [0] * 8, "dilation": [1] * 4},
    {"stride": [], "padding": [], "dilation": []},
    {"stride": [0, 1]},
    {"stride": [1, -1]},
    {"padding": []},
    {"padding": [0, 0]},
    {"padding": [0] * 5},
    {"padding": [-1, 0, 0, 0]},
    {"padding": [0, 0, 0, -9]},
    {"padding": [BIG, BIG, 0, 0]},
    {"padding": [0, 0, 2**63 - 1, 1]},
    {"dilation": []},
    {"dilation": [1]},
    {"dilation": [0, 1]},
    {"dilation": [1, -1]},
    {"dilation": [BIG, 1]},
    {"dilation": [2**63 - 1, 2**63 - 1]},
    {"groups": 0},
    {"groups": -1},
    {"groups": 4},
    {"groups": BIG},
    {"padding_mode": "constant"},
    {"padding_mode": ""},
    {"padding_mode": "Zeros"},
    {"padding_mode": "reflect", "padding": [8, 0, 0, 0]},
    {"padding_mode": "circular", "padding": [9, 0, 0, 0]},
]


@pytest.mark.parametrize("changes", CONV_CHANGES, ids=str)
def test_contractions_refuse_bad_geometry(changes: dict[str, Any]) -> None:
    x, w = t(2, 4, 8, 8), t(6, 4, 3, 3)
    grad = t(2, 6, 6, 6)
    arguments = _conv_arguments(**changes)
    with pytest.raises(REFUSALS):
        OPS.convolution(x, w, None, **arguments)
    with pytest.raises(REFUSALS):
        OPS.convolution_grad_input(grad, w, None, [8, 8], **arguments)
    with pytest.raises(REFUSALS):
        OPS.convolution_grad_weight(grad, x, [3, 3], **arguments)


# A grad_output smaller than the geometry's output is fine: a transposed convolution has one when
# its output_padding exceeds the stride. A larger one would be read past its use.


@pytest.mark.parametrize(
    "shape", [(2, 6, 7, 7), (2, 6, 6, 7), (3, 6, 6, 6), (6, 6), (), (1, 2, 6, 6, 6)], ids=str
)
def test_grad_weight_refuses_a_grad_output_of_another_shape(shape: tuple[int, ...]) -> None:
    with pytest.raises(REFUSALS):
        OPS.convolution_grad_weight(t(*shape), t(2, 4, 8, 8), [3, 3], **_conv_arguments())


@pytest.mark.parametrize(
    "shape", [(2, 6, 7, 7), (2, 6, 6, 7), (2, 5, 6, 6), (6, 6), (), (1, 2, 6, 6, 6)], ids=str
)
def test_grad_input_refuses_a_grad_output_of_another_shape(shape: tuple[int, ...]) -> None:
    with pytest.raises(REFUSALS):
        OPS.convolution_grad_input(t(*shape), t(6, 4, 3, 3), None, [8, 8], **_conv_arguments())


@pytest.mark.parametrize(
    "size", [[], [8], [8, 8, 8], [7, 8], [7, 7], [0, 0], [-8, -8], [BIG, BIG]], ids=str
)
def test_grad_input_refuses_a_size_that_does_not_lead_to_grad_output(size: list[int]) -> None:
    with pytest.raises(REFUSALS):
        OPS.convolution_grad_input(t(2, 6, 6, 6), t(6, 4, 3, 3), None, size, **_conv_arguments())


@pytest.mark.parametrize(
    "kernel", [[], [3], [3, 3, 3], [4, 3], [0, 3], [-3, 3], [BIG, BIG]], ids=str
)
def test_grad_weight_refuses_a_kernel_that_does_not_lead_to_grad_output(kernel: list[int]) -> None:
    with pytest.raises(REFUSALS):
        OPS.convolution_grad_weight(t(2, 6, 6, 6), t(2, 4, 8, 8), kernel, **_conv_arguments())


@pytest.mark.parametrize("other", [torch.float64, torch.bfloat16, torch.int64], ids=str)
def test_operators_refuse_mixed_dtypes(other: torch.dtype) -> None:
    x, w, grad = t(2, 4, 8, 8), t(6, 4, 3, 3), t(2, 6, 6, 6)
    arguments = _conv_arguments()
    for calls in (
        lambda: OPS.convolution(x, w.to(other), None, **arguments),
        lambda: OPS.convolution(x, w, t(6, dtype=other), **arguments),
        lambda: OPS.convolution_grad_input(grad, w.to(other), None, [8, 8], **arguments),
        lambda: OPS.convolution_grad_weight(grad, x.to(other), [3, 3], **arguments),
        lambda: OPS.fractional_max_pool(x, [2, 2], [4, 4], torch.ones(2, 4, 2, dtype=other)),
    ):
        with pytest.raises(REFUSALS):
            calls()


@pytest.mark.parametrize("dtype", [torch.bool, torch.complex64, torch.uint16], ids=str)
def test_convolution_refuses_dtypes_without_kernels(dtype: torch.dtype) -> None:
    x, w = t(2, 4, 8, 8, dtype=dtype), t(6, 4, 3, 3, dtype=dtype)
    with pytest.raises(REFUSALS):
        OPS.convolution(x, w, None, **_conv_arguments())


@pytest.mark.parametrize("dtype", [torch.int8, torch.int32], ids=str)
def test_only_the_forward_convolution_takes_narrow_integers(dtype: torch.dtype) -> None:
    x, w, grad = (t(*size, dtype=dtype) for size in ((2, 4, 8, 8), (6, 4, 3, 3), (2, 6, 6, 6)))
    arguments = _conv_arguments()
    assert OPS.convolution(x, w, None, **arguments).dtype == dtype
    with pytest.raises(REFUSALS):
        OPS.convolution_grad_input(grad, w, None, [8, 8], **arguments)
    with pytest.raises(REFUSALS):
        OPS.convolution_grad_weight(grad, x, [3, 3], **arguments)


POOL_CHANGES: list[dict[str, Any]] = [
    {"kernel_size": []},
    {"kernel_size": [2]},
    {"kernel_size": [2, 2, 2]},
    {"kernel_size": [0, 2]},
    {"kernel_size": [2, -2]},
    {"kernel_size": [BIG, 2]},
    {"kernel_size": [9, 9]},
    {"stride": [0]},
    {"stride": [0, 1]},
    {"stride": [1, -1]},
    {"stride": [1, 1, 1]},
    {"padding": []},
    {"padding": [2]},
    {"padding": [-1, 0]},
    {"padding": [2, 2]},
    {"padding": [BIG, BIG]},
]


@pytest.mark.parametrize("changes", POOL_CHANGES, ids=str)
def test_pools_refuse_bad_geometry(changes: dict[str, Any]) -> None:
    x, grad = t(2, 4, 8, 8), t(2, 4, 4, 4)
    good = {"kernel_size": [2, 2], "stride": [2, 2], "padding": [0, 0], "ceil_mode": False}
    arguments = {**good, **changes}
    average = {**arguments, "count_include_pad": True, "divisor_override": None}
    for call in (
        lambda: OPS.max_pool(x, **arguments, dilation=[1, 1]),
        lambda: OPS.max_pool_with_indices(x, **arguments, dilation=[1, 1]),
        lambda: OPS.max_pool_with_taps(x, **arguments, dilation=[1, 1]),
        lambda: OPS.max_pool_taps_backward(grad, grad.byte(), [8, 8], **arguments, dilation=[1, 1]),
        lambda: OPS.avg_pool(x, **average),
        lambda: OPS.avg_pool_backward(grad, [8, 8], **average),
    ):
        with pytest.raises(REFUSALS):
            call()


@pytest.mark.parametrize("dilation", [[], [0], [0, 1], [1, -1], [BIG, 1], [8, 8]], ids=str)
def test_max_pools_refuse_bad_dilation(dilation: list[int]) -> None:
    for pool in (OPS.max_pool, OPS.max_pool_with_indices, OPS.max_pool_with_taps):
        with pytest.raises(REFUSALS):
            pool(t(2, 4, 8, 8), [2, 2], [2, 2], [0, 0], dilation, False)


@pytest.mark.parametrize(
    "windows", [([3], [3], [0], [1]), ([4], [1], [0], [1]), ([2], [2], [0], [2])]
)
def test_taps_are_of_small_windows(windows: tuple[list[int], ...]) -> None:
    with pytest.raises(RuntimeError, match="Expected stride 1 or 2, a kernel of at most three"):
        OPS.max_pool_with_taps(t(2, 4, 8), *windows, False)


def test_taps_are_bytes_of_the_sizes_of_the_gradient() -> None:
    windows = ([2, 2], [2, 2], [0, 0], [1, 1], False)
    for taps in (torch.zeros(2, 4, 4, 4, dtype=torch.int64), torch.zeros(2, 4, 4, 3).byte()):
        with pytest.raises(RuntimeError, match="Expected taps of type uint8 and sizes"):
            OPS.max_pool_taps_backward(t(2, 4, 4, 4), taps, [8, 8], *windows)


def test_average_refuses_a_zero_divisor() -> None:
    for call in (
        lambda: OPS.avg_pool(t(2, 4, 8, 8), [2, 2], [2, 2], [0, 0], False, True, 0),
        lambda: OPS.avg_pool_backward(
            t(2, 4, 4, 4), [8, 8], [2, 2], [2, 2], [0, 0], False, True, 0
        ),
    ):
        with pytest.raises(REFUSALS):
            call()


HOSTILE = [-1, 64, -(2**63), 2**63 - 1, 2**31, -(2**31), 2**32, 10**12]


@pytest.mark.devices("cpu")
@pytest.mark.parametrize("index", HOSTILE)
@pytest.mark.parametrize("position", [0, 7, 31], ids=lambda position: f"at {position}")
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=str)
def test_hostile_indices_are_refused(
    index: int, position: int, layout: torch.memory_format
) -> None:
    where = indices(1, 2, 4, 4)
    where.view(-1)[position] = index
    where = where.contiguous(memory_format=layout)
    values = t(1, 2, 4, 4).contiguous(memory_format=layout)
    for call in (
        lambda: OPS.max_unpool(values, where, [8, 8]),
        lambda: OPS.max_pool_backward(values, where, [8, 8]),
        lambda: OPS.max_pool_gather(t(1, 2, 64), where.reshape(1, 2, 16)),
    ):
        with pytest.raises(REFUSALS):
            call()


@pytest.mark.parametrize("dtype", [torch.int32, torch.int16, torch.float32, torch.bool], ids=str)
def test_indices_of_another_dtype_are_refused(dtype: torch.dtype) -> None:
    where = indices(1, 2, 4, 4).to(dtype)
    for call in (
        lambda: OPS.max_unpool(t(1, 2, 4, 4), where, [8, 8]),
        lambda: OPS.max_pool_backward(t(1, 2, 4, 4), where, [8, 8]),
        lambda: OPS.max_pool_gather(t(1, 2, 64), where.reshape(1, 2, 16)),
    ):
        with pytest.raises(REFUSALS):
            call()


@pytest.mark.parametrize(
    "shape",
    [(1, 2, 4, 3), (1, 3, 4, 4), (2, 2, 4, 4), (2, 4, 4), (4,), (), (1, 1, 2, 4, 4)],
    ids=str,
)
def test_indices_of_another_shape_are_refused(shape: tuple[int, ...]) -> None:
    for call in (
        lambda: OPS.max_unpool(t(1, 2, 4, 4), indices(*shape), [8, 8]),
        lambda: OPS.max_pool_backward(t(1, 2, 4, 4), indices(*shape), [8, 8]),
    ):
        with pytest.raises(REFUSALS):
            call()


def test_gather_refuses_other_planes() -> None:
    for shape in ((1, 3, 16), (2, 2, 16), (2, 16), (16,), (), (1, 2, 4, 4), (1, 2, 2, 4, 4, 1)):
        with pytest.raises(REFUSALS):
            OPS.max_pool_gather(t(1, 2, 64), indices(*shape))


SIZES: list[list[int]] = [[], [8], [8, 8, 8, 8], [-8, 8], [8, -1], [BIG, BIG], [2**63 - 1, 2]]


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_bad_sizes_are_refused(size: list[int]) -> None:
    grad = t(1, 2, 4, 4)
    calls: list[Callable[[], Any]] = [
        lambda: OPS.max_unpool(grad, indices(1, 2, 4, 4), size),
        lambda: OPS.max_pool_backward(grad, indices(1, 2, 4, 4), size),
        lambda: OPS.avg_pool_backward(grad, size, [2, 2], [2, 2], [0, 0], False, True, None),
        lambda: OPS.adaptive_avg_pool_backward(grad, size),
        lambda: OPS.adaptive_avg_pool(grad, size),
        lambda: OPS.adaptive_max_pool(grad, size),
        lambda: OPS.fractional_max_pool(grad, [2, 2], size, torch.rand(1, 2, 2)),
        lambda: OPS.fractional_max_pool(grad, size, [2, 2], torch.rand(1, 2, 2)),
    ]
    for call in calls:
        with pytest.raises(REFUSALS):
            call()


@pytest.mark.parametrize("shape", [(1, 2, 3, 3), (1, 2, 5, 4), (4,), (), (1, 1, 2, 4, 4)], ids=str)
def test_average_backward_refuses_a_grad_output_of_another_shape(shape: tuple[int, ...]) -> None:
    with pytest.raises(REFUSALS):
        OPS.avg_pool_backward(t(*shape), [8, 8], [2, 2], [2, 2], [0, 0], False, True, None)


@pytest.mark.parametrize("sample", [-0.5, 1.5, float("nan"), float("inf"), -1e30])
@pytest.mark.parametrize("rank", [2, 3])
def test_hostile_random_samples_stay_in_the_input(sample: float, rank: int) -> None:
    # torch trusts them. A refusal is as good as an answer, reading elsewhere is not.
    x = torch.full((1, 2, *(8,) * rank), 5.0)
    samples = torch.full((1, 2, rank), sample)
    try:
        values, where = OPS.fractional_max_pool(x, [2] * rank, [4] * rank, samples)
    except REFUSALS:
        return
    assert torch.equal(values, torch.full_like(values, 5.0))
    assert where.min() >= 0
    assert where.max() < 8**rank


def test_operators_refuse_what_is_no_tensor() -> None:
    for call in (
        lambda: OPS.convolution(None, t(6, 4, 3, 3), None, **_conv_arguments()),
        lambda: OPS.convolution(t(2, 4, 8, 8), None, None, **_conv_arguments()),
        lambda: OPS.max_pool(None, [2, 2], [2, 2], [0, 0], [1, 1], False),
        lambda: OPS.adaptive_avg_pool(t(1, 2, 4, 4), None),
        lambda: OPS.max_unpool(t(1, 2, 4, 4), None, [8, 8]),
    ):
        with pytest.raises(REFUSALS):
            call()


def _without_a_tensor() -> list[Bad]:
    """None where a tensor is required; torch's own Python code trips over some of these."""
    return [
        bad("max_unpool2d", t(1, 2, 4, 4), None, 2),
        bad("adaptive_max_pool2d", None, 2),
        bad("adaptive_avg_pool3d", None, 2),
        bad("fractional_max_pool2d", None, 2, output_size=2),
    ]


@pytest.mark.parametrize("row", _without_a_tensor(), ids=str)
def test_none_is_a_type_error(row: Bad) -> None:
    with pytest.raises(TypeError):
        row.call(ours)


@pytest.mark.parametrize("rank", [1, 2, 3])
def test_zero_input_channels_are_unsupported(rank: int) -> None:
    # torch gives a result of zero channels here, whatever the weight says.
    x, w = t(2, 0, *(5,) * rank), t(3, 0, *(3,) * rank)
    with pytest.raises(UnsupportedError, match="zero input channels"):
        getattr(ours, f"conv{rank}d")(x, w)
