"""The report on CUDA kernels reads cuobjdump right, and finds what it is there to find."""

from __future__ import annotations

import itertools
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

TOOLS = Path(__file__).parents[1] / "tools"
sys.path.insert(0, str(TOOLS))

import cuda_toolkit  # noqa: E402
from cuda_report import budget, cubin, families, loops, machine, report, sass  # noqa: E402

# What cuobjdump 13 prints of a small kernel; nvcc 13 made it.
RESOURCES = """
Fatbin elf code:
================
arch = sm_80
code version = [1,8]

Resource usage:
 Common:
  GLOBAL:0
 Function _Z4copyPKfPf:
  REG:10 STACK:16 SHARED:2048 LOCAL:8 CONSTANT[0]:368 TEXTURE:0 SURFACE:0 SAMPLER:0

Fatbin elf code:
================
arch = sm_90
code version = [1,8]

Resource usage:
 Function _Z4copyPKfPf:
  REG:12 STACK:0 SHARED:3072 LOCAL:0 CONSTANT[0]:544 TEXTURE:0 SURFACE:0 SAMPLER:0
"""

INFO = """
Fatbin elf code:
================
arch = sm_80

.nv.info.bounded
\t<0x1>
\tAttribute:\tEIATTR_MAXREG_COUNT
\tFormat:\tEIFMT_HVAL
\tValue:\t0x40
\t<0x2>
\tAttribute:\tEIATTR_MAX_THREADS
\tFormat:\tEIFMT_SVAL
\tValue:\t0x80 0x2 0x1\x20

.nv.info.free
\t<0x1>
\tAttribute:\tEIATTR_MAXREG_COUNT
\tFormat:\tEIFMT_HVAL
\tValue:\t0x40
"""

CODE = """
Fatbin elf code:
================
arch = sm_80

\tcode for sm_80

\t\tFunction : _Z4loopPf
\t.headerflags\t@"EF_CUDA_SM80 EF_CUDA_VIRTUAL_SM(EF_CUDA_SM80)"
   /*0000*/        IMAD.MOV.U32 R1, RZ, RZ, c[0x0][0x28] ;   /* 0x00000a00ff017624 */
                                                                      /* 0x000fe400078e00ff */
   /*0010*/        MOV R4, RZ ;                              /* 0x0000040000047919 */
   /*0020*/        MOV R5, RZ ;                              /* 0x0000040000047919 */
   /*0030*/        @!P0 LDG.E.128.CONSTANT R8, [R2.64] ;          /* 0x0000040000047919 */
   /*0040*/        HMMA.16816.F32.BF16 R12, R4, R8, R12 ;    /* 0x0000040000047919 */
   /*0050*/        BRA.DIV UR4, 0xc0 ;                       /* 0x0000040000047919 */
   /*0060*/        SHFL.IDX PT, R5, R4, RZ, 0x1f ;           /* 0x0000040000047919 */
   /*0070*/        @P1 BRA 0x40 ;                                /* 0x0000040000047919 */
   /*0080*/        @P2 BRA 0x20 ;                                /* 0x0000040000047919 */
   /*0090*/        STG.E.U16 [R2.64], R5 ;                   /* 0x0000040000047919 */
   /*00a0*/        EXIT ;                                    /* 0x0000040000047919 */
   /*00b0*/        BRA 0xb0;                                 /* 0x0000040000047919 */
   /*00c0*/        WARPSYNC.COLLECTIVE R15, 0xd0 ;           /* 0x0000040000047919 */
   /*00d0*/        BRA 0x60 ;                                /* 0x0000040000047919 */
   /*00e0*/        NOP;                                      /* 0x0000040000047919 */
"""


def instruction(text: str, address: int = 0) -> sass.Instruction:
    (parsed,) = sass.parse(f"/*{address:04x}*/ {text} ;")
    return parsed


def kernel(name: str, *code: str, stack: int = 0, registers: int = 32) -> cubin.Kernel:
    parsed = tuple(instruction(text, 16 * i) for i, text in enumerate(code))
    return cubin.Kernel(name, "sm_90", registers, stack, 0, 256, parsed)


def test_reads_resources() -> None:
    # From sm_90 on, 1024 of the bytes are the system's.
    assert dict(cubin.parse_resources(RESOURCES)) == {
        ("sm_80", "_Z4copyPKfPf"): (10, 24, 2048),
        ("sm_90", "_Z4copyPKfPf"): (12, 0, 2048),
    }


