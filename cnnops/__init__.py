"""cnnops: convolution and pooling for PyTorch on its own kernels."""

from cnnops import functional, nn
from cnnops.convert import convert, revert
from cnnops.enable import enable
from cnnops.support import FallbackWarning, UnsupportedError

__all__ = [
    "FallbackWarning",
    "UnsupportedError",
    "convert",
    "enable",
    "functional",
    "nn",
    "revert",
]
