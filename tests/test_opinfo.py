"""torch's own operator samples and error inputs (OpInfo) through cnnops.functional.

Values, shapes, dtypes, strides and gradients agree with torch.nn.functional, or the exception is
of the type that torch's database asks for.
"""

from __future__ import annotations

from typing import Any

import devices
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.testing._internal.common_methods_invocations import op_db
from torch.testing._internal.opinfo.core import OpInfo, SampleInput

import cnnops.functional as C
from cnnops import UnsupportedError

pytestmark = [
    pytest.mark.usefixtures("device"),
    pytest.mark.devices("cpu", "cuda-emulated"),
    pytest.mark.emulated_share(4),
]

PREFIX = "nn.functional."
OPS = [op for op in op_db if op.name.removeprefix(PREFIX) in C.__all__]
FLOATS = (torch.float32, torch.float64, torch.bfloat16, torch.float16)


def without_kernels(op: OpInfo, dtype: torch.dtype) -> bool:
    """Dtypes that torch computes and cnnops refuses: complex, small integers in convolutions."""
    return dtype.is_complex or ("conv" in op.name and dtype not in (*FLOATS, torch.int64))


def cases(dtypes: set[torch.dtype] | None = None) -> list[Any]:
    return [
        pytest.param(op, dtype, id=f"{op.formatted_name} {str(dtype)[6:]}")
        for op in OPS
        for dtype in sorted(op.supported_dtypes("cpu"), key=str)
        if dtypes is None or dtype in dtypes
    ]


def functions(op: OpInfo) -> tuple[Any, Any]:
    name = op.name.removeprefix(PREFIX)
    return getattr(C, name), getattr(F, name)


def samples(op: OpInfo, dtype: torch.dtype, **options: Any) -> list[SampleInput]:
    """The samples of `op`; of the thousands that max pooling has, about two hundred."""
    # Not seeded one by one: conftest.py has seeded the test, and torch.manual_seed takes long.
    every = list(op.sample_inputs("cpu", dtype, set_seed=False, **options))
    return every[:: max(1, len(every) // 200)]


def run(function: Any, sample: SampleInput) -> tuple[Tensor, ...]:
    devices.seed(0)  # for the samples that fractional pooling draws
    result = function(sample.input, *sample.args, **sample.kwargs)
    return result if isinstance(result, tuple) else (result,)


def tolerance(dtype: torch.dtype) -> dict[str, float]:
    """Looser than a bound by reduction length, which the grid tests have: torch rounds too."""
    relative = {torch.bfloat16: 3e-2, torch.float16: 4e-3, torch.float32: 1e-4}.get(dtype, 1e-9)
    return {"rtol": relative, "atol": 100 * relative if dtype in FLOATS[2:] else 10 * relative}


def test_the_database_has_every_kind_of_function():
    names = {op.name.removeprefix(PREFIX) for op in OPS}
    assert {"conv2d", "conv_transpose3d", "max_pool2d", "avg_pool3d", "max_unpool1d"} <= names
    assert {"adaptive_avg_pool2d", "adaptive_max_pool1d", "fractional_max_pool3d"} <= names
    assert len(OPS) >= 25


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths")
@pytest.mark.parametrize(("op", "dtype"), cases())
def test_samples(op, dtype):
    ours, torchs = functions(op)
    for sample in samples(op, dtype):
        if without_kernels(op, dtype):
            with pytest.raises(UnsupportedError):
                run(ours, sample)
            continue
        for actual, expected in zip(run(ours, sample), run(torchs, sample), strict=True):
            assert actual.stride() == expected.stride(), sample
            torch.testing.assert_close(
                actual,
                expected,
                equal_nan=True,
                **tolerance(expected.dtype),
                msg=lambda difference, sample=sample: f"{difference}\n{sample}",
            )


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths")
@pytest.mark.parametrize(("op", "dtype"), cases({torch.float64}))
def test_gradients_of_samples(op, dtype):
    ours, torchs = functions(op)
    for sample in samples(op, dtype, requires_grad=True)[::3]:
        everything = (sample.input, *sample.args, *sample.kwargs.values())
        inputs = [t for t in everything if isinstance(t, Tensor) and t.requires_grad]
        gradients = []
        for function in (ours, torchs):
            output = run(function, sample)[0]
            weights = torch.linspace(-1, 1, max(output.numel(), 1), dtype=dtype)
            loss = (output * weights[: output.numel()].view(output.shape)).sum()
            gradients.append(torch.autograd.grad(loss, inputs))
        torch.testing.assert_close(*gradients, rtol=1e-9, atol=1e-9)


WITH_ERRORS = [
    pytest.param(op, id=op.formatted_name) for op in OPS if op.error_inputs_func is not None
]


@pytest.mark.parametrize("op", WITH_ERRORS)
def test_error_inputs(op):
    ours, _ = functions(op)
    for error in op.error_inputs("cpu"):
        with pytest.raises(error.error_type):
            run(ours, error.sample_input)


FORMATS = {4: torch.channels_last, 5: torch.channels_last_3d}


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths")
@pytest.mark.parametrize(("op", "dtype"), cases({torch.float32}))
def test_samples_in_channels_last(op, dtype):
    """The values of torch in the input's layout, where the input is batched."""
    ours, torchs = functions(op)
    rank = int(op.name.removesuffix("d")[-1])
    for sample in samples(op, dtype):
        if rank == 1 or sample.input.dim() != rank + 2:
            continue
        expected = run(torchs, sample)
        memory_format = FORMATS[rank + 2]
        sample.input = sample.input.contiguous(memory_format=memory_format)
        for actual, value in zip(run(ours, sample), expected, strict=True):
            if torch._prims_common.suggest_memory_format(sample.input) is memory_format:
                assert actual.is_contiguous(memory_format=memory_format)
            torch.testing.assert_close(actual, value, equal_nan=True, **tolerance(dtype))
