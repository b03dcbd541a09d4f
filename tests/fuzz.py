"""Random hostile calls of every operator: a program, run by test_fuzz.py in a process of its own.

    python tests/fuzz.py --seed 1 --calls 3000 --log last_call.txt

Each call starts as a good one and has some of its arguments replaced, so that most get past the
first check they meet. It may return or raise; it may not crash, hang, or raise what Python code
does not expect from torch. Before each call its number and arguments go to the log: after a crash
the last line says what did it.

Sizes are either tiny or absurd. Nothing between is drawn, so no call is slow for honest reasons;
the absurd are refused or fail to allocate, for the address space is limited first.
"""

from __future__ import annotations

import argparse
import random
import resource
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import cnnops  # noqa: F401  (registers the operators)

EXPECTED = (RuntimeError, ValueError, TypeError, IndexError, OverflowError, MemoryError)
ABSURD = (-1, -2, 2**31, 2**32 + 1, 2**62, 2**63 - 1, -(2**63), 10**12)
DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16, torch.int64, torch.int8,
          torch.uint8, torch.bool, torch.complex64)  # fmt: skip
GIGABYTES = 3


class Caller:
    """Draws calls from one seed."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)

    def chance(self, share: float) -> bool:
        return self.random.random() < share

    def number(self) -> int:
        """Tiny, or absurd one time in four."""
        if self.chance(0.25):
            return self.random.choice(ABSURD)
        return self.random.randint(0, 5)

    def numbers(self, length: int) -> list[int]:
        """A list that mostly has the right length."""
        if self.chance(0.15):
            length = self.random.randint(0, 7)
        return [self.number() for _ in range(length)]

    def tensor(self, shape: tuple[int, ...], dtype: torch.dtype = torch.float32) -> Tensor:
        """Small integers as values, in one of many layouts, sometimes of another shape or dtype."""
        shape = tuple(shape)
        if self.chance(0.08):
            axes = list(shape)
            change = self.random.choice(["drop", "add", "size", "zero"])
            where = self.random.randrange(len(axes)) if axes else 0
            if change == "add" or not axes:
                axes.insert(where, self.random.randint(0, 3))
            elif change == "drop":
                del axes[where]
            else:
                axes[where] = 0 if change == "zero" else self.random.randint(1, 9)
            shape = tuple(axes)
        if self.chance(0.04):
            dtype = self.random.choice(DTYPES)
        tensor = torch.randint(0, 5, shape).to(dtype)
        layout = self.random.choice(["as is", "as is", "last", "sliced", "transposed", "expanded"])
        if layout == "last" and tensor.dim() in (4, 5):
            formats = {4: torch.channels_last, 5: torch.channels_last_3d}
            return tensor.to(memory_format=formats[tensor.dim()])
        if layout == "sliced" and tensor.dim() > 0:
            return torch.stack([tensor, tensor], -1)[..., 1]
        if layout == "transposed" and tensor.dim() > 1:
            return tensor.transpose(-1, -2).contiguous().transpose(-1, -2)
        if layout == "expanded" and tensor.dim() > 0 and tensor.shape[0] > 0:
            return tensor[:1].expand_as(tensor)
        return tensor

    def indices(self, shape: tuple[int, ...], plane: int) -> Tensor:
        """Positions in a plane, sometimes one of them absurd, sometimes of another dtype."""
        where = torch.randint(0, max(plane, 1), shape)
        if self.chance(0.4) and where.numel() > 0:
            hostile = self.random.choice((*ABSURD, plane, plane - 1))
            where.view(-1)[self.random.randrange(where.numel())] = hostile
        return self.tensor(shape, torch.int64) if self.chance(0.05) else where

    def mutated(self, good: list[Any]) -> list[Any]:
        """The good arguments with up to two of those that are no tensors replaced."""
        places = [i for i, value in enumerate(good) if not isinstance(value, Tensor)]
        for place in self.random.sample(places, min(len(places), self.random.choice([0, 1, 1, 2]))):
            value = good[place]
            if self.chance(0.03):
                good[place] = None
            elif isinstance(value, list) and value and self.chance(0.7):
                value[self.random.randrange(len(value))] = self.number()
            elif isinstance(value, list):
                good[place] = self.numbers(len(value))
            elif isinstance(value, bool):
                good[place] = not value
            elif isinstance(value, str):
                modes = ["zeros", "reflect", "replicate", "circular", "", "nonsense"]
                good[place] = self.random.choice(modes)
            else:
                good[place] = self.number()
        return good

    def batch(self) -> tuple[int, ...]:
        return self.random.choice([(), (1,), (2,), (0,)])

    def call(self) -> tuple[str, list[Any]]:
        """The name of an operator and its arguments."""
        rank = self.random.randint(1, 3)
        family = self.random.choice([self.convolution, self.pool, self.adaptive, self.by_indices])
        name, arguments = family(rank)
        return name, self.mutated(arguments)

    def convolution(self, rank: int) -> tuple[str, list[Any]]:
        draw = self.random
        groups = draw.choice([1, 1, 2, 3])
        inputs, outputs = groups * draw.randint(1, 3), groups * draw.randint(1, 3)
        size = [draw.randint(1, 8) for _ in range(rank)]
        kernel = [draw.randint(1, 3) for _ in range(rank)]
        stride = [draw.randint(1, 3) for _ in range(rank)]
        dilation = [draw.randint(1, 2) for _ in range(rank)]
        padding = [draw.randint(0, 3) for _ in range(2 * rank)]
        mode = draw.choice(["zeros", "zeros", "reflect", "replicate", "circular"])
        reached = [
            max((m + p + q - d * (k - 1) - 1) // s + 1, 0)
            for m, p, q, d, k, s in zip(
                size, padding[0::2], padding[1::2], dilation, kernel, stride, strict=True
            )
        ]
        dtype = draw.choice(DTYPES[:5])
        batch = self.batch()
        x = self.tensor((*batch, inputs, *size), dtype)
        weight = self.tensor((outputs, inputs // groups, *kernel), dtype)
        grad = self.tensor((*batch, outputs, *reached), dtype)
        trailing = [stride, padding, dilation, groups, mode]
        which = draw.randrange(3)
        if which == 0:
            bias = self.tensor((outputs,), dtype) if self.chance(0.5) else None
            return "convolution", [x, weight, bias, *trailing]
        if which == 1:
            bias = self.tensor((inputs,), dtype) if self.chance(0.5) else None
            return "convolution_grad_input", [grad, weight, bias, size, *trailing]
        return "convolution_grad_weight", [grad, x, kernel, *trailing]

    def pool(self, rank: int) -> tuple[str, list[Any]]:
        draw = self.random
        size = [draw.randint(1, 8) for _ in range(rank)]
        kernel = [draw.randint(1, 3) for _ in range(rank)]
        stride = [draw.randint(1, 3) for _ in range(rank)]
        padding = [draw.randint(0, k // 2) for k in kernel]
        reached = [
            max((m + 2 * p - k) // s + 1, 0)
            for m, p, k, s in zip(size, padding, kernel, stride, strict=True)
        ]
        dtype = draw.choice(DTYPES[:7])
        shape = (*self.batch(), draw.randint(1, 3))
        x = self.tensor((*shape, *size), dtype)
        name = draw.choice(
            [
                "max_pool",
                "max_pool_with_indices",
                "max_pool_with_taps",
                "max_pool_taps_backward",
                "avg_pool",
                "avg_pool_backward",
            ]
        )
        if name.startswith("max"):
            dilation = [draw.randint(1, 2) for _ in range(rank)]
            if "taps" in name and self.chance(0.8):
                stride, dilation = [min(s, 2) for s in stride], [1] * rank
            windows = [kernel, stride, padding, dilation, self.chance(0.5)]
            if name != "max_pool_taps_backward":
                return name, [x, *windows]
            reached = [
                max((m + 2 * p - k) // s + 1, 0)
                for m, p, k, s in zip(size, padding, kernel, stride, strict=True)
            ]
            grad = self.tensor((*shape, *reached), dtype)
            taps = torch.randint(draw.choice([4, 256]), grad.shape, dtype=torch.uint8)
            return name, [grad, taps, size, *windows]
        trailing = [kernel, stride, padding, False, self.chance(0.5),
                    draw.choice([None, None, 1, 3])]  # fmt: skip
        if name == "avg_pool":
            return name, [x, *trailing]
        return name, [self.tensor((*shape, *reached), dtype), size, *trailing]

    def adaptive(self, rank: int) -> tuple[str, list[Any]]:
        draw = self.random
        size = [draw.randint(1, 8) for _ in range(rank)]
        target = [draw.randint(1, 5) for _ in range(rank)]
        dtype = draw.choice(DTYPES[:4])
        shape = (*self.batch(), draw.randint(1, 3))
        x = self.tensor((*shape, *size), dtype)
        which = draw.randrange(4)
        if which == 0:
            return "adaptive_max_pool", [x, target]
        if which == 1:
            return "adaptive_avg_pool", [x, target]
        if which == 2:
            return "adaptive_avg_pool_backward", [self.tensor((*shape, *target), dtype), size]
        samples = torch.rand((*(shape if len(shape) == 2 else (1, *shape)), rank)).to(dtype)
        if self.chance(0.3) and samples.numel() > 0:
            hostile = draw.choice([-1.0, 2.0, float("nan"), float("inf"), -1e38, 1e18])
            samples.view(-1)[draw.randrange(samples.numel())] = hostile
        return "fractional_max_pool", [
            x,
            [draw.randint(1, 2) for _ in range(rank)],
            target,
            samples,
        ]

    def by_indices(self, rank: int) -> tuple[str, list[Any]]:
        draw = self.random
        size = [draw.randint(1, 6) for _ in range(rank)]
        pooled = [draw.randint(1, 4) for _ in range(rank)]
        plane = 1
        for length in size:
            plane *= length
        dtype = draw.choice(DTYPES[:4])
        shape = (*self.batch(), draw.randint(1, 3))
        values = self.tensor((*shape, *pooled), dtype)
        where = self.indices((*shape, *pooled), plane)
        name = draw.choice(["max_unpool", "max_pool_backward", "max_pool_gather"])
        if name == "max_pool_gather":
            channels = draw.randint(1, 3)
            picks = draw.randint(1, 6)
            return name, [
                self.tensor((channels, plane), dtype),
                self.indices((channels, picks), plane),
            ]
        return name, [values, where, size]


def show(value: Any) -> str:
    """An argument as it goes to the log."""
    if isinstance(value, Tensor):
        return f"{str(value.dtype)[6:]}{tuple(value.shape)} strides {value.stride()}"
    return repr(value)


def limit_memory() -> None:
    """Lets the process grow by GIGABYTES, so that absurd sizes fail instead of swapping."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + GIGABYTES * 2**30
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--calls", type=int, required=True)
    parser.add_argument("--first", type=int, default=0, help="Number of the first call to make.")
    parser.add_argument("--log", type=Path, required=True)
    options = parser.parse_args()
    torch.set_num_threads(2)
    torch.randn(1000, 1000) @ torch.randn(1000, 1000)  # starts the threads before the limit
    limit_memory()
    outcomes: Counter[str] = Counter()
    with options.log.open("w") as log:
        for number in range(options.first, options.first + options.calls):
            seed = options.seed * 1_000_003 + number  # each call can be repeated on its own
            torch.default_generator.manual_seed(seed)
            name, arguments = Caller(seed).call()
            log.seek(0)
            log.truncate()
            log.write(f"call {number}: {name}({', '.join(map(show, arguments))})\n")
            log.flush()
            try:
                getattr(torch.ops.cnnops, name)(*arguments)
                outcomes["returned"] += 1
            except EXPECTED as error:
                outcomes[type(error).__name__] += 1
    print(" ".join(f"{name}={count}" for name, count in sorted(outcomes.items())))
    sys.stdout.flush()


if __name__ == "__main__":
    main()
