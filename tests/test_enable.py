"""cnnops.enable: which calls it takes to cnnops, for whom and for how long."""

import re
import threading
import warnings
from collections.abc import Callable
from typing import Any, ClassVar

import pytest
import torch
import torch.nn.functional as F
from op_calls import GraphCalls, OpCalls, assert_on_cnnops, assert_same
from torch import Tensor, nn
from torch._subclasses import FakeTensorMode
from torch.utils.checkpoint import checkpoint

import cnnops
from cnnops import support

FAMILY = re.compile(
    r"(conv|conv_transpose|(adaptive_|fractional_)?max_pool|(adaptive_)?avg_pool|max_unpool|lp_pool)"
    r"[123]d(_with_indices)?"
)
NAMESPACES = {"torch.nn.functional": F, "torch": torch, "torch._C._nn": torch._C._nn}
# Everything of these names that torch has, whether or not cnnops knows of it.
FUNCTIONS = [
    (namespace, name)
    for namespace, module in NAMESPACES.items()
    for name in dir(module)
    if FAMILY.fullmatch(name)
]


def _input(rank: int = 2) -> Tensor:
    torch.manual_seed(0)
    return torch.randn(2, 4, *(9, 8, 7)[:rank], dtype=torch.float64)


def _arguments(namespace: str, name: str) -> tuple[Any, ...]:
    """Positional arguments for a function of torch, such that another reading of them shows."""
    rank = int(re.findall("[123]", name)[0])
    input = _input(rank)
    ones, twos, threes = [1] * rank, [2] * rank, [3] * rank
    if name.startswith("conv_transpose"):
        weight = torch.randn(4, 3, *threes, dtype=torch.float64)
        return input, weight, torch.randn(6, dtype=torch.float64), 2, 1, 1, 2, 2
    if name.startswith("conv"):
        weight = torch.randn(6, 2, *threes, dtype=torch.float64)
        return input, weight, torch.randn(6, dtype=torch.float64), 2, 1, 2, 2
    if name.startswith("fractional"):
        samples = torch.rand(2, 4, rank, dtype=torch.float64)
        if namespace == "torch._C._nn":
            return input, twos, threes, samples
        return input, 2, threes, None, False, samples
    if name.startswith("adaptive"):
        return input, threes
    if name.startswith("max_unpool"):
        pool = {1: F.max_pool1d, 2: F.max_pool2d, 3: F.max_pool3d}[rank]
        values, indices = pool(input, 3, 2, 1, return_indices=True)
        size = list(input.shape[2:])
        if namespace == "torch._C._nn":
            return (values, indices, size, twos, ones)[: None if rank == 3 else 3]
        return values, indices, 3, 2, 1, size
    if name.startswith("lp_pool"):
        return input, 4.0, 3, 2, True
    if name.startswith("avg"):
        return input, threes, twos, ones, True, False
    return input, threes, twos, ones, ones, True


@pytest.mark.parametrize(("namespace", "name"), FUNCTIONS)
def test_function_reaches_cnnops(namespace: str, name: str) -> None:
    function = getattr(NAMESPACES[namespace], name)
    arguments = _arguments(namespace, name)
    expected = function(*arguments)
    with OpCalls() as calls, cnnops.enable():
        actual = function(*arguments)
    assert_on_cnnops(calls)
    assert_same(actual, expected)


def test_the_list_of_functions_is_not_empty() -> None:
    assert len(FUNCTIONS) > 40
    assert ("torch.nn.functional", "conv2d") in FUNCTIONS
    assert ("torch._C._nn", "avg_pool2d") in FUNCTIONS