def test_reads_launch_bounds() -> None:
    assert dict(cubin.parse_bounds(INFO)) == {("sm_80", "bounded"): 256, ("sm_80", "free"): 1024}


def test_reads_instructions() -> None:
    ((key, code),) = cubin.parse_code(CODE)
    assert key == ("sm_80", "_Z4loopPf")
    assert [i.op for i in code[:5]] == ["IMAD", "MOV", "MOV", "LDG", "HMMA"]
    assert code[3].predicate == "@!P0"
    assert code[3].modifiers == ("E", "128", "CONSTANT")
    assert code[7].target == 0x40
    assert code[11].target == 0xB0
    assert sass.mix(code)["NOP"] == 0


def test_main_loop_is_the_inner_one_without_the_detour_of_diverged_warps() -> None:
    ((_, code),) = cubin.parse_code(CODE)
    assert sorted(len(loop) for loop in loops.loops(code)) == [4, 7]
    assert [i.address for i in loops.main_loop(code)] == [0x40, 0x50, 0x60, 0x70]


def test_without_loops_the_whole_kernel_counts() -> None:
    code = kernel("fill<int>", "MOV R1, RZ", "STG.E [R2.64], R1", "EXIT").code
    assert loops.loops(code) == []
    assert loops.main_loop(code) == code


@pytest.mark.parametrize(
    ("text", "bytes"),
    [
        ("LDG.E R4, [R2.64]", 4),
        ("LDG.E.U16 R4, [R2.64]", 2),
        ("LDG.E.S8 R4, [R2.64]", 1),
        ("LDG.E.128.CONSTANT R4, [R2.64]", 16),
        ("LDGSTS.E.BYPASS.128 [R3], [R4.64]", 16),
        ("STS.64 [R3], R4", 8),
        ("LDSM.16.M88.4 R4, [R3]", 16),
        ("LDSM.16.MT88.2 R4, [R3]", 8),
        ("LDSM.16.M88 R4, [R3]", 4),
    ],
)
def test_width_of_memory_instructions(text: str, bytes: int) -> None:
    assert instruction(text).bytes == bytes


@pytest.mark.parametrize(
    ("demangled", "name"),
    [
        ("void cnnops::cuda::fill<float>(cnnops::cuda::Fill<float>)", "fill<float>"),
        (
            "void cnnops::cuda::pool_tile<cnnops::cuda::Mean<cnnops::float16, int, false> >(int)",
            "pool_tile<Mean<float16, int, false> >",
        ),
        (
            "void cnnops::cuda::f<int, (cnnops::cuda::Copies)0>(cnnops::cuda::P<(bool)1>, int)",
            "f<int, (Copies)0>",
        ),
        ("cnnops::cuda::(anonymous namespace)::g(float*)", "g"),
    ],
)
def test_short_names(demangled: str, name: str) -> None:
    assert cubin.shorten(demangled) == name


@pytest.mark.parametrize(
    ("broken", "finding"),
    [
        (kernel("fill<int>", "STG.E [R2.64], R1", "STL [R1], R2"), "has STL"),
        (kernel("fill<int>", "STG.E [R2.64], R1", "RED.E.ADD.F32 [R2.64], R1"), "has RED"),
        (kernel("fill<int>", "STG.E [R2.64], R1", "ATOMS.ADD RZ, [R2], R1"), "has ATOMS"),
        (kernel("fill<int>", "STG.E [R2.64], R1", stack=8), "8 bytes of stack"),
        (kernel("fill<int>", "EXIT"), "has no STG"),
        (kernel("nobody<int>", "EXIT"), "no family"),
        (
            kernel(
                "implicit_gemm<float16, int, Tile<64, 64, 32, 32, 4, 3>, (Copies)0>",
                *("LDSM.16.M88.4 R1, [R2]", "HMMA.16816.F32 R1, R2, R3, R1"),
                *("LDGSTS.E.64 [R3], [R4.64]", "@P0 BRA 0x0", "EXIT"),
            ),
            "has no LDGSTS.128 in its main loop",
        ),
    ],
)
def test_broken_promises_are_found(broken: cubin.Kernel, finding: str) -> None:
    (sentence,) = report.broken_promises(broken)
    assert finding in sentence
    assert sentence.startswith(f"{broken.name} sm_90:")


