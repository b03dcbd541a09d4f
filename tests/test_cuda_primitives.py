"""What the emulator replaces of the CUDA engine: primitives, as nvcc compiles them, and launches.

The kernels of primitives/probe.cu call the primitives of csrc/cuda/simt.cuh one by one. Their PTX
is evaluated with symbols instead of numbers, so that each operand of an instruction is told by
where it came from, and each result by what it is. Launches, devices and streams are asked of a
runtime and a torch that only note it.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from emulator import build

ROOT = Path(__file__).parents[1]
PROBE = ROOT / "tests" / "primitives" / "probe.cu"
sys.path.insert(0, str(ROOT / "tools"))

import cuda_toolkit  # noqa: E402

SOURCES = ROOT / "csrc" / "cuda"

HOME = cuda_toolkit.toolkit(torch.version.cuda)
needs_nvcc = pytest.mark.skipif(HOME is None, reason="there is no nvcc")


def _nvcc(*arguments: str | Path) -> None:
    command = [f"{HOME}/bin/nvcc", "-std=c++20", "-arch=sm_80", f"-I{ROOT / 'csrc'}", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


# ---- instructions --------------------------------------------------------------------------------


def _instructions(body: str) -> Iterator[tuple[str, list[str]]]:
    """Operations and operands, `{%r1, %r2}` being several."""
    for line in re.findall(r"^\s*(?:\{\s*)?([a-z][\w.]*(?:\s[^;]*)?);", body, re.MULTILINE):
        operation, _, rest = line.strip().partition(" ")
        operation, _, more = operation.partition("\t")
        yield operation, re.findall(r"\[[^]]*\]|[%\w$.+-]+", f"{more} {rest}")


def _effects(body: str) -> list[str]:
    """What a kernel does, in order: each operand by where it came from, results by what made them.

    Parameters are p0, p1, ...; a register that an instruction made is its name, or `name.i` where
    it made several; arithmetic is written out. Types, which differ between versions of nvcc, are
    left out of loads and stores.
    """
    value: dict[str, str] = {}
    effects = []

    def named(operand: str) -> str:
        if operand.startswith("["):
            base, plus, offset = operand[1:-1].partition("+")
            return f"[{named(base)}{plus}{offset}]"
        if (parameter := re.fullmatch(r"\w+_param_(\d+)", operand)) is not None:
            return f"p{parameter[1]}"
        return value.get(operand, operand)

    for operation, operands in _instructions(body):
        root = operation.partition(".")[0]
        if operation.startswith("ld.param"):
            value[operands[0]] = named(operands[1])[1:-1]
        elif root in ("mov", "cvta"):
            value[operands[0]] = named(operands[1])
        elif root == "ld":
            width = re.sub(r"[ubfs](?=\d)", "", operation)
            for i, register in enumerate(operands[:-1]):
                value[register] = f"{width}{named(operands[-1])}.{i}"
            effects.append(f"{width} {named(operands[-1])}")
        elif root == "st":
            width = re.sub(r"[ubfs](?=\d)", "", operation)
            effects.append(f"{width} {' '.join(map(named, operands))}")
        elif root in ("mma", "ldmatrix"):
            effects.append(f"{operation} {' '.join(map(named, operands[4:]))}")
            value.update({operands[i]: f"{root}.{i}" for i in range(4)})
        elif root in ("cp", "bar", "trap"):
            effects.append(f"{operation} {' '.join(map(named, operands))}".strip())
        elif root not in ("ret", "reg"):
            value[operands[0]] = f"{operation}({', '.join(map(named, operands[1:]))})"
    return effects


@pytest.fixture(scope="module")
def effects(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[str]]:
    """The effects of each kernel of the probe."""
    ptx = tmp_path_factory.mktemp("ptx") / "probe.ptx"
    _nvcc("-ptx", PROBE, "-o", ptx)
    kernels = re.split(r"\.entry (\w+)\(", ptx.read_text())[1:]
    bodies = [body.partition("\n{\n")[2] for body in kernels[1::2]]
    return dict(zip(kernels[0::2], map(_effects, bodies), strict=True))


def _words(load: str, count: int, base: str) -> list[str]:
    """The values of `count` words of memory from `base` on."""
    return [f"{load}[{base}{f'+{4 * i}' if i else ''}].0" for i in range(count)]


def _stores(value: str, base: str) -> list[str]:
    return [f"st.global.32 [{base}{f'+{4 * i}' if i else ''}] {value}.{i}" for i in range(4)]


@needs_nvcc
@pytest.mark.parametrize(
    "name, instruction",
    [
        ("bfloat16", "m16n8k16.row.col.f32.bf16.bf16.f32"),
        ("float16", "m16n8k16.row.col.f32.f16.f16.f32"),
        ("tf32", "m16n8k8.row.col.f32.tf32.tf32.f32"),
    ],
)
def test_multiplications(effects: dict[str, list[str]], name: str, instruction: str) -> None:
    # d = a * b + d, each register in its place.
    load = "ld.global.32"
    operands = [*_words(load, 4, "p0"), *_words(load, 2, "p1"), *_words(load, 4, "p2")]
    done = [effect for effect in effects[f"multiply_{name}"] if not effect.startswith(load)]
    expected = f"mma.sync.aligned.{instruction} {' '.join(operands)}"
    assert done == [expected, *_stores("mma", "p2")]


@needs_nvcc
@pytest.mark.parametrize("name, turned", [("matrices", ""), ("transposed", ".trans")])
def test_matrices(effects: dict[str, list[str]], name: str, turned: str) -> None:
    row = "[add.s32(shared, shl.b32(p0, 4))]"
    assert effects[f"load_{name}"] == [
        f"ldmatrix.sync.aligned.m8n8.x4{turned}.shared.b16 {row}",
        *_stores("ldmatrix", "p1"),
    ]


@needs_nvcc
@pytest.mark.parametrize("bytes, cached", [(4, "ca"), (8, "ca"), (16, "cg")])
def test_copies(effects: dict[str, list[str]], bytes: int, cached: str) -> None:
    # Where not `inside`, 0 bytes are read, and zeros fill the rest.
    (copy,) = effects[f"copy_{bytes}"]
    start = f"cp.async.{cached}.shared.global [bytes] [p0] {bytes} "
    assert copy.startswith(start)
    assert copy.removeprefix(start) in (
        f"selp.b32(0, {bytes}, setp.eq.s32(p1, 0))",
        f"selp.b32({bytes}, 0, setp.ne.s32(p1, 0))",
    )


@needs_nvcc
def test_groups_of_copies(effects: dict[str, list[str]]) -> None:
    commit, wait = "cp.async.commit_group", "cp.async.wait_group"
    assert effects["commit_and_wait"] == [commit, f"{wait} 2", commit, f"{wait} 0"]
    assert effects["stop"] == ["trap"]


@needs_nvcc
@pytest.mark.parametrize(
    "name, width",
    [
        ("bfloat16", "16"),
        ("double", "64"),
        ("2_bytes", "16"),
        ("4_bytes", "32"),
        ("8_bytes", "v2.32"),
        ("16_bytes", "v4.32"),
    ],
)
def test_one_instruction_moves_a_vector(
    effects: dict[str, list[str]], name: str, width: str
) -> None:
    count = int(width[1]) if width.startswith("v") else 1
    values = " ".join(f"ld.global.{width}[p0].{i}" for i in range(count))
    moved = [f"ld.global.{width} [p0]", f"st.global.{width} [p1] {values}"]
    assert effects[f"move_{name}"] == moved


@needs_nvcc
@pytest.mark.parametrize(
    "name, found",
    [
        ("round_to_tf32", "cvt.rna.tf32.f32({})"),
        ("widen_float16", "cvt.f32.f16({})"),
        ("round_to_float16", "cvt.rn.f16.f32({})"),
        ("widen_bfloat16", "shl.b32({}, 16)"),
        ("round_to_bfloat16", "cvt.rn.bf16.f32({})"),
    ],
)
def test_conversions(effects: dict[str, list[str]], name: str, found: str) -> None:
    read, written = effects[name]
    width = "16" if name.startswith("widen") else "32"
    assert read == f"ld.global.{width} [p0]"
    assert written.partition("] ")[2] == found.format(f"ld.global.{width}[p0].0")


@needs_nvcc
@pytest.mark.parametrize("name", ["copy_4", "copy_16", "commit", "wait", "matrices", "transposed"])
def test_shared_memory_is_read_anew_after(effects: dict[str, list[str]], name: str) -> None:
    # The compiler must not keep in a register what a copy may have changed.
    order = [effect.partition(" ")[0] for effect in effects[f"order_of_{name}"]]
    before, instruction, after, stored = order
    assert (before, after, stored) == ("st.shared.32", "ld.shared.32", "st.global.32")
    assert instruction.startswith(("cp.async", "ldmatrix"))


# ---- launches ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The probe, which launches a kernel on a runtime that only says so."""
    built = tmp_path_factory.mktemp("launches") / "probe"
    fake = PROBE.parent / "fake_runtime.cpp"
    _nvcc("-cudart", "none", PROBE, SOURCES / "launch.cpp", fake, "-o", built)
    return built


