"""An NVIDIA GPU as a device of the benchmark: timed by events, each call with cold caches.

A call is enqueued, not waited for, so the clock on the wall tells nothing; events of the GPU's own
clock stand around each call instead. Before each, more than the L2 cache holds is overwritten, so
that data come from memory as in a network; while that runs, the call is being enqueued, so that
short kernels are not timed waiting for Python. What is left of launch overhead is in the figures of
every contender.

cuDNN picks its algorithms by trying them (torch.backends.cudnn.benchmark), once for each layer and
before anything counts. Whether float32 convolutions may run in tf32 is torch's own setting, for
both sides alike, and part of the headline.
"""

from __future__ import annotations

import contextlib
import shutil
import statistics
import subprocess
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

import cnnops
from cnnops import cuda

from .machine import Machine

#: Side of the matrices whose product shows the peak; bytes of the copy that shows the bandwidth.
_SIDE = 8192
_COPIED = 1 << 30
_ATTEMPTS = 10

#: As measure.TOLERANCES, for float32 in tf32, which has 10 bits.
_TF32_TOLERANCE = 4e-3

#: What nvidia-smi tells about a GPU that torch does not.
_QUERIES = ("driver_version", "clocks.sm", "clocks.max.sm", "clocks.mem", "power.limit")


class Cuda:
    """The current GPU of torch."""

    name = "cuda"

    def __init__(self) -> None:
        self._flush: Tensor | None = None

    def check(self) -> None:
        """Raises ValueError where this build has no CUDA kernels, or torch no GPU to run them."""
        if cuda.MISSING is not None:
            raise ValueError(f"nothing to time: {cuda.MISSING}")
        if not torch.cuda.is_available():
            raise ValueError("nothing to time: torch finds no NVIDIA GPU, or no driver for it")
        reason = cuda.refusal(torch.device("cuda"))
        if reason is not None:
            raise ValueError(f"nothing to time: {reason}")

    def machine(self, dtype: torch.dtype, threads: int) -> Machine:
        """Name, clocks and versions; peak and bandwidth are those of cuBLAS and of a large copy."""
        properties = torch.cuda.get_device_properties()
        versions = f"CUDA {torch.version.cuda}, cuDNN {torch.backends.cudnn.version()}"
        precision = f", float32 convolutions in {'tf32' if _allows_tf32() else 'float32'}"
        return Machine(
            processor=f"{properties.name}, {_state()}{versions}",
            isa=f"sm_{properties.major}{properties.minor}"
            + (precision if dtype == torch.float32 else ""),
            threads=threads,
            torch=torch.__version__,
            cnnops=cnnops.__version__,
            flops=self._peak(dtype),
            bandwidth=self._bandwidth(),
        )

    @contextlib.contextmanager
    def session(self, threads: int) -> Iterator[None]:
        """Lets cuDNN choose by trying, and holds what overwrites the L2 cache."""
        before = torch.backends.cudnn.benchmark
        torch.backends.cudnn.benchmark = True
        cache = torch.cuda.get_device_properties().L2_cache_size
        self._flush = torch.empty(max(2 * cache, 1 << 26), dtype=torch.uint8, device=self.name)
        try:
            yield
        finally:
            torch.backends.cudnn.benchmark = before
            self._flush = None

    def seconds(self, run: Callable[[], Any], repeats: int) -> float:
        """Mean time of so many calls by the GPU's clock, each from cold caches."""
        spans = []
        for _ in range(repeats):
            if self._flush is not None:
                self._flush.zero_()
            start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            start.record()
            run()
            end.record()
            spans.append((start, end))
        torch.cuda.synchronize()
        return statistics.fmean(start.elapsed_time(end) for start, end in spans) / 1e3

    def extra_memory(self, run: Callable[[], tuple[Tensor, ...]]) -> int | None:
        """What torch's allocator gives at peak; workspace of libraries that have their own, not."""
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        results = run()
        torch.cuda.synchronize()
        peak = torch.cuda.max_memory_allocated()
        return max(0, peak - before - sum(result.nbytes for result in results))

    def tolerance(self, dtype: torch.dtype, usual: float) -> float:
        """Wider than usual where float32 may be tf32."""
        rounds = dtype == torch.float32 and _allows_tf32()
        return max(usual, _TF32_TOLERANCE) if rounds else usual

    def _peak(self, dtype: torch.dtype) -> float:
        """Operations per second of a large matrix product, in tf32 where convolutions may be."""
        before = torch.backends.cuda.matmul.fp32_precision
        torch.backends.cuda.matmul.fp32_precision = "tf32" if _allows_tf32() else "ieee"
        try:
            side = _SIDE // 4 if dtype == torch.float64 else _SIDE
            a, b = torch.randn(2, side, side, device=self.name).to(dtype)
            best = min(self.seconds(lambda: a @ b, 1) for _ in range(_ATTEMPTS))
        finally:
            torch.backends.cuda.matmul.fp32_precision = before
        return 2 * side**3 / best

    def _bandwidth(self) -> float:
        """Bytes per second that a large copy reads and writes."""
        source = torch.ones(_COPIED, dtype=torch.uint8, device=self.name)
        target = torch.empty_like(source)
        best = min(self.seconds(lambda: target.copy_(source), 1) for _ in range(_ATTEMPTS))
        return 2 * _COPIED / best


def _allows_tf32() -> bool:
    convolutions: Any = torch.backends.cudnn.conv  # type: ignore[attr-defined]
    return convolutions.fp32_precision == "tf32"


def _state() -> str:
    """Driver, clocks and power limit by nvidia-smi, or nothing where there is none."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return ""
    index = torch.cuda.current_device()
    uuid = getattr(torch.cuda.get_device_properties(index), "uuid", None)
    which = index if uuid is None else f"GPU-{uuid}"
    run = subprocess.run(
        [program, f"--id={which}", f"--query-gpu={','.join(_QUERIES)}", "--format=csv,noheader"],
        capture_output=True,
        text=True,
        check=False,
    )
    return _described(run.stdout) if run.returncode == 0 else ""


def _described(line: str) -> str:
    """What nvidia-smi said about _QUERIES, as a part of the headline."""
    driver, now, most, memory, power = (value.strip() for value in line.split(","))
    return f"SM clock {now} of {most}, memory clock {memory}, limit {power}, driver {driver}, "