@pytest.mark.parametrize(
    "name", [name for _, name in FUNCTIONS if hasattr(F, f"{name}_with_indices")]
)
def test_return_indices(name: str) -> None:
    function = getattr(F, name)
    arguments = _arguments("torch.nn.functional", name)
    if name.startswith("fractional"):
        keywords = {"_random_samples": arguments[-1], "output_size": arguments[2]}
        arguments = arguments[:2]
    else:
        keywords = {}
    expected = function(*arguments, return_indices=True, **keywords)
    with OpCalls() as calls, cnnops.enable():
        actual = function(*arguments, return_indices=True, **keywords)
    assert_on_cnnops(calls)
    assert_same(actual, expected)


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("rank", [1, 2, 3])
def test_torch_convolution(rank: int, transposed: bool) -> None:
    weight = torch.randn(4, 2, *[3] * rank, dtype=torch.float64)
    bias = torch.randn(4, dtype=torch.float64)
    lists = [2] * rank, [1] * rank, [1] * rank
    extra = [int(transposed)] * rank
    arguments = (_input(rank), weight, bias[:4], *lists, transposed, extra, 2)
    expected = torch.convolution(*arguments)
    with OpCalls() as calls, cnnops.enable():
        actual = torch.convolution(*arguments)
    assert_on_cnnops(calls)
    assert_same(actual, expected)


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("rank", [1, 2, 3])
def test_convolution_backward(rank: int, transposed: bool) -> None:
    input, weight = _input(rank), torch.randn(4, 2, *[3] * rank, dtype=torch.float64)
    geometry = [2] * rank, [1] * rank, [1] * rank, transposed, [0] * rank, 2
    grad = torch.randn_like(torch.convolution(input, weight, None, *geometry))
    arguments = grad, input, weight, [4], *geometry, [True, True, True]
    expected = torch.ops.aten.convolution_backward(*arguments)
    with OpCalls() as calls, cnnops.enable():
        actual = torch.ops.aten.convolution_backward(*arguments)
    assert_on_cnnops(calls)
    assert_same(actual, expected)


def test_torch_nn_grad() -> None:
    input, weight = _input(), torch.randn(6, 4, 3, 3, dtype=torch.float64)
    grad = torch.randn(2, 6, 5, 4, dtype=torch.float64)
    options = {"stride": 2, "padding": 1}
    expected = (
        torch.nn.grad.conv2d_input(input.shape, weight, grad, **options),
        torch.nn.grad.conv2d_weight(input, weight.shape, grad, **options),
    )
    with OpCalls() as calls, cnnops.enable():
        actual = (
            torch.nn.grad.conv2d_input(input.shape, weight, grad, **options),
            torch.nn.grad.conv2d_weight(input, weight.shape, grad, **options),
        )
    assert_on_cnnops(calls)
    assert_same(actual, expected)


WEIGHT = torch.randn(6, 4, 3, 3, dtype=torch.float64)


@pytest.mark.parametrize(
    "call",
    [
        lambda x: F.conv2d(x, WEIGHT),
        lambda x: F.conv2d(x, weight=WEIGHT),
        lambda x: F.conv2d(input=x, weight=WEIGHT, padding="same"),
        lambda x: F.conv2d(x, WEIGHT, None, 2, 1),
        lambda x: F.conv2d(x, WEIGHT, None, (2, 1), [1, 0], dilation=2),
        lambda x: F.conv2d(x, WEIGHT, stride=2, padding="valid"),
        lambda x: F.max_pool2d(input=x, kernel_size=2),
        lambda x: F.max_pool2d(x, 2, None, 0, 1, False, True),
        lambda x: F.avg_pool2d(x, kernel_size=(2, 3), stride=None),
        lambda x: torch.max_pool2d(x, 2, stride=()),
        lambda x: F.adaptive_avg_pool2d(x, (None, 2)),
        lambda x: F.lp_pool2d(x, norm_type=2, kernel_size=2),
        nn.Conv2d(4, 6, 3).double(),
        nn.Conv2d(4, 6, 3, padding=1, padding_mode="reflect").double(),
        nn.MaxPool2d(2),
        nn.AdaptiveMaxPool2d(2, return_indices=True),
    ],
)
def test_forms_of_call(call: Callable[[Tensor], Any]) -> None:
    expected = call(_input())
    with OpCalls() as calls, cnnops.enable():
        actual = call(_input())
    assert_on_cnnops(calls)
    assert_same(actual, expected)


def test_gradients() -> None:
    def gradients() -> tuple[Tensor, ...]:
        leaves = _input().requires_grad_(), WEIGHT.clone().requires_grad_()
        loss = F.max_pool2d(F.conv2d(*leaves, padding=1), 2).sin().sum()
        return torch.autograd.grad(loss, leaves)

    expected = gradients()
    with OpCalls() as calls, cnnops.enable():
        actual = gradients()
    assert_on_cnnops(calls)
    assert_same(actual, expected)


