"""Prints what the memory requests of the CUDA kernels cost, counted in the emulator.

    python tests/emulator/report.py [--update] [part of a kernel's name ...]

For each kernel and kind of request: transactions of the average request (32-byte sectors of global
memory, turns of the banks of shared memory) and how many times the least possible these are. Small
planes count their borders in full: the ratios of large layers are lower, never higher.

What is allowed of each stands in requests.tsv, which a test holds the kernels against and --update
writes: the diff belongs into the review.
"""

from __future__ import annotations

import re
import sys
from collections import defaultdict
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import devices
import torch
from rich.console import Console
from rich.table import Table

from cnnops import autograd, ops
from emulator import library

#: dense, strided, grouped, depthwise: input, weight, stride and groups.
CONVOLUTIONS = [
    ((1, 32, 16, 16), (64, 32, 3, 3), 1, 1),
    ((1, 64, 16, 16), (128, 64, 1, 1), 1, 1),
    ((1, 32, 17, 17), (64, 32, 3, 3), 2, 1),
    ((1, 32, 16, 16), (32, 8, 3, 3), 1, 4),
    ((1, 64, 16, 16), (64, 1, 3, 3), 1, 64),
]
POOLED = (1, 64, 17, 17)
BUDGET = Path(__file__).with_name("requests.tsv")
DTYPES = (torch.float32, torch.bfloat16)
LAYOUTS = (torch.contiguous_format, torch.channels_last)


def run() -> None:
    """The three contractions and the poolings, in both layouts and two dtypes."""
    for dtype in DTYPES:
        for layout in LAYOUTS:
            for size, weight_size, stride, groups in CONVOLUTIONS:
                x = torch.randn(size).to(dtype, memory_format=layout)
                w = torch.randn(weight_size).to(dtype, memory_format=layout)
                pad = weight_size[-1] // 2
                geometry = ((stride,) * 2, (pad,) * 4, (1, 1), groups, "zeros")
                y = ops.convolution(x, w, None, *geometry)
                ops.convolution_grad_input(y, w, None, size[2:], *geometry)
                ops.convolution_grad_weight(y, x, weight_size[2:], *geometry)
            x = torch.randn(POOLED).to(dtype, memory_format=layout)
            window = ((3, 3), (2, 2), (1, 1))
            values, indices = ops.max_pool_with_indices(x, *window, (1, 1), False)
            ops.max_pool_backward(values, indices, POOLED[2:])
            values, taps = autograd.max_pool_with_taps(x, *window, (1, 1), False)
            autograd.max_pool_taps_backward(values, taps, POOLED[2:], *window, (1, 1), False)
            y = ops.avg_pool(x, *window, False, True, None)
            ops.avg_pool_backward(y, POOLED[2:], *window, False, True, None)
            ops.adaptive_avg_pool(x, (5, 5))


def sums_of(costs: list[library.Cost]) -> dict[tuple[str, str], list[int]]:
    """Requests, transactions and the least number of these by kernel and kind of request."""
    sums: dict[tuple[str, str], list[int]] = defaultdict(lambda: [0, 0, 0])
    for cost in costs:
        sum_ = sums[cost.kernel, cost.kind]
        for i, number in enumerate((cost.requests, cost.transactions, cost.ideal)):
            sum_[i] += number
    return sums


def counted() -> dict[tuple[str, str], float]:
    """How many times the least number of transactions each kernel and kind takes, of all tiles."""
    torch.manual_seed(0)
    with devices.tf32(True), library.emulated_cuda(), library.counting() as costs:
        run()
        sums = sums_of(costs())
    worst: dict[tuple[str, str], float] = {}
    for (kernel, kind), (_, transactions, ideal) in sums.items():
        key = re.sub(r"(cuda::)?(Fma)?Tile<[^>]*>", "Tile", kernel).removeprefix("cuda::"), kind
        worst[key] = max(worst.get(key, 1.0), round(transactions / ideal, 2))
    return worst


def allowed() -> dict[tuple[str, str], float]:
    """What BUDGET says of each kernel and kind of request."""
    lines = [line for line in BUDGET.read_text().splitlines() if not line.startswith("#")]
    rows = [line.split("\t") for line in lines[1:]]
    return {(kernel, kind): float(ratio) for kernel, kind, ratio in rows}


def update() -> None:
    """Makes what is counted the budget."""
    rows = [
        f"{kernel}\t{kind}\t{ratio:.2f}\n" for (kernel, kind), ratio in sorted(counted().items())
    ]
    BUDGET.write_text(
        "# How many times the least number of transactions the memory requests of each kernel may\n"
        "# take. `python tests/emulator/report.py --update` writes it.\n"
        "kernel\tkind\ttimes the least\n" + "".join(rows)
    )


def table(costs: list[library.Cost], wanted: list[str]) -> Table:
    """One row for each kernel and kind of request."""
    sums = sums_of(
        [cost for cost in costs if not wanted or any(part in cost.kernel for part in wanted)]
    )
    result = Table("kernel", "kind")
    for name in ("requests", "transactions each", "times the least"):
        result.add_column(name, justify="right")
    for (kernel, kind), (requests, transactions, ideal) in sorted(sums.items()):
        each, ratio = transactions / requests, transactions / ideal
        result.add_row(kernel, kind, str(requests), f"{each:.2f}", f"{ratio:.2f}")
    return result


def main(wanted: list[str]) -> None:
    """Runs everything and prints the table, or updates the budget."""
    if wanted == ["--update"]:
        update()
        return
    torch.manual_seed(0)
    with library.emulated_cuda(), library.counting() as costs:
        run()
        Console(width=None if sys.stdout.isatty() else 160).print(table(costs(), wanted))


if __name__ == "__main__":
    main(sys.argv[1:])
