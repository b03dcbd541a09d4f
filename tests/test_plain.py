"""The short way around the dispatcher: what takes it, what does not, and that nobody can tell."""

import warnings
from contextlib import nullcontext
from functools import partial
from itertools import product

import pytest
import torch
import torch.nn.functional as torch_functional
from torch.autograd import forward_ad
from torch.nn.functional import conv2d, max_pool2d
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

import cnnops.functional as F
from cnnops import autograd
from cnnops.plain import plain_call

pytestmark = pytest.mark.skipif(
    tuple(int(part) for part in torch.__version__.split(".")[:2]) < (2, 14),
    reason="torch before 2.14 has no C functions from Python tensors to C++ and back",
)

plain_conv = plain_call("convNd", autograd.Convolution)
plain_convolution = plain_call("convolution", autograd.Convolution)
plain_max_pool = plain_call("max_pool_with_indices", autograd.MaxPoolWithIndices)


def tensors(dtype=torch.float64):
    torch.manual_seed(0)
    return (
        torch.randn(2, 4, 9, 8).to(dtype),
        torch.randn(6, 2, 3, 3).to(dtype),
        torch.randn(6).to(dtype),
    )


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize(
    ("stride", "padding", "dilation"), [(1, 0, 1), (2, 1, 1), ((2, 1), (0, 2), (1, 2)), (1, 3, 2)]
)
def test_result(layout, stride, padding, dilation):
    x, w, b = tensors()
    x = x.to(memory_format=layout)
    actual = plain_conv(2, x, w, b, stride, padding, dilation, 2)
    expected = conv2d(x, w, b, stride, padding, dilation, 2)
    torch.testing.assert_close(actual, expected, rtol=1e-11, atol=1e-11)
    assert actual.stride() == expected.stride()
    assert not actual.requires_grad
    assert actual.untyped_storage().resizable()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.int64])
def test_dtypes(dtype):
    x, w, b = tensors(dtype)
    actual = plain_conv(2, x, w, b, 1, 1, 1, 2)
    expected = conv2d(x.double(), w.double(), b.double(), 1, 1, 1, 2).to(dtype)
    assert actual.dtype is dtype
    torch.testing.assert_close(actual, expected)


def test_operator_with_tuple_result():
    x, _, _ = tensors()
    actual = plain_max_pool(x, (2, 2), (2, 2), (0, 0), (1, 1), False)
    for mine, theirs in zip(actual, max_pool2d(x, 2, return_indices=True), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=0, atol=0)


#: Plain calls of functions: the function of torch, and arguments after the input, all of them.
FUNCTIONS = {
    "conv_transposeNd": (
        autograd.ConvolutionGradInput,
        torch_functional.conv_transpose2d,
        [
            (1, 0, 0, 2, 1),
            ((2, 1), (1, 0), (1, 0), 2, (1, 2)),
            (3, 2, 2, 2, 2),
            ([2, 2], [0, 1], 0, 2, 1),
        ],
    ),
    "max_poolNd": (
        autograd.MaxPool,
        torch_functional.max_pool2d,
        [(2, 2, 0, 1, False), ((3, 2), (2, 1), (1, 0), (1, 2), True), ([3, 3], 1, 1, 2, False)],
    ),
    "avg_poolNd": (
        autograd.AvgPool,
        torch_functional.avg_pool2d,
        [(2, 2, 0, False, True, None), ((3, 2), (2, 1), (1, 0), True, False, 5)],
    ),
    "adaptive_avg_poolNd": (
        autograd.AdaptiveAvgPool,
        torch_functional.adaptive_avg_pool2d,
        [(1,), (3,), ((4, 5),), ([7, 1],)],
    ),
}
CALLS = [(name, arguments) for name, (_, _, each) in FUNCTIONS.items() for arguments in each]


def operands(name):
    """Input, and weight and bias where the function of `name` has them."""
    x, w, b = tensors()
    return (x, w.movedim(0, 1).reshape(4, 3, 3, 3), b) if name.startswith("conv") else (x,)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize(("name", "arguments"), CALLS)
