"""torch.compile, export and fake tensors see through cnnops.functional without a graph break."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

import cnnops.functional as C


@pytest.fixture(autouse=True)
def _fresh_compiler() -> Iterator[None]:
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def network(module: Any, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """A little of everything; input (N, 4, H, W) with H and W even and at least 8."""
    y = torch.relu(module.conv2d(x, weight, bias, padding="same", groups=2))
    y = module.max_pool2d(y, 2)
    y = module.conv_transpose2d(y, weight, None, 2, 1, 1, groups=2)
    values, indices = module.max_pool2d(y, 2, return_indices=True)
    y = module.max_unpool2d(values, indices, 2)
    y = module.avg_pool2d(y, 3, 1, 1, ceil_mode=True)
    y = module.adaptive_avg_pool2d(y, (None, 4)) + module.adaptive_max_pool2d(y, 1)
    samples = torch.full((y.shape[0], 4, 2), 0.5)
    return module.lp_pool2d(y, 2.0, 2).sum() + module.fractional_max_pool2d(
        y, 2, 2, _random_samples=samples
    ).sum(1)


def arguments(*size: int) -> tuple[Tensor, Tensor, Tensor]:
    torch.manual_seed(0)
    return (
        torch.randn(*size, requires_grad=True),
        torch.randn(4, 2, 3, 3, requires_grad=True),
        torch.randn(4, requires_grad=True),
    )


SIZES = [(2, 4, 8, 8), (3, 4, 10, 12), (1, 4, 16, 8)]


@pytest.mark.parametrize("dynamic", [False, True], ids=["static", "dynamic"])
def test_compiled_network_has_torchs_values_and_gradients(dynamic):
    compiled = torch.compile(
        lambda *args: network(C, *args), fullgraph=True, backend="aot_eager", dynamic=dynamic
    )
    for size in SIZES:
        inputs = arguments(*size)
        expected, actual = network(F, *inputs), compiled(*inputs)
        torch.testing.assert_close(actual, expected, atol=1e-4, rtol=1e-4)
        gradients = [torch.autograd.grad(out.sum(), inputs) for out in (actual, expected)]
        torch.testing.assert_close(*gradients, atol=1e-3, rtol=1e-3)
        with torch.no_grad():
            torch.testing.assert_close(compiled(*inputs), expected, atol=1e-4, rtol=1e-4)


def test_dynamic_sizes_compile_once():
    counter = torch._dynamo.testing.CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(
        lambda *args: network(C, *args), fullgraph=True, backend=counter, dynamic=True
    )
    # Sizes that are equal by chance share a symbol, so none is equal here.
    for size in ((5, 4, 8, 10), (7, 4, 12, 14)):
        compiled(*arguments(*size))
    assert counter.frame_count == 1


def test_channels_last_keeps_its_layout_when_compiled():
    x, weight, _ = arguments(2, 4, 8, 8)
    x = x.detach().contiguous(memory_format=torch.channels_last)
    compiled = torch.compile(
        lambda x: C.max_pool2d(C.conv2d(x, weight, groups=2), 2),
        fullgraph=True,
        backend="aot_eager",
    )
    assert compiled(x).is_contiguous(memory_format=torch.channels_last)


def test_autocast_inside_a_compiled_function():
    x, weight, _ = arguments(2, 4, 8, 8)

    def function(module: Any) -> Tensor:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return module.avg_pool3d(module.conv2d(x, weight, groups=2), 2)

    compiled = torch.compile(lambda: function(C), fullgraph=True, backend="aot_eager")
    assert compiled().dtype == function(F).dtype == torch.float32


def test_export_holds_our_operators():
    class Net(torch.nn.Module):
        def forward(self, x: Tensor, weight: Tensor) -> Tensor:
            return C.max_pool2d(C.conv2d(x, weight, groups=2), 2)

    x, weight, _ = arguments(2, 4, 8, 8)
    program = torch.export.export(Net(), (x, weight))
    targets = [str(node.target) for node in program.graph.nodes if node.op == "call_function"]
    assert targets[0] == "cnnops.convolution.default"
    assert targets[1].startswith("cnnops.max_pool")
    expected = F.max_pool2d(F.conv2d(x, weight, groups=2), 2)
    torch.testing.assert_close(program.module()(x, weight), expected, atol=1e-4, rtol=1e-4)


def test_fake_tensors_run_forward_and_backward():
    with FakeTensorMode():
        x = torch.empty(2, 4, 8, 8, requires_grad=True)
        weight = torch.empty(4, 2, 3, 3, requires_grad=True)
        bias = torch.empty(4, requires_grad=True)
        network(C, x, weight, bias).sum().backward()
    assert x.grad is not None
    assert x.grad.shape == x.shape


def test_meta_tensors_have_torchs_shapes():
    inputs = [tensor.detach().to("meta") for tensor in arguments(2, 4, 8, 8)]
    actual = C.max_pool2d(C.conv2d(*inputs, groups=2), 3, 2, 1, ceil_mode=True)
    expected = F.max_pool2d(F.conv2d(*inputs, groups=2), 3, 2, 1, ceil_mode=True)
    assert actual.device.type == "meta"
    assert actual.shape == expected.shape
