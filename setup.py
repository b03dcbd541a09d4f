"""Builds the C++ and CUDA libraries of cnnops. Metadata is in pyproject.toml."""

import os
import re
import sys
from pathlib import Path

import torch
from setuptools import Extension, setup

ROOT = Path(__file__).parent
sys.path.insert(0, str(ROOT / "tools"))

import cuda_toolkit  # noqa: E402

CUDA = cuda_toolkit.toolkit(torch.version.cuda)
if CUDA is not None:
    os.environ["CUDA_HOME"] = str(CUDA)  # torch looks once, when this is imported:

from torch.utils.cpp_extension import BuildExtension, CppExtension, include_paths  # noqa: E402

# The oldest torch whose stable ABI the library uses, as TORCH_TARGET_VERSION writes it.
TORCH_2_10 = "0x020a000000000000"
# Ampere, Hopper and Blackwell, of data centres and of desktops; PTX for what comes after.
CUDA_ARCHS = os.environ.get("TORCH_CUDA_ARCH_LIST") or "8.0;8.6;9.0;10.0;12.0+PTX"

DEFINES = [f"-DTORCH_TARGET_VERSION={TORCH_2_10}"]
FLAGS = ["-O3", "-g0", "-std=c++20", "-fvisibility=hidden", "-ffp-contract=fast",
         "-fno-math-errno", "-fno-trapping-math", "-fno-tree-loop-distribute-patterns", "-Wall",
         "-Wextra", "-Wno-psabi", "-Wno-unused-parameter", *DEFINES]  # fmt: skip


def sources(folder: str, *patterns: str) -> list[str]:
    """Sources below `folder`, relative to the project as setuptools wants them."""
    return sorted(
        str(path.relative_to(ROOT))
        for pattern in patterns
        for path in (ROOT / folder).glob(pattern)
    )


# A minute or more each.
LONGEST = {
    "conv_avx512.cpp",
    "conv_avx2.cpp",
    "conv_baseline.cpp",
    "conv_avx512_bf16.cpp",
    "implicit_gemm.cu",
    "pool.cu",
}

# What knows no device; library.cpp belongs to _C alone, which both libraries' users load.
SHARED = [source for source in sources("csrc", "*.cpp") if source != "csrc/library.cpp"]


def builds_cuda() -> bool:
    """Whether to build cnnops._cuda: when it can be, unless CNNOPS_CUDA is 0.

    CNNOPS_CUDA=1 turns whatever is missing into an error.
    """
    found = {
        "a torch that was built with CUDA": torch.version.cuda is not None,
        f"an nvcc of CUDA {torch.version.cuda} in CUDA_HOME, PATH or wheels": CUDA is not None,
    }
    wanted = os.environ.get("CNNOPS_CUDA", "")
    if wanted not in ("", "0", "1"):
        raise SystemExit(f"CNNOPS_CUDA must be 0, 1 or unset, but got {wanted!r}")
    missing = [what for what, there in found.items() if not there]
    if wanted == "1" and missing:
        raise SystemExit(f"CNNOPS_CUDA=1 asks for the CUDA library, which lacks {missing}")
    return wanted != "0" and not missing


def cuda_extension(toolkit: Path) -> Extension:
    """cnnops._cuda, linked with the CUDA runtime that torch has loaded when it is imported."""
    archs = CUDA_ARCHS.replace(" ", ";")
    if not re.fullmatch(r"(\d+\.\d[af]?(\+PTX)?(;|$))+", archs):
        raise SystemExit(f"TORCH_CUDA_ARCH_LIST should be like '8.0;9.0+PTX', but got {archs!r}")
    os.environ["TORCH_CUDA_ARCH_LIST"] = archs  # what BuildExtension compiles for
    runtime = cuda_toolkit.runtime_library(toolkit)
    if runtime is None:
        raise SystemExit(f"no libcudart beside torch or in {toolkit}")
    return CppExtension(
        "cnnops._cuda",
        SHARED + sources("csrc/cuda", "**/*.cpp", "**/*.cu"),
        include_dirs=[str(ROOT / "csrc"), *include_paths("cuda")],
        extra_compile_args={
            "cxx": [*FLAGS, f'-DCNNOPS_CUDA_ARCHS="{archs}"'],
            "nvcc": ["-O3", "-std=c++20", "-Xcompiler=-fvisibility=hidden", *DEFINES],
        },
        libraries=["torch_cuda"],
        extra_link_args=[str(runtime)],
        py_limited_api=True,
    )


class BuildKeepingObjects(BuildExtension):
    """Keeps the object files between runs of pip, so that it recompiles only what changed."""

    def swig_sources(self, sources: list[str], extension: Extension) -> list[str]:
        """Called with the sorted sources: those that take longest go first, not last and alone."""
        return sorted(sources, key=lambda source: Path(source).name not in LONGEST)

    def build_extension(self, ext: Extension) -> None:
        """Puts them into the tree instead of the temporary directory of an editable install."""
        self.build_temp = f"build/objects/{ext.name}"
        super().build_extension(ext)


extensions = [
    CppExtension(
        "cnnops._C",
        [*SHARED, "csrc/library.cpp", *sources("csrc/cpu", "**/*.cpp")],
        include_dirs=[str(ROOT / "csrc")],
        extra_compile_args={"cxx": FLAGS},
        py_limited_api=True,
    )
]
if builds_cuda():
    extensions.append(cuda_extension(CUDA))

setup(
    ext_modules=extensions,
    cmdclass={"build_ext": BuildKeepingObjects},
    options={"bdist_wheel": {"py_limited_api": "cp310"}},
)
