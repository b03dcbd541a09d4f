"""conv1d, conv2d and conv3d over the grid, forward and backward, against torch in float64."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from grid import check, over_grid, ranks
from torch import Tensor

import cnnops.functional
from cnnops.check.cases import Case
from cnnops.check.reference import lay_out, memory_format

pytestmark = pytest.mark.usefixtures("device")


@pytest.mark.emulated_share(2)
@over_grid(*ranks("conv"))
@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")
def test_grid(case: Case, dtype: torch.dtype, device: str) -> None:
    check(case, dtype, device)


def _tensors(rank: int, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor, Tensor]:
    x = torch.randn(2, 4, *(6, 7, 5)[:rank], dtype=dtype)
    return x, torch.randn(6, 4, *(3,) * rank, dtype=dtype), torch.randn(6, dtype=dtype)


@pytest.mark.parametrize("rank", [2, 3])
@pytest.mark.parametrize("weight_layout", ["contiguous", "channels_last"])
@pytest.mark.parametrize("layout", ["contiguous", "channels_last", "sliced", "transposed"])
@pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="torch's rule is oneDNN's")
def test_memory_format_is_torchs_in_float32(rank: int, layout: str, weight_layout: str) -> None:
    x, weight, bias = _tensors(rank)
    x, weight = lay_out(x, layout), lay_out(weight, weight_layout)
    ours = getattr(cnnops.functional, f"conv{rank}d")(x, weight, bias)
    torchs = getattr(F, f"conv{rank}d")(x, weight, bias)
    assert memory_format(ours) == memory_format(torchs)


@pytest.mark.parametrize("rank", [1, 2, 3])
def test_only_wanted_gradients_are_given(rank: int) -> None:
    conv = getattr(cnnops.functional, f"conv{rank}d")
    for wanted in range(3):
        tensors = list(_tensors(rank))
        tensors[wanted].requires_grad_()
        conv(*tensors, padding=1).sum().backward()
        for index, tensor in enumerate(tensors):
            assert (tensor.grad is not None) == (index == wanted)


@pytest.mark.parametrize("rank", [1, 2, 3])
@pytest.mark.parametrize("layout", ["contiguous", "sliced", "transposed"])
def test_arguments_are_not_written(rank: int, layout: str) -> None:
    x, weight, bias = (lay_out(tensor, layout) for tensor in _tensors(rank)[:2]), None, None
    x, weight = x
    before = x.clone(), weight.clone()
    x.requires_grad_()
    weight.requires_grad_()
    getattr(cnnops.functional, f"conv{rank}d")(x, weight, bias, padding=1).sum().backward()
    assert torch.equal(x, before[0])
    assert torch.equal(weight, before[1])


@pytest.mark.parametrize("rank", [1, 2, 3])
def test_positional_arguments(rank: int) -> None:
    x, weight, bias = _tensors(rank, torch.float64)
    weight = weight[:, :2].contiguous()
    arguments = (x, weight, bias, 2, 1, 1, 2)
    name = f"conv{rank}d"
    torch.testing.assert_close(
        getattr(cnnops.functional, name)(*arguments), getattr(F, name)(*arguments)
    )


def test_padding_never_reads_what_lies_around_the_tensor() -> None:
    # A view into a larger tensor full of NaN: any read past its edge turns up in the output.
    for rank in (1, 2, 3):
        around = torch.full((4, 6, *(9,) * rank), float("nan"))
        inner = around[1:3, 1:5]
        for axis in range(rank):
            inner = inner.narrow(2 + axis, 2, 5)
        inner.copy_(torch.randn(inner.shape))
        weight = torch.randn(3, 4, *(5,) * rank)
        out = getattr(cnnops.functional, f"conv{rank}d")(inner, weight, padding=4)
        assert out.isfinite().all()


def test_nan_and_infinity_in_the_input_reach_exactly_their_windows() -> None:
    for bad in (float("nan"), float("inf")):
        x = torch.randn(1, 3, 9, 9)
        x[0, 1, 4, 4] = bad
        out = cnnops.functional.conv2d(x, torch.rand(5, 3, 3, 3) + 0.1, padding=1)
        finite = out.isfinite()
        touched = torch.zeros(9, 9, dtype=torch.bool)
        touched[3:6, 3:6] = True
        assert torch.equal(finite, ~touched.expand_as(finite))


@pytest.mark.parametrize("rank", [2, 3])
def test_weight_gradient_of_channels_last_and_planes_of_one_element(rank: int) -> None:
    # Such a gradient is contiguous in both layouts, whatever its strides on the plane.
    x = lay_out(torch.randn(3, 4, *(3,) * rank), "channels_last")
    w = torch.randn(4, 2, *(3,) * rank, requires_grad=True)
    gradients = []
    for module in (cnnops.functional, F):
        output = getattr(module, f"conv{rank}d")(x, w, groups=2)
        assert output.shape == (3, 4, *(1,) * rank)
        loss = (output * torch.arange(12.0).view_as(output)).sum()
        gradients.append(torch.autograd.grad(loss, w)[0])
    torch.testing.assert_close(*gradients)
