"""Runs tests of operators on kernels that a sanitizer watches: `python sanitize.py asan` or tsan.

Further arguments go to pytest. The sanitizer's runtime is loaded before Python, which is not built
with it, so that only the kernels and what they touch are checked.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from emulator import build

#: ubsan's runtime is part of asan's.
RUNTIMES = {"asan": "libasan.so", "tsan": "libtsan.so"}

#: One in so many of all emulated tests.
SHARE = {"asan": 40, "tsan": 30}

OPTIONS = {
    # Python and torch leak on purpose. Stacks of fibers are no place for fake frames.
    "ASAN_OPTIONS": "detect_leaks=0:detect_stack_use_after_return=0",
    # What torch's own threads do is not instrumented and would look like races.
    "TSAN_OPTIONS": "ignore_noninstrumented_modules=1:report_signal_unsafe=0:exitcode=66"
    ":halt_on_error=1",
    "UBSAN_OPTIONS": "print_stacktrace=1",
}


def main(variant: str, *arguments: str) -> int:
    """The exit code of pytest, or of the sanitizer that ended it."""
    library = build.build("library", variant)
    # libstdc++ as well: the sanitizer looks for its exceptions before anything else loads it.
    preloaded = [build.runtime_library(name) for name in (RUNTIMES[variant], "libstdc++.so")]
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider"]
    # What the sanitizer says goes past pytest, which it ends.
    command += ["--capture=sys", "--device=cuda-emulated", f"--share={SHARE[variant]}", *arguments]
    environment = {
        **os.environ,
        **OPTIONS,
        "LD_PRELOAD": " ".join(preloaded),
        "OMP_NUM_THREADS": "1",
    }
    environment["CNNOPS_EMULATED_LIBRARY"] = str(library)
    return subprocess.run(command, env=environment, cwd=build.ROOT, check=False).returncode


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
