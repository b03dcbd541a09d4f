"""Plants mistakes in the CUDA kernels, one at a time: does the suite notice?

    python tests/emulator/mutate.py [--kinds barrier,bound] [--sample N] [--quick] [file ...]

Of the kinds in mutations.py those that concern synchronisation, and mistakes.py, are tried all, of
each other kind N mutants in each file (--sample all: all of them). A mutant is compiled, without
the units that do not have its kernel, and tested by the tests that run this kernel; what they miss
meets everything emulated that `make test` runs, unless --quick. Who passes the deadline is noticed
too.

Prints a line for each, and exits with 1 where one survives that equivalent.py does not explain.
What was found stays in build/mutants/found.json: another run tries only what is new or survived.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import multiprocessing
import os
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import pytest

from emulator import build, library  # noqa: F401  what tests import first, before the forks
from emulator.equivalent import reason_for
from emulator.mutations import KINDS, SYNCHRONISATION, Mutant, mutants, sample

FOLDER = build.ROOT / "build" / "mutants"
SOURCES = build.ROOT / "csrc" / "cuda"

_FORK = multiprocessing.get_context("fork")

#: Seconds for the tests of a mutant; they take a third of that where nothing is wrong.
DEADLINE = 180
#: The same for those of many kernels, or all.
LONG_DEADLINE = 6 * DEADLINE

#: Emulated tests, of all that there are; those of the modules that have no device are all emulated.
EMULATED = (
    "cuda-emulated or tensor_cores or fma_convolution or cuda_depthwise or cuda_pool"
    " or cuda_addresses or cuda_nan or cuda_order or cuda_strides or cuda_index_widths"
    " or cuda_requests"
)


@dataclass(frozen=True)
class Kernel:
    """The translation units that have kernels of a source, and the tests that run them.

    Attributes:
        units: their files in csrc/cuda, or in this folder.
        tests: in tests/test_*, those that are made for its kernels.

    """

    units: tuple[str, ...]
    tests: tuple[str, ...]


_CONV = ("cuda_strides.py", "cuda_addresses.py", "cuda_nan.py", "cuda_order.py")
_MMA = ("tensor_cores.py", *_CONV)
_FMA = ("fma_convolution.py", *_CONV)
_DEPTHWISE = ("cuda_depthwise.py", "cuda_requests.py", *_CONV)
_ANY = ("tensor_cores.py", "fma_convolution.py", "cuda_depthwise.py", *_CONV)
_POOL = Kernel(("pool.cu",), ("cuda_pool.py", "cuda_pool_taps.py", "pool.py", "cuda_addresses.py"))
_POOL_INDEX = Kernel(("pool.cu", "limits.cpp"), ("cuda_index_widths.py", *_POOL.tests))
_MMA_UNITS = ("implicit_gemm.cu", "implicit_gemm_weight.cu")
_FMA_UNITS = ("fma_gemm.cu", "fma_gemm_weight.cu")
_CONV_UNITS = ("conv.cu", "depthwise.cu", *_FMA_UNITS, *_MMA_UNITS)

KERNELS = {
    "implicit_gemm.cu": Kernel(("implicit_gemm.cu",), _MMA),
    "implicit_gemm.cuh": Kernel(("implicit_gemm.cu",), _MMA),
    "join_shares.cuh": Kernel(("implicit_gemm.cu",), _MMA),
    "pack_k_major.cuh": Kernel(("implicit_gemm.cu",), _MMA),
    "implicit_gemm_weight.cu": Kernel(("implicit_gemm_weight.cu",), _MMA),
    "implicit_gemm_weight.cuh": Kernel(("implicit_gemm_weight.cu",), _MMA),
    "mma_tile.cuh": Kernel(_MMA_UNITS, _MMA),
    "padded_read.cuh": Kernel(_MMA_UNITS, _MMA),
    "fma_gemm.cu": Kernel(("fma_gemm.cu",), _FMA),
    "fma_gemm.cuh": Kernel(("fma_gemm.cu",), _FMA),
    "pack_weight.cuh": Kernel(("fma_gemm.cu",), _FMA),
    "fma_gemm_weight.cu": Kernel(("fma_gemm_weight.cu",), _FMA),
    "fma_gemm_weight.cuh": Kernel(("fma_gemm_weight.cu",), _FMA),
    "fma_tile.cuh": Kernel(_FMA_UNITS, _FMA),
    "site.cuh": Kernel(_FMA_UNITS, _FMA),
    "depthwise.cu": Kernel(("depthwise.cu",), _DEPTHWISE),
    "depthwise.cuh": Kernel(("depthwise.cu",), _DEPTHWISE),
    "depthwise_channels.cuh": Kernel(("depthwise.cu",), _DEPTHWISE),
    "depthwise_planar.cuh": Kernel(("depthwise.cu",), _DEPTHWISE),
    "depthwise_weight.cuh": Kernel(("depthwise.cu",), _DEPTHWISE),
    "join_chunks.cuh": Kernel(
        ("fma_gemm_weight.cu", "implicit_gemm_weight.cu", "depthwise.cu"), _ANY
    ),
    "conv.cu": Kernel(("conv.cu",), _ANY),
    "fill.cuh": Kernel(("conv.cu",), _ANY),
    "fold_padding.cuh": Kernel(("conv.cu",), _ANY),
    "transpose.cuh": Kernel(("conv.cu",), _ANY),
    "problem.h": Kernel((*_CONV_UNITS, "pool.cu", "limits.cpp"), ("cuda_index_widths.py", *_ANY)),
    "launch_grid.h": Kernel(("limits.cpp",), ("cuda_index_widths.py",)),
    "describe.h": Kernel((*_CONV_UNITS, "limits.cpp"), ("cuda_index_widths.py", *_ANY)),
    "plan.h": Kernel(_CONV_UNITS, _ANY),
    "depthwise_plan.h": Kernel(("depthwise.cu",), _DEPTHWISE),
    "pool_plan.h": _POOL_INDEX,
    "pool.cu": _POOL,
    "pool_direct.cuh": _POOL,
    "pool_fractional.cuh": _POOL,
    "pool_indexed.cuh": _POOL,
    "pool_problem.h": _POOL_INDEX,
    "pool_reduce.cuh": _POOL,
    "pool_tile.cuh": _POOL,
    "pool_window.cuh": _POOL,
}


def chosen(arguments: argparse.Namespace) -> list[Mutant]:
    """The mutants that the command line asks for."""
    found = []
    for name in sorted(KERNELS):
        if arguments.files and not any(part in name for part in arguments.files):
            continue
        for kind in arguments.kinds:
            of_kind = list(mutants(SOURCES / name, (kind,)))
            every = arguments.sample is None or kind in (*SYNCHRONISATION, "mistake")
            found += of_kind if every else sample(of_kind, arguments.sample, arguments.seed)
    return found


class _FirstFailure:
    """A plugin of pytest that notes which test failed first."""

    test: str | None = None

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Called by pytest after each part of a test."""
        if report.failed and self.test is None:
            self.test = report.nodeid.removeprefix("tests/")


