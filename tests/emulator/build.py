"""Builds the emulator and what runs on it, with ninja, into build/emulator/<variant>/.

Two things are built: `library`, the operators of csrc/cuda for torch as torch.ops.cnnops_emulated,
and `planted`, a program of small kernels with bugs, which needs no torch.
"""

from __future__ import annotations

import fcntl
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tools"))

import cuda_toolkit  # noqa: E402

# What AddressSanitizer sees anyway is not asked for again, and its checks are calls: with both, the
# kernels compile in 60 % of the time.
_ASAN = (
    "-g1 -fsanitize=address,undefined -fno-sanitize=null,object-size,pointer-overflow,vptr "
    "-fno-sanitize-recover=all --param asan-instrumentation-with-call-threshold=0 -DEMULATOR_ASAN"
)

#: What each variant adds to the flags of the kernels and of the emulator itself. ThreadSanitizer
#: must not see the emulator: switching between threads, it orders what CUDA leaves unordered.
#: Only sanitizers read lines from debugging information; the emulator is told where it is called.
VARIANTS = {
    "plain": ("", ""),
    "asan": (_ASAN,) * 2,
    "tsan": ("-g1 -fsanitize=thread -DEMULATOR_TSAN", "-g1 -DEMULATOR_TSAN"),
}

# What only the GPU needs: error codes of launches, and the Python module.
_NOT_EMULATED = {"launch.cpp", "library.cpp"}

_FLAGS = (
    "-std=c++20 -O1 -fPIC -fvisibility=hidden -ffp-contract=off -Wall -Wextra "
    "-Wno-unknown-pragmas -Wno-unused-parameter -Wno-psabi "
    "-DCNNOPS_EMULATED -DTORCH_TARGET_VERSION=0x020a000000000000"
)

_TORCH_LIB = Path(torch.__file__).parent / "lib"
_LIBRARIES = [f"-L{_TORCH_LIB}", f"-Wl,-rpath,{_TORCH_LIB}", "-ltorch", "-ltorch_cpu"]


def missing() -> str | None:
    """What the emulator cannot be built without, or None where everything is there."""
    if cuda_toolkit.headers() is None:
        return "no CUDA headers, of a toolkit or of PyPI wheels"
    if _ninja() is None:
        return "no ninja"
    if shutil.which(_compiler()[-1]) is None:
        return f"no {_compiler()[-1]}"
    return None


def build(target: str, variant: str = "plain", root: Path = ROOT) -> Path:
    """Builds `target`, "library" or "planted", as far as it is out of date; returns its path.

    `root` is the tree of sources and gets the results. RuntimeError with the compiler's words
    where it does not compile.
    """
    folder = root / "build" / "emulator" / variant
    folder.mkdir(parents=True, exist_ok=True)
    result = folder / ("libcnnops_emulated.so" if target == "library" else target)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        plan = folder / "build.ninja"
        text = _plan(root, folder, variant)
        if not plan.exists() or plan.read_text() != text:
            plan.write_text(text)
        jobs = str(min(2, os.cpu_count() or 1))
        command = [str(_ninja()), "-C", str(folder), "-j", jobs, result.name]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"cannot build the emulated {target} ({variant}):\n{done.stdout}")
    return result


