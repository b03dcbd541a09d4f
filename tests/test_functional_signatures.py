"""cnnops.functional has the names, signatures and argument errors of torch.nn.functional."""

from __future__ import annotations

import inspect
import re
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import cnnops.functional as C
from cnnops import UnsupportedError

POOL = re.compile(r"(adaptive_|fractional_|lp_)?(max|avg|lp)_(un)?pool[123]d(_with_indices)?")
CONV = re.compile(r"conv(_transpose)?[123]d")


def expected_names() -> list[str]:
    return sorted(n for n in dir(F) if POOL.fullmatch(n) or CONV.fullmatch(n) or n[:2] == "lp")


def torch_parameters(name: str) -> list[tuple[str, Any]]:
    """(name, default) of each parameter of torch's function, from its signature or docstring."""
    function = getattr(F, name)
    if not inspect.isbuiltin(function):
        # return_indices chooses between two functions; their parameters are the same.
        both = torch._jit_internal.boolean_dispatched.get(function)
        signature = inspect.signature(both["if_true"] if both else function)
        return [(p.name, p.default) for p in signature.parameters.values()]
    text = re.search(rf"{name}\((.*?)\) -> Tensor", function.__doc__ or "")
    assert text is not None
    empty = inspect.Parameter.empty
    pairs = [part.strip().split("=") for part in text[1].split(",")]
    return [(pair[0], eval(pair[1]) if len(pair) > 1 else empty) for pair in pairs]


def test_every_function_is_there():
    assert set(expected_names()) <= set(C.__all__)
    assert all(hasattr(F, name) for name in C.__all__)


@pytest.mark.parametrize("name", C.__all__)
def test_parameters_are_those_of_torch(name):
    parameters = inspect.signature(getattr(C, name)).parameters.values()
    assert [(p.name, p.default) for p in parameters] == torch_parameters(name)
    assert all(p.kind is inspect.Parameter.POSITIONAL_OR_KEYWORD for p in parameters)


X = torch.arange(2 * 4 * 6 * 6, dtype=torch.float32).reshape(2, 4, 6, 6).sin()
W = torch.arange(4 * 4 * 3 * 3, dtype=torch.float32).reshape(4, 4, 3, 3).cos()
I64 = torch.zeros(2, 4, 6, 6, dtype=torch.int64)

