"""The grid of cases on which every operator is compared with torch.

One table serves `cnnops check`, which runs it on the machine at hand, and the test suite. A case is
a description: shapes, options and layouts; `cnnops.check.reference` makes tensors of it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

FLOATS = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
WITH_INT64 = (*FLOATS, torch.int64)
INTEGERS = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8)

#: Sizes of the planes of most cases: odd, unequal, and larger than any kernel of the grid.
PLANES: Mapping[int, tuple[int, ...]] = {1: (29,), 2: (13, 11), 3: (7, 9, 8)}


@dataclass(frozen=True)
class Case:
    """One call of one function of `cnnops.functional` and `torch.nn.functional`.

    Attributes:
        function: its name in both namespaces.
        input: shape of the input, (N, C, *spatial) or unbatched (C, *spatial).
        options: its keyword arguments, tensors excepted.
        weight: shape of the weight for convolutions, empty for pooling.
        bias: whether a bias is passed.
        layout: how the input lies in memory, one of `reference.LAYOUTS`.
        weight_layout: the same for the weight.
        grad_layout: the same for the gradient that comes back to the output.
        values: what the input holds, one of `reference.VALUES`.
        dtypes: the dtypes this case is defined for.

    """

    function: str
    input: tuple[int, ...]
    options: Mapping[str, Any] = field(default_factory=dict)
    weight: tuple[int, ...] = ()
    bias: bool = False
    layout: str = "contiguous"
    weight_layout: str = "contiguous"
    grad_layout: str = "contiguous"
    values: str = "normal"
    dtypes: tuple[torch.dtype, ...] = FLOATS

    @property
    def rank(self) -> int:
        """The number of spatial axes, which ends the function's name: conv2d has 2."""
        return int(self.function[-2])

    @property
    def name(self) -> str:
        """What tells this case from every other, short enough for a line of a report."""
        parts = ["x".join(map(str, self.input))]
        if self.weight:
            parts.append("w" + "x".join(map(str, self.weight)))
        if self.bias:
            parts.append("bias")
        for key, value in self.options.items():
            text = "x".join(map(str, value)) if isinstance(value, tuple) else str(value)
            parts.append(f"{key}={text}")
        if self.layout != "contiguous":
            parts.append(self.layout)
        if self.weight_layout != "contiguous":
            parts.append(f"weight-{self.weight_layout}")
        if self.grad_layout != "contiguous":
            parts.append(f"grad-{self.grad_layout}")
        if self.values != "normal":
            parts.append(self.values)
        return f"{self.function} {' '.join(parts)}"

    @property
    def transposed(self) -> bool:
        """Whether the function is one of conv_transpose1d, 2d and 3d."""
        return self.function.startswith("conv_transpose")

    @property
    def picks(self) -> bool:
        """Whether each output is a copy of one input, as in all max pooling: results are exact."""
        return "max" in self.function

    @property
    def window(self) -> int:
        """The most inputs that one output, or one gradient entry, of a pooling case sums."""
        spatial = self.input[-self.rank :]
        if "kernel_size" in self.options:
            return math.prod(_tuple(self.options["kernel_size"], self.rank))
        sizes = _tuple(self.options["output_size"], self.rank)
        pairs = [(i, i if o is None else o) for i, o in zip(spatial, sizes, strict=True)]
        return math.prod(max(i // max(o, 1), o // max(i, 1)) + 2 for i, o in pairs)


def _tuple(value: Any, rank: int) -> tuple[Any, ...]:
    """`value` once per spatial axis, as torch expands the int arguments of its functions."""
    return tuple(value) if isinstance(value, tuple) else (value,) * rank


def _conv(
    shape: tuple[int, ...],
    out_channels: int,
    kernel: int | tuple[int, ...],
    *,
    unbatched: bool = False,
    transposed: bool = False,
    bias: bool = True,
    layout: str = "contiguous",
    weight_layout: str = "contiguous",
    grad_layout: str = "contiguous",
    dtypes: tuple[torch.dtype, ...] = FLOATS,
    **options: Any,
) -> Case:
    """A convolution of an input of `shape` (N, C, *spatial), its weight's shape worked out."""
    rank = len(shape) - 2
    groups = options.get("groups", 1)
    if transposed:
        channels = (shape[1], out_channels // groups)
    else:
        channels = (out_channels, shape[1] // groups)
    return Case(
        function=f"conv_transpose{rank}d" if transposed else f"conv{rank}d",
        input=shape[1:] if unbatched else shape,
        options=options,
        weight=(*channels, *_tuple(kernel, rank)),
        bias=bias,
        layout=layout,
        weight_layout=weight_layout,
        grad_layout=grad_layout,
        dtypes=dtypes,
    )


def _mixed(rank: int, *values: int) -> tuple[int, ...]:
    """The first `rank` of `values`: one per spatial axis."""
    return values[:rank]


def _layouts(rank: int) -> tuple[str, ...]:
    """Layouts of a batched tensor other than contiguous; 3-d tensors have no channels_last."""
    strided = ("sliced", "transposed", "expanded")
    return strided if rank == 1 else ("channels_last", *strided)


def _convolutions_of_rank(rank: int) -> Iterator[Case]:
    plane = PLANES[rank]
    shape = (2, 3, *plane)

    for kernel in (1, 2, 3, 4, 5, 7):
        yield _conv(shape, 5, kernel, padding=kernel // 2)
    for stride in (1, 2, 3, 4):
        yield _conv(shape, 5, 3, stride=stride, bias=False)
    for dilation in (2, 3):
        yield _conv(shape, 5, 3, dilation=dilation, padding=dilation)
        yield _conv(shape, 5, 3, dilation=dilation, padding=1, stride=2)
    for padding in (0, 1, 2, _mixed(rank, 1, 2, 0), "valid", "same"):
        yield _conv(shape, 4, 3, padding=padding)
    # 'same' under an even effective kernel pads one more at the end than at the beginning.
    yield _conv(shape, 4, 4, padding="same")
    yield _conv(shape, 4, _mixed(rank, 2, 4, 3), padding="same", dilation=_mixed(rank, 3, 1, 2))
    yield _conv(
        shape,
        4,
        _mixed(rank, 3, 2, 1),
        stride=_mixed(rank, 2, 3, 1),
        padding=_mixed(rank, 2, 1, 0),
        dilation=_mixed(rank, 1, 2, 3),
    )
    # Kernels larger than the plane: most or all of their taps fall on padding.
    yield _conv((2, 3, *(2,) * rank), 4, 5, padding=2)
    yield _conv((2, 3, *(1,) * rank), 4, 3, padding=1)
    yield _conv((1, 2, *(3,) * rank), 3, 3, padding=4, stride=2)

    for channels, out_channels in ((1, 1), (1, 5), (3, 17), (5, 64), (17, 3), (64, 5), (64, 64)):
        yield _conv((1, channels, *plane), out_channels, 3, padding=1)
    for layout in _layouts(rank):
        yield _conv(shape, 5, 3, padding=1, layout=layout)
        yield _conv(shape, 5, 3, padding=1, stride=2, weight_layout=layout)
        yield _conv(shape, 5, 3, padding=1, grad_layout=layout)
    if rank > 1:
        last: dict[str, Any] = {"layout": "channels_last"}
        both: dict[str, Any] = {
            **last,
            "weight_layout": "channels_last",
            "grad_layout": "channels_last",
        }
        for channels, out_channels in ((1, 4), (5, 17), (17, 5), (64, 64)):
            yield _conv((2, channels, *plane), out_channels, 3, padding=1, **last)
        yield _conv(shape, 8, 1, **both)
        yield _conv(shape, 8, 3, padding=1, **both)
        yield _conv((2, 8, *plane), 12, 3, stride=2, dilation=2, padding=2, groups=4, **both)
        yield _conv((2, 17, *plane), 17, 3, padding=1, groups=17, **both)
        yield _conv((2, 17, *plane), 34, 5, padding=2, stride=2, groups=17, **last)

    # Grouped with odd channel counts per group, depthwise, depthwise with a multiplier.
    for channels, out_channels, groups in ((6, 10, 2), (15, 9, 3), (34, 34, 2), (64, 64, 16)):
        yield _conv((2, channels, *plane), out_channels, 3, padding=1, groups=groups)
    for channels in (1, 3, 5, 17, 64):
        yield _conv((2, channels, *plane), channels, 3, padding=1, groups=channels)
    for multiplier in (2, 3):
        yield _conv((2, 5, *plane), 5 * multiplier, 3, padding=1, groups=5)
    yield _conv((2, 5, *plane), 5, 3, padding=1, groups=5, stride=2)
    yield _conv((2, 5, *plane), 5, 3, padding=2, groups=5, dilation=2)
    yield _conv((2, 5, *plane), 5, 7, padding="same", groups=5)
    yield _conv((2, 5, *plane), 10, 2, stride=3, groups=5, bias=False, layout="sliced")

    yield _conv(shape, 5, 3, unbatched=True)
    yield _conv((1, 6, *plane), 4, 3, groups=2, padding="same", unbatched=True)
    yield _conv((0, 3, *plane), 5, 3)
    yield _conv((7, 3, *plane), 5, 3, stride=2)
    yield _conv(shape, 5, 3, padding=1, stride=2, dtypes=(torch.int64,))
    yield _conv((2, 4, *plane), 6, 2, groups=2, bias=False, dtypes=INTEGERS)


def _convolutions() -> Iterator[Case]:
    for rank in PLANES:
        yield from _convolutions_of_rank(rank)

    # Factorised and very long kernels.
    yield _conv((2, 5, 12, 12), 6, (1, 7), padding=(0, 3))
    yield _conv((2, 5, 12, 12), 6, (7, 1), padding=(3, 0))
    yield _conv((1, 3, 40, 40), 8, 11, stride=4, padding=2)
    yield _conv((1, 3, 35, 35), 8, 7, stride=2, padding=3)
    yield _conv((1, 8, 20, 20), 8, 15, padding=7, groups=8)
    yield _conv((1, 2, 300), 3, 65, padding=32)

    # Pixel counts around the widths of vectors and of register blocks.
    for width in (15, 16, 17, 31, 32, 33, 47, 48, 49, 63, 64, 65, 96, 97):
        yield _conv((1, 5, width), 9, 1)
        yield _conv((1, 2, width), 7, 3, padding=1)
    for side in (4, 7, 8):
        yield _conv((3, 20, side, side), 24, 1)
        yield _conv((3, 20, side, side), 24, 3, padding=1)
    for width in (14, 28, 56):
        yield _conv((1, 6, 5, width), 6, 3, padding=1, groups=6)
        yield _conv((1, 6, 5, width), 6, 3, padding=1, groups=6, layout="channels_last")

    # Reductions and planes beyond one cache block.
    for channels in (255, 256, 257, 700):
        yield _conv((1, channels, 6, 6), 7, 1)
    yield _conv((2, 96, 8, 8), 50, 3, padding=1)
    yield _conv((2, 96, 8, 8), 50, 3, padding=1, layout="channels_last")
    yield _conv((1, 3, 70, 70), 4, 3, padding=1)
    yield _conv((2, 520, 5, 5), 6, 1, layout="channels_last", weight_layout="channels_last")
    yield _conv((1, 8, 5000), 3, 3, padding=1)
    yield _conv((1, 2, 3, 2049), 2, 3, padding=1, groups=2)


def _transposed_of_rank(rank: int) -> Iterator[Case]:
    plane = {1: (11,), 2: (6, 5), 3: (4, 3, 5)}[rank]
    shape = (2, 3, *plane)

    def conv(*arguments: Any, **options: Any) -> Case:
        return _conv(*arguments, transposed=True, **options)

    for kernel in (1, 2, 3, 4, 5, 7):
        yield conv(shape, 5, kernel)
    for stride in (2, 3, 4):
        for kernel in (1, 2, 3, 5):
            yield conv(shape, 4, kernel, stride=stride)
        yield conv(shape, 4, 3, stride=stride, padding=1, output_padding=stride - 1)
    for padding in (1, 2):
        yield conv(shape, 4, 3, padding=padding, bias=False)
    yield conv(shape, 4, 3, dilation=2)
    yield conv(shape, 4, 3, dilation=2, stride=2, padding=1, output_padding=1)
    yield conv(shape, 4, 2, dilation=3, output_padding=2)
    yield conv(
        shape,
        4,
        _mixed(rank, 3, 4, 2),
        stride=_mixed(rank, 2, 3, 1),
        padding=_mixed(rank, 1, 0, 0),
        dilation=_mixed(rank, 1, 2, 3),
        output_padding=_mixed(rank, 1, 2, 0),
    )
    for channels, out_channels in ((1, 1), (1, 17), (5, 3), (17, 5), (64, 17), (17, 64)):
        yield conv((1, channels, *plane), out_channels, 3, stride=2, padding=1)
    for channels, out_channels, groups in ((6, 10, 2), (15, 9, 3), (5, 5, 5), (5, 15, 5)):
        for stride in (1, 2):
            yield conv((2, channels, *plane), out_channels, 3, groups=groups, stride=stride)
    for layout in _layouts(rank):
        yield conv(shape, 5, 3, padding=1, layout=layout)
        yield conv(shape, 5, 3, stride=2, weight_layout=layout)
        yield conv(shape, 5, 3, stride=2, grad_layout=layout)
    if rank > 1:
        last: dict[str, Any] = {"layout": "channels_last", "grad_layout": "channels_last"}
        yield conv((2, 17, *plane), 20, 3, stride=2, padding=1, **last)
        yield conv((2, 8, *plane), 12, 4, stride=2, padding=1, groups=4, **last)
        yield conv((2, 8, *plane), 8, 3, padding=1, groups=8, **last)
    yield conv(shape, 5, 3, stride=2, unbatched=True)
    yield conv((0, 3, *plane), 5, 3, stride=2)
    yield conv(shape, 5, 3, stride=2, dtypes=(torch.int64,))
    yield conv((2, 4, *plane), 6, 2, groups=2, bias=False, dtypes=(torch.int64,))


def _transposed() -> Iterator[Case]:
    for rank in PLANES:
        yield from _transposed_of_rank(rank)
    yield _conv((1, 64, 8, 8), 32, 4, stride=2, padding=1, transposed=True)
    yield _conv((1, 300, 7, 7), 21, 2, stride=2, transposed=True)
    yield _conv((1, 4, 33, 31), 3, 16, stride=8, padding=4, transposed=True)


def _pool(function: str, shape: tuple[int, ...], *, unbatched: bool = False, **fields: Any) -> Case:
    """A pooling case: fields of `Case` are taken from `fields`, the rest are options."""
    own = {key: fields.pop(key) for key in ("layout", "grad_layout", "values", "dtypes")
           if key in fields}  # fmt: skip
    return Case(function, shape[1:] if unbatched else shape, options=fields, **own)


#: Planes that fill a register or do not, of more pixels than are transposed at a time: blocks are
#: cut along every axis.
_BLOCKS = {1: (1, 20, 2600), 2: (1, 20, 50, 61), 3: (2, 9, 12, 15, 16)}
#: Windows of rows that few planes have: overlapping, apart, and wider than a register.
_ROW_WINDOWS = ((3, 1), (2, 3), (5, 5), (4, 9), (7, 7), (16, 16), (19, 2), (31, 17), (40, 40))


def _max_pools() -> Iterator[Case]:
    for rank, plane in PLANES.items():
        function = f"max_pool{rank}d"
        shape = (2, 3, *plane)
        for kernel in (1, 2, 3, 5):
            yield _pool(function, shape, kernel_size=kernel)
            yield _pool(function, shape, kernel_size=kernel, stride=1, padding=kernel // 2)
        for stride in (2, 3, 4):
            yield _pool(function, shape, kernel_size=3, stride=stride, padding=1)
            yield _pool(function, shape, kernel_size=3, stride=stride, ceil_mode=True)
        yield _pool(function, shape, kernel_size=2, stride=2, padding=1, ceil_mode=True)
        for dilation in (2, 3):
            yield _pool(function, shape, kernel_size=3, stride=1, dilation=dilation)
            yield _pool(
                function, shape, kernel_size=3, stride=2, padding=1, dilation=dilation,
                ceil_mode=True,
            )  # fmt: skip
        yield _pool(
            function,
            shape,
            kernel_size=_mixed(rank, 3, 2, 1),
            stride=_mixed(rank, 1, 3, 2),
            padding=_mixed(rank, 1, 0, 0),
            dilation=_mixed(rank, 2, 1, 3),
        )
        for layout in _layouts(rank):
            yield _pool(function, shape, kernel_size=3, stride=2, padding=1, layout=layout)
            yield _pool(function, shape, kernel_size=2, grad_layout=layout)
        for values in ("ties", "nan", "infinite"):
            yield _pool(function, shape, kernel_size=3, stride=2, padding=1, values=values)
            if rank > 1:
                yield _pool(
                    function, shape, kernel_size=3, stride=2, padding=1, values=values,
                    layout="channels_last",
                )  # fmt: skip
        yield _pool(function, shape, kernel_size=3, unbatched=True)
        yield _pool(function, (0, 3, *plane), kernel_size=3)
        for channels in (1, 17, 64):
            yield _pool(function, (2, channels, *plane), kernel_size=3, stride=2)
            if rank > 1:
                yield _pool(
                    function, (2, channels, *plane), kernel_size=3, stride=2, padding=1,
                    layout="channels_last",
                )  # fmt: skip
        yield _pool(
            function, shape, kernel_size=3, stride=2, padding=1, values="ties", dtypes=INTEGERS
        )
        if rank > 1:  # torch's channels_last kernel for int8 takes planes of at most 127 pixels
            yield _pool(
                function, (2, 33, *(4,) * rank), kernel_size=2, values="ties", dtypes=INTEGERS,
                layout="channels_last",
            )  # fmt: skip
    for width in (15, 16, 17, 31, 32, 33, 63, 64, 65, 129):
        yield _pool("max_pool2d", (1, 2, 5, width), kernel_size=2)
        yield _pool("max_pool2d", (1, 2, 5, width), kernel_size=3, stride=1, padding=1)
        yield _pool("max_pool2d", (1, width, 5, 4), kernel_size=3, stride=2, layout="channels_last")
    for rank, shape in _BLOCKS.items():
        function = f"max_pool{rank}d"
        yield _pool(function, shape, kernel_size=2)
        yield _pool(function, shape, kernel_size=5, stride=4)
        yield _pool(function, shape, kernel_size=3, stride=2, padding=1, dilation=2)
        for values in ("ties", "nan"):
            yield _pool(function, shape, kernel_size=3, stride=1, padding=1, values=values)
            yield _pool(
                function, shape, kernel_size=3, stride=3, padding=1, ceil_mode=True, values=values
            )
        yield _pool(
            function, shape, kernel_size=3, stride=2, padding=1, values="ties", dtypes=INTEGERS
        )
    for kernel, stride in _ROW_WINDOWS:
        yield _pool("max_pool1d", (1, 2, 300), kernel_size=kernel, stride=stride, padding=1)
        yield _pool("max_pool2d", (1, 2, 9, 70), kernel_size=(3, kernel), stride=(2, stride))
    for dilation in (2, 7, 15):
        yield _pool("max_pool1d", (1, 2, 100), kernel_size=3, padding=1, dilation=dilation)


def _avg_pools() -> Iterator[Case]:
    for rank, plane in PLANES.items():
        function = f"avg_pool{rank}d"
        shape = (2, 3, *plane)
        for kernel in (1, 2, 3, 5):
            yield _pool(function, shape, kernel_size=kernel)
            for include in (True, False):
                yield _pool(
                    function, shape, kernel_size=kernel, stride=1, padding=kernel // 2,
                    count_include_pad=include,
                )  # fmt: skip
        for stride in (2, 3, 4):
            for include in (True, False):
                yield _pool(
                    function, shape, kernel_size=3, stride=stride, padding=1, ceil_mode=True,
                    count_include_pad=include,
                )  # fmt: skip
        if rank > 1:
            for divisor in (1, 7, -3):
                yield _pool(function, shape, kernel_size=3, padding=1, divisor_override=divisor)
        yield _pool(
            function,
            shape,
            kernel_size=_mixed(rank, 3, 2, 4),
            stride=_mixed(rank, 1, 3, 2),
            padding=_mixed(rank, 1, 0, 2),
            ceil_mode=True,
            count_include_pad=False,
        )
        for layout in _layouts(rank):
            yield _pool(function, shape, kernel_size=3, stride=2, padding=1, layout=layout)
            yield _pool(function, shape, kernel_size=2, grad_layout=layout)
        yield _pool(function, shape, kernel_size=3, unbatched=True)
        yield _pool(function, (0, 3, *plane), kernel_size=3)
        for channels in (1, 17, 64):
            yield _pool(function, (2, channels, *plane), kernel_size=3, stride=2)
            if rank > 1:
                yield _pool(
                    function, (2, channels, *plane), kernel_size=3, stride=2, padding=1,
                    layout="channels_last",
                )  # fmt: skip
        yield _pool(function, shape, kernel_size=3, stride=2, padding=1, dtypes=(torch.int64,))
    for width in (15, 16, 17, 31, 32, 33, 63, 64, 65, 129):
        yield _pool("avg_pool2d", (1, 2, 5, width), kernel_size=2)
        yield _pool("avg_pool2d", (1, 2, 5, width), kernel_size=3, stride=1, padding=1)
        yield _pool("avg_pool2d", (1, width, 5, 4), kernel_size=3, stride=2, layout="channels_last")
    for rank, shape in _BLOCKS.items():
        function = f"avg_pool{rank}d"
        yield _pool(function, shape, kernel_size=2)
        yield _pool(function, shape, kernel_size=2, stride=5)
        yield _pool(function, shape, kernel_size=3, stride=2, padding=1, dtypes=(torch.int64,))
        for include in (True, False):
            yield _pool(
                function, shape, kernel_size=3, stride=1, padding=1, count_include_pad=include
            )
        yield _pool(
            function, shape, kernel_size=5, stride=4, padding=2, ceil_mode=True,
            count_include_pad=False,
        )  # fmt: skip
    for kernel, stride in _ROW_WINDOWS:
        for include in (True, False):
            yield _pool(
                "avg_pool1d", (1, 2, 300), kernel_size=kernel, stride=stride, padding=1,
                count_include_pad=include,
            )  # fmt: skip
        yield _pool("avg_pool2d", (1, 2, 9, 70), kernel_size=(3, kernel), stride=(2, stride))
    yield _pool("avg_pool2d", (1, 2, 40, 50), kernel_size=(40, 50))


def _adaptive_pools() -> Iterator[Case]:
    for kind in ("avg", "max"):
        for rank, plane in PLANES.items():
            function = f"adaptive_{kind}_pool{rank}d"
            shape = (2, 3, *plane)
            for size in (1, 2, 3, 5, 12):  # 12 is larger than some planes: windows repeat
                yield _pool(function, shape, output_size=size)
            yield _pool(function, shape, output_size=plane)
            if rank > 1:
                yield _pool(function, shape, output_size=(None, *_mixed(rank - 1, 3, 2)))
                yield _pool(function, shape, output_size=_mixed(rank, 2, 5, 3))
                yield _pool(function, (2, 17, *plane), output_size=1, layout="channels_last")
                yield _pool(function, (2, 17, *plane), output_size=3, layout="channels_last")
            for layout in _layouts(rank):
                yield _pool(function, shape, output_size=4, layout=layout)
                yield _pool(function, shape, output_size=4, grad_layout=layout)
            yield _pool(function, shape, output_size=4, unbatched=True)
            yield _pool(function, (0, 3, *plane), output_size=4)
            if kind == "max":
                for values in ("ties", "nan", "infinite"):
                    yield _pool(function, shape, output_size=4, values=values)
    for kind in ("avg", "max"):
        for rank, shape in _BLOCKS.items():
            yield _pool(f"adaptive_{kind}_pool{rank}d", shape, output_size=7)
        for width in (5, 40, 150, 400):
            yield _pool(f"adaptive_{kind}_pool1d", (1, 2, 300), output_size=width)


def _lp_pools() -> Iterator[Case]:
    for rank, plane in PLANES.items():
        function = f"lp_pool{rank}d"
        shape = (2, 3, *plane)
        for norm in (1.0, 2.0, 3.0, 1.5):
            yield _pool(function, shape, norm_type=norm, kernel_size=3, values="positive")
        yield _pool(function, shape, norm_type=2.0, kernel_size=2)
        yield _pool(function, shape, norm_type=2.0, kernel_size=3, stride=2, ceil_mode=True)
        yield _pool(function, shape, norm_type=2.0, kernel_size=2, stride=3, layout="sliced")
        yield _pool(function, shape, norm_type=2.0, kernel_size=2, unbatched=True)
        if rank > 1:
            yield _pool(function, shape, norm_type=2.0, kernel_size=_mixed(rank, 3, 2, 1))
            yield _pool(function, shape, norm_type=2.0, kernel_size=2, layout="channels_last")


def _fractional_pools() -> Iterator[Case]:
    for rank in (2, 3):
        function = f"fractional_max_pool{rank}d"
        plane = PLANES[rank]
        shape = (2, 3, *plane)
        yield _pool(function, shape, kernel_size=2, output_size=5)
        yield _pool(function, shape, kernel_size=3, output_size=_mixed(rank, 4, 6, 3))
        yield _pool(function, shape, kernel_size=_mixed(rank, 2, 3, 2), output_ratio=(0.5,) * rank)
        yield _pool(function, shape, kernel_size=2, output_size=1)
        yield _pool(function, shape, kernel_size=2, output_size=5, unbatched=True)
        for values in ("ties", "nan"):
            yield _pool(function, shape, kernel_size=3, output_size=4, values=values)
        for layout in _layouts(rank):
            yield _pool(function, shape, kernel_size=2, output_size=4, layout=layout)


def _unpools() -> Iterator[Case]:
    for rank, plane in {1: (12,), 2: (5, 6), 3: (3, 4, 5)}.items():
        function = f"max_unpool{rank}d"
        shape = (2, 3, *plane)
        yield _pool(function, shape, kernel_size=2)
        yield _pool(function, shape, kernel_size=3, stride=2)
        yield _pool(function, shape, kernel_size=3, stride=3, padding=1)
        yield _pool(
            function, shape, kernel_size=2, output_size=tuple(2 * size + 1 for size in plane)
        )
        yield _pool(function, shape, kernel_size=2, unbatched=True)
        for layout in _layouts(rank):
            yield _pool(function, shape, kernel_size=2, layout=layout)
            yield _pool(function, shape, kernel_size=2, grad_layout=layout)
        if rank > 1:
            yield _pool(function, shape, kernel_size=_mixed(rank, 2, 3, 2))


def _unique(cases: Iterator[Case]) -> tuple[Case, ...]:
    """The cases without repetitions, in order; equal names would hide a failing case."""
    return tuple({case.name + str(case.dtypes): case for case in cases}.values())


def _all() -> Iterator[Case]:
    yield from _convolutions()
    yield from _transposed()
    yield from _max_pools()
    yield from _avg_pools()
    yield from _adaptive_pools()
    yield from _lp_pools()
    yield from _fractional_pools()
    yield from _unpools()


#: Every case of every operator.
CASES: tuple[Case, ...] = _unique(_all())
