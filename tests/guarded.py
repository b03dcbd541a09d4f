"""Tensors beside a page that may not be touched: reading or writing past their end is a crash."""

from __future__ import annotations

import ctypes
import mmap

import torch
from torch import Tensor

_LIBC = ctypes.CDLL(None, use_errno=True)
_LIBC.mmap.restype = ctypes.c_void_p
_LIBC.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long]
_LIBC.mprotect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
_LIBC.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
_NO_ACCESS = 0
_FAILED = ctypes.c_void_p(-1).value


class _Pages:
    """Whole pages for `size` bytes between two that may not be touched, while this lives."""

    def __init__(self, size: int) -> None:
        self.size = -(-size // mmap.PAGESIZE) * mmap.PAGESIZE
        self.all = self.size + 2 * mmap.PAGESIZE
        flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
        self.start = _LIBC.mmap(None, self.all, mmap.PROT_READ | mmap.PROT_WRITE, flags, -1, 0)
        if self.start == _FAILED:
            raise OSError(ctypes.get_errno(), "mmap")
        self.first = self.start + mmap.PAGESIZE
        for page in (self.start, self.first + self.size):
            if _LIBC.mprotect(page, mmap.PAGESIZE, _NO_ACCESS) != 0:
                raise OSError(ctypes.get_errno(), "mprotect")

    def __del__(self) -> None:
        if getattr(self, "start", _FAILED) != _FAILED:
            _LIBC.munmap(self.start, self.all)


def guarded(tensor: Tensor, *, at_end: bool = True) -> Tensor:
    """A copy with the same strides, whose last element, or first, is next to a forbidden page.

    The strides are those of a dense tensor.
    """
    size = tensor.numel() * tensor.element_size()
    if size == 0:
        return tensor.clone()
    pages = _Pages(size)
    at = pages.first + (pages.size - size if at_end else 0)
    buffer = (ctypes.c_char * size).from_address(at)
    # The tensor keeps the buffer, and the buffer its pages.
    buffer.pages = pages  # type: ignore[attr-defined]
    flat = torch.frombuffer(buffer, dtype=tensor.dtype, count=tensor.numel())
    return flat.as_strided(tensor.shape, tensor.stride()).copy_(tensor)