def test_kept_promises_are_no_findings() -> None:
    good = kernel("fill<int>", "STG.E [R2.64], R1", "EXIT")
    assert report.broken_promises(good) == []


def test_budget_round_trip(tmp_path: Path) -> None:
    used = {
        ("fill<int>", "sm_80"): budget.Entry(10, 8),
        ("fill<int>", "sm_100"): budget.Entry(12, 8),
        ("copy<A, B>", "sm_80"): budget.Entry(20, 4),
    }
    budget.write(used, tmp_path / "budget.tsv")
    assert budget.read(tmp_path / "budget.tsv") == used


def test_an_update_keeps_what_it_was_not_built_for() -> None:
    known = {
        ("f<int>", "sm_80"): budget.Entry(10, 8),
        ("f<int>", "sm_120"): budget.Entry(11, 6),
        ("gone<int>", "sm_120"): budget.Entry(12, 6),
    }
    used = {("f<int>", "sm_80"): budget.Entry(9, 9), ("new<int>", "sm_80"): budget.Entry(1, 16)}
    assert budget.updated(used, known) == {**used, ("f<int>", "sm_120"): budget.Entry(11, 6)}


def test_the_budget_has_every_architecture_that_is_built_by_default() -> None:
    text = (TOOLS.parent / "setup.py").read_text()
    (default,) = re.findall(r'or "([\d.;]+)\+PTX"', text)
    archs = {f"sm_{arch.replace('.', '')}" for arch in default.split(";")}
    names = {name for name, _ in budget.read()}
    assert budget.read().keys() == {(name, arch) for name in names for arch in archs}


def test_budget_findings_name_the_kernel() -> None:
    allowed = {("f<int>", "sm_80"): budget.Entry(32, 4), ("g<int>", "sm_80"): budget.Entry(32, 4)}
    assert budget.compare(allowed, allowed) == []

    def findings(used: budget.Entry) -> list[str]:
        return budget.compare(allowed | {("f<int>", "sm_80"): used}, allowed)

    assert findings(budget.Entry(30, 5)) == []
    assert findings(budget.Entry(33, 4)) == ["f<int> sm_80: 33 registers, budget 32"]
    assert findings(budget.Entry(32, 3)) == ["f<int> sm_80: 3 blocks on an SM, budget 4"]
    new = {**allowed, ("h<int>", "sm_80"): budget.Entry(1, 1)}
    assert "h<int> sm_80: has no budget" in budget.compare(new, allowed)[0]
    assert (
        "not in the library"
        in budget.compare({("f<int>", "sm_80"): allowed["f<int>", "sm_80"]}, allowed)[0]
    )
    # Of a build for several architectures, those that the budget has are held against it.
    more = {**allowed, ("f<int>", "sm_120"): budget.Entry(99, 1)}
    assert budget.compare(more, allowed) == []
    (sentence,) = budget.compare({("f<int>", "sm_120"): budget.Entry(1, 9)}, allowed)
    assert "none of sm_120" in sentence


def test_committed_budget_has_families() -> None:
    for name, _ in budget.read():
        assert families.family_of(name) is not None, name


def test_constants_are_read_from_the_sources() -> None:
    assert families.constant("mma_tile.cuh", "kSlabBytes") == 64
    with pytest.raises(ValueError, match="kNoSuchThing"):
        families.constant("mma_tile.cuh", "kNoSuchThing")


def test_pipes_of_a_loop() -> None:
    code = kernel(
        "k",
        *("HMMA.16816.F32.BF16 R1, R2, R3, R1", "LDSM.16.M88.4 R1, [R2]", "LDG.E.128 R1, [R2.64]"),
        *("FFMA R1, R2, R3, R1", "IADD3 R1, R2, R3, RZ"),
    ).code
    cycles = machine.cycles(code, from_l2=False)
    assert cycles["issue"] == 5
    assert cycles["tensor"] == pytest.approx(16 * 8 * 16 / 512 * 1.5)
    assert cycles["LSU"] == 2 * 512 / 32
    assert cycles["fp"] == 1
    assert cycles["integer"] == 2
    assert cycles["DRAM"] == pytest.approx(512 / (3.35e12 / (132 * 1.755e9) / 4))
    assert "L2" not in cycles
    assert "L2" in machine.cycles(code, from_l2=True)


