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
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tools"))

import cuda_toolkit  # noqa: E402

#: What each variant adds to the flags of the kernels and of the emulator itself. ThreadSanitizer
#: must not see the emulator: switching between threads, it orders what CUDA leaves unordered.
VARIANTS = {
    "plain": ("", ""),
    "asan": ("-fsanitize=address,undefined -fno-sanitize-recover=all -DEMULATOR_ASAN",) * 2,
    "tsan": ("-fsanitize=thread -DEMULATOR_TSAN", "-DEMULATOR_TSAN"),
}

# What only the GPU needs: error codes of launches, and the Python module.
_NOT_EMULATED = {"launch.cpp", "library.cpp"}

_FLAGS = (
    "-std=c++20 -O1 -g1 -fPIC -fvisibility=hidden -ffp-contract=off -Wall -Wextra "
    "-Wno-unknown-pragmas -Wno-unused-parameter -Wno-psabi "
    "-DCNNOPS_EMULATED -DTORCH_TARGET_VERSION=0x020a000000000000"
)


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
    torch_home = Path(torch.__file__).parent
    torch_lib = torch_home / "lib"
    python = Path(sys.base_prefix, "include", f"python{sys.version_info[0]}.{sys.version_info[1]}")
    includes = [csrc, root / "tests", cuda_toolkit.headers(), torch_home / "include", python]
    lines = [
        f"cxx = {shlex.join(_compiler())}",
        f"flags = {_FLAGS} " + " ".join(f"-isystem {i}" if "site-packages" in str(i) else f"-I{i}"
                                         for i in includes),
        "rule compile",
        "  command = $cxx $flags $extra -MMD -MF $out.d -x c++ -c $in -o $out",
        "  depfile = $out.d",
        "  deps = gcc",
        "rule link",
        "  command = $cxx $extra $in $libraries -ldl -o $out",
    ]  # fmt: skip

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
        f"  libraries = -L{torch_lib} -Wl,-rpath,{torch_lib} -ltorch -ltorch_cpu",
        f"build planted: link {planted} {runtime}",
        f"  extra = -rdynamic {kernel_flags}",
        "",
    ]
    return "\n".join(lines)


def _compiler() -> list[str]:
    return shlex.split(os.environ.get("CXX", "g++"))


def _ninja() -> str | None:
    beside = Path(sys.executable).parent / "ninja"
    return str(beside) if beside.exists() else shutil.which("ninja")