@pytest.mark.parametrize("use_reentrant", [True, False])
def test_checkpoint_of_a_decorated_function(use_reentrant: bool) -> None:
    leaf = _input().requires_grad_()
    (expected,) = torch.autograd.grad(_network(leaf).sum(), leaf)
    leaf = _input().requires_grad_()
    with OpCalls() as calls:
        output = checkpoint(cnnops.enable()(_network), leaf, use_reentrant=use_reentrant)
        output.sum().backward()
    assert calls.cnnops["convolution"] == 2
    assert not calls.torch
    assert_same(leaf.grad, expected)


def _routed() -> bool:
    """Whether a convolution goes to cnnops here and now."""
    with OpCalls() as calls:
        F.conv2d(_input(), WEIGHT)
    assert bool(calls.cnnops) != bool(calls.torch)
    return bool(calls.cnnops)


def test_begins_and_ends_with_the_block() -> None:
    assert not _routed()
    with cnnops.enable():
        assert _routed()
    assert not _routed()


def test_nests_and_reenters() -> None:
    context = cnnops.enable()
    with context:
        with context, cnnops.enable():
            assert _routed()
        assert _routed()
        with torch.device("cpu"), context:
            assert _routed()
    assert not _routed()
    with context:
        assert _routed()
    assert not _routed()


def test_ends_with_an_exception() -> None:
    with pytest.raises(KeyError), cnnops.enable():
        raise KeyError
    assert not _routed()
    with cnnops.enable():
        with pytest.raises(RuntimeError, match="channels"):
            F.conv2d(_input()[:, :3], WEIGHT)
        assert _routed()
    assert not _routed()


def test_decorator() -> None:
    @cnnops.enable()
    def routed(depth: int, *, fail: bool = False) -> bool:
        """Recursive, to enter one context more than once."""
        if fail:
            raise KeyError
        return routed(depth - 1) and _routed() if depth else _routed()

    assert routed.__name__ == "routed"
    assert routed(3)
    assert not _routed()
    with pytest.raises(KeyError):
        routed(0, fail=True)
    assert not _routed()


def test_decorator_refuses_what_runs_after_the_call() -> None:
    def generator() -> Any:
        yield

    async def coroutine() -> None: ...

    async def async_generator() -> Any:
        yield

    for function in (generator, coroutine, async_generator):
        with pytest.raises(TypeError, match="enable"):
            cnnops.enable()(function)


def _in_thread(function: Callable[[], Any]) -> Any:
    results: list[Any] = []
    thread = threading.Thread(target=lambda: results.append(function()))
    thread.start()
    thread.join()
    return results[0]


def test_is_of_the_thread_that_entered() -> None:
    context = cnnops.enable()

    @context
    def routed() -> bool:
        return _routed()

    with context:
        assert not _in_thread(_routed)
        assert _in_thread(routed)
        assert _routed()
    assert _in_thread(routed)
    assert not _routed()


def test_threads_enter_and_leave_one_context_independently() -> None:
    context = cnnops.enable()
    entered, leave = threading.Event(), threading.Event()
    results = []

    def other() -> None:
        with context:
            entered.set()
            leave.wait(10)
            results.append(_routed())
        results.append(_routed())

    thread = threading.Thread(target=other)
    thread.start()
    assert entered.wait(10)
    assert not _routed()
    with context:
        assert _routed()
    leave.set()
    thread.join()
    assert results == [True, False]


@pytest.fixture
def no_warning_yet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(support, "_warned", set())


@pytest.mark.usefixtures("no_warning_yet")
def test_falls_back_to_torch_with_one_warning() -> None:
    input, weight = _input().to(torch.complex64), WEIGHT.to(torch.complex64)
    expected = F.conv2d(input, weight)
    with cnnops.enable():
        with pytest.warns(cnnops.FallbackWarning, match="conv2d.*complex64"):
            actual = F.conv2d(input, weight)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            F.conv2d(input, weight, padding=1)
            with cnnops.enable():
                F.conv2d(input, weight)
    assert torch.equal(actual, expected)


@pytest.mark.usefixtures("no_warning_yet")
@pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="torch without mkldnn")
def test_torch_convolution_falls_back() -> None:
    input, weight = _input().float(), WEIGHT.float()
    arguments = weight, None, [1, 1], [0, 0], [1, 1], False, [0, 0], 1
    with cnnops.enable(), pytest.warns(cnnops.FallbackWarning, match="mkldnn"):
        actual = torch.convolution(input.to_mkldnn(), *arguments)
    # Sums of 36 products in float32.
    torch.testing.assert_close(actual.to_dense(), torch.convolution(input, *arguments))