def _run(program: Path, shared: int, **variables: int) -> list[str]:
    environment = {**os.environ, **{name: str(value) for name, value in variables.items()}}
    done = subprocess.run(
        [program, str(shared)], env=environment, capture_output=True, text=True, check=True
    )
    return done.stdout.splitlines()


@needs_nvcc
@pytest.mark.parametrize("shared", [0, 48 << 10, (48 << 10) + 16, 96 << 10])
def test_a_launch_says_all_that_it_was_given(program: Path, shared: int) -> None:
    # Beyond 48 KiB, shared memory must be asked for before.
    asked = [f"attribute 8: {shared}"] if shared > 48 << 10 else []
    launch = f"launch: grid 7 5 1, block 96 1 1, shared {shared}, stream 0x51"
    assert _run(program, shared) == [*asked, launch, "asked for the last error"]


@needs_nvcc
def test_errors_of_launches_are_raised_with_the_name_of_the_kernel(program: Path) -> None:
    said = "raised: CUDA kernel launched failed at its launch: the text of the error (itsName)"
    # The second time so that the next launch does not report this error again.
    assert _run(program, 0, FAIL_LAUNCH=1)[1:] == [*["asked for the last error"] * 2, said]
    no_code = _run(program, 0, FAIL_LAUNCH=209)[-1]
    assert no_code.startswith(said)
    assert "TORCH_CUDA_ARCH_LIST" in no_code
    refused = _run(program, 96 << 10, FAIL_ATTRIBUTE=1)
    assert refused[-1] == said
    assert not any(line.startswith("launch") for line in refused)


