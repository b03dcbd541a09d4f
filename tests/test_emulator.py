"""The emulator finds bugs: each of those that emulator/planted can plant, and none without one."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import devices
import pytest
from emulator import build

pytestmark = devices.needs_emulator

KERNELS = Path(__file__).parent / "emulator" / "planted" / "kernels.cuh"
SCHEDULES = ["ascending", "descending", "ahead", "random"]

#: What the emulator must say of each bug, in every schedule.
FOUND = {
    "NoBarrierAfterWait": r"gemm.*race: (reads|copies to) what was .* with no barrier between",
    "NoBarrierBeforeReuse": r"gemm.*race: (reads|copies to) what was .* with no barrier between",
    "NoBarrierInReduction": r"block_sum.*race: .* what was .* with no barrier between",
    "NoWarpBarrier": r"reverse.*race: .* what was .* with no barrier between",
    "WrongWait": r"gemm.*race: reads what was cp.async not waited for",
    "NoWait": r"gemm.*race: .* what was cp.async not waited for",
    "DivergentBarrier": r"block_sum.*(__syncthreads after a thread has left|leaves while others)",
    "DifferentBarriers": r"block_sum.*threads meet at different __syncthreads",
    "DifferentCollectives": r"block_sum.*lanes of a warp meet at different collectives",
    "EarlyReturn": r"block_sum.*(after a lane of the warp has left|leaves while others)",
    "PartialMask": r"block_sum.*__shfl_xor_sync with less than the full mask",
    "OverrunChecked": r"block_sum.*access beyond an array of shared memory",
    "OverrunPlain": r"block_sum.*written past the end of an array of 128 bytes",
    "BadFragmentRow": r"^wrong result of gemm$",
    "BadFragmentColumn": r"^wrong result of gemm$",
    "MisalignedLoad": r"block_sum.*misaligned access of 16 bytes",
    "MisalignedCopy": r"gemm.*misaligned access of 16 bytes",
    "MisalignedMatrix": r"gemm.*misaligned access of 16 bytes",
    "ReadOutOfBounds": r"block_sum.*reads 4 bytes of global memory out of bounds: 4 bytes past",
    "WriteOutOfBounds": r"block_sum.*writes 4 bytes of global memory out of bounds: 4 bytes past",
    "CopyOutOfBounds": r"gemm.*reads 16 bytes of global memory out of bounds",
    "WriteReadOnly": r"block_sum.*writes 4 bytes of global memory that it may only read",
    "BlocksRace": r"block_sum.*race: writes what was written by thread 0 of another block",
    "ReadsUninitialised": r"^wrong result of block_sum$",
    "MissesOutputs": r"^wrong result of gemm$",
    "Trap": r"block_sum.*trap at kernels.cuh",
}


def bugs() -> dict[str, int]:
    """Every bug of kernels.cuh by name, in the order of its enumeration."""
    body = re.search(r"enum class Bug \{(.*?)\}", KERNELS.read_text(), re.DOTALL)
    assert body is not None
    names = re.findall(r"k(\w+),?", body[1])
    return {name: number for number, name in enumerate(names)}


BUGS = bugs()


def run(bug: str, settings: str, variant: str = "plain") -> subprocess.CompletedProcess[str]:
    """The program with this bug planted; what it found stands on stdout."""
    quiet = {"ASAN_OPTIONS": "detect_leaks=0", "TSAN_OPTIONS": "exitcode=66"}
    return subprocess.run(
        [build.build("planted", variant), str(BUGS[bug]), settings],
        env={**os.environ, **quiet},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


def test_every_bug_is_expected() -> None:
    assert set(BUGS) == {"None", "BankConflicts", "Count", *FOUND}


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_nothing_is_found_where_nothing_is_wrong(schedule: str) -> None:
    for seed in (0, 1):
        done = run("None", f"schedule={schedule},seed={seed}")
        assert (done.returncode, done.stdout.strip(), done.stderr) == (0, "", "")


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("bug", FOUND)
def test_bug_is_found(bug: str, schedule: str) -> None:
    done = run(bug, f"schedule={schedule}")
    assert done.returncode == 1
    assert re.search(FOUND[bug], done.stdout, re.DOTALL), done.stdout


def test_message_names_kernel_block_thread_line_and_how_to_repeat() -> None:
    said = run("ReadOutOfBounds", "schedule=ahead,seed=5").stdout
    pattern = (
        r"emulator: kernel planted::block_sum<planted::Bug::kReadOutOfBounds>: .* "
        r"at kernels.cuh:(\d+); "
        r"block \(\d+, 0, 0\) of \(5, 1, 1\), thread \(\d+, 0, 0\) of \(128, 1, 1\); "
        r"to repeat: CNNOPS_EMULATOR=schedule=ahead,seed=5"
    )
    found = re.search(pattern, said)
    assert found, said
    line = KERNELS.read_text().splitlines()[int(found[1]) - 1]
    assert "load(&x[i])" in line


@pytest.mark.parametrize(
    "bug, schedule",
    [
        ("NoBarrierAfterWait", "ahead"),
        ("NoBarrierBeforeReuse", "ahead"),
        ("NoBarrierInReduction", "ascending"),
        ("NoWarpBarrier", "random"),
        ("WrongWait", "descending"),
        ("NoWait", "ahead"),
    ],
)
def test_adverse_schedules_make_races_wrong_results(bug: str, schedule: str) -> None:
    # Also a race that the analysis of accesses does not look for has to show somewhere.
    assert run(bug, "schedule=mixed,races=0").returncode in (0, 1)
    assert run(bug, f"schedule={schedule},races=0").stdout.startswith("wrong result")


@pytest.mark.slow
@pytest.mark.parametrize(
    "bug", ["NoBarrierAfterWait", "NoBarrierBeforeReuse", "NoBarrierInReduction", "NoWarpBarrier"]
)
def test_thread_sanitizer_finds_races_by_itself(bug: str) -> None:
    assert run("None", "schedule=ascending,races=0", "tsan").returncode == 0
    done = run(bug, "schedule=ascending,races=0", "tsan")
    assert "ThreadSanitizer: data race" in done.stderr


@pytest.mark.slow
def test_address_and_undefined_behaviour_sanitizers_find_overruns() -> None:
    assert run("None", "schedule=random", "asan").returncode == 0
    done = run("OverrunPlain", "schedule=ascending", "asan")
    assert "index 32 out of bounds for type 'float [32]'" in done.stderr


def costs(bug: str) -> dict[tuple[str, str], list[int]]:
    """(kernel, kind) -> requests, transactions and ideal, over all places in the kernel."""
    sums: dict[tuple[str, str], list[int]] = {}
    for line in run(bug, "schedule=ascending,count=1").stdout.splitlines():
        if "\t" not in line:
            continue  # what was found, of which there is nothing
        kernel, kind, _, *numbers = line.split("\t")
        sum_ = sums.setdefault((re.sub("<.*", "", kernel), kind), [0, 0, 0])
        sum_[:] = [a + int(b) for a, b in zip(sum_, numbers, strict=True)]
    return sums


def test_costs_of_memory_requests() -> None:
    sums = costs("None")
    # The matrices of the padded tile: 4 phases a request, without conflicts.
    requests, transactions, ideal = sums["planted::gemm", "shared read"]
    assert requests == 9 * 6 * 2 * 2  # blocks, steps, warps, matrices
    assert transactions == ideal == 4 * requests
    # 128 bytes of x by a whole warp are 4 sectors.
    requests, transactions, ideal = sums["planted::block_sum", "global read"]
    assert transactions == ideal == 5000 * 4 // 32
    # 32 lanes write and read neighbours in 32 banks.
    for kind in ("shared read", "shared write"):
        assert sums["planted::reverse", kind] == [8, 8, 8]


def test_bank_conflicts_are_counted() -> None:
    requests, transactions, ideal = costs("BankConflicts")["planted::gemm", "shared read"]
    assert ideal == 4 * requests
    # Rows of 32 bytes: the 8 rows of a matrix of A, and of B, lie in half of the banks, twice.
    assert transactions == 2 * ideal
