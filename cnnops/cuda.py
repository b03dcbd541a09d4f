"""The CUDA library: loaded where torch has CUDA and the library was built, and else why not.

Loading it needs no GPU and no driver, and nothing here touches either before a CUDA tensor comes.
"""

from __future__ import annotations

import importlib
import importlib.util

import torch

import cnnops._C  # noqa: F401  (loads the schemas of torch.ops.cnnops)

__all__ = ["ARCHS", "MISSING", "refusal"]


def _load() -> tuple[tuple[str, ...], str | None]:
    """The architectures of the library, or why there is none."""
    if torch.version.cuda is None:
        return (), f"torch {torch.__version__} was built without CUDA"
    if importlib.util.find_spec("cnnops._cuda") is None:
        return (), "this build of cnnops has no CUDA kernels; docs/gpu.md says what builds them"
    try:
        library = importlib.import_module("cnnops._cuda")
    except ImportError as error:
        return (), f"the CUDA kernels of cnnops do not load: {error}"
    return tuple(library.archs().split(";")), None


#: What the library has code for, as TORCH_CUDA_ARCH_LIST writes it ("8.0", "12.0+PTX"); and why
#: there is no library, or None.
ARCHS, MISSING = _load()

_refusals: dict[int, str | None] = {}


def refusal(device: torch.device) -> str | None:
    """Why the kernels cannot run on this CUDA device, or None where they can."""
    # Without a GPU only fake tensors come here. Compilers do not trace what asks the GPU; there a
    # kernel that cannot run says so at its launch.
    if MISSING is not None or torch.compiler.is_compiling() or not torch.cuda.is_available():
        return MISSING
    index = torch.cuda.current_device() if device.index is None else device.index
    if index not in _refusals:
        _refusals[index] = _missing_code(torch.cuda.get_device_capability(index))
    return _refusals[index]


def _missing_code(capability: tuple[int, int]) -> str | None:
    """Why no code of the library runs on a GPU of this compute capability, or None."""
    for arch in ARCHS:
        major, minor = arch.removesuffix("+PTX").split(".")
        built = int(major), int(minor.rstrip("af"))
        # Machine code serves its own major version from its minor one on, PTX all that is newer;
        # with "a" or "f" both serve the one version that they name.
        newer = built[0] == capability[0] or arch.endswith("+PTX")
        if built == capability or (minor.isdigit() and built < capability and newer):
            return None
    return (
        f"this build of cnnops has CUDA kernels for {', '.join(ARCHS)}, but the GPU has compute "
        f"capability {capability[0]}.{capability[1]}"
    )
