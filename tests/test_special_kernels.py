"""Kernels for particular shapes: that they are chosen there, and right on every instruction set."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import pytest
import torch
from guarded import guarded
from torch import Tensor

import cnnops
import cnnops.functional as F
from cnnops import _C

# Most shapes with enough channels would be Winograd's: these are the kernels beside it.
pytestmark = pytest.mark.usefixtures("without_winograd")

CHANNELS_LAST = {4: torch.channels_last, 5: torch.channels_last_3d}
PHASES = ("fwd", "bwd_input", "bwd_weight")


@dataclass(frozen=True)
class Shape:
    """A convolution, and the kernels of its three contractions; "" where it does not matter."""

    kernels: tuple[str, str, str]
    image: tuple[int, ...]
    weight: tuple[int, ...]
    options: dict[str, Any] = field(default_factory=dict)
    channels_last: bool = False
    padding_mode: str = "zeros"


GROUPED = ("grouped_planar", "grouped_planar", "weight_grouped_planar")
POINTWISE = ("pointwise_planar", "pointwise_planar", "weight_gemm_planar")
LONG_PLANES = ("pointwise_planar", "pointwise_planar", "weight_pointwise_planar")
FEW = ("few_pixels", "few_pixels", "weight_few_pixels")
FEW_TAPS = ("few_pixels", "", "weight_few_pixels")
HEADS = ("few_channels_last", "", "")
SLIDING = ("grouped_channels_last", "grouped_channels_last", "weight_grouped_channels_last")
SHIFTED = ("shifted_planar", "shifted_planar", "")
TRANSPOSED = ("transposed_planar", "transposed_planar", "")
LAST = ("gemm_channels_last", "gemm_channels_last", "")
STRIPS = ("", "", "weight_gemm_planar")
STRIPS_LAST = ("", "", "weight_gemm_channels_last")
PRODUCTS = ("", "fold_taps_planar", "")
PRODUCTS_LAST = ("", "fold_taps_channels_last", "")
BROADCAST = ("broadcast_pixels", "broadcast_pixels", "weight_broadcast_pixels")
FORWARD_BROADCAST = ("broadcast_pixels", "", "weight_broadcast_pixels")
INTERLEAVED = ("broadcast_pixels", "", "weight_broadcast_pixels")
TURNED = ("", "", "weight_broadcast_pixels")
PHASED = ("", "phased_planar", "")
PHASED_BLOCKS = ("", "phased_blocks", "")
PHASED_LAST = ("", "phased_channels_last", "")
PHASED_ROWS = ("", "phased_rows", "")
GEMM = ("gemm_planar", "", "")
DIRECT = ("direct_planar", "direct_planar", "weight_direct_planar")
DIRECT_WEIGHT = ("", "", "weight_direct_planar")
IN_PLACE = ("depthwise_planar", "depthwise_planar", "")


def _same(padding: int, groups: int) -> dict[str, Any]:
    return {"padding": padding, "groups": groups}


SHAPES = {
    # One pixel and eight; channels that fill no register, blocks of 64 rows, groups, taps.
    "few, one pixel": Shape(FEW, (1, 37, 1, 1), (70, 37, 1, 1)),
    "few, eight images": Shape(FEW, (8, 24, 1, 1), (130, 24, 1, 1)),
    "few, in groups": Shape(FEW, (3, 12, 1, 1), (10, 6, 1, 1), {"groups": 2}),
    "few, two images": Shape(FEW, (2, 600, 1, 1), (65, 600, 1, 1)),
    "few, with taps": Shape(FEW_TAPS, (2, 5, 3, 4), (9, 5, 3, 4)),
    "few, with taps, channels last": Shape(
        FEW_TAPS, (2, 5, 3, 4), (9, 5, 3, 4), channels_last=True
    ),
    "few, with taps in padding": Shape(
        FEW_TAPS,
        (1, 6, 5, 4),
        (7, 6, 3, 3),
        {"padding": 1, "stride": 2},
        channels_last=True,
    ),
    "few, beyond a chunk": Shape(FEW_TAPS, (5, 70, 3, 3), (5, 70, 3, 3)),
    # A single tap with a stride: its phase alone, the rest is zeros (test_plan.py has the kernels).
    "one tap, stride, channels last": Shape(
        ("", "", ""), (1, 130, 9, 8), (70, 130, 1, 1), {"stride": 2}, channels_last=True
    ),
    "one tap, stride, narrow planes": Shape(
        ("", "", ""), (1, 520, 9, 9), (40, 520, 1, 1), {"stride": (2, 3)}
    ),
    # Few output channels: each number of them, parts of tiles and of registers, several parts of
    # the channels, blocks of pixels, groups, taps in padding, steps, 1-d and 3-d.
    "heads, one channel": Shape(HEADS, (2, 70, 5, 7), (1, 70, 1, 1), channels_last=True),
    "heads, two channels": Shape(HEADS, (1, 64, 20, 17), (2, 64, 1, 1), channels_last=True),
    "heads, three channels": Shape(
        HEADS, (2, 50, 9, 7), (3, 50, 3, 3), {"padding": 1}, channels_last=True
    ),
    "heads, four channels": Shape(
        HEADS, (1, 80, 8, 9), (4, 80, 3, 2), {"padding": 1, "stride": (2, 1)}, channels_last=True
    ),
    "heads, in two parts": Shape(HEADS, (1, 203, 11, 13), (7, 203, 1, 1), channels_last=True),
    "heads, in parts of two and three": Shape(
        HEADS, (1, 130, 6, 7), (5, 130, 2, 3), {"dilation": (1, 2)}, channels_last=True
    ),
    "heads, in groups": Shape(
        HEADS, (2, 128, 7, 6), (6, 64, 3, 3), {"groups": 2, "padding": 1}, channels_last=True
    ),
    "heads, in groups of one tap": Shape(
        HEADS, (2, 140, 7, 6), (4, 70, 1, 1), {"groups": 2}, channels_last=True
    ),
    "heads, padding alone": Shape(
        HEADS, (1, 64, 3, 3), (2, 64, 1, 1), {"padding": 2}, channels_last=True
    ),
    "heads, reflecting": Shape(
        ("", "", ""),
        (1, 64, 5, 6),
        (3, 64, 3, 3),
        {"padding": (1, 1), "groups": 1},
        channels_last=True,
        padding_mode="reflect",
    ),
    "heads, more taps than a table of pointers has": Shape(
        HEADS, (1, 16, 46, 57), (1, 16, 46, 46), channels_last=True
    ),
    "heads, 3-d": Shape(
        HEADS, (1, 48, 3, 4, 5), (2, 48, 2, 3, 3), {"padding": 1}, channels_last=True
    ),
    # Whole panels, a part of one and less than a register; K beyond a block; groups; row blocks
    # that share copies; planes of whole pages.
    "pointwise": Shape(POINTWISE, (2, 19, 9, 11), (13, 19, 1, 1)),
    "pointwise, whole registers": Shape(POINTWISE, (1, 40, 8, 16), (17, 40, 1, 1)),
    "pointwise, deep": Shape(POINTWISE, (1, 300, 8, 10), (7, 300, 1, 1)),
    "pointwise, many panels": Shape(LONG_PLANES, (1, 9, 40, 33), (21, 9, 1, 1)),
    "pointwise, small plane": Shape(POINTWISE, (1, 170, 5, 5), (110, 170, 1, 1)),
    "pointwise, row blocks": Shape(POINTWISE, (1, 330, 9, 10), (200, 330, 1, 1)),
    "pointwise, whole pages": Shape(LONG_PLANES, (1, 20, 32, 64), (14, 20, 1, 1)),
    "pointwise, deep and long": Shape(
        ("pointwise_planar", "", STRIPS[2]), (1, 600, 800), (70, 600, 1)
    ),
    "pointwise, in groups": Shape(POINTWISE, (1, 36, 9, 8), (30, 12, 1, 1), {"groups": 3}),
    "pointwise, whole pages of small planes": Shape(POINTWISE, (1, 20, 16, 32), (14, 20, 1, 1)),
    "pointwise, 1-d": Shape(POINTWISE, (2, 20, 75), (11, 20, 1)),
    "pointwise, 3-d": Shape(POINTWISE, (1, 20, 3, 5, 6), (11, 20, 1, 1, 1)),
    # Long planes: parts of tiles and of registers, chunks, splits, blocks of rows, images, groups.
    "long planes": Shape(LONG_PLANES, (2, 19, 30, 41), (13, 19, 1, 1)),
    "long planes, split": Shape(LONG_PLANES, (3, 7, 40, 60), (5, 7, 1, 1)),
    "long planes, many rows": Shape(LONG_PLANES, (1, 20, 33, 40), (150, 20, 1, 1)),
    "long planes, deep": Shape(LONG_PLANES, (1, 300, 1030), (7, 300, 1)),
    "long planes, two rows": Shape(LONG_PLANES, (1, 66, 64, 64), (2, 66, 1, 1)),
    "long planes, in groups": Shape(LONG_PLANES, (2, 36, 1100), (30, 12, 1), {"groups": 3}),
    # Planes of narrow rows; a last register of channels that overlaps; strides and dilations.
    "narrow depthwise": Shape(GROUPED, (2, 21, 7, 7), (21, 1, 3, 3), {"padding": 1, "groups": 21}),
    "narrow, wide kernel": Shape(
        GROUPED, (1, 16, 9, 14), (16, 1, 5, 9), {"padding": (2, 4), "groups": 16}
    ),
    "rows of many taps, as wide as they are": Shape(
        GROUPED, (1, 16, 40, 41), (16, 1, 31, 31), {"padding": 15, "groups": 16}
    ),
    "narrow, less than two registers": Shape(
        GROUPED, (1, 17, 12, 28), (17, 1, 5, 6), {"padding": 2, "groups": 17}
    ),
    "narrow, stride": Shape(
        (GROUPED[0], PHASED_BLOCKS[1], GROUPED[2]),
        (1, 18, 13, 7),
        (18, 1, 3, 3),
        {"stride": 2, "padding": 1, "groups": 18},
    ),
    "narrow, reflecting with a stride": Shape(
        ("", "", ""),
        (1, 17, 11, 14),
        (17, 1, 3, 5),
        {"padding": (1, 2), "stride": 2, "groups": 17},
        padding_mode="reflect",
    ),
    "narrow, dilation": Shape(
        GROUPED, (1, 17, 9, 8), (17, 1, 3, 2), {"dilation": (1, 2), "padding": 2, "groups": 17}
    ),
    "narrow, groups of 2": Shape(
        GROUPED, (2, 22, 6, 5), (22, 2, 3, 3), {"padding": 1, "groups": 11}
    ),
    "narrow, groups of 4": Shape(
        GROUPED, (1, 24, 6, 5), (24, 4, 3, 3), {"padding": 1, "groups": 6}
    ),
    "narrow, reflecting": Shape(
        ("", "", ""),
        (1, 17, 7, 6),
        (17, 1, 3, 5),
        {"padding": (1, 2), "groups": 17},
        padding_mode="reflect",
    ),
    # Windows that slide: rows longer and shorter than a window, all padding modes, 3-d.
    "sliding": Shape(
        SLIDING, (2, 19, 6, 21), (19, 1, 3, 3), {"padding": 1, "groups": 19}, channels_last=True
    ),
    "sliding, wide kernel": Shape(
        SLIDING, (1, 5, 4, 7), (5, 1, 1, 11), {"padding": (0, 5), "groups": 5}, channels_last=True
    ),
    "sliding, groups of 2": Shape(
        SLIDING, (1, 18, 5, 9), (18, 2, 3, 3), {"padding": 1, "groups": 9}, channels_last=True
    ),
    "sliding, circular": Shape(
        ("", "", ""),
        (1, 6, 5, 9),
        (6, 1, 3, 4),
        {"padding": (1, 3), "groups": 6},
        True,
        "circular",
    ),
    "sliding, 3-d": Shape(
        SLIDING, (1, 6, 3, 4, 9), (6, 1, 2, 3, 3), {"padding": 1, "groups": 6}, channels_last=True
    ),
    # Few channels: groups of a register and more, one and several tiles of pixels, blocks of rows
    # and of a row, strides, dilations, in place and copied, both layouts.
    "broadcast": Shape(BROADCAST, (2, 32, 9, 13), (32, 16, 3, 3), {"padding": 1, "groups": 2}),
    "broadcast, channels last": Shape(
        BROADCAST, (2, 32, 9, 33), (32, 16, 3, 3), {"padding": 1, "groups": 2}, channels_last=True
    ),
    "broadcast, odd channels": Shape(
        FORWARD_BROADCAST, (1, 42, 7, 31), (54, 21, 3, 2), {"padding": (1, 0), "groups": 2}
    ),
    "broadcast, odd channels, channels last": Shape(
        BROADCAST,
        (1, 42, 7, 31),
        (54, 21, 3, 2),
        {"padding": (1, 0), "groups": 2},
        channels_last=True,
    ),
    "broadcast, many blocks": Shape(
        BROADCAST, (1, 32, 150, 20), (32, 16, 3, 5), {"padding": (1, 2), "groups": 2}
    ),
    "broadcast, many blocks, channels last": Shape(
        BROADCAST, (1, 24, 150, 20), (24, 24, 3, 1), {"padding": (1, 0)}, channels_last=True
    ),
    "broadcast, stride": Shape(
        BROADCAST, (1, 36, 11, 26), (36, 12, 5, 4), {"stride": (2, 3), "padding": 2, "groups": 3}
    ),
    "broadcast, stride, channels last": Shape(
        BROADCAST,
        (2, 36, 11, 26),
        (36, 12, 5, 4),
        {"stride": (2, 3), "padding": 2, "groups": 3},
        channels_last=True,
    ),
    "broadcast, dilation": Shape(
        BROADCAST, (1, 48, 12, 19), (48, 24, 3, 3), {"dilation": (3, 2), "padding": 2, "groups": 2}
    ),
    "broadcast, dilation, channels last": Shape(
        BROADCAST,
        (1, 48, 12, 19),
        (48, 24, 3, 3),
        {"dilation": (3, 2), "padding": 2, "groups": 2},
        channels_last=True,
    ),
    "broadcast, pointwise": Shape(BROADCAST, (3, 19, 9, 11), (75, 19, 1, 1), channels_last=True),
    "broadcast, pointwise, whole registers": Shape(
        BROADCAST, (1, 16, 40, 41), (64, 16, 1, 1), channels_last=True
    ),
    "broadcast, pointwise, few out": Shape(
        BROADCAST, (2, 32, 9, 13), (7, 32, 1, 1), channels_last=True
    ),
    "broadcast, pointwise, fewer out": Shape(
        BROADCAST, (1, 130, 9, 13), (24, 130, 1, 1), channels_last=True
    ),
    "broadcast, pointwise, in groups": Shape(
        BROADCAST, (2, 60, 9, 7), (36, 20, 1, 1), {"groups": 3}, channels_last=True
    ),
    "broadcast, pointwise, stride": Shape(
        FORWARD_BROADCAST, (1, 24, 9, 12), (32, 24, 1, 1), {"stride": 2}, channels_last=True
    ),
    "broadcast, without padding": Shape(FORWARD_BROADCAST, (2, 12, 14, 9), (16, 12, 5, 3)),
    "broadcast, planes interleaved": Shape(
        INTERLEAVED, (2, 3, 19, 27), (64, 3, 5, 4), {"stride": 2, "padding": 2}
    ),
    "broadcast, planes interleaved, without padding": Shape(
        INTERLEAVED, (2, 2, 14, 16), (16, 2, 5, 3)
    ),
    "broadcast, planes interleaved, in groups": Shape(
        INTERLEAVED, (1, 8, 12, 14), (32, 4, 3, 3), {"padding": 1, "groups": 2}
    ),
    "broadcast, planes interleaved, dilation": Shape(
        INTERLEAVED, (1, 3, 12, 17), (54, 3, 3, 3), {"dilation": 2}
    ),
    "broadcast, planes interleaved, many blocks": Shape(
        INTERLEAVED, (1, 3, 700, 20), (32, 3, 3, 5), {"padding": (1, 2)}
    ),
    "broadcast, planes interleaved, 1-d": Shape(
        INTERLEAVED, (3, 4, 45), (48, 4, 6), {"stride": 2, "padding": 3}
    ),
    "broadcast, planes interleaved, 3-d": Shape(
        INTERLEAVED, (1, 3, 4, 6, 13), (16, 3, 2, 3, 3), {"padding": 1}
    ),
    "broadcast, planes interleaved, reflecting": Shape(
        ("", "", ""),
        (1, 3, 9, 12),
        (16, 3, 3, 5),
        {"padding": (1, 2), "groups": 1},
        padding_mode="reflect",
    ),
    "broadcast, 1-d": Shape(BROADCAST, (2, 12, 2100), (32, 12, 5), {"padding": 2}),
    "broadcast, 3-d": Shape(
        BROADCAST, (1, 32, 3, 4, 18), (32, 16, 2, 3, 3), {"padding": 1, "groups": 2}
    ),
    "broadcast, 3-d, channels last": Shape(
        BROADCAST,
        (1, 32, 3, 4, 9),
        (32, 16, 2, 3, 3),
        {"padding": 1, "groups": 2},
        channels_last=True,
    ),
    "broadcast, reflecting": Shape(
        ("", "", ""),
        (1, 32, 7, 20),
        (32, 16, 3, 5),
        {"padding": (1, 2), "groups": 2},
        padding_mode="reflect",
    ),
    "broadcast, circular, channels last": Shape(
        ("", "", ""),
        (1, 32, 7, 20),
        (32, 16, 3, 5),
        {"padding": (1, 2), "groups": 2},
        True,
        "circular",
    ),
    # Few output channels at stride 1: grad, with the taps turned around, is broadcast to registers
    # of input channels. Planes interleaved and not, a single one, padding of all kinds.
    "turned": Shape(TURNED, (2, 37, 9, 13), (3, 37, 3, 3), {"padding": 1}),
    "turned, channels last": Shape(
        TURNED, (2, 37, 9, 13), (3, 37, 3, 3), {"padding": 1}, channels_last=True
    ),
    "turned, one channel": Shape(TURNED, (1, 64, 11, 20), (1, 64, 3, 3), {"padding": (1, 0)}),
    "turned, one channel, channels last": Shape(
        TURNED, (1, 64, 11, 20), (1, 64, 3, 3), {"padding": (1, 0)}, channels_last=True
    ),
    "turned, many channels": Shape(TURNED, (1, 300, 7, 10), (7, 300, 4, 2), {"padding": (0, 1)}),
    "turned, dilation": Shape(
        TURNED, (1, 48, 12, 15), (2, 48, 3, 4), {"dilation": (3, 2), "padding": (4, 1)}
    ),
    "turned, dilation, channels last": Shape(
        TURNED,
        (1, 48, 12, 15),
        (2, 48, 3, 4),
        {"dilation": (3, 2), "padding": (4, 1)},
        channels_last=True,
    ),
    "turned, in groups": Shape(TURNED, (2, 70, 8, 9), (4, 35, 3, 3), {"padding": 1, "groups": 2}),
    "turned, taps in padding": Shape(TURNED, (1, 33, 5, 6), (2, 33, 3, 7), {"padding": (1, 9)}),
    "turned, 1-d": Shape(TURNED, (3, 40, 700), (2, 40, 9), {"padding": 4}),
    "turned, 3-d": Shape(TURNED, (1, 40, 4, 6, 13), (3, 40, 2, 3, 3), {"padding": 1}),
    "turned, 3-d, channels last": Shape(
        TURNED, (1, 40, 4, 6, 13), (3, 40, 2, 3, 3), {"padding": 1}, channels_last=True
    ),
    # Pairs of rows: rows of one, two, three and five registers, odd counts, strides, channels.
    "pairs": Shape(DIRECT, (1, 3, 9, 37), (3, 1, 3, 2), {"padding": 1, "groups": 3}),
    "pairs, wide": Shape(DIRECT, (1, 2, 7, 75), (2, 1, 5, 6), {"padding": 2, "groups": 2}),
    "pairs, two rows": Shape(DIRECT, (1, 3, 2, 30), (3, 1, 3, 2), {"padding": 1, "groups": 3}),
    "pairs, stride": Shape(
        (DIRECT[0], "", DIRECT[2]),
        (1, 3, 11, 41),
        (3, 1, 3, 2),
        {"stride": 2, "padding": 1, "groups": 3},
    ),
    "pairs, dilation": Shape(
        DIRECT, (1, 3, 12, 40), (3, 1, 3, 2), {"dilation": 2, "padding": 2, "groups": 3}
    ),
    "pairs, sum over channels": Shape(
        (DIRECT[0], "", ""), (1, 6, 9, 25), (2, 3, 3, 3), {"padding": 1, "groups": 2}
    ),
    # Long rows: pieces of them; two channels at a time and one; taps in one pass and in three;
    # blocks of channels; strides, dilations, groups, rows of an image.
    "long rows": Shape(DIRECT_WEIGHT, (2, 1, 1300), (17, 1, 3), {"padding": 1}),
    "long rows, all registers": Shape(DIRECT_WEIGHT, (1, 1, 4000), (70, 1, 12), {"stride": 3}),
    "long rows, three passes": Shape(DIRECT_WEIGHT, (1, 1, 4000), (7, 1, 29), {"stride": 3}),
    "long rows, two channels": Shape(DIRECT_WEIGHT, (1, 2, 1100), (9, 2, 9), {"padding": 4}),
    "long rows, dilation": Shape(DIRECT_WEIGHT, (2, 1, 600), (20, 1, 10), {"dilation": 4}),
    "long rows, in groups": Shape(DIRECT_WEIGHT, (1, 4, 600), (20, 2, 5), {"groups": 2}),
    "long rows, wrapping": Shape(
        DIRECT_WEIGHT,
        (1, 1, 525),
        (18, 1, 7),
        {"padding": (3,), "groups": 1},
        padding_mode="circular",
    ),
    "long rows of an image": Shape(
        DIRECT_WEIGHT, (2, 1, 5, 300), (17, 1, 1, 11), {"stride": (2, 1)}
    ),
    # Windows of kernel rows: each height of them and those that add up to more; taps of the width
    # in one pass and in several; strides and dilations that meet, and that do not; parts of
    # registers; fewer rows of grad than turns; images and depths of kernels.
    "windows 3x3": Shape(DIRECT_WEIGHT, (2, 3, 12, 50), (3, 1, 3, 3), _same(1, 3)),
    "windows 5x4": Shape(DIRECT_WEIGHT, (1, 2, 9, 70), (2, 1, 5, 4), {"padding": 2, "groups": 2}),
    "windows 7x5": Shape(DIRECT_WEIGHT, (1, 2, 20, 64), (2, 1, 7, 5), {"padding": 2, "groups": 2}),
    "windows 4x3": Shape(DIRECT_WEIGHT, (1, 2, 20, 64), (2, 1, 4, 3), _same(1, 2)),
    "windows 22x2": Shape(DIRECT_WEIGHT, (1, 2, 30, 50), (2, 1, 22, 2), _same(1, 2)),
    "windows, stride 2": Shape(
        DIRECT_WEIGHT, (2, 3, 21, 100), (3, 1, 5, 3), {"stride": 2, "padding": 1, "groups": 3}
    ),
    "windows, stride 2 of rows": Shape(
        DIRECT_WEIGHT, (2, 3, 21, 50), (3, 1, 7, 3), {"stride": (2, 1), "groups": 3}
    ),
    "windows, stride 3": Shape(
        DIRECT_WEIGHT, (1, 3, 21, 50), (3, 1, 3, 3), {"stride": (3, 1), "groups": 3}
    ),
    "windows, dilation 2": Shape(
        DIRECT_WEIGHT, (1, 3, 14, 50), (3, 1, 3, 3), {"padding": 2, "dilation": 2, "groups": 3}
    ),
    "windows, dilation 4, stride 2": Shape(
        DIRECT_WEIGHT,
        (1, 3, 25, 50),
        (3, 1, 3, 3),
        {"stride": (2, 1), "dilation": (4, 1), "groups": 3},
    ),
    "windows, dilation 3, stride 2": Shape(
        DIRECT_WEIGHT,
        (1, 3, 25, 50),
        (3, 1, 3, 3),
        {"stride": (2, 1), "dilation": (3, 1), "groups": 3},
    ),
    "windows, fewer rows than dilation": Shape(
        DIRECT_WEIGHT, (1, 3, 12, 50), (3, 1, 3, 3), {"dilation": (5, 1), "groups": 3}
    ),
    "windows, 3-d": Shape(
        DIRECT_WEIGHT,
        (1, 2, 5, 9, 50),
        (2, 1, 3, 3, 3),
        {"padding": 1, "stride": (2, 1, 1), "groups": 2},
    ),
    # Bands of all destination channels, which are cut for threads: in parts, and in two where a
    # row is gathered one by one.
    "direct, parts of channels": Shape(
        ("direct_planar", "", ""), (1, 3, 40, 96), (61, 3, 9, 9), {"padding": 4}
    ),
    "direct, two parts of channels": Shape(
        ("direct_planar", "", ""), (1, 1, 300), (54, 1, 10), {"stride": 5}
    ),
    # Rows in place: of one to five registers, the last of them whole and of one element; blocks of
    # one to four rows, and one that overlaps; all numbers of taps; padding on one side, none, and
    # more than a register's; strides of either axis; dilations; multipliers; the taps of a depth.
    "in place": Shape(IN_PLACE, (2, 3, 10, 37), (3, 1, 3, 3), {"padding": 1, "groups": 3}),
    "in place, one register": Shape(IN_PLACE, (1, 3, 7, 16), (3, 1, 3, 3), _same(1, 3)),
    "in place, one element more": Shape(IN_PLACE, (1, 3, 8, 65), (3, 1, 5, 5), _same(2, 3)),
    "in place, 7 taps": Shape(IN_PLACE, (1, 2, 21, 56), (2, 1, 7, 7), _same(3, 2)),
    "in place, narrow for 7 taps": Shape(IN_PLACE, (1, 2, 3, 4), (2, 1, 7, 7), _same(3, 2)),
    "in place, tall kernel": Shape(
        IN_PLACE, (1, 2, 70, 33), (2, 1, 21, 5), {"padding": (10, 2), "groups": 2}
    ),
    "in place, two rows": Shape(IN_PLACE, (1, 3, 2, 64), (3, 1, 3, 3), _same(1, 3)),
    "in place, no padding": Shape(IN_PLACE, (1, 20, 9, 50), (20, 1, 2, 3), {"groups": 20}),
    "in place, much padding": Shape(
        ("direct_planar", "", ""), (1, 2, 5, 40), (2, 1, 3, 3), {"padding": (1, 4), "groups": 2}
    ),
    "in place, stride": Shape(
        ("depthwise_planar", "", ""),
        (2, 3, 11, 41),
        (3, 1, 3, 3),
        {"stride": 2, "padding": 1, "groups": 3},
    ),
    "in place, stride of 5 taps": Shape(
        ("depthwise_planar", "", ""),
        (1, 2, 16, 130),
        (2, 1, 5, 5),
        {"stride": 2, "padding": 2, "groups": 2},
    ),
    "in place, strides apart": Shape(
        ("depthwise_planar", "", ""),
        (1, 2, 20, 70),
        (2, 1, 4, 7),
        {"stride": (3, 1), "padding": (1, 3), "groups": 2},
    ),
    "in place, dilation": Shape(
        IN_PLACE, (1, 3, 13, 40), (3, 1, 3, 3), {"dilation": 2, "padding": 2, "groups": 3}
    ),
    "in place, far dilation": Shape(
        IN_PLACE, (1, 2, 5, 70), (2, 1, 3, 3), {"dilation": 8, "padding": 8, "groups": 2}
    ),
    "in place, stride and dilation": Shape(
        ("depthwise_planar", "", ""),
        (1, 2, 30, 40),
        (2, 1, 3, 3),
        {"stride": (2, 1), "dilation": (3, 2), "padding": (3, 2), "groups": 2},
    ),
    "in place, multiplier": Shape(
        ("depthwise_planar", "", ""), (1, 3, 9, 40), (6, 1, 3, 3), {"padding": 1, "groups": 3}
    ),
    "in place, 1-d": Shape(IN_PLACE, (2, 3, 150), (3, 1, 4), {"padding": 3, "groups": 3}),
    "in place, 3-d": Shape(IN_PLACE, (1, 3, 4, 7, 40), (3, 1, 3, 3, 3), _same(1, 3)),
    "in place, many rows": Shape(IN_PLACE, (1, 1, 131, 20), (1, 1, 3, 3), {"padding": 1}),
    # Square kernels go row by row: as many taps as there are kinds; rows of planes that are nearly
    # too narrow, and long ones in blocks; turns that the dilation of a stride keeps apart.
    "in place, 4 taps": Shape(IN_PLACE, (1, 2, 12, 75), (2, 1, 4, 4), _same(2, 2)),
    "in place, 7 taps, long": Shape(IN_PLACE, (1, 2, 9, 100), (2, 1, 7, 7), _same(3, 2)),
    "in place, narrow": Shape(IN_PLACE, (1, 32, 9, 10), (32, 1, 3, 3), _same(1, 32)),
    "in place, whole registers of a stride": Shape(
        ("depthwise_planar", "", ""), (1, 2, 8, 128), (2, 1, 3, 3), {"stride": 2, "groups": 2}
    ),
    "in place, long rows": Shape(IN_PLACE, (1, 1, 7, 1600), (1, 1, 3, 3), {"padding": 1}),
    "in place, stride and dilation of rows": Shape(
        ("depthwise_planar", "", ""),
        (1, 2, 31, 40),
        (2, 1, 3, 3),
        {"stride": 2, "dilation": (3, 1), "padding": (3, 1), "groups": 2},
    ),
    "in place, stride and even dilation": Shape(
        ("depthwise_planar", "", ""),
        (1, 2, 31, 40),
        (2, 1, 3, 3),
        {"stride": 2, "dilation": (2, 1), "padding": (2, 1), "groups": 2},
    ),
    # Rows of 1x1 kernels that are gathered run by run: whole ones, cut ones, padding around them.
    "runs of a stride": Shape(GEMM, (2, 20, 13, 75), (33, 20, 1, 1), {"stride": 2}),
    "runs of a stride, padding": Shape(
        GEMM, (1, 20, 9, 70), (33, 20, 1, 1), {"stride": 2, "padding": 1}
    ),
    "runs of a far stride": Shape(
        GEMM, (2, 20, 13, 131), (33, 20, 1, 1), {"stride": (2, 3), "padding": (0, 2)}
    ),
    # Shifted rows: shared and unshared zeros, none, more than the kernel spans; pieces of a row.
    "shifted": Shape(SHIFTED, (2, 19, 9, 33), (11, 19, 5, 5), {"padding": 2}),
    "shifted, no padding": Shape(SHIFTED, (1, 11, 40, 21), (20, 11, 3, 1), {"padding": (1, 0)}),
    "shifted, much padding": Shape(SHIFTED, (1, 10, 5, 40), (9, 10, 1, 2), {"padding": (0, 6)}),
    "shifted, in pieces": Shape(SHIFTED, (1, 9, 1200), (11, 9, 4), {"padding": 3, "dilation": 2}),
    "shifted, in groups": Shape(
        SHIFTED, (2, 33, 7, 40), (30, 11, 1, 3), {"padding": (0, 1), "groups": 3}
    ),
    "shifted, dilation": Shape(
        SHIFTED, (1, 17, 12, 66), (9, 17, 3, 3), {"padding": 2, "dilation": 2}
    ),
    "shifted, 3-d": Shape(SHIFTED, (1, 10, 4, 5, 33), (11, 10, 3, 3, 3), {"padding": 1}),
    "shifted, reflecting": Shape(
        ("", "", ""),
        (1, 9, 8, 70),
        (11, 9, 3, 5),
        {"padding": (1, 2), "groups": 1},
        padding_mode="reflect",
    ),
    # Rows transposed: padding on all sides, slabs of channels, rows in pieces, strides, groups.
    "transposed": Shape(TRANSPOSED, (2, 35, 9, 11), (70, 35, 5, 5), {"padding": 2}),
    "transposed, much padding": Shape(
        TRANSPOSED, (1, 50, 7, 6), (35, 50, 3, 3), {"padding": 5, "dilation": 5}
    ),
    "transposed, slabs": Shape(
        TRANSPOSED, (1, 300, 9, 30), (40, 300, 5, 3), {"padding": (2, 1), "dilation": 2}
    ),
    "transposed, in pieces": Shape(TRANSPOSED, (1, 33, 500), (130, 33, 4), {"padding": 3}),
    "transposed, stride": Shape(
        (TRANSPOSED[0], "", ""), (2, 34, 12, 15), (70, 34, 3, 4), {"stride": (2, 3), "padding": 1}
    ),
    "transposed, rows in pieces": Shape(
        (TRANSPOSED[0], "", ""), (1, 40, 9, 450), (36, 40, 3, 3), {"stride": 2, "padding": (1, 0)}
    ),
    "transposed, unread ends of rows": Shape(
        (TRANSPOSED[0], "", ""), (3, 40, 7, 16), (36, 40, 3, 2), {"stride": (2, 5)}
    ),
    "transposed, images": Shape(
        (TRANSPOSED[0], "", ""), (5, 40, 6, 7), (36, 40, 3, 3), {"stride": 2, "padding": 1}
    ),
    "transposed, rows far apart": Shape(
        (TRANSPOSED[0], "", ""), (2, 40, 19, 9), (36, 40, 2, 3), {"stride": (4, 1), "padding": 1}
    ),
    "transposed, in groups": Shape(
        TRANSPOSED, (1, 99, 6, 10), (102, 33, 2, 3), {"padding": 1, "groups": 3}
    ),
    "transposed, 3-d": Shape(
        TRANSPOSED, (1, 34, 4, 5, 6), (34, 34, 3, 3, 3), {"padding": 1, "dilation": (1, 1, 2)}
    ),
    # Strips of planes: phases of a row apart, many short rows, rows in pieces.
    "strips, stride": Shape(
        STRIPS, (2, 60, 11, 13), (70, 60, 3, 3), {"stride": 2, "padding": 2, "dilation": 2}
    ),
    "strips, short rows": Shape(STRIPS, (3, 64, 40, 3), (112, 64, 3, 2)),
    "strips, small maps": Shape(
        STRIPS, (9, 70, 8, 8), (130, 70, 3, 3), {"stride": 2, "padding": 1}
    ),
    "strips, rows of a register": Shape(
        STRIPS, (2, 70, 14, 14), (130, 70, 2, 3), {"padding": (0, 1)}
    ),
    "strips, halves of rows": Shape(STRIPS, (1, 50, 9, 9), (150, 50, 2, 3)),
    "strips, long rows": Shape(STRIPS, (1, 60, 700), (150, 60, 5)),
    # Blocks of channels as even as they get; weights few or many; parts of registers; few pixels.
    "pixels, all channels": Shape(LAST, (1, 150, 30, 30), (130, 150, 1, 1), channels_last=True),
    "pixels, even blocks": Shape(
        LAST, (2, 60, 28, 28), (144, 60, 1, 3), {"padding": (0, 1)}, channels_last=True
    ),
    "pixels, many weights": Shape(
        LAST, (1, 90, 12, 30), (200, 90, 2, 3), {"dilation": 2}, channels_last=True
    ),
    "49 pixels": Shape(POINTWISE, (1, 90, 7, 7), (200, 90, 1, 1)),
    "49 pixels, images": Shape(("gemm_planar", "gemm_planar", ""), (2, 90, 7, 7), (200, 90, 1, 1)),
    "49 pixels, channels last": Shape(
        (LAST[0], LAST[1], STRIPS_LAST[2]), (1, 200, 7, 7), (192, 200, 1, 1), channels_last=True
    ),
    "64 pixels, channels last": Shape(
        ("gemm_planar", "gemm_channels_last", ""),
        (1, 200, 8, 8),
        (192, 200, 1, 1),
        channels_last=True,
    ),
    # Slices of weights: parts of registers and of K, taps, merged taps, more than one block.
    "slices": Shape(LAST, (1, 300, 10, 9), (270, 300, 1, 1), channels_last=True),
    "slices, in place": Shape(LAST, (2, 272, 9, 11), (150, 272, 1, 1), channels_last=True),
    "slices, taps": Shape(
        (LAST[0], "", STRIPS_LAST[2]),
        (1, 90, 11, 12),
        (200, 90, 2, 3),
        {"padding": 1},
        channels_last=True,
    ),
    "slices, merged taps": Shape(
        (LAST[0], "", STRIPS_LAST[2]),
        (1, 3, 60, 47),
        (210, 3, 16, 15),
        {"stride": (16, 15)},
        channels_last=True,
    ),
    "slices, blocks of pixels": Shape(LAST, (2, 520, 17, 17), (515, 520, 1, 1), channels_last=True),
    # Patches: rows of taps that are transposed, parts of squares, padding; K stored in squares.
    "patches": Shape(
        ("gemm_planar", "", STRIPS[2]), (2, 3, 52, 190), (70, 3, 17, 10), {"stride": 9}
    ),
    "patches, padding": Shape(
        ("gemm_planar", "", STRIPS[2]),
        (1, 2, 40, 200),
        (50, 2, 16, 16),
        {"stride": 16, "padding": 3},
    ),
    # Strips of pixels: taps merged, blocks of channels, rows and columns of padding, the source;
    # sums in the weight itself, of several chunks; splits.
    "strips, in the weight": Shape(
        STRIPS_LAST, (3, 330, 9, 9), (150, 330, 1, 1), channels_last=True
    ),
    "strips, in splits": Shape(STRIPS_LAST, (1, 260, 30, 30), (96, 260, 1, 1), channels_last=True),
    "strips, merged taps": Shape(
        STRIPS_LAST, (1, 50, 9, 12), (130, 50, 2, 3), {"padding": 1}, channels_last=True
    ),
    "strips, blocks of channels": Shape(
        STRIPS_LAST,
        (1, 150, 6, 7),
        (50, 150, 3, 3),
        {"padding": 2, "dilation": 2},
        channels_last=True,
    ),
    "strips, far taps": Shape(
        STRIPS_LAST, (1, 64, 7, 9), (96, 64, 3, 3), {"padding": 5, "dilation": 5}, True
    ),
    "strips, taps apart": Shape(
        STRIPS, (1, 60, 12, 9), (150, 60, 3, 2), {"padding": (1, 100), "dilation": (1, 200)}
    ),
    "strips, taps apart, channels last": Shape(
        STRIPS_LAST,
        (1, 60, 12, 9),
        (150, 60, 3, 2),
        {"padding": (1, 100), "dilation": (1, 200)},
        channels_last=True,
    ),
    "strips, source in place": Shape(
        STRIPS_LAST, (2, 300, 9, 8), (150, 300, 1, 1), channels_last=True
    ),
    "strips, far pixels": Shape(STRIPS_LAST, (1, 150, 9, 8), (300, 150, 1, 1), channels_last=True),
    "strips, in groups": Shape(
        STRIPS_LAST, (1, 160, 6, 7), (192, 80, 2, 3), {"groups": 2, "padding": 1}, True
    ),
}

# Gradients for inputs by products with all taps, in both layouts: image, weight, options.
FOLDED: dict[str, tuple[tuple[int, ...], tuple[int, ...], dict[str, Any]]] = {
    # Overlapping taps at strides whose phases are shuffled in registers, and others.
    "stride 2": ((2, 19, 13, 29), (130, 19, 3, 3), {"stride": 2, "padding": 1}),
    "strides 3 and 4": ((1, 5, 20, 43), (20, 5, 5, 7), {"stride": (3, 4), "padding": 2}),
    "stride 8": ((1, 3, 21, 70), (17, 3, 3, 16), {"stride": (1, 8), "padding": (1, 4)}),
    "stride 16": ((1, 2, 5, 130), (16, 2, 1, 20), {"stride": (1, 16), "padding": (0, 7)}),
    # Taps beside each other, with what is left over in the input; fewer taps than phases.
    "patches": ((2, 3, 24, 32), (40, 3, 4, 4), {"stride": 4}),
    "patches, left over": ((1, 3, 25, 34), (24, 3, 4, 4), {"stride": 4}),
    "patches of many channels": ((1, 40, 12, 14), (33, 40, 2, 2), {"stride": 2}),
    "phases without taps": ((1, 18, 15, 17), (32, 18, 1, 1), {"stride": (2, 3)}),
    # Few channels at stride 1: bands that share rows; a row that is cut.
    "few channels": ((1, 3, 90, 70), (32, 3, 3, 3), {"padding": 1}),
    "few channels, wide kernel": ((1, 5, 11, 31), (16, 5, 5, 7), {"padding": (2, 3)}),
    "one channel": ((3, 1, 9, 10), (48, 1, 3, 3), {}),
    "dilation": ((1, 4, 19, 23), (16, 4, 3, 3), {"padding": (2, 3), "dilation": (2, 3)}),
    "stride and dilation": ((1, 6, 21, 30), (20, 6, 3, 4), {"stride": 2, "dilation": (3, 1)}),
    # Long sums; groups; channels that fill blocks and those that do not; images that share blocks.
    "deep": ((1, 24, 17, 18), (300, 24, 3, 3), {"stride": 2, "padding": 1}),
    "groups": ((2, 10, 14, 15), (48, 5, 3, 2), {"stride": 2, "groups": 2}),
    "many channels": ((1, 70, 17, 19), (128, 70, 3, 3), {"stride": 2, "padding": 1}),
    "small planes": ((37, 6, 5, 4), (16, 6, 2, 2), {"stride": (2, 1)}),
    "1-d": ((2, 1, 777), (70, 1, 10), {"stride": 5}),
    "1-d, long": ((1, 2, 9003), (20, 2, 7), {"stride": 2, "padding": 3}),
    "3-d": ((1, 5, 6, 9, 12), (24, 5, 3, 3, 3), {"stride": 2, "padding": 1}),
    "3-d, few channels": ((1, 2, 5, 7, 18), (16, 2, 3, 3, 3), {"padding": 1}),
    # Every destination is one product: runs of a row across panels, of several images in a block.
    "patches, small planes": ((7, 5, 10, 6), (70, 5, 2, 2), {"stride": 2}),
    "patches, 1-d": ((2, 3, 8 * 75), (24, 3, 8), {"stride": 8}),
    "patches, long rows": ((1, 2, 4, 2400), (150, 2, 2, 4), {"stride": (2, 4)}),
    # In channels_last tensors stored by tiles: rows of a tile and a few pixels, all taps of a row
    # at once; and tap by tap of a block of channels, with sums in two parts.
    "patches of registers": ((2, 32, 14, 26), (24, 32, 2, 2), {"stride": 2}),
    "patches of blocks": ((1, 128, 6, 10), (260, 128, 2, 2), {"stride": 2}),
    "3-d, even patches": ((2, 14, 6, 6, 36), (18, 14, 3, 2, 2), {"stride": (3, 2, 2)}),
    "3-d, patches": ((2, 20, 4, 6, 10), (16, 20, 3, 2, 2), {"stride": (3, 2, 2)}),
}
for title, (image, weight, options) in FOLDED.items():
    SHAPES[title] = Shape(PRODUCTS, image, weight, options)
    if len(image) > 3:
        SHAPES[title + ", channels last"] = Shape(PRODUCTS_LAST, image, weight, options, True)

# Gradients for inputs with a stride and few channels in a group, all phases at once: image, weight,
# options.
PHASES_AT_ONCE: dict[str, tuple[tuple[int, ...], tuple[int, ...], dict[str, Any]]] = {
    # Rows of less than a register, of one to five; what is left over of a stride; several bands.
    "stride 2": ((2, 5, 14, 75), (5, 1, 3, 2), {"stride": 2, "padding": 1, "groups": 5}),
    "one register": ((1, 3, 9, 20), (3, 1, 6, 6), {"stride": 2, "padding": 2, "groups": 3}),
    "wide": ((1, 2, 6, 150), (2, 1, 4, 5), {"stride": 2, "padding": 1, "groups": 2}),
    "bands": ((1, 2, 401, 130), (2, 1, 3, 3), {"stride": (3, 2), "groups": 2}),
    "stride 3": ((1, 4, 17, 100), (4, 1, 5, 6), {"stride": 3, "padding": 2, "groups": 4}),
    "stride 4": ((1, 4, 9, 139), (4, 1, 2, 8), {"stride": (1, 4), "padding": (0, 2), "groups": 4}),
    "stride 8": ((1, 3, 21, 300), (3, 1, 16, 16), {"stride": 8, "padding": 4, "groups": 3}),
    "phases without taps": ((1, 3, 12, 45), (3, 1, 2, 2), {"stride": (3, 4), "groups": 3}),
    "dilation": (
        (1, 4, 20, 70),
        (4, 1, 3, 4),
        {"stride": 2, "padding": (0, 3), "dilation": (2, 3), "groups": 4},
    ),
    "much padding": ((1, 3, 8, 40), (3, 1, 3, 4), {"stride": 2, "padding": 7, "groups": 3}),
    "few channels": ((2, 6, 11, 41), (9, 2, 3, 3), {"stride": 2, "padding": 1, "groups": 3}),
    # Input channels two at a time, and one that is left over.
    "pairs and one": ((2, 9, 11, 41), (12, 3, 3, 3), {"stride": 2, "padding": 1, "groups": 3}),
    "sixteen channels": ((1, 16, 10, 60), (16, 16, 3, 4), {"stride": 2, "padding": 1}),
    "stride 3, pairs": ((1, 5, 17, 100), (7, 5, 5, 6), {"stride": 3, "padding": 2}),
    "stride 4, pairs": ((1, 6, 9, 139), (6, 3, 2, 8), {"stride": (1, 4), "groups": 2}),
    "stride 8, pairs": ((1, 5, 21, 300), (4, 5, 16, 16), {"stride": 8, "padding": 4}),
    "1-d": ((2, 3, 500), (6, 1, 5), {"stride": 2, "padding": 2, "groups": 3}),
    "3-d": ((1, 3, 7, 9, 40), (3, 1, 3, 2, 3), {"stride": 2, "padding": 1, "groups": 3}),
}
for title, (image, weight, options) in PHASES_AT_ONCE.items():
    SHAPES["phased, " + title] = Shape(PHASED, image, weight, options)

# Square depthwise kernels of stride 2, source rows as they lie: image, kernel, padding, other
# options.
PHASES_IN_PLACE: dict[str, tuple[tuple[int, ...], int, int, dict[str, Any]]] = {
    # Pieces of one register and of two; rows that end in each of them; odd and even padding.
    "3 taps": ((2, 5, 14, 75), 3, 1, {}),
    "3 taps, no padding": ((1, 2, 15, 64), 3, 0, {}),
    "3 taps, even padding": ((1, 3, 9, 97), 3, 2, {}),
    "4 taps": ((1, 2, 6, 150), 4, 1, {}),
    "4 taps, no padding": ((1, 3, 11, 33), 4, 0, {}),
    "4 taps, even padding": ((1, 3, 12, 66), 4, 2, {}),
    "5 taps": ((1, 3, 9, 20), 5, 2, {}),
    "5 taps, odd padding": ((1, 2, 21, 130), 5, 1, {}),
    "5 taps, more odd padding": ((1, 2, 8, 40), 5, 3, {}),
    "narrow": ((1, 3, 7, 6), 3, 1, {}),
    "much padding": ((1, 3, 8, 40), 3, 7, {}),
    "left over": ((1, 3, 12, 32), 5, 0, {}),
    "many rows": ((1, 2, 271, 24), 3, 1, {}),
    "3-d": ((1, 3, 7, 9, 40), 3, 1, {}),
    "3-d, stride 1 of the depth": ((1, 2, 5, 8, 36), 4, 1, {"stride": (1, 2, 2)}),
}
for title, (image, taps, padding, other) in PHASES_IN_PLACE.items():
    SHAPES["phased in place, " + title] = Shape(
        PHASED_ROWS,
        image,
        (image[1], 1, *[taps] * (len(image) - 2)),
        {"stride": 2, "padding": padding, "groups": image[1], **other},
    )

# The same with channels that fill registers, in both layouts.
PHASES_OF_GROUPS: dict[str, tuple[tuple[int, ...], tuple[int, ...], dict[str, Any]]] = {
    # Rows shorter and longer than windows; a last register of channels that overlaps.
    "stride 2": ((2, 19, 12, 30), (19, 1, 3, 2), {"stride": 2, "padding": 1, "groups": 19}),
    "strides 2 and 3": ((1, 16, 9, 31), (16, 1, 4, 5), {"stride": (2, 3), "groups": 16}),
    "stride 1 and 2": ((1, 33, 7, 15), (33, 1, 5, 3), {"stride": (1, 2), "groups": 33}),
    "groups of 2": ((1, 22, 9, 14), (22, 2, 3, 3), {"stride": 2, "padding": 1, "groups": 11}),
    "groups of 4": ((2, 24, 6, 13), (24, 4, 4, 4), {"stride": 2, "padding": 1, "groups": 6}),
    "groups of 8": ((1, 40, 8, 9), (40, 8, 3, 3), {"stride": 2, "padding": 1, "groups": 5}),
    "3-d": ((1, 17, 4, 5, 8), (17, 1, 3, 2, 3), {"stride": 2, "padding": 1, "groups": 17}),
}
for title, (image, weight, options) in PHASES_OF_GROUPS.items():
    SHAPES["phased blocks, " + title] = Shape(PHASED_BLOCKS, image, weight, options)
    SHAPES["phased, channels last, " + title] = Shape(PHASED_LAST, image, weight, options, True)

# Weight gradients of planes that are transposed band by band: more rows than one has, each of which
# reads rows of its neighbours or none of them, or nothing but padding.
BANDS = ("", "", "weight_grouped_planar")
for title, image, weight, options in (
    ("groups of 4", (2, 24, 70, 65), (24, 4, 3, 3), {"padding": 1, "groups": 6}),
    ("groups of 8", (1, 40, 91, 50), (40, 8, 3, 2), {"padding": (1, 0), "groups": 5}),
    ("stride", (1, 16, 97, 81), (16, 4, 3, 3), {"stride": 2, "padding": 1, "groups": 4}),
    ("gaps", (1, 16, 150, 40), (16, 8, 2, 2), {"stride": (5, 2), "groups": 2}),
    ("dilation", (1, 20, 60, 70), (20, 4, 3, 3), {"dilation": 4, "padding": 4, "groups": 5}),
    ("much padding", (1, 16, 9, 70), (16, 4, 2, 3), {"padding": (40, 1), "groups": 4}),
    ("one row", (1, 16, 1, 300), (16, 4, 1, 5), {"padding": (0, 2), "groups": 4}),
):
    SHAPES["bands, " + title] = Shape(BANDS, image, weight, options)
# Those of a padding mode read rows that are not in the band.
SHAPES["bands, circular"] = Shape(
    ("", "", ""),
    (1, 24, 30, 40),
    (24, 4, 3, 3),
    {"padding": (1, 1), "groups": 6},
    padding_mode="circular",
)

# Taps that reach padding alone are left out: those of a channel no longer fill what lies between
# channels, and are read in squares with what lies behind them.
for title, image, weight, options in (
    ("groups", (3, 4, 40, 4), (160, 2, 3, 7), {"padding": (6, 9), "stride": 3, "groups": 2}),
    ("few channels", (2, 3, 40, 4), (80, 3, 3, 5), {"padding": (1, 6)}),
    ("more channels", (1, 20, 30, 4), (96, 20, 1, 3), {"padding": (0, 6)}),
):
    SHAPES["taps left out, " + title] = Shape(
        ("", "", ""), image, weight, {**options, "dilation": 3}
    )

# Slices of a weight whose rows are K: destination channels that fill no register, taps, more of K
# than a slice, more pixels than a block, a first tile that only reads padding.
for title, image, weight, options in (
    ("1x1", (1, 300, 7, 9), (330, 300, 1, 1), {}),
    ("taps", (1, 140, 6, 5), (260, 140, 3, 3), {"padding": 1}),
    ("a tile in padding", (1, 128, 5, 9), (260, 128, 3, 3), {"padding": 1}),
    ("blocks of pixels", (1, 530, 23, 24), (515, 530, 1, 1), {}),
):
    SHAPES["slices across, " + title] = Shape(
        ("", "gemm_channels_last", ""), image, weight, options, channels_last=True
    )

# Long rows with a stride, of several channels: direct sums would gather them again and again.
for title, image, weight, options in (
    ("stride 4", (1, 2, 16400), (20, 2, 8), {"stride": 4, "padding": 2}),
    ("stride 2", (1, 7, 9000), (12, 7, 5), {"stride": 2}),
):
    SHAPES["gathered once, " + title] = Shape(GEMM, image, weight, options)

# Weight gradients whose source is read where it lies, whose last pixel ends inside a register.
for title, image, weight, options in (
    ("one chunk", (1, 276, 9, 6), (208, 276, 1, 1), {}),
    ("two chunks", (2, 276, 11, 12), (208, 276, 1, 1), {}),
    ("groups", (1, 550, 8, 9), (416, 275, 1, 1), {"groups": 2}),
):
    SHAPES["source in place, " + title] = Shape(
        ("", "", "weight_gemm_channels_last"), image, weight, options, channels_last=True
    )

# And whose rows are cut for threads: in parts that are no whole blocks of rows, beside parts of the
# channels and groups, and of a source that is copied.
for title, image, weight, options in (
    ("uneven parts", (1, 140, 7, 7), (305, 140, 1, 1), {}),
    ("blocks of channels", (1, 150, 5, 6), (450, 150, 1, 1), {}),
    ("groups", (1, 400, 7, 7), (420, 200, 1, 1), {"groups": 2}),
    ("copied source", (2, 190, 6, 5), (230, 190, 1, 1), {"stride": 2}),
):
    SHAPES["rows for threads, " + title] = Shape(
        ("", "", "weight_gemm_channels_last"), image, weight, options, channels_last=True
    )

# Planes far from the processor, whose lines are brought while sums for them wait: of a few rows, of
# several images and groups, and of a single row whose sums are more than L1.
for title, image, weight, options in (
    ("rows", (1, 3, 129, 131), (72, 3, 7, 7), {"stride": 2, "padding": 3}),
    ("images and groups", (2, 20, 60, 50), (96, 10, 3, 3), {"padding": 1, "groups": 2}),
    ("a long row", (1, 9, 3, 1500), (60, 9, 3, 3), {"padding": 1}),
):
    SHAPES["far planes, " + title] = Shape(("broadcast_pixels", "", ""), image, weight, options)

# A single block of source pixels: of up to two panels, the weight is read where it lies; of more,
# each block of channels is packed by the item that multiplies it.
for title, image, weight, options in (
    ("one panel", (1, 50, 9, 9), (70, 50, 3, 3), {"stride": 2, "padding": 1}),
    ("one panel, groups", (1, 60, 7, 8), (78, 20, 3, 2), {"stride": 2, "groups": 3}),
    ("one panel, 3-d", (1, 20, 3, 6, 6), (40, 20, 3, 2, 2), {"stride": (1, 2, 2)}),
    ("one panel, deep", (1, 14, 9, 9), (2100, 14, 2, 3), {"stride": 2}),
    ("two panels", (2, 34, 13, 15), (150, 34, 3, 3), {"stride": 2, "padding": 1}),
    ("two panels of patches", (1, 21, 16, 18), (90, 21, 2, 2), {"stride": 2}),
    ("three panels", (1, 50, 25, 25), (70, 50, 3, 3), {"stride": 2, "padding": 1}),
):
    SHAPES["products, " + title] = Shape(PRODUCTS, image, weight, options)

# Weight gradients whose kernel rows share a register of grad: all numbers of taps, rows in bands.
for taps in range(1, 10):
    SHAPES[f"rows of {taps} taps, channels last"] = Shape(
        SLIDING, (2, 37, 19, 13), (37, 1, 5, taps), {"padding": (2, taps // 2), "groups": 37}, True
    )
# Windows over rows with strides, of seven pixels, and with more padding than source.
for title, image, weight, options in (
    ("stride 2", (1, 18, 9, 33), (18, 1, 3, 5), {"stride": 2, "padding": 2, "groups": 18}),
    ("stride 3", (1, 16, 9, 40), (16, 1, 2, 4), {"stride": 3, "groups": 16}),
    ("few channels", (1, 5, 9, 21), (5, 1, 3, 3), {"stride": 2, "padding": 1, "groups": 5}),
    ("sevens", (1, 20, 5, 28), (20, 1, 3, 3), {"padding": 1, "groups": 20}),
    ("much padding", (1, 17, 6, 14), (17, 1, 3, 21), {"padding": (1, 10), "groups": 17}),
    ("groups of 8", (1, 32, 7, 15), (32, 8, 3, 3), {"stride": 2, "padding": 1, "groups": 4}),
    ("dilation", (1, 18, 9, 15), (18, 1, 3, 3), {"dilation": 2, "padding": 2, "groups": 18}),
):
    SHAPES["windows, " + title] = Shape((SLIDING[0], "", SLIDING[2]), image, weight, options, True)
# Windows whose pixels lie between each other: as many and one more in a row, strides that divide
# the dilation, and others; and pixels that share nothing, with taps that all of them lose.
for title, image, weight, options in (
    ("dilation 2", (1, 19, 9, 33), (19, 1, 3, 3), {"dilation": 2, "padding": 2, "groups": 19}),
    ("dilation 3", (1, 16, 7, 66), (16, 1, 2, 4), {"dilation": 3, "padding": 3, "groups": 16}),
    ("blocks of 7 and 8", (1, 5, 3, 127), (5, 1, 1, 3), {"dilation": (1, 2), "groups": 5}),
    ("groups of 2", (2, 18, 6, 40), (18, 2, 3, 3), {"dilation": 2, "padding": 1, "groups": 9}),
    ("groups of 8", (1, 24, 6, 40), (24, 8, 3, 3), {"dilation": 2, "padding": 2, "groups": 3}),
    ("strides meet", (1, 17, 9, 60), (17, 1, 3, 3), {"stride": 2, "dilation": 4, "groups": 17}),
    ("strides miss", (1, 17, 9, 90), (17, 1, 3, 3), {"stride": 2, "dilation": 3, "groups": 17}),
    ("alone", (1, 20, 9, 20), (20, 1, 3, 3), {"dilation": 5, "padding": 5, "groups": 20}),
    ("alone, far", (1, 20, 7, 11), (20, 1, 3, 3), {"dilation": 9, "padding": 9, "groups": 20}),
    (
        "alone, groups of 4",
        (1, 20, 9, 9),
        (20, 4, 3, 3),
        {"dilation": 3, "padding": 3, "groups": 5},
    ),
    ("alone, long strides", (1, 21, 9, 40), (21, 1, 2, 2), {"stride": 4, "groups": 21}),
    ("alone, one tap", (1, 21, 9, 40), (21, 1, 1, 1), {"stride": 3, "padding": 1, "groups": 21}),
):
    SHAPES["apart, " + title] = Shape((SLIDING[0], "", SLIDING[2]), image, weight, options, True)


def _operation(shape: Shape) -> Callable[..., Tensor]:
    rank = len(shape.image) - 2
    if shape.padding_mode == "zeros":
        return partial(getattr(F, f"conv{rank}d"), **shape.options)
    rows, depth, *kernel = shape.weight
    channels = depth * shape.options["groups"]
    module = getattr(cnnops.nn, f"Conv{rank}d")(
        channels, rows, kernel, padding_mode=shape.padding_mode, **shape.options
    )

    def run(image: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        result: Tensor = torch.func.functional_call(
            module, {"weight": weight, "bias": bias}, (image,)
        )
        return result

    return run


def _reference(shape: Shape, image: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    options = dict(shape.options)
    if shape.padding_mode != "zeros":
        padding = options.pop("padding")
        around = [amount for axis in reversed(padding) for amount in (axis, axis)]
        image = torch.nn.functional.pad(image, around, mode=shape.padding_mode)
    conv = getattr(torch.nn.functional, f"conv{len(shape.image) - 2}d")
    result: Tensor = conv(image, weight, bias, **options)
    return result


# Padding modes are a matter of modules, which have no plan.
@pytest.mark.parametrize("name", [it for it in SHAPES if SHAPES[it].padding_mode == "zeros"])
def test_chosen(name: str, set_isa: Callable[[str], None]) -> None:
    shape = SHAPES[name]
    if "avx512" in _C.available_isas():
        set_isa("avx512")  # the width of a register counts
    elif "avx2" in _C.available_isas():
        set_isa("avx2")
    lies = {"memory_format": CHANNELS_LAST[len(shape.image)]} if shape.channels_last else {}
    for phase, kernel in zip(PHASES, shape.kernels, strict=True):
        plan = cnnops.plan(
            f"conv{len(shape.image) - 2}d",
            shape.image,
            shape.weight,
            phase=phase,
            **shape.options,
            **lies,
        )
        if kernel:
            assert {step.algorithm for step in plan.steps} == {kernel}, phase


@pytest.mark.parametrize("isa", ["baseline", "avx2", "avx512"])
@pytest.mark.parametrize(
    "dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16], ids=str
)
@pytest.mark.parametrize("name", list(SHAPES))
def test_right(name: str, dtype: torch.dtype, isa: str, set_isa: Callable[[str], None]) -> None:
    """Output and gradients against float64; nothing is touched beside the operands."""
    if isa not in _C.available_isas():
        pytest.skip(f"this CPU has no {isa}")
    set_isa(isa)
    shape = SHAPES[name]
    tensors = [
        torch.randn(shape.image).to(dtype),
        torch.randn(shape.weight).to(dtype),
        torch.randn(shape.weight[0]).to(dtype),
    ]
    if shape.channels_last:
        lies = CHANNELS_LAST[len(shape.image)]
        tensors[:2] = [it.contiguous(memory_format=lies) for it in tensors[:2]]
    beside = partial(guarded, at_end=dtype in (torch.float32, torch.bfloat16))
    ours = [beside(it).requires_grad_() for it in tensors]
    theirs = [it.double().requires_grad_() for it in tensors]
    output = _operation(shape)(*ours)
    expected = _reference(shape, *theirs)
    gradient = torch.randn(expected.shape).to(dtype)
    found = [output, *torch.autograd.grad(output, ours, beside(gradient))]
    wanted = [expected, *torch.autograd.grad(expected, theirs, gradient.double())]
    accumulator = torch.float64 if dtype == torch.float64 else torch.float32
    for ours_is, theirs_is in zip(found, wanted, strict=True):
        scale = theirs_is.abs().max()
        bound = 2 * torch.finfo(dtype).eps * theirs_is.abs() + (
            256 * torch.finfo(accumulator).eps * scale
        )
        if shape.padding_mode != "zeros":
            # The gradient of the padded image is rounded to dtype before it is folded.
            bound += torch.finfo(dtype).eps * scale
        assert ((ours_is.double() - theirs_is).abs() <= bound).all()


@pytest.mark.parametrize("isa", ["baseline", "avx2", "avx512"])
@pytest.mark.parametrize("lies", [torch.contiguous_format, torch.channels_last], ids=str)
@pytest.mark.parametrize("channels", [(24, 32), (260, 128), (40, 13)], ids=str)
def test_patches_with_bias(
    channels: tuple[int, int],
    lies: torch.memory_format,
    isa: str,
    set_isa: Callable[[str], None],
) -> None:
    """Transposed kernels as large as their stride: bias is added once to each product."""
    if isa not in _C.available_isas():
        pytest.skip(f"this CPU has no {isa}")
    set_isa(isa)
    image = torch.randn(2, channels[0], 5, 9).contiguous(memory_format=lies)
    weight = torch.randn(*channels, 2, 2).contiguous(memory_format=lies)
    bias = 100 * torch.randn(channels[1])
    found = F.conv_transpose2d(image, weight, bias, stride=2)
    operands = (it.double() for it in (image, weight, bias))
    wanted = torch.nn.functional.conv_transpose2d(*operands, stride=2)
    torch.testing.assert_close(found.double(), wanted, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=str)
@pytest.mark.parametrize(
    "options",
    [
        {"padding": 1 << 20, "dilation": 1 << 20},
        {"padding": 1 << 33, "dilation": 1 << 33},
        {"padding": 1 << 33, "dilation": 1 << 33, "stride": 1 << 40},
    ],
    ids=str,
)
def test_taps_that_reach_the_image_alone_count(
    options: dict[str, int], layout: torch.memory_format
) -> None:
    """However far the others are: nothing is as large as the distance between them."""
    image = torch.randn(1, 40, 3, 3, dtype=torch.float64).contiguous(memory_format=layout)
    weight = torch.randn(130, 40, 3, 3, dtype=torch.float64).contiguous(memory_format=layout)
    image.requires_grad_()
    weight.requires_grad_()
    stride = {"stride": options.get("stride", 1)}
    ours = F.conv2d(image, weight, **options)
    theirs = torch.nn.functional.conv2d(image, weight[:, :, 1:2, 1:2], **stride)
    gradient = torch.randn_like(theirs)
    torch.testing.assert_close(ours, theirs)
    torch.testing.assert_close(
        torch.autograd.grad(ours, (image, weight), gradient),
        torch.autograd.grad(theirs, (image, weight), gradient),
    )
