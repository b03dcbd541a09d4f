"""What the processor can do at best: its multiply-add rate and the speed of its memory.

Neither a matrix product nor torch's copy of a tensor measures that: the one may be written for
another processor, and the other reads from memory what it is about to overwrite. So two loops are
built with the C compiler at hand, independent fused multiply-adds on registers and a copy that
writes past the caches, and run on as many threads as the benchmark uses. Without a compiler the
limits are left out.
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
#include <string.h>
#if defined(__SSE2__)
#include <emmintrin.h>
#endif

#if defined(__AVX512F__)
#define BYTES 64
#elif defined(__AVX__)
#define BYTES 32
#else
#define BYTES 16
#endif
#define CHAINS 12

typedef REAL Vector __attribute__((vector_size(BYTES)));

/* Runs CHAINS multiply-adds `repeats` times; returns the operations of one repetition. */
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

/* Copies between buffers aligned to 16 bytes; `size` is a multiple of 16. */
void copy(const char* source, char* target, long size) {
#if defined(__SSE2__)
  for (long i = 0; i < size; i += 16)
    _mm_stream_si128((__m128i*)(target + i), _mm_load_si128((const __m128i*)(source + i)));
  _mm_sfence();
#else
  memcpy(target, source, size);
#endif
}
"""

#: What the compiler needs to know for the instruction sets of cnnops; nothing for the baseline.
_FLAGS = {"avx2": ("-mavx2", "-mfma"), "avx512": ("-mavx512f", "-mfma")}

_REPEATS = 5_000_000
#: How often each is measured; the best counts, for whatever else runs can only take away.
_ATTEMPTS = 10
#: Bytes that all threads together copy: more than any cache.
_COPIED = 1 << 28


@dataclass(frozen=True)
class Machine:
    """Where a benchmark ran and what bounds it.

    Attributes:
        processor, isa: its name and the instruction set in use by cnnops.
        threads: how many threads computed, also in the two measurements.
        torch, cnnops: versions.
        flops: multiply-adds on registers, in floating-point operations per second.
        bandwidth: bytes that a large copy reads and writes per second. Both are None where there
            is no C compiler to build the loops with.

    """

    processor: str
    isa: str
    threads: int
    torch: str
    cnnops: str
    flops: float | None
    bandwidth: float | None

    def limit(self, flops: float, size: float) -> float | None:
        """The least seconds for so many operations and bytes; None when that is unknown."""
        if self.flops is None or self.bandwidth is None:
            return None
        return max(flops / self.flops, size / self.bandwidth)


def measure(dtype: torch.dtype, threads: int) -> Machine:
    """Measures the machine; takes about a second.

    The peak is that of the instruction set which cnnops uses, in float64 for float64 and in float32
    for everything else, which is what cnnops accumulates in.
    """
    isa = _C.isa()
    with tempfile.TemporaryDirectory() as folder:
        real = "double" if dtype == torch.float64 else "float"
        loops = _build(Path(folder, "loops.so"), isa, real)
        return Machine(
            processor=_processor(),
            isa=isa,
            threads=threads,
            torch=torch.__version__,
            cnnops=cnnops.__version__,
            flops=None if loops is None else _peak(loops, threads),
            bandwidth=None if loops is None else _bandwidth(loops, threads),
        )


def _processor() -> str:
    """The processor's name as Linux tells it, or its architecture."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.machine())


def _build(library: Path, isa: str, real: str) -> ctypes.CDLL | None:
    """The compiled loops, or None where they cannot be compiled; `real` is a type of C."""
    compiler = shutil.which(os.environ.get("CC", "cc"))
    if compiler is None:
        return None
    command = [compiler, "-O3", "-ffp-contract=fast", f"-DREAL={real}", *_FLAGS.get(isa, ())]
    built = subprocess.run(
        [*command, "-shared", "-fPIC", "-x", "c", "-", "-o", str(library)],
        input=_SOURCE,
        text=True,
        capture_output=True,
        check=False,
    )
    return ctypes.CDLL(str(library)) if built.returncode == 0 else None


def _peak(loops: ctypes.CDLL, threads: int) -> float:
    """Floating-point operations per second of `threads` loops at a time."""
    loop = loops.multiply_add
    loop.restype = ctypes.c_long

    def work(_: int) -> int:
        sink = ctypes.create_string_buffer(8)
        return _REPEATS * int(loop(ctypes.c_long(_REPEATS), sink))

    return _rate(work, threads)


def _bandwidth(loops: ctypes.CDLL, threads: int) -> float:
    """Bytes per second that `threads` copies at a time read and write."""
    source = torch.ones(_COPIED, dtype=torch.uint8)
    target = torch.zeros_like(source)
    share = _COPIED // threads // 64 * 64

    def work(thread: int) -> int:
        places = (tensor.data_ptr() + thread * share for tensor in (source, target))
        loops.copy(*map(ctypes.c_void_p, places), ctypes.c_long(share))
        return 2 * share

    return _rate(work, threads)


def _rate(work: Callable[[int], int], threads: int) -> float:
    """How much `work` says it did per second on all threads together; it gets their numbers.

    ctypes lets go of the interpreter lock during a call, so the threads do run at the same time.
    """
    rates = []
    with ThreadPoolExecutor(threads) as pool:
        for _ in range(_ATTEMPTS):
            start = time.perf_counter()
            done = sum(pool.map(work, range(threads)))
            rates.append(done / (time.perf_counter() - start))
    return max(rates)
