"""Finds nvcc, the headers and the runtime library of CUDA. Imported by setup.py and the tests."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path


def toolkit(cuda: str | None) -> Path | None:
    """The folder of a CUDA toolkit with bin/nvcc of the major version of `cuda`, as "13.0".

    CUDA_HOME or CUDA_PATH decide where they are set. Otherwise the nvcc on PATH, which may be a
    wrapper script, then that of the PyPI wheels (nvidia-cuda-nvcc), then /usr/local/cuda.
    """
    if cuda is None:
        return None
    major = cuda.partition(".")[0]
    return next((home for home in _homes() if _version(home).partition(".")[0] == major), None)


def headers() -> Path | None:
    """A folder with the headers that host code includes, of a toolkit or of PyPI wheels."""
    folders = [home / "include" for home in _homes()] + [lib / "include" for lib in _wheels()]
    wanted = ("cuda_runtime_api.h", "cuda_bf16.h", "cuda_fp16.h", "crt/host_defines.h")
    return next(
        (folder for folder in folders if all((folder / name).exists() for name in wanted)), None
    )


def runtime_library(home: Path) -> Path | None:
    """The libcudart that torch brings, or else that of the toolkit in `home`."""
    folders = [wheel / "lib" for wheel in _wheels()] + [home / "lib64", home / "lib"]
    major = _version(home).partition(".")[0]
    return next(
        (path for folder in folders for path in folder.glob(f"libcudart.so.{major}*")), None
    )


def _homes() -> Iterator[Path]:
    chosen = os.environ.get("CUDA_HOME") or os.environ.get("CUDA_PATH")
    if chosen:
        yield Path(chosen)
        return
    found = shutil.which("nvcc")
    if found is not None:
        yield _behind(found)
    yield from _wheels()
    yield Path("/usr/local/cuda")


def _behind(nvcc: str) -> Path:
    """The toolkit that `nvcc` runs from, which a wrapper script elsewhere does not show."""
    plan = subprocess.run([nvcc, "--dryrun", "any.cu"], capture_output=True, text=True, check=False)
    top = re.search(r"^#\$ TOP=(.+)$", plan.stderr, re.MULTILINE)
    return Path(top[1]).resolve() if top else Path(nvcc).resolve().parent.parent


def _wheels() -> Iterator[Path]:
    """The folders that the CUDA wheels share, as site-packages/nvidia/cu13."""
    package = importlib.util.find_spec("nvidia")
    for folder in (package and package.submodule_search_locations) or ():
        yield from sorted(Path(folder).glob("cu[0-9]*"))


def _version(home: Path) -> str:
    """The version of the nvcc in `home`, as "13.0"; empty where there is none that runs."""
    try:
        said = subprocess.run(
            [home / "bin" / "nvcc", "--version"], capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return ""
    release = re.search(r"release (\d+\.\d+)", said.stdout)
    return release[1] if release else ""