def test_functions(name, arguments, layout):
    derivative, function, _ = FUNCTIONS[name]
    leaves = [t.requires_grad_() for t in operands(name)]
    x, *weights = leaves
    results = [
        call(x.to(memory_format=layout), *weights, *arguments)
        for call in (partial(plain_call(name, derivative), 2), function)
    ]
    torch.testing.assert_close(*results, rtol=1e-11, atol=1e-11)
    assert results[0].stride() == results[1].stride()
    grads = [torch.autograd.grad(result.sin().sum(), leaves) for result in results]
    torch.testing.assert_close(*grads, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("conv_transposeNd", (2, 0, 2, 2, 1)),  # torch's words for that are said elsewhere
        ("conv_transposeNd", (2, 0, -1, 2, 1)),
        ("conv_transposeNd", (2**62, 0, 0, 2, 2**62)),
        ("conv_transposeNd", (1, 9, 0, 2, 1)),
        ("max_poolNd", (2, None, 0, 1, False)),
        ("max_poolNd", (2, (), 0, 1, False)),
        ("max_poolNd", ((2,), 2, 0, 1, False)),
        ("max_poolNd", (2, 2, 2, 1, False)),
        ("avg_poolNd", (2, 2, 0, False, 1, None)),
        ("avg_poolNd", (2, 2, 0, False, True, 0)),
        ("adaptive_avg_poolNd", ((None, 2),)),
        ("adaptive_avg_poolNd", (-1,)),
    ],
)
def test_functions_that_are_not_plain(name, arguments):
    assert plain_call(name, FUNCTIONS[name][0])(2, *operands(name), *arguments) is None


def test_values_without_the_indices_that_their_derivative_needs():
    x = tensors()[0].requires_grad_()
    call = plain_call("max_pool_with_indicesNd", autograd.MaxPoolWithIndices, values_only=True)
    (values,) = call(2, x, 2, 2, 0, 1, False)
    expected = max_pool2d(x, 2)
    grads = [torch.autograd.grad(y.sin().sum(), x)[0] for y in (values, expected)]
    assert torch.equal(*grads)


@pytest.mark.parametrize("wanted", [(True, True, True), (False, True, True), (True, False, False)])
def test_derivatives(wanted):
    arguments = [t.requires_grad_(flag) for t, flag in zip(tensors(), wanted, strict=True)]
    leaves = [t for t in arguments if t.requires_grad]
    actual = plain_conv(2, *arguments, 2, 1, 1, 2)
    expected = conv2d(*arguments, 2, 1, 1, 2)
    assert actual.grad_fn.name() == "ConvolutionBackward"
    assert not actual.is_leaf
    grads = [
        torch.autograd.grad(y.sin().sum(), leaves, create_graph=True) for y in (actual, expected)
    ]
    for mine, theirs in zip(*grads, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-11, atol=1e-11)
    second = [torch.autograd.grad(sum(g.cos().sum() for g in each), leaves) for each in grads]
    for mine, theirs in zip(*second, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-10, atol=1e-10)


def gradients_of(grad, input, weight, needed, rank):
    call = plain_call("convolution_gradients", None)
    return call(grad, input, weight, *needed, (1,) * rank, (1,) * 2 * rank, (1,) * rank, 1, "zeros")


@pytest.mark.parametrize("needed", list(product((True, False), repeat=3)))
def test_gradients_of_a_backward(needed):
    x, w, b = (t.requires_grad_() for t in tensors())
    w = w.repeat(1, 2, 1, 1).detach().requires_grad_()
    y = conv2d(x, w, b, padding=1)
    grad = torch.randn_like(y)
    expected = torch.autograd.grad(y, (x, w, b), grad)
    with torch.no_grad():
        gradients = gradients_of(grad, x, w, needed, 2)
    for is_needed, mine, theirs in zip(needed, gradients, expected, strict=True):
        if is_needed:
            torch.testing.assert_close(mine, theirs, rtol=1e-11, atol=1e-11)
        else:
            assert mine is None
    # Gradients that are differentiated again are not for this call.
    assert gradients_of(grad, x, w, needed, 2) is None


#: Gradients of biases: few elements, which cnnops adds, and many.
SUMMED = [(2, 3, 5), (3, 1, 70), (1, 5, 9001), (2, 9, 7, 9), (3, 40, 33, 17), (2, 8, 3, 4, 5)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("shape", SUMMED)
@pytest.mark.parametrize(
    "arrange", ["as it is", "channels_last", "unbatched", "expanded", "strided"]
)
def test_gradient_of_a_bias(shape, arrange, dtype):
    rank = len(shape) - 2
    grad = torch.randn(shape, generator=torch.Generator().manual_seed(1)).to(dtype)
    if arrange == "channels_last":
        grad = grad.movedim(1, -1).contiguous().movedim(-1, 1)
    elif arrange == "unbatched":
        grad = grad[-1]
    elif arrange == "expanded":
        grad = grad[:, :, :1].expand(shape)
    elif arrange == "strided":
        grad = torch.stack([grad, grad], -1)[..., 0]
    weight = torch.zeros(shape[1], 1, *(1,) * rank, dtype=dtype)
    _, _, mine = gradients_of(grad, weight, weight, (False, False, True), rank)
    axes = [axis for axis in range(grad.dim()) if axis != grad.dim() - rank - 1]
    assert mine.dtype is dtype
    if grad.numel() > 2048:
        assert torch.equal(mine, grad.sum(axes))
    else:
        torch.testing.assert_close(mine, grad.double().sum(axes).to(dtype))


def test_indices_have_no_derivative():
    x = tensors()[0].requires_grad_()
    values, indices = plain_max_pool(x, (2, 2), (2, 2), (0, 0), (1, 1), False)
    assert values.requires_grad
    assert not indices.requires_grad


def test_no_derivative_without_grad_mode():
    x, w, b = (t.requires_grad_() for t in tensors())
    with torch.no_grad():
        assert not plain_conv(2, x, w, b, 1, 0, 1, 2).requires_grad
    with torch.inference_mode():
        assert plain_conv(2, x, w, b, 1, 0, 1, 2).is_inference()


class Watching(TorchDispatchMode):
    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        return func(*args, **(kwargs or {}))


class Overriding(TorchFunctionMode):
    def __torch_function__(self, func, types, args=(), kwargs=None):
        return func(*args, **(kwargs or {}))


def quiet_profile():
    return torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU])


