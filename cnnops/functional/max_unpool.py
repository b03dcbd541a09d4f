"""Max unpooling: values back to where the indices say they came from.

An index outside its plane is a RuntimeError. On a GPU, which cannot raise while it computes, it
makes the plane that it belongs to NaN.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor
from torch.overrides import handle_torch_function, has_torch_function_unary

from cnnops import ops
from cnnops.functional.arguments import as_tuple, supported
from cnnops.geometry import IntOrInts, expand


def max_unpool1d(
    input: Tensor,
    indices: Tensor,
    kernel_size: IntOrInts,
    stride: IntOrInts | None = None,
    padding: IntOrInts = 0,
    output_size: Sequence[int] | None = None,
) -> Tensor:
    """1-d partial inverse of `max_pool1d`, as torch.nn.functional.max_unpool1d.

    input and int64 indices (N, C, L) or (C, L); zero where no index points. `output_size`
    chooses among the sizes that the pooling maps to the input's; ValueError where it is none.
    """
    return _max_unpool(max_unpool1d, 1, input, indices, kernel_size, stride, padding, output_size)


def max_unpool2d(
    input: Tensor,
    indices: Tensor,
    kernel_size: IntOrInts,
    stride: IntOrInts | None = None,
    padding: IntOrInts = 0,
    output_size: Sequence[int] | None = None,
) -> Tensor:
    """2-d partial inverse of `max_pool2d`, as torch.nn.functional.max_unpool2d.

    input and int64 indices (N, C, H, W) or (C, H, W); zero where no index points. `output_size`
    chooses among the sizes that the pooling maps to the input's; ValueError where it is none.
    """
    return _max_unpool(max_unpool2d, 2, input, indices, kernel_size, stride, padding, output_size)


def max_unpool3d(
    input: Tensor,
    indices: Tensor,
    kernel_size: IntOrInts,
    stride: IntOrInts | None = None,
    padding: IntOrInts = 0,
    output_size: Sequence[int] | None = None,
) -> Tensor:
    """3-d partial inverse of `max_pool3d`, as torch.nn.functional.max_unpool3d.

    input and int64 indices (N, C, D, H, W) or (C, D, H, W); zero where no index points.
    `output_size`
    chooses among the sizes that the pooling maps to the input's; ValueError where it is none.
    """
    return _max_unpool(max_unpool3d, 3, input, indices, kernel_size, stride, padding, output_size)


def _max_unpool(
    function: Callable[..., Tensor],
    rank: int,
    input: Tensor,
    indices: Tensor,
    kernel_size: IntOrInts,
    stride: IntOrInts | None,
    padding: IntOrInts,
    output_size: Sequence[int] | None,
) -> Tensor:
    """The unpooling `function` of `rank` spatial axes."""
    if has_torch_function_unary(input):
        return handle_torch_function(
            function, (input,), input, indices, kernel_size, stride, padding, output_size
        )
    kernel = as_tuple(kernel_size, rank)
    steps = kernel if stride is None else as_tuple(stride, rank)
    size = _unpool_size(input, kernel, steps, as_tuple(padding, rank), output_size)
    input = supported(function.__name__, input, indices)
    if rank == 3 and any(step <= 0 for step in steps):
        raise RuntimeError(f"strides should be greater than zero, but got stride: {list(steps)}")
    return ops.max_unpool(input, indices, expand("output_size", size, rank, short=False))


def _unpool_size(
    input: Tensor,
    kernel: tuple[int, ...],
    stride: tuple[int, ...],
    padding: tuple[int, ...],
    output_size: Sequence[int] | None,
) -> Sequence[int]:
    """The spatial size of an unpooling: the smallest, or `output_size` where it is possible."""
    rank = len(kernel)
    smallest = [
        (input.size(axis - rank) - 1) * stride[axis] + kernel[axis] - 2 * padding[axis]
        for axis in range(rank)
    ]
    size: Sequence[int] = smallest
    if output_size is not None:
        size = output_size[2:] if len(output_size) == rank + 2 else output_size
        if len(size) != rank:
            raise ValueError(
                f"output_size should be a sequence containing {rank} or {rank + 2} elements, "
                f"but it has a length of '{len(size)}'"
            )
        for axis in range(rank):
            low, high = smallest[axis] - stride[axis], smallest[axis] + stride[axis]
            if not low < size[axis] < high:
                raise ValueError(
                    f'invalid output_size "{size}" (dim {axis} must be between {low} and {high})'
                )
    for axis in range(rank):
        if size[axis] < 0:
            raise ValueError(
                "max_unpooling: output_size must contain non-negative spatial dimensions, "
                f"but got output_size[{axis}]={size[axis]}"
            )
    return size
