"""cnnops: convolution and pooling for PyTorch on its own kernels."""

from cnnops import functional
from cnnops.support import FallbackWarning, UnsupportedError

__all__ = ["FallbackWarning", "UnsupportedError", "functional"]
