"""Reads the kernels of a library: resources, launch bounds and instructions, by cuobjdump."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from cuda_report.machine import RESERVED
from cuda_report.sass import Instruction, parse

Key = tuple[str, str]  # architecture, mangled name


@dataclass(frozen=True)
class Kernel:
    """One kernel of one architecture, as compiled.

    Attributes:
        name: template and arguments, without namespaces and parameters.
        arch: as "sm_80".
        registers: of a thread.
        stack: bytes of local memory of a thread, which spills need.
        shared: bytes of static shared memory.
        threads: of a block, at most, as its launch bounds say.
        code: the instructions.

    """

    name: str
    arch: str
    registers: int
    stack: int
    shared: int
    threads: int
    code: tuple[Instruction, ...]


def read(files: Sequence[Path]) -> list[Kernel]:
    """The kernels of shared libraries, object files or cubins, sorted by name."""
    resources: dict[Key, tuple[int, int, int]] = {}
    bounds: dict[Key, int] = {}
    code: dict[Key, tuple[Instruction, ...]] = {}
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for file in files:
            of_file = dict(parse_resources(_cuobjdump(file, "-res-usage")))
            resources.update(of_file)
            # Disassembling takes longest; one architecture is parsed while the next is read.
            listings = pool.map(
                lambda arch, file=file: _cuobjdump(file, "-sass", "-arch", arch),
                sorted({arch for arch, _ in of_file}),
            )
            bounds.update(parse_bounds(_cuobjdump(file, "-elf")))
            for listing in listings:
                code.update(parse_code(listing))
    names = demangle({mangled for _, mangled in resources})
    kernels = {}
    for (arch, mangled), (registers, stack, shared) in resources.items():
        key = (arch, mangled)
        # Several sources may hold the same kernel; the linker keeps one.
        kernels[arch, names[mangled]] = Kernel(
            names[mangled], arch, registers, stack, shared, bounds[key], code[key]
        )
    return [kernels[key] for key in sorted(kernels, key=lambda key: (key[1], key[0]))]


def parse_resources(text: str) -> Iterator[tuple[Key, tuple[int, int, int]]]:
    """Registers, stack and static shared memory from `cuobjdump -res-usage`."""
    for arch, part in _by_arch(text):
        pattern = r"Function (\S+):\s+REG:(\d+) STACK:(\d+) SHARED:(\d+) LOCAL:(\d+)"
        for name, registers, stack, shared, local in re.findall(pattern, part):
            # From sm_90 on the figure has what the system reserves, but for kernels without any.
            reserved = RESERVED if int(arch[3:].rstrip("af")) >= 90 else 0
            own = max(0, int(shared) - reserved)
            yield (arch, name), (int(registers), int(stack) + int(local), own)


def parse_bounds(text: str) -> Iterator[tuple[Key, int]]:
    """Threads of the launch bounds from `cuobjdump -elf`; 1024, the most, without bounds."""
    for arch, part in _by_arch(text):
        for section in re.split(r"^(?=\.nv\.info\.|\.section )", part, flags=re.MULTILINE):
            name = re.match(r"\.nv\.info\.(\S+)", section)
            if name is None:
                continue
            found = re.search(
                r"EIATTR_(?:MAX_THREADS|REQNTID)\s+Format:\s+\S+\s+Value:(.*)", section
            )
            threads = 1
            for size in found[1].split() if found else ["1024"]:
                threads *= int(size, 0)
            yield (arch, name[1]), threads


def parse_code(text: str) -> Iterator[tuple[Key, tuple[Instruction, ...]]]:
    """Instructions from `cuobjdump -sass`."""
    for arch, part in _by_arch(text):
        for function in re.split(r"^\s*Function : ", part, flags=re.MULTILINE)[1:]:
            name, _, body = function.partition("\n")
            yield (arch, name.strip()), parse(body)


def _by_arch(text: str) -> Iterator[tuple[str, str]]:
    """The parts of what cuobjdump prints, one for each embedded file of machine code."""
    for part in re.split(r"^Fatbin (?=elf code:)", text, flags=re.MULTILINE)[1:]:
        arch = re.search(r"^arch = (sm_\w+)$", part, re.MULTILINE)
        assert arch is not None, f"no architecture in {part[:200]!r}"
        yield arch[1], part


def demangle(mangled: set[str]) -> dict[str, str]:
    """Readable names: pool_tile<Mean<float, int, false>> for each mangled one."""
    ordered = sorted(mangled)
    run = subprocess.run(
        ["c++filt"], input="\n".join(ordered), capture_output=True, text=True, check=True
    )
    return dict(zip(ordered, map(shorten, run.stdout.splitlines()), strict=True))


def shorten(demangled: str) -> str:
    """A demangled function without its result, parameters and namespaces."""
    depth = 0
    for position, character in enumerate(demangled):
        depth += (character == "<") - (character == ">")
        if character == "(" and depth == 0 and not demangled.startswith("(anon", position):
            demangled = demangled[:position]
            break
    name = demangled.removeprefix("void ")
    return re.sub(r"(cnnops|cuda|\(anonymous namespace\)|_GLOBAL__N_?\w*)::", "", name)


def _cuobjdump(file: Path, *options: str) -> str:
    run = subprocess.run(
        [_program("cuobjdump"), *options, str(file)], capture_output=True, text=True, check=False
    )
    if run.returncode != 0:
        raise RuntimeError(f"cuobjdump {' '.join(options)} {file}: {run.stderr.strip()}")
    return run.stdout


def _program(name: str) -> str:
    """A tool of the CUDA toolkit: of its PyPI wheel, which is newer than most, or on PATH."""
    package = importlib.util.find_spec("nvidia")
    for folder in (package and package.submodule_search_locations) or ():
        for path in sorted(Path(folder).glob(f"cu*/bin/{name}")):
            return str(path)
    found = shutil.which(name)
    if found is None:
        raise RuntimeError(f"no {name}: pip install nvidia-cuda-{name} nvidia-cuda-nvdisasm")
    return found