@pytest.mark.skipif(cuda_toolkit.headers() is None, reason="no CUDA headers")
def test_a_call_is_on_the_device_of_its_input_and_the_stream_there(tmp_path: Path) -> None:
    # A torch that only notes what it is asked for: the input says that it is on device 3.
    program = tmp_path / "device_call"
    sources = [SOURCES / "runtime.cpp", SOURCES.parent / "tensor.cpp"]
    build.build_for_gpu([*sources, PROBE.parent / "device_call.cpp"], program)
    done = subprocess.run([program], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == [
        "guard device 3",
        "stream of device 3",
        "launches on 0x77",
        "attribute 16 of device 3",
        "132 multiprocessors",
        "workspace kept",
        "leave the device",
    ]


def _split(text: str) -> list[str]:
    """The arguments of a call that begins after its parenthesis, without blanks beside them."""
    depth, arguments = 1, [""]
    for character in text:
        depth += character in "([{"
        depth -= character in ")]}"
        if depth == 0:
            break
        if character == "," and depth == 1:
            arguments.append("")
        else:
            arguments[-1] += character
    return [" ".join(argument.split()) for argument in arguments]


def test_blocks_have_as_many_threads_as_their_kernels_are_bound_to() -> None:
    # A GPU refuses blocks of more, which the emulator cannot know.
    bounds = {}
    for path in sorted(SOURCES.glob("*.cuh")):
        for match in re.finditer(r"SIMT_LAUNCH_BOUNDS\(", path.read_text()):
            declaration = path.read_text()[match.end() :]
            threads, _ = _split(declaration)
            after = declaration[len(declaration.partition(")")[0]) :]
            name = re.search(r"\b(\w+)\(\s*SIMT_PARAMETER", after)
            if name is not None and "simt.cuh" not in path.name:
                bounds[name[1]] = threads
    launched = set()
    for path in sorted(SOURCES.glob("*.cu")):
        for match in re.finditer(r"SIMT_LAUNCH\(", path.read_text()):
            kernel, _, block, *_ = _split(path.read_text()[match.end() :])
            name = re.fullmatch(r"\(?(?:cuda::)?(\w+)<.*", kernel)
            assert name is not None, kernel
            assert block == f"dim3({bounds[name[1]]})", kernel
            launched.add(name[1])
    assert launched == set(bounds)