@pytest.mark.usefixtures("no_warning_yet")
def test_convolution_without_input_channels_falls_back() -> None:
    input, weight = torch.randn(2, 0, 5), torch.randn(3, 0, 3)
    with cnnops.enable(), pytest.warns(cnnops.FallbackWarning, match="zero input channels"):
        actual = F.conv1d(input, weight)
    assert actual.shape == F.conv1d(input, weight).shape


def test_out_stays_with_torch() -> None:
    out = torch.empty(2, 4, 4, 4, dtype=torch.float64)
    with OpCalls() as calls, cnnops.enable():
        F.avg_pool2d(_input(), 2, out=out)
    assert not calls.cnnops
    assert_same(out, F.avg_pool2d(_input(), 2))


class Plain(Tensor):
    """A tensor with torch's own handling of subclasses."""


def test_plain_tensor_subclasses_are_routed_and_kept() -> None:
    input = _input().as_subclass(Plain)
    with OpCalls() as calls, cnnops.enable():
        result = F.max_pool2d(F.conv2d(input, WEIGHT), 2)
    assert_on_cnnops(calls)
    assert type(result) is Plain


class Logged(Tensor):
    """A tensor that takes over torch's functions, as the subclasses of many libraries do."""

    seen: ClassVar[list[Any]] = []

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        cls.seen.append(func)
        return super().__torch_function__(func, types, args, kwargs or {})


def test_tensor_subclasses_see_the_functions_of_torch() -> None:
    input = _input().as_subclass(Logged)
    with cnnops.enable():
        convolved = F.conv2d(input, WEIGHT)
        pooled = F.max_pool2d(input, 2)
    assert torch.conv2d in Logged.seen
    assert F.max_pool2d in Logged.seen
    assert isinstance(convolved, Logged)
    assert isinstance(pooled, Logged)


def test_fake_tensors() -> None:
    with FakeTensorMode() as mode, OpCalls() as calls, cnnops.enable():
        input, weight = mode.from_tensor(_input()), mode.from_tensor(WEIGHT)
        result = F.max_pool2d(F.conv2d(input, weight), 2)
    assert calls.cnnops
    assert result.shape == (2, 6, 3, 3)


def test_other_functions_are_untouched() -> None:
    with OpCalls() as calls, cnnops.enable():
        result = F.linear(_input(), torch.ones(3, 8, dtype=torch.float64)).relu()
    assert not calls.cnnops
    assert result.shape == (2, 4, 9, 3)


def test_no_grad_and_autocast() -> None:
    with torch.no_grad(), OpCalls() as calls, cnnops.enable():
        assert not F.conv2d(_input(), WEIGHT.clone().requires_grad_()).requires_grad
    assert_on_cnnops(calls)
    input, weight = _input().float(), WEIGHT.float()
    with torch.autocast("cpu", torch.bfloat16):
        expected = F.conv2d(input, weight)
        with cnnops.enable():
            actual = F.conv2d(input, weight)
    assert actual.dtype == expected.dtype == torch.bfloat16
    # Two roundings of a sum of 36 products of order one to the 8 bits of bfloat16.
    torch.testing.assert_close(actual, expected, rtol=2**-6, atol=2**-6)


def _network(input: Tensor) -> Tensor:
    return F.max_pool2d(F.conv2d(input, WEIGHT, padding=1).relu(), 2)


def _inside(input: Tensor) -> Tensor:
    with cnnops.enable():
        return _network(input)


@torch.no_grad()
def test_compiles_inside_a_function() -> None:
    torch._dynamo.reset()
    graphs = GraphCalls()
    actual = torch.compile(_inside, backend=graphs, fullgraph=True)(_input())
    assert_on_cnnops(graphs)
    assert_same(actual, _network(_input()))


@torch.no_grad()
def test_compiled_function_notices_the_context() -> None:
    torch._dynamo.reset()
    outside, inside = GraphCalls(), GraphCalls()
    expected = _network(_input())
    graphs = outside
    compiled = torch.compile(
        _network, backend=lambda graph, inputs: graphs(graph, inputs), fullgraph=True
    )
    assert_same(compiled(_input()), expected)
    graphs = inside
    with cnnops.enable():
        assert_same(compiled(_input()), expected)
    assert outside.torch
    assert not outside.cnnops
    assert_on_cnnops(inside)
