"""Builds the C++ and CUDA libraries of cnnops. Metadata is in pyproject.toml."""

import os
from pathlib import Path

import torch
from setuptools import setup
from torch.utils.cpp_extension import CUDA_HOME, BuildExtension, CppExtension, CUDAExtension

# The oldest torch whose stable ABI the library uses, as TORCH_TARGET_VERSION writes it.
TORCH_2_10 = "0x020a000000000000"

ROOT = Path(__file__).parent
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


def builds_cuda() -> bool:
    """Whether to build cnnops._cuda: when it can be, unless CNNOPS_CUDA is 0.

    CNNOPS_CUDA=1 turns whatever is missing into an error.
    """
    found = {
        "kernels in csrc/cuda": bool(sources("csrc/cuda", "**/*.cu")),
        "a torch that was built with CUDA": torch.version.cuda is not None,
        "nvcc in CUDA_HOME or PATH": CUDA_HOME is not None and Path(CUDA_HOME, "bin/nvcc").exists(),
    }
    wanted = os.environ.get("CNNOPS_CUDA", "")
    if wanted not in ("", "0", "1"):
        raise SystemExit(f"CNNOPS_CUDA must be 0, 1 or unset, but got {wanted!r}")
    missing = [what for what, there in found.items() if not there]
    if wanted == "1" and missing:
        raise SystemExit(f"CNNOPS_CUDA=1 asks for the CUDA library, which lacks {missing}")
    return wanted != "0" and not missing


class BuildKeepingObjects(BuildExtension):
    """Keeps the object files between runs of pip, so that it recompiles only what changed."""

    def finalize_options(self) -> None:
        """Puts them into the tree instead of the temporary directory of an editable install."""
        super().finalize_options()
        self.build_temp = "build/objects"


extensions = [
    CppExtension(
        "cnnops._C",
        sources("csrc", "*.cpp") + sources("csrc/cpu", "**/*.cpp"),
        include_dirs=[str(ROOT / "csrc")],
        extra_compile_args={"cxx": FLAGS},
        py_limited_api=True,
    )
]
if builds_cuda():
    extensions.append(
        CUDAExtension(
            "cnnops._cuda",
            sources("csrc/cuda", "**/*.cpp", "**/*.cu"),
            include_dirs=[str(ROOT / "csrc")],
            extra_compile_args={"cxx": FLAGS, "nvcc": ["-O3", "-std=c++20", *DEFINES]},
            py_limited_api=True,
        )
    )

setup(
    ext_modules=extensions,
    cmdclass={"build_ext": BuildKeepingObjects},
    options={"bdist_wheel": {"py_limited_api": "cp310"}},
)