_OCCUPANCY = """
#include <cuda_occupancy.h>

extern "C" int blocks(int major, int minor, int warps, int sm_shared, int reserved, int registers,
                      int shared, int threads) {
  cudaOccDeviceProp device;
  device.computeMajor = major;
  device.computeMinor = minor;
  device.maxThreadsPerBlock = 1024;
  device.maxThreadsPerMultiprocessor = 32 * warps;
  device.regsPerBlock = device.regsPerMultiprocessor = 65536;
  device.warpSize = 32;
  device.sharedMemPerBlock = 49152;
  device.sharedMemPerMultiprocessor = sm_shared;
  device.sharedMemPerBlockOptin = sm_shared - reserved;
  device.reservedSharedMemPerBlock = reserved;
  device.numSms = 1;
  cudaOccFuncAttributes kernel;
  kernel.maxThreadsPerBlock = 1024;
  kernel.numRegs = registers;
  kernel.sharedSizeBytes = 0;
  kernel.partitionedGCConfig = PARTITIONED_GC_OFF;
  kernel.shmemLimitConfig = FUNC_SHMEM_LIMIT_OPTIN;
  kernel.maxDynamicSharedSizeBytes = sm_shared - reserved;
  cudaOccDeviceState state;
  cudaOccResult result;
  if (cudaOccMaxActiveBlocksPerMultiprocessor(&result, &device, &kernel, &state, threads, shared)) {
    return -1;
  }
  return result.activeBlocksPerMultiprocessor;
}
"""


def test_occupancy_agrees_with_nvidias_header(tmp_path: Path) -> None:
    folder = cuda_toolkit.headers()
    if folder is None or not (folder / "cuda_occupancy.h").exists():
        pytest.skip("no CUDA headers")
    import ctypes

    source, library = tmp_path / "occupancy.cpp", tmp_path / "occupancy.so"
    source.write_text(_OCCUPANCY)
    compiler = shutil.which("g++") or "c++"
    subprocess.run([compiler, "-shared", "-fPIC", f"-I{folder}", source, "-o", library], check=True)
    theirs = ctypes.CDLL(str(library)).blocks
    for arch, (registers, shared, threads) in itertools.product(
        ("sm_80", "sm_86", "sm_89", "sm_90", "sm_100", "sm_120"),
        itertools.product(
            (16, 40, 64, 97, 128, 255), (0, 1000, 33000, 49152, 90000), (32, 96, 128, 256)
        ),
    ):
        sm = machine.SMS[arch]
        major, minor = divmod(int(arch[3:]), 10)
        expected = theirs(
            major, minor, sm.warps, sm.shared, machine.RESERVED, registers, shared, threads
        )
        got = machine.blocks(arch, registers, shared, threads)
        assert got == expected, (arch, registers, shared, threads)


def test_finds_the_toolkit_behind_a_wrapper(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = tmp_path / "toolkit"
    for folder in (home / "bin", tmp_path / "path"):
        folder.mkdir(parents=True)
    nvcc = home / "bin" / "nvcc"
    nvcc.write_text(
        "#!/bin/sh\n"
        f'[ "$1" = --dryrun ] && echo "#$ TOP={home}/bin/.." >&2\n'
        '[ "$1" = --version ] && echo "Cuda compilation tools, release 13.4, V13.4.1"\n'
        "exit 0\n"
    )
    wrapper = tmp_path / "path" / "nvcc"
    wrapper.write_text(f'#!/bin/sh\nexec {nvcc} "$@"\n')
    nvcc.chmod(0o755)
    wrapper.chmod(0o755)
    monkeypatch.delenv("CUDA_HOME", raising=False)
    monkeypatch.delenv("CUDA_PATH", raising=False)
    monkeypatch.setenv("PATH", f"{wrapper.parent}:/usr/bin:/bin")
    assert cuda_toolkit.toolkit("13.0") == home
    assert cuda_toolkit.toolkit(None) is None
    monkeypatch.setenv("CUDA_HOME", str(tmp_path))
    assert cuda_toolkit.toolkit("13.0") is None, "CUDA_HOME alone decides where it is set"
    monkeypatch.setenv("CUDA_HOME", str(home))
    assert cuda_toolkit.toolkit("13.0") == home
    assert cuda_toolkit.toolkit("12.8") is None
