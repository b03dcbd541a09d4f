"""cnnops: convolution and pooling for PyTorch on its own kernels."""

from cnnops import functional, nn
from cnnops.convert import convert, revert
from cnnops.enable import enable
from cnnops.plan import plan
from cnnops.support import FallbackWarning, UnsupportedError

__version__ = "0.1.0"
__all__ = [
    "FallbackWarning",
    "UnsupportedError",
    "__version__",
    "convert",
    "enable",
    "functional",
    "nn",
    "plan",
    "revert",
]