@pytest.mark.parametrize(
    "context",
    [
        lambda: torch.autocast("cpu", torch.bfloat16),
        Watching,
        Overriding,
        forward_ad.dual_level,
        quiet_profile,
    ],
    ids=["autocast", "dispatch mode", "function mode", "forward mode", "profiler"],
)
def test_contexts_that_are_not_plain(context):
    x, w, b = tensors()
    with context():
        assert plain_conv(2, x, w, b, 1, 0, 1, 2) is None
    assert plain_conv(2, x, w, b, 1, 0, 1, 2) is not None


def test_transforms_and_traces_are_not_plain():
    x, w, b = tensors()
    found = []

    def call(x):
        found.append(plain_conv(2, x, w, b, 1, 0, 1, 2))
        return x.sum()

    torch.func.grad(call)(x)
    torch.vmap(call)(x)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.trace(call, x, check_trace=False)
    assert all(output is None for output in found)
    assert len(found) == 3


class Subclass(torch.Tensor):
    pass


@pytest.mark.parametrize(
    "unusual",
    [
        lambda x: x.as_subclass(Subclass),
        torch._neg_view,
        lambda x: x.to("meta"),
        lambda x: x.to_sparse(),
        lambda x: x.float().to_mkldnn(),
        lambda x: x[:0],
        lambda x: torch._efficientzerotensor(x.shape, dtype=x.dtype),
        lambda x: torch._to_functional_tensor(x),
        lambda x: torch.nested.nested_tensor(list(x)),
        lambda x: x.to(torch.complex64),
        lambda x: x.float(),
        lambda x: None,
        lambda x: x.tolist(),
    ],
)
def test_inputs_that_are_not_plain(unusual):
    x, w, b = tensors()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        x = unusual(x)
    assert plain_conv(2, x, w, b, 1, 0, 1, 2) is None


@pytest.mark.parametrize(
    "arguments",
    [
        (True, 0, 1, 2),
        (1.0, 0, 1, 2),
        ((1.0, 1), 0, 1, 2),
        ((1, 1, 1), 0, 1, 2),
        (1, "same", 1, 2),
        (1, (0, 2**63), 1, 2),
        (1, 0, torch.tensor(1), 2),
        (1, 0, 1, 2.0),
        (1, 0, 1, True),
        (0, 0, 1, 2),
        (1, -1, 1, 2),
        (1, 0, 1, 3),
        (1, 0, 9, 2),
    ],
)
def test_arguments_that_are_not_plain(arguments):
    x, w, b = tensors()
    assert plain_conv(2, x, w, b, *arguments) is None


@pytest.mark.parametrize("rank", [0, 1, 3, 4, 2**70, "2"])
def test_wrong_rank(rank):
    x, w, b = tensors()
    assert plain_conv(rank, x, w, b, 1, 0, 1, 2) is None


def test_wrong_number_of_arguments():
    x, w, b = tensors()
    assert plain_conv(2, x, w, b) is None
    assert plain_convolution(x, w, b, (1, 1)) is None
    assert plain_convolution() is None


def test_unknown_operator():
    with pytest.raises(ValueError, match="no plain call is named 'conv9d'"):
        plain_call("conv9d", autograd.Convolution)


def test_long_way_gives_the_same_bits():
    x, w, b = tensors(torch.float32)
    for context in (nullcontext, Watching):
        with context():
            result = F.conv2d(x, w, b, 1, 1, 1, 2)
        assert torch.equal(result, plain_conv(2, x, w, b, 1, 1, 1, 2))
