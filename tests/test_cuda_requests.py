"""What the memory requests of CUDA kernels cost, counted emulated, is no more than it was."""

from __future__ import annotations

from typing import Any

import devices
import pytest
import torch
from emulator import library, report

pytestmark = devices.needs_emulator


def test_no_request_takes_more_transactions_than_its_budget() -> None:
    # `python tests/emulator/report.py --update` makes what is counted the budget.
    allowed, counted = report.allowed(), report.counted()
    assert counted.keys() == allowed.keys()
    assert {key: ratio for key, ratio in counted.items() if ratio > allowed[key]} == {}


def test_shared_memory_is_used_without_bank_conflicts() -> None:
    # But where windows or tiles lie apart, or the indices of the caller decide.
    conflicts = {
        kernel
        for (kernel, kind), ratio in report.allowed().items()
        if kind.startswith("shared") and ratio > 1.1
    }
    apart = ("pool_tile", "pool_scatter", "depthwise_planar", "depthwise_weight_")
    assert [kernel for kernel in conflicts if not kernel.startswith(apart)] == []


@pytest.mark.parametrize("side", [5, 7, 14])
def test_planes_that_share_a_depthwise_block_meet_no_bank_conflicts(
    emulated: Any, side: int
) -> None:
    x, w = torch.randn(1, 64, side, side), torch.randn(64, 1, 3, 3)
    with library.counting() as costs:
        emulated.convolution(x, w, None, [1, 1], [1] * 4, [1, 1], 64, "zeros")
        reads = [cost for cost in costs() if cost.kind == "shared read"]
    assert reads
    assert all("depthwise_planar" in cost.kernel for cost in reads)
    assert [cost for cost in reads if cost.transactions > cost.ideal] == []