# Arguments that a parser may take or refuse; whatever torch does with them is right.
CALLS: dict[str, tuple[str, tuple[Any, ...], dict[str, Any]]] = {
    "conv stride list": ("conv2d", (X, W), {"stride": [2]}),
    "conv stride tuple": ("conv2d", (X, W), {"stride": (2, 1)}),
    "conv stride Size": ("conv2d", (X, W), {"stride": torch.Size([2, 2])}),
    "conv stride 0-d tensor": ("conv2d", (X, W), {"stride": torch.tensor(2)}),
    "conv stride list of tensors": ("conv2d", (X, W), {"stride": [torch.tensor(2), 1]}),
    "conv stride numpy": ("conv2d", (X, W), {"stride": np.int64(2)}),
    "conv stride numpy array": ("conv2d", (X, W), {"stride": np.array([2, 2])}),
    "conv stride range": ("conv2d", (X, W), {"stride": range(1, 3)}),
    "conv stride 1-d tensor": ("conv2d", (X, W), {"stride": torch.tensor([2, 2])}),
    "conv stride float tensor": ("conv2d", (X, W), {"stride": torch.tensor(2.0)}),
    "conv stride float": ("conv2d", (X, W), {"stride": 1.0}),
    "conv stride float in tuple": ("conv2d", (X, W), {"stride": (1.5, 1)}),
    "conv stride bool": ("conv2d", (X, W), {"stride": True}),
    "conv stride bool in tuple": ("conv2d", (X, W), {"stride": (True, 1)}),
    "conv stride None": ("conv2d", (X, W), {"stride": None}),
    "conv stride three": ("conv2d", (X, W), {"stride": (1, 1, 1)}),
    "conv stride empty": ("conv2d", (X, W), {"stride": ()}),
    "conv stride overflow": ("conv2d", (X, W), {"stride": 2**64}),
    "conv stride overflow in tuple": ("conv2d", (X, W), {"stride": (2**64, 1)}),
    "conv padding four": ("conv2d", (X, W), {"padding": (1, 1, 1, 1)}),
    "conv padding valid": ("conv2d", (X, W), {"padding": "valid", "stride": 2}),
    "conv padding same": ("conv2d", (X, W), {"padding": "same"}),
    "conv padding same even": ("conv2d", (X, W[:, :, :2]), {"padding": "same"}),
    "conv padding same strided": ("conv2d", (X, W), {"padding": "same", "stride": 2}),
    "conv padding same 3-d weight": ("conv2d", (X, W[0]), {"padding": "same"}),
    "conv padding unknown": ("conv2d", (X, W), {"padding": "full"}),
    "conv groups tensor": ("conv2d", (X, W), {"groups": torch.tensor(1)}),
    "conv groups float": ("conv2d", (X, W), {"groups": 1.0}),
    "conv groups bool": ("conv2d", (X, W), {"groups": True}),
    "conv groups None": ("conv2d", (X, W), {"groups": None}),
    "conv groups overflow": ("conv2d", (X, W), {"groups": 2**64}),
    "conv input list": ("conv2d", ([1], W), {}),
    "conv bias int": ("conv2d", (X, W, 1), {}),
    "conv unknown keyword": ("conv2d", (X, W), {"strides": 1}),
    "conv no weight": ("conv2d", (X,), {}),
    "conv weight dtype": ("conv2d", (X, W.double()), {}),
    "conv bool": ("conv2d", (X.bool(), W.bool()), {}),
    "conv_transpose padding same": ("conv_transpose2d", (X, W), {"padding": "same"}),
    "conv_transpose output_padding": ("conv_transpose2d", (X, W, None, 2, 1, 1), {}),
    "conv_transpose output_padding large": ("conv_transpose2d", (X, W, None, 2, 1, 2), {}),
    "conv_transpose output_padding dilated": (
        "conv_transpose2d",
        (X, W, None, 1, 0, 1, 1, 2),
        {},
    ),
    "conv_transpose output_padding negative": ("conv_transpose2d", (X, W, None, 2, 1, -1), {}),
    "max kernel bool": ("max_pool2d", (X, True), {}),
    "max kernel tensor": ("max_pool2d", (X, torch.tensor(2)), {}),
    "max kernel tensor of one": ("max_pool2d", (X, torch.tensor([2])), {}),
    "max kernel tensor of two": ("max_pool2d", (X, torch.tensor([2, 2])), {}),
    "adaptive 2 string": ("adaptive_avg_pool2d", (X, "x"), {}),
    "max kernel three": ("max_pool2d", (X, (2, 2, 2)), {}),
    "max kernel None": ("max_pool2d", (X, None), {}),
    "max stride empty": ("max_pool2d", (X, 2, ()), {}),
    "max stride float": ("max_pool2d", (X, 2, 1.0), {}),
    "max padding None": ("max_pool2d", (X, 2, 1, None), {}),
    "max dilation empty": ("max_pool2d", (X, 2, 1, 0, []), {}),
    "max ceil int": ("max_pool2d", (X, 2), {"ceil_mode": 1}),
    "max ceil None": ("max_pool2d", (X, 2), {"ceil_mode": None}),
    "max indices positional": ("max_pool2d", (X, 2, None, 0, 1, False, True), {}),
    "max indices truthy": ("max_pool2d", (X, 2), {"return_indices": 2}),
    "avg kernel float": ("avg_pool2d", (X, 2.0), {}),
    "avg kernel empty": ("avg_pool2d", (X, []), {}),
    "avg stride None": ("avg_pool1d", (X[0], 2, None), {}),
    "avg padding list": ("avg_pool2d", (X, 2, 2, [1]), {}),
    "avg divisor 0": ("avg_pool2d", (X, 2), {"divisor_override": 0}),
    "avg divisor float": ("avg_pool2d", (X, 2), {"divisor_override": 1.5}),
    "avg divisor bool": ("avg_pool2d", (X, 2), {"divisor_override": True}),
    "avg count int": ("avg_pool2d", (X, 2), {"count_include_pad": 1}),
    "avg self": ("avg_pool2d", (), {"self": X, "kernel_size": 2}),
    "adaptive 1 None": ("adaptive_avg_pool1d", (X[0], None), {}),
    "adaptive 1 list of None": ("adaptive_max_pool1d", (X[0], [None]), {}),
    "adaptive 1 two": ("adaptive_max_pool1d", (X[0], [2, 2]), {}),
    "adaptive 2 one": ("adaptive_avg_pool2d", (X, [2]), {}),
    "adaptive 2 three": ("adaptive_avg_pool2d", (X, [2, 2, 2]), {}),
    "adaptive 2 None": ("adaptive_avg_pool2d", (X, None), {}),
    "adaptive 2 list with None": ("adaptive_avg_pool2d", (X, [None, 2]), {}),
    "adaptive 2 unbatched": ("adaptive_max_pool2d", (X[0], [None, 2]), {}),
    "adaptive 2 too few axes": ("adaptive_avg_pool2d", (X[0, 0, 0], [None, 2]), {}),
    "adaptive 2 float": ("adaptive_avg_pool2d", (X, 2.0), {}),
    "lp norm 0": ("lp_pool2d", (X, 0, 2), {}),
    "lp norm inf": ("lp_pool2d", (X, float("inf"), 2), {}),
    "lp norm -inf": ("lp_pool2d", (X, -float("inf"), 2), {}),
    "lp 1 kernel tuple": ("lp_pool1d", (X[0], 2, (2,)), {}),
    "lp 2 kernel tuple of one": ("lp_pool2d", (X, 2, (2,)), {}),
    "fractional no size": ("fractional_max_pool2d", (X, 2), {}),
    "fractional three ratios": (
        "fractional_max_pool2d",
        (X, 2),
        {"output_ratio": (0.5, 0.5, 0.5)},
    ),
    "fractional kernel list of one": ("fractional_max_pool2d", (X, [2]), {"output_size": 2}),
    "fractional too few axes": ("fractional_max_pool2d", (X[0, 0, 0], 2), {"output_size": 2}),
    "fractional int": ("fractional_max_pool2d", (I64, 2), {"output_size": 2}),
    "unpool float indices": ("max_unpool2d", (X, X, 2), {}),
    "unpool int32 indices": ("max_unpool2d", (X, I64.int(), 2), {}),
    "unpool kernel float": ("max_unpool2d", (X, I64, 2.0), {}),
    "unpool kernel list of one": ("max_unpool2d", (X, I64, [2]), {}),
    "unpool size": ("max_unpool2d", (X, I64, 2), {"output_size": [12, 13]}),
    "unpool size full": ("max_unpool2d", (X, I64, 2), {"output_size": [2, 4, 12, 13]}),
    "unpool size short": ("max_unpool2d", (X, I64, 2), {"output_size": [12]}),
    "unpool size three": ("max_unpool2d", (X, I64, 2), {"output_size": [4, 12, 13]}),
    "unpool size too large": ("max_unpool2d", (X, I64, 2), {"output_size": [12, 14]}),
    "unpool padding": ("max_unpool2d", (X[:, :, :1, :1], I64[:, :, :1, :1], 2, 2, 2), {}),
    "unpool 3 stride 0": ("max_unpool3d", (X, I64, 2, 0), {}),
}


