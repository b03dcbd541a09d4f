"""All pooling over the grid, forward and backward, and what the grid cannot say."""

from __future__ import annotations

import math

import devices
import pytest
import torch
import torch.nn.functional as F
from grid import check, over_grid, ranks

import cnnops.functional
from cnnops.check.cases import Case

pytestmark = pytest.mark.usefixtures("device")


@over_grid(*ranks("max_pool"))
def test_max_pool(case: Case, dtype: torch.dtype, device: str) -> None:
    check(case, dtype, device)


@over_grid(*ranks("avg_pool"))
def test_avg_pool(case: Case, dtype: torch.dtype, device: str) -> None:
    check(case, dtype, device)


@over_grid(*ranks("adaptive_avg_pool", "adaptive_max_pool"))
def test_adaptive_pool(case: Case, dtype: torch.dtype, device: str) -> None:
    check(case, dtype, device)


@over_grid(*ranks("lp_pool"))
def test_lp_pool(case: Case, dtype: torch.dtype, device: str) -> None:
    check(case, dtype, device)


@over_grid("fractional_max_pool2d", "fractional_max_pool3d")
def test_fractional_max_pool(case: Case, dtype: torch.dtype, device: str) -> None:
    check(case, dtype, device)


@over_grid(*ranks("max_unpool"))
def test_max_unpool(case: Case, dtype: torch.dtype, device: str) -> None:
    check(case, dtype, device)


@pytest.mark.parametrize("rank", [1, 2, 3])
@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
def test_max_pool_without_indices_gives_the_same_values(rank: int, layout: str) -> None:
    if rank == 1 and layout == "channels_last":
        layout = "contiguous"  # 3-d tensors have one layout
    x = torch.randn(2, 5, *(9, 8, 7)[:rank])
    if layout == "channels_last":
        x = x.to(memory_format=torch.channels_last if rank == 2 else torch.channels_last_3d)
    pool = getattr(cnnops.functional, f"max_pool{rank}d")
    plain = pool(x, 3, 2, 1)
    values, _ = pool(x, 3, 2, 1, return_indices=True)
    assert isinstance(plain, torch.Tensor)
    assert torch.equal(plain, values)
    assert plain.stride() == values.stride()


def test_max_pool_takes_the_first_of_equal_values_and_the_last_nan() -> None:
    x = torch.tensor([[[[1.0, 2.0], [2.0, 2.0]]]])
    assert cnnops.functional.max_pool2d(x, 2, return_indices=True)[1].item() == 1
    x = torch.tensor([[[[math.nan, 2.0], [math.nan, 5.0]]]])
    value, index = cnnops.functional.max_pool2d(x, 2, return_indices=True)
    torchs_value, torchs_index = F.max_pool2d(x, 2, return_indices=True)
    assert math.isnan(value.item())
    assert math.isnan(torchs_value.item())
    assert index.item() == torchs_index.item()


@pytest.mark.emulated_share(4)
@pytest.mark.parametrize("rank", [1, 2, 3])
@pytest.mark.parametrize(
    ("kernel", "stride", "padding", "ceil_mode"),
    [(3, 2, 1, False), (3, 1, 1, False), (2, 2, 0, False), (2, 2, 1, True), (2, 1, 0, False),
     (1, 2, 0, False), (3, 2, 0, True), (5, 2, 2, False), (6, 2, 3, True)],
)  # fmt: skip
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_gradients_by_taps_and_by_indices_are_the_same(
    rank: int, kernel: int, stride: int, padding: int, ceil_mode: bool, dtype: torch.dtype
) -> None:
    """Bit by bit: windows add up in the same order, whatever takes them to their input."""
    pool = getattr(cnnops.functional, f"max_pool{rank}d")
    # The last: rows of several pieces, and more of them than a task has.
    for size in ((2, 2, 2), (6, 7, 14), (2, 9, 33), (1, 67, 131)):
        if kernel > size[-rank] + 2 * padding:
            continue
        for channels in (1, 6, 16, 70) if size[1] < 10 else (3,):
            for channels_last in (False, True)[:rank]:
                x = torch.randint(-3, 4, (2, channels, *size[-rank:])).to(dtype)
                x[torch.rand(x.shape) < 0.02] = math.nan
                x[torch.rand(x.shape) < 0.1] = -math.inf
                if channels_last:
                    x = x.to(memory_format=[torch.channels_last, torch.channels_last_3d][rank - 2])
                grads = []
                for with_indices in (False, True):
                    leaf = x.clone().requires_grad_()
                    y = pool(leaf, kernel, stride, padding, 1, ceil_mode, with_indices)
                    y = y[0] if with_indices else y
                    devices.seed(1)
                    y.backward(torch.randn_like(y))
                    grads.append(leaf.grad)
                assert torch.equal(*grads), (size, channels, channels_last)
                assert grads[0].stride() == grads[1].stride()