def build_changed(changed: Path, units: Sequence[str], folder: Path) -> Path | None:
    """The library with one source of csrc/cuda replaced by `changed`, a file of the same name.

    Only the translation units `units`, of csrc/cuda or of this folder, are compiled anew, into
    `folder`, on top of a library that is up to date; everything else is linked as it is. `changed`
    lies in a folder of its own named "cuda", for #include to find it. None where it does not
    compile.
    """
    kernel_flags, _ = VARIANTS["plain"]
    built = ROOT / "build" / "emulator" / "plain"
    flags = [f"-I{changed.parent.parent}", *shlex.split(f"{kernel_flags} {_flags(ROOT)}")]
    objects = []
    for unit in units:
        own = ROOT / "csrc" / "cuda" / unit
        if not own.exists():
            own = Path(__file__).parent / unit
        source = changed if changed.name == unit else own
        objects.append(folder / (str(own.relative_to(ROOT)).replace("/", ".") + ".o"))
        command = [*_compiler(), *flags, "-w", "-x", "c++", "-c", str(source)]
        command += ["-o", str(objects[-1])]
        if subprocess.run(command, capture_output=True, check=False).returncode != 0:
            return None
    # What is inline in several units is taken from the first: the changed ones.
    replaced = {path.name for path in objects}
    same = [path for path in sorted(built.glob("*.o")) if path.name not in replaced]
    same = [path for path in same if ".planted." not in path.name]
    result = folder / "libcnnops_emulated.so"
    command = [*_compiler(), "-shared", *map(str, objects + same), *_LIBRARIES, "-o", str(result)]
    subprocess.run(command, capture_output=True, check=True)
    return result


def build_for_gpu(sources: Sequence[Path], result: Path) -> None:
    """Compiles host code as for a GPU, not for the emulator, and links a program with torch."""
    flags = [*shlex.split(_flags(ROOT)), "-UCNNOPS_EMULATED", "-O0"]
    command = [*_compiler(), *flags, *map(str, sources), *_LIBRARIES, "-o", str(result)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"cannot build {result.name}:\n{done.stderr}")


def runtime_library(name: str) -> str:
    """The path of a library that comes with the compiler, as "libasan.so"."""
    command = [*_compiler(), f"-print-file-name={name}"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def _plan(root: Path, folder: Path, variant: str) -> str:
    """The text of build.ninja."""
    kernel_flags, emulator_flags = VARIANTS[variant]
    csrc, emulator = root / "csrc", root / "tests" / "emulator"
    cuda = sorted((csrc / "cuda").glob("*.cu")) + sorted((csrc / "cuda").glob("*.cpp"))
    host = sorted(path for path in csrc.glob("*.cpp") if path.name != "library.cpp")
    lines = [
        f"cxx = {shlex.join(_compiler())}",
        f"flags = {_flags(root)}",
        "rule compile",
        "  command = $cxx $flags $extra -MMD -MF $out.d -x c++ -c $in -o $out",
        "  depfile = $out.d",
        "  deps = gcc",
        "rule link",
        "  command = $cxx $extra $in $libraries -o $out",
    ]

    def objects(sources: list[Path], extra: str) -> str:
        made = []
        for source in sources:
            name = str(source.relative_to(root)).replace("/", ".") + ".o"
            lines.extend([f"build {name}: compile {source}", f"  extra = {extra}"])
            made.append(name)
        return " ".join(made)

    runtime = objects(sorted(emulator.glob("*.cpp")), emulator_flags)
    kernels = objects(
        [path for path in cuda + host if path.name not in _NOT_EMULATED], kernel_flags
    )
    planted = objects([emulator / "planted" / "planted.cu"], kernel_flags)
    lines += [
        f"build libcnnops_emulated.so: link {kernels} {runtime}",
        f"  extra = -shared {kernel_flags}",
        f"  libraries = {' '.join(_LIBRARIES)}",
        f"build planted: link {planted} {runtime}",
        f"  extra = {kernel_flags}",
        "",
    ]
    return "\n".join(lines)


def _flags(root: Path) -> str:
    """What everything is compiled with."""
    python = Path(sys.base_prefix, "include", f"python{sys.version_info[0]}.{sys.version_info[1]}")
    torch_include = Path(torch.__file__).parent / "include"
    includes = [root / "csrc", root / "tests", cuda_toolkit.headers(), torch_include, python]
    spelled = [f"-isystem {i}" if "site-packages" in str(i) else f"-I{i}" for i in includes]
    return " ".join([_FLAGS, *spelled])


def _compiler() -> list[str]:
    return shlex.split(os.environ.get("CXX", "g++"))


def _ninja() -> str | None:
    beside = Path(sys.executable).parent / "ninja"
    return str(beside) if beside.exists() else shutil.which("ninja")