def outcome(call, *args: Any, **kwargs: Any) -> Any:
    try:
        return call(*args, **kwargs)
    except Exception as error:
        return error


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths")
@pytest.mark.parametrize("name, args, kwargs", CALLS.values(), ids=CALLS.keys())
def test_arguments_are_taken_or_refused_as_by_torch(name, args, kwargs):
    expected = outcome(getattr(F, name), *args, **kwargs)
    actual = outcome(getattr(C, name), *args, **kwargs)
    if isinstance(expected, Exception):
        assert isinstance(actual, type(expected)), f"{actual!r} instead of {expected!r}"
    else:
        torch.testing.assert_close(actual, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("rank", [2, 3])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_fractional_max_pool_draws_as_torch_does(rank, dtype):
    input = torch.randn(2, 3, *[9] * rank, generator=torch.Generator().manual_seed(0)).to(dtype)
    results = []
    for module in (C, F):
        torch.manual_seed(1)
        results.append(
            getattr(module, f"fractional_max_pool{rank}d")(input, 3, 4, return_indices=True)
        )
    assert torch.equal(results[0][0], results[1][0])
    assert torch.equal(results[0][1], results[1][1])


class Tagged(torch.Tensor):
    """A subclass with torch's default ``__torch_function__``."""


@pytest.mark.parametrize(
    "call",
    [
        pytest.param(lambda M, x: M.conv2d(x, W), id="conv2d"),
        pytest.param(lambda M, x: M.conv_transpose2d(x, W), id="conv_transpose2d"),
        pytest.param(lambda M, x: M.max_pool2d(x, 2), id="max_pool2d"),
        pytest.param(lambda M, x: M.max_pool2d(x, 2, return_indices=True)[0], id="indices"),
        pytest.param(lambda M, x: M.adaptive_avg_pool2d(x, 2), id="adaptive_avg_pool2d"),
        pytest.param(lambda M, x: M.lp_pool2d(x, 2, 2), id="lp_pool2d"),
        pytest.param(lambda M, x: M.fractional_max_pool2d(x, 2, 2), id="fractional"),
        pytest.param(lambda M, x: M.max_unpool2d(x, I64, 2), id="max_unpool2d"),
    ],
)
def test_torch_function_is_honoured(call):
    seen = []

    class Recorder(torch.overrides.TorchFunctionMode):
        def __torch_function__(self, function, types, args=(), kwargs=None):
            seen.append(function)
            return function(*args, **(kwargs or {}))

    subclassed = X.as_subclass(Tagged)
    assert type(call(C, subclassed)) is type(call(F, subclassed)) is Tagged
    with Recorder():
        call(C, X)
    assert seen[0].__name__ in C.__all__
    assert getattr(C, seen[0].__name__) is seen[0]


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
@pytest.mark.filterwarnings("ignore:torch.quantize_per_tensor")
def test_what_has_no_kernels_is_refused_with_the_reason():
    with pytest.raises(UnsupportedError, match="complex64"):
        C.conv2d(X.cfloat(), W.cfloat())
    with pytest.raises(NotImplementedError, match="bool"):
        C.max_pool2d(X.bool(), 2)
    with pytest.raises(NotImplementedError, match="sparse_coo"):
        C.avg_pool2d(X.to_sparse(), 2)
    with pytest.raises(NotImplementedError, match="mkldnn"):
        C.max_pool2d(X.to_mkldnn(), 2)
    with pytest.raises(NotImplementedError, match="nested"):
        C.conv2d(torch.nested.nested_tensor([X[0], X[1]]), W)
    quantized = torch.quantize_per_tensor(X, 0.1, 0, torch.qint8)
    with pytest.raises(NotImplementedError, match="qint8"):
        C.max_pool2d(quantized, 2)
    with pytest.raises(RuntimeError, match="same device"):
        C.conv2d(X, W.to("meta"))
