"""Builds the C++ library of cnnops. Metadata is in pyproject.toml."""

from pathlib import Path

from setuptools import setup
from torch.utils.cpp_extension import BuildExtension, CppExtension

# The oldest torch whose stable ABI the library uses, as TORCH_TARGET_VERSION writes it.
TORCH_2_10 = "0x020a000000000000"

ROOT = Path(__file__).parent
FLAGS = ["-O3", "-g0", "-std=c++20", "-fvisibility=hidden", "-ffp-contract=fast",
         "-fno-math-errno", "-fno-trapping-math", "-fno-tree-loop-distribute-patterns", "-Wall", "-Wextra", "-Wno-psabi",
         "-Wno-unused-parameter", f"-DTORCH_TARGET_VERSION={TORCH_2_10}"]  # fmt: skip


def sources(folder: str, pattern: str) -> list[str]:
    """Sources below `folder`, relative to the project as setuptools wants them."""
    return sorted(str(path.relative_to(ROOT)) for path in (ROOT / folder).glob(pattern))


setup(
    ext_modules=[
        CppExtension(
            "cnnops._C",
            sources("csrc", "*.cpp") + sources("csrc/cpu", "**/*.cpp"),
            include_dirs=[str(ROOT / "csrc")],
            extra_compile_args={"cxx": FLAGS},
            py_limited_api=True,
        )
    ],
    cmdclass={"build_ext": BuildExtension},
    options={"bdist_wheel": {"py_limited_api": "cp310"}},
)
