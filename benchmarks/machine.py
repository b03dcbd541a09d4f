"""What the processor can do at best: its multiply-add rate and the speed of its memory.

A matrix product is no measure of the first: its library may be written for another processor. So
a loop of independent fused multiply-adds on registers is compiled by the C compiler at hand and
run on as many threads as the benchmark uses. Without a compiler the limits are left out.
"""

from __future__ import annotations

import ctypes
import os
import platform
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import torch

import cnnops
from cnnops import _C

# Twelve chains: enough to hide the latency of two multiply-adds a cycle, and few enough for the 16
# registers of AVX2. Each converges to 0.5 / (1 - 0.5) = 1, so that no number becomes subnormal.
_SOURCE = """
#if defined(__AVX512F__)
#define BYTES 64
#elif defined(__AVX__)
#define BYTES 32
#else
#define BYTES 16
#endif
#define CHAINS 12

typedef REAL Vector __attribute__((vector_size(BYTES)));

/* Runs CHAINS multiply-adds `repeats` times; the floating-point operations of one repetition. */
long multiply_add(long repeats, REAL* sink) {
  const Vector factor = (Vector){} + (REAL)0.5;
  Vector chain[CHAINS];
  for (int i = 0; i < CHAINS; ++i) chain[i] = (Vector){} + (REAL)i;
  for (long r = 0; r < repeats; ++r) {
#pragma GCC unroll 12
    for (int i = 0; i < CHAINS; ++i) chain[i] = chain[i] * factor + factor;
  }
  Vector sum = chain[0];
  for (int i = 1; i < CHAINS; ++i) sum += chain[i];
  *sink = sum[0];
  return 2 * CHAINS * (long)(BYTES / sizeof(REAL));
}
"""

_REPEATS = 5_000_000
#: How often each is measured; the best counts, for whatever else runs can only take away.
_ATTEMPTS = 10
#: Bytes of each of the two buffers of a copy: more than any cache.
_COPY_BYTES = 1 << 27


@dataclass(frozen=True)
class Machine:
    """Where a benchmark ran and what bounds it.

    Attributes:
        processor, isa: its name and the instruction set in use by cnnops.
        threads: how many threads computed, also in the two measurements.
        torch, cnnops: versions.
        flops: multiply-adds on registers in floating-point operations per second; None when there
            is no C compiler to build the loop with.
        bandwidth: of a large copy, bytes read and written per second.

    """

    processor: str
    isa: str
    threads: int
    torch: str
    cnnops: str
    flops: float | None
    bandwidth: float

    def limit(self, flops: float, size: float) -> float | None:
        """The least seconds for so many operations and bytes; None when the peak is unknown."""
        if self.flops is None:
            return None
        return max(flops / self.flops, size / self.bandwidth)


def measure(dtype: torch.dtype, threads: int) -> Machine:
    """Measures the machine; takes about a second.

    The peak is that of float64 for float64 and that of float32 for everything else, which is what
    cnnops accumulates in.
    """
    return Machine(
        processor=_processor(),
        isa=_C.isa(),
        threads=threads,
        torch=torch.__version__,
        cnnops=cnnops.__version__,
        flops=_peak("double" if dtype == torch.float64 else "float", threads),
        bandwidth=_bandwidth(),
    )


def _processor() -> str:
    """The processor's name as Linux tells it, or its architecture."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.machine())


def _peak(real: str, threads: int) -> float | None:
    """Floating-point operations per second of `threads` loops at a time; `real` is a type of C."""
    compiler = shutil.which(os.environ.get("CC", "cc"))
    if compiler is None:
        return None
    with tempfile.TemporaryDirectory() as folder:
        library = Path(folder, "peak.so")
        command = [compiler, "-O3", "-march=native", "-ffp-contract=fast", f"-DREAL={real}"]
        built = subprocess.run(
            [*command, "-shared", "-fPIC", "-x", "c", "-", "-o", str(library)],
            input=_SOURCE,
            text=True,
            capture_output=True,
            check=False,
        )
        if built.returncode != 0:
            return None
        loop = ctypes.CDLL(str(library)).multiply_add
    loop.restype = ctypes.c_long

    def one(_: int) -> int:
        # ctypes lets go of the interpreter lock meanwhile, so these run at the same time.
        sink = ctypes.create_string_buffer(8)
        return _REPEATS * int(loop(ctypes.c_long(_REPEATS), sink))

    with ThreadPoolExecutor(threads) as pool:
        return max(_rate(lambda: sum(pool.map(one, range(threads)))) for _ in range(_ATTEMPTS))


def _bandwidth() -> float:
    """Bytes per second that torch's copy of a large tensor reads and writes."""
    source = torch.ones(_COPY_BYTES, dtype=torch.uint8)
    target = torch.zeros_like(source)

    def copy() -> int:
        target.copy_(source)
        return 2 * _COPY_BYTES

    return max(_rate(copy) for _ in range(_ATTEMPTS))


def _rate(work: Callable[[], int]) -> float:
    """How much `work` says it did, per second."""
    start = time.perf_counter()
    done = work()
    return done / (time.perf_counter() - start)