def _test(built: Path, tests: Sequence[str], answer: Connection) -> None:
    """What a forked process does: sends the first test that fails, or None."""
    os.environ["CNNOPS_EMULATED_LIBRARY"] = str(built)
    os.chdir(build.ROOT)
    with open(os.devnull, "w") as nothing:
        os.dup2(nothing.fileno(), 1)
    first = _FirstFailure()
    options = ["-q", "-x", "-p", "no:cacheprovider", "--tb=no", "-k", EMULATED]
    code = pytest.main([*options, *tests], plugins=[first])
    answer.send(first.test or (None if code == 0 else f"pytest, with exit code {int(code)}"))


def run_tests(built: Path, tests: Sequence[str], deadline: float = DEADLINE) -> str | None:
    """The first test that fails with this library; None where all pass.

    They run in a fork of this process, which has imported torch already.
    """
    mine, answer = _FORK.Pipe(duplex=False)
    process = _FORK.Process(target=_test, args=(built, tests, answer))
    process.start()
    answer.close()
    try:
        if not mine.poll(deadline):
            return "the deadline"
        found: str | None = mine.recv()
        return found
    except EOFError:  # it ended without an answer
        return "a crash"
    finally:
        process.kill()
        process.join()


def verdict_on(mutant: Mutant, thorough: bool) -> str:
    """ "found by ...", "does not compile", or "survives"."""
    kernel = KERNELS[mutant.file]
    changed = FOLDER / "cuda" / mutant.file
    for old in changed.parent.glob("*"):
        old.unlink()
    changed.write_text(mutant.apply((SOURCES / mutant.file).read_text()))
    built = build.build_changed(changed, kernel.units, FOLDER)
    if built is None:
        return "does not compile"
    tests = [f"tests/test_{name}" for name in kernel.tests]
    failed = run_tests(built, tests)
    if failed is None and thorough:
        failed = run_tests(built, ["tests"], LONG_DEADLINE)
    return f"found by {failed}" if failed else "survives"


def key_of(mutant: Mutant) -> str:
    """Names a mutant of this text of its file."""
    changed = mutant.apply((SOURCES / mutant.file).read_text())
    return f"{mutant.file} {hashlib.sha256(changed.encode()).hexdigest()[:16]}"


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("files", nargs="*", help="parts of names of files; all by default")
    parser.add_argument("--kinds", default=",".join(KINDS), help="of: " + ", ".join(KINDS))
    parser.add_argument("--sample", default="1", help="mutants of a kind in a file, or 'all'")
    parser.add_argument("--quick", action="store_true", help="only the tests of each kernel")
    parser.add_argument("--seed", type=int, default=0, help="of the choice of samples")
    parsed = parser.parse_args(arguments)
    parsed.kinds = tuple(parsed.kinds.split(","))
    parsed.sample = None if parsed.sample == "all" else int(parsed.sample)
    if set(parsed.kinds) - set(KINDS):
        parser.error(f"no such kind: {set(parsed.kinds) - set(KINDS)}")
    return parsed


def main(arguments: Sequence[str]) -> int:
    """The exit code: 1 where a mutant survives without a reason."""
    parsed = parse(arguments)
    wanted = chosen(parsed)
    (FOLDER / "cuda").mkdir(parents=True, exist_ok=True)
    tests = {f"tests/test_{test}" for it in wanted for test in KERNELS[it.file].tests}
    if failed := run_tests(build.build("library"), sorted(tests), LONG_DEADLINE):
        raise SystemExit(f"without any mutation: {failed}")
    record = FOLDER / "found.json"
    known = json.loads(record.read_text()) if record.exists() else {}
    totals: Counter[str] = Counter()
    for mutant in wanted:
        key = key_of(mutant)
        if (reason := reason_for(mutant)) is not None:
            verdict = f"equivalent: {reason}"
        elif key in known:
            verdict = known[key]
        else:
            verdict = verdict_on(mutant, not parsed.quick)
            if verdict != "survives":
                known[key] = verdict
                record.write_text(json.dumps(known, indent=1))
        totals[verdict.split(":")[0].partition(" by ")[0]] += 1
        print(f"{'SURVIVES' if verdict == 'survives' else verdict}\n    {mutant}", flush=True)
    print(", ".join(f"{count} {what}" for what, count in totals.most_common()))
    return min(totals["survives"], 1)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