def test_taps_out_of_range_stay_in_the_tensor() -> None:
    """The gradient of nonsense is nonsense, but nothing else is written."""
    for layout in (torch.contiguous_format, torch.channels_last):
        for channels in (3, 40):
            grad = torch.ones(2, channels, 5, 5).to(memory_format=layout)
            taps = torch.full_like(grad, 255).byte()
            windows = ([3, 3], [1, 1], [1, 1], [1, 1], False)
            taps = taps.to(memory_format=layout)
            result = torch.ops.cnnops.max_pool_taps_backward(grad, taps, [5, 5], *windows)
            assert result.isfinite().all()


def test_max_pool_of_nothing_but_negative_infinity() -> None:
    x = torch.full((1, 1, 4, 4), -math.inf)
    ours = cnnops.functional.max_pool2d(x, 2, padding=1, return_indices=True)
    torchs = F.max_pool2d(x, 2, padding=1, return_indices=True)
    assert torch.equal(ours[0], torchs[0])
    assert torch.equal(ours[1], torchs[1])


@pytest.mark.parametrize("dtype", [torch.int8, torch.int16, torch.int32, torch.int64, torch.uint8])
def test_max_pool_of_the_smallest_integers(dtype: torch.dtype) -> None:
    x = torch.full((1, 1, 4, 4), torch.iinfo(dtype).min, dtype=dtype)
    ours = cnnops.functional.max_pool2d(x, 2, padding=1, return_indices=True)
    torchs = F.max_pool2d(x, 2, padding=1, return_indices=True)
    assert torch.equal(ours[0], torchs[0])
    assert torch.equal(ours[1], torchs[1])


@pytest.mark.parametrize("rank", [2, 3])
def test_fractional_max_pool_draws_its_own_samples(rank: int) -> None:
    pool = getattr(cnnops.functional, f"fractional_max_pool{rank}d")
    x = torch.randn(2, 3, *(12,) * rank)
    torch.manual_seed(5)
    ours = pool(x, 2, output_size=5)
    torch.manual_seed(5)
    assert torch.equal(ours, pool(x, 2, output_size=5))
    torch.manual_seed(5)
    assert torch.equal(ours, getattr(F, pool.__name__)(x, 2, output_size=5))


def test_unpool_undoes_max_pool() -> None:
    x = torch.rand(2, 3, 8, 8) + 0.1
    pooled, indices = cnnops.functional.max_pool2d(x, 2, return_indices=True)
    restored = cnnops.functional.max_unpool2d(pooled, indices, 2)
    assert torch.equal(cnnops.functional.max_pool2d(restored, 2), pooled)
    assert torch.equal(restored[restored != 0], x[restored != 0])


@pytest.mark.parametrize("rank", [1, 2, 3])
def test_ceil_mode_never_starts_a_window_in_the_end_padding(rank: int) -> None:
    # Rounding up would add a window that lies in padding alone; torch drops it.
    x = torch.randn(1, 1, *(3,) * rank)
    for name in ("max_pool", "avg_pool"):
        pool = getattr(cnnops.functional, f"{name}{rank}d")
        torchs = getattr(F, f"{name}{rank}d")
        ours = pool(x, 2, 2, 1, ceil_mode=True)
        assert ours.shape == torchs(x, 2, 2, 1, ceil_mode=True).shape
        assert ours.isfinite().all()


@pytest.mark.parametrize("size", [(2, 5, 4, 3), (1, 4, 4, 4), (3, 1, 1, 1), (3, 1, 4, 1)], ids=str)
def test_max_pool3d_keeps_the_layout_of_an_unbatched_input(size: tuple[int, ...]) -> None:
    input = torch.randn(1, *size).contiguous(memory_format=torch.channels_last_3d)[0]
    for return_indices in (False, True):
        results = [
            module.max_pool3d(x, 1, return_indices=return_indices)
            for module, x in (
                (cnnops.functional, input),
                (F, input),
                (cnnops.functional, input.to("meta")),
            )
        ]
        actual, expected, fake = (r if return_indices else (r,) for r in results)
        for a, e, f in zip(actual, expected, fake, strict=True):
            assert a.stride() == e.stride() == f.stride()
            assert torch.equal(a, e)
