"""Runs one case and measures its results against a float64 reference, as fractions of a bound.

The bound. A sum of K products computed with unit roundoff u has an error that grows with
u * sum |x * w|, times sqrt(K) for rounding errors that add up at random. So the same call is made a
second time in float64 with the absolute values of all tensors: it yields that sum of magnitudes for
each result, the output as well as the gradients, because convolution and pooling are sums of
products in each of their arguments. Storing a result in its own dtype rounds that once more:

    |error| <= accumulated + u(dtype) * (|expected| + accumulated)
    accumulated = ACCUMULATION * (sqrt(K) + 2) * u(accumulator) * magnitude

Convolutions in tf32 round both factors of each product, which adds 2 * u(tf32) * magnitude.

Max pooling copies numbers, so its outputs and indices have to be equal to torch's.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import ModuleType, SimpleNamespace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from cnnops.check.cases import Case

#: Factor of the accumulated rounding error: both the result and, in float64, the reference have it.
ACCUMULATION = 2.0

#: Of each factor of a product, in float32 convolutions that may run in tf32.
TF32_ROUNDOFF = 2.0**-11

#: Fillings of an input, see `_values`.
VALUES = ("normal", "positive", "ties", "nan", "infinite")
#: Ways in which a tensor lies in memory, see `lay_out`.
LAYOUTS = ("contiguous", "channels_last", "sliced", "transposed", "expanded")

Namespace = ModuleType | SimpleNamespace


@dataclass(frozen=True)
class Problem:
    """A case with its tensors.

    Attributes:
        case: what is called.
        tensors: the differentiable arguments, the input first, then weight and bias.
        extras: tensors that no gradient reaches: indices of unpooling, random samples.
        cotangent: the gradient for the output, or None for integers, which have none.

    """

    case: Case
    tensors: tuple[Tensor, ...]
    extras: tuple[Tensor, ...]
    cotangent: Tensor | None

    def to(self, device: str) -> Problem:
        """The same problem on another device; strides and offsets are kept."""
        return Problem(
            self.case,
            tuple(_move(tensor, device) for tensor in self.tensors),
            tuple(_move(tensor, device) for tensor in self.extras),
            None if self.cotangent is None else _move(self.cotangent, device),
        )

    def map(self, function: Any) -> Problem:
        """The same problem with `function` of every differentiable tensor and of the cotangent."""
        return Problem(
            self.case,
            tuple(function(tensor) for tensor in self.tensors),
            self.extras,
            None if self.cotangent is None else function(self.cotangent),
        )


@dataclass(frozen=True)
class Results:
    """What a problem evaluates to: the output, indices if there are any, and the gradients."""

    output: Tensor
    indices: Tensor | None
    gradients: tuple[Tensor, ...]


@dataclass(frozen=True)
class Outcome:
    """How one problem fared.

    Attributes:
        forward: worst error of the output as a fraction of its bound.
        backward: the same over all gradients, 0 where there are none.
        mismatches: sentences on shape, dtype, memory format or indices that differ from torch's.

    """

    forward: float
    backward: float
    mismatches: tuple[str, ...]

    @property
    def passed(self) -> bool:
        """Whether errors are within their bounds and everything else equals torch's."""
        return self.forward <= 1 and self.backward <= 1 and not self.mismatches


def _move(tensor: Tensor, device: str) -> Tensor:
    """`tensor` on `device`; Tensor.to would close the gaps between its elements."""
    if tensor.device.type == device:
        return tensor
    elements = tensor.untyped_storage().nbytes() // tensor.element_size()
    storage = tensor.as_strided((elements,), (1,), 0).to(device)
    return storage.as_strided(tensor.size(), tensor.stride(), tensor.storage_offset())


def lay_out(tensor: Tensor, layout: str) -> Tensor:
    """A tensor equal to `tensor` that lies in memory as `layout` names it.

    The gaps of "sliced" hold NaN (the largest number for integers), so that reading one shows.
    "expanded" repeats the first entry of the first axis with stride 0 and thus changes the values.
    """
    if layout == "contiguous":
        return tensor.contiguous()
    if layout == "channels_last":
        formats = {4: torch.channels_last, 5: torch.channels_last_3d}
        return tensor.contiguous(memory_format=formats[tensor.dim()])
    if layout == "sliced":
        gap = math.nan if tensor.is_floating_point() else torch.iinfo(tensor.dtype).max
        wide = tensor.new_full((*tensor.shape[:-1], 2 * tensor.shape[-1] + 1), gap)
        wide[..., 1::2] = tensor
        return wide[..., 1::2]
    if layout == "transposed":
        return tensor.transpose(1, -1).contiguous().transpose(1, -1)
    if layout == "expanded":
        return tensor[:1].expand_as(tensor)
    raise ValueError(f"layout should be one of {LAYOUTS}, but got {layout!r}")


def _values(
    shape: Sequence[int], values: str, dtype: torch.dtype, generator: torch.Generator
) -> Tensor:
    """Random numbers of one of the kinds VALUES; integers are small in any case."""
    if not dtype.is_floating_point or values == "ties":
        low = -3 if dtype.is_signed else 0
        return torch.randint(low, 4, tuple(shape), generator=generator, device="cpu").to(dtype)
    numbers = torch.randn(tuple(shape), generator=generator, dtype=torch.float64, device="cpu")
    if values == "positive":
        numbers = numbers.abs() + 0.25
    elif values != "normal":
        special = {"nan": math.nan, "infinite": -math.inf}[values]
        share = {"nan": 0.05, "infinite": 0.8}[values]
        chosen = torch.rand(tuple(shape), generator=generator, device="cpu") < share
        numbers = torch.where(chosen, special, numbers)
    return numbers.to(dtype)


def _indices(case: Case, generator: torch.Generator) -> Tensor:
    """Distinct targets for max_unpool: a random part of the positions of each output plane."""
    sizes = case.input[-case.rank :]
    output = case.options.get("output_size")
    if output is None:

        def expanded(name: str, default: Any) -> tuple[int, ...]:
            value = case.options.get(name, default)
            return value if isinstance(value, tuple) else (value,) * case.rank

        kernel = expanded("kernel_size", None)
        stride, padding = expanded("stride", kernel), expanded("padding", 0)
        output = tuple(
            (size - 1) * s - 2 * p + k
            for size, s, p, k in zip(sizes, stride, padding, kernel, strict=True)
        )
    planes = math.prod(case.input[: -case.rank])
    positions = torch.stack(
        [
            torch.randperm(math.prod(output), generator=generator, device="cpu")[: math.prod(sizes)]
            for _ in range(planes)
        ]
    )
    return positions.view(case.input)


def make_problem(case: Case, dtype: torch.dtype) -> Problem:
    """The tensors of a case; the same ones on every call, since the case's name seeds them."""
    generator = torch.Generator().manual_seed(zlib.crc32(case.name.encode()))
    tensors = [lay_out(_values(case.input, case.values, dtype, generator), case.layout)]
    if case.weight:
        weight = _values(case.weight, "normal", dtype, generator)
        tensors.append(lay_out(weight, case.weight_layout))
    if case.bias:
        groups = case.options.get("groups", 1)
        channels = case.weight[1] * groups if case.transposed else case.weight[0]
        tensors.append(_values((channels,), "normal", dtype, generator))
    extras: tuple[Tensor, ...] = ()
    if case.function.startswith("max_unpool"):
        extras = (_indices(case, generator),)
    elif case.function.startswith("fractional"):
        batch = case.input[: -case.rank] if len(case.input) > case.rank + 1 else (1, case.input[0])
        samples = torch.rand(
            (*batch, case.rank), generator=generator, dtype=torch.float64, device="cpu"
        )
        extras = (samples.to(dtype),)
    problem = Problem(case, tuple(tensors), extras, None)
    if not dtype.is_floating_point:
        return problem
    shape = _call(F, problem.map(Tensor.double)).output.shape
    cotangent = lay_out(_values(shape, "normal", dtype, generator), case.grad_layout)
    return Problem(case, problem.tensors, extras, cotangent)


def _call(namespace: Namespace, problem: Problem) -> Results:
    """The forward pass alone."""
    case = problem.case
    options = dict(case.options)
    arguments = problem.tensors
    if case.function.startswith("max_unpool"):
        arguments = (*arguments, *problem.extras)
    elif case.picks:
        options["return_indices"] = True
    if case.function.startswith("fractional"):
        options["_random_samples"] = problem.extras[0].to(problem.tensors[0].dtype)
    result = getattr(namespace, case.function)(*arguments, **options)
    output, indices = result if isinstance(result, tuple) else (result, None)
    return Results(output, indices, ())


def evaluate(namespace: Namespace, problem: Problem) -> Results:
    """Calls the case's function of `namespace` and, if there is a cotangent, differentiates it."""
    if problem.cotangent is None:
        return _call(namespace, problem)
    leaves = tuple(tensor.detach().requires_grad_() for tensor in problem.tensors)
    forward = _call(namespace, Problem(problem.case, leaves, problem.extras, None))
    gradients = torch.autograd.grad(forward.output, leaves, problem.cotangent)
    return Results(forward.output.detach(), forward.indices, gradients)


def _pick(problem: Problem, indices: Tensor) -> Results:
    """Max pooling in float64 by torch's own indices: the gradient goes where torch points."""
    rank = problem.case.rank
    leaf = problem.tensors[0].double().requires_grad_()
    output = leaf.flatten(-rank).gather(-1, indices.flatten(-rank)).view(indices.shape)
    if problem.cotangent is None:
        return Results(output.detach(), indices, ())
    gradients = torch.autograd.grad(output, leaf, problem.cotangent.double())
    return Results(output.detach(), indices, gradients)


def _reference(problem: Problem) -> tuple[Results, Results]:
    """The expected results in float64 and the magnitudes that scale their error bounds."""
    case = problem.case
    if not problem.tensors[0].is_floating_point():
        exact = _call(F, problem)
        return exact, exact
    absolute = problem.map(lambda tensor: tensor.double().abs())
    if case.picks and not case.function.startswith("max_unpool"):
        # Where the maximum lies must not change, so only the cotangent is made positive. The input
        # is contiguous since torch's channels_last_3d kernel loses the depth of the index in
        # windows of nothing but -inf.
        torchs = _call(F, problem.map(Tensor.contiguous))
        assert torchs.indices is not None
        signed = Problem(case, problem.tensors, problem.extras, absolute.cotangent)
        expected = _pick(problem, torchs.indices)
        exact = Results(torchs.output, torchs.indices, expected.gradients)
        return exact, _pick(signed, torchs.indices)
    return evaluate(F, problem.map(Tensor.double)), evaluate(F, absolute)


def _terms(problem: Problem, output: Tensor) -> tuple[int, tuple[int, ...]]:
    """How many terms an output entry sums, and an entry of the gradient of each tensor."""
    case = problem.case
    if not case.weight:
        return case.window, (case.window,)
    entries = math.prod(case.weight)
    per_output = entries // case.weight[0]
    per_input = entries // (case.weight[1] * case.options.get("groups", 1))
    if case.transposed:
        per_output, per_input = per_input, per_output
    # A weight entry meets one pixel per position of the smaller plane, a bias entry each output.
    swept = problem.tensors[0] if case.transposed else output
    axis = -case.rank - 1
    per_weight = swept.numel() // swept.shape[axis]
    return per_output, (per_input, per_weight, output.numel() // output.shape[axis])


def _roundings(case: Case) -> tuple[int, int]:
    """How often a value of the forward and of the backward pass is stored in its own dtype.

    Once, but for power-average pooling, which is a chain of torch operators around a sum.
    """
    return (6, 12) if case.function.startswith("lp_pool") else (1, 1)


def _fraction(
    got: Tensor,
    expected: Tensor,
    magnitude: Tensor,
    dtype: torch.dtype,
    terms: int,
    roundings: int,
    precision: str,
) -> float:
    """The worst |got - expected| as a fraction of the bound; infinite where the bound is zero."""
    if got.numel() == 0:
        return 0.0
    got, expected = got.double().cpu(), expected.double()
    info = torch.finfo(dtype)
    accumulator = torch.float64 if dtype == torch.float64 else torch.float32
    magnitude = magnitude.double()
    accumulated = ACCUMULATION * (math.sqrt(terms) + 2) * torch.finfo(accumulator).eps / 2
    if precision == "tf32":
        accumulated += 2 * TF32_ROUNDOFF
    stored = expected.abs() if roundings == 1 else magnitude
    bound = accumulated * magnitude
    bound += roundings * (info.eps / 2) * (stored + bound + info.smallest_normal)
    same = (got == expected) | (got.isnan() & expected.isnan())
    ratio = ((got - expected).abs() / bound).nan_to_num(nan=math.inf, posinf=math.inf)
    return float(torch.where(same, 0.0, ratio).max())


def _equal(got: Tensor, expected: Tensor) -> bool:
    """Whether all values are the same, NaN being equal to NaN."""
    got = got.cpu()
    return bool(((got == expected) | ((got != got) & (expected != expected))).all())


def memory_format(tensor: Tensor) -> str:
    """The memory formats that a tensor's strides allow it to be read as."""
    names = {"contiguous": torch.contiguous_format}
    if tensor.dim() == 4:
        names["channels_last"] = torch.channels_last
    elif tensor.dim() == 5:
        names["channels_last_3d"] = torch.channels_last_3d
    fitting = [name for name, it in names.items() if tensor.is_contiguous(memory_format=it)]
    return " and ".join(fitting) or "neither contiguous nor channels_last"


def _expected_format(problem: Problem, expected: Results) -> str:
    """The memory format of the output: channels_last when the input is, or the weight if any.

    torch follows that rule in its faster kernels. Others, as avg_pool3d and conv3d in float64,
    answer channels_last inputs with contiguous outputs.
    """
    formats = {4: torch.channels_last, 5: torch.channels_last_3d}
    batched = expected.output.dim() == problem.case.rank + 2
    chosen = torch.contiguous_format
    for tensor in problem.tensors[: 2 if problem.case.weight else 1]:
        if batched and tensor.dim() in formats:
            wanted = formats[tensor.dim()]
            if tensor.is_contiguous(memory_format=wanted) and not tensor.is_contiguous():
                chosen = wanted
    return memory_format(torch.empty_like(expected.output, memory_format=chosen))


def _mismatches(got: Results, expected: Results, problem: Problem) -> list[str]:
    """What differs from torch besides the values."""
    dtype = problem.tensors[0].dtype
    found = []
    if got.output.shape != expected.output.shape:
        found.append(f"shape {tuple(got.output.shape)}, torch {tuple(expected.output.shape)}")
    if got.output.dtype != dtype:
        found.append(f"dtype {got.output.dtype}, torch {dtype}")
    wanted = _expected_format(problem, expected)
    if memory_format(got.output) != wanted:
        found.append(f"output is {memory_format(got.output)} instead of {wanted}")
    for name, tensor, gradient in zip(
        ("input", "weight", "bias"), problem.tensors, got.gradients, strict=False
    ):
        if gradient.shape != tensor.shape:
            found.append(f"gradient of {name} has shape {tuple(gradient.shape)}")
        if gradient.dtype != dtype:
            found.append(f"gradient of {name} has dtype {gradient.dtype}")
    if expected.indices is not None:
        if got.indices is None or got.indices.dtype != torch.int64:
            found.append("indices are not int64")
        elif not torch.equal(got.indices.cpu(), expected.indices):
            found.append("indices differ")
        elif memory_format(got.indices) != wanted:
            found.append(f"indices are {memory_format(got.indices)} instead of {wanted}")
    return found


@contextmanager
def _convolutions_in(precision: str) -> Iterator[None]:
    """Sets what torch allows float32 convolutions on CUDA, "ieee" or "tf32"."""
    conv: Any = torch.backends.cudnn.conv  # type: ignore[attr-defined]
    before = conv.fp32_precision
    conv.fp32_precision = precision
    try:
        yield
    finally:
        conv.fp32_precision = before


def examine(
    case: Case,
    dtype: torch.dtype,
    namespace: Namespace | None = None,
    device: str = "cpu",
    precision: str = "ieee",
) -> Outcome:
    """Runs one case forward and backward and compares it with torch.

    Args:
        case: what to run.
        dtype: in which dtype; the reference is float64 (torch itself for integers).
        namespace: whose functions are examined; `cnnops.functional` by default.
        device: where they run; the reference always runs on the CPU.
        precision: what torch allows float32 convolutions on CUDA, "ieee" or "tf32", which widens
            their bound.

    Raises whatever the function itself raises.

    """
    if namespace is None:
        import cnnops.functional as own

        namespace = own
    problem = make_problem(case, dtype)
    expected, magnitude = _reference(problem)
    with _convolutions_in(precision):
        got = evaluate(namespace, problem.to(device))
    mismatches = _mismatches(got, expected, problem)
    if any("shape" in mismatch for mismatch in mismatches):
        return Outcome(math.inf, math.inf, tuple(mismatches))
    per_output, per_gradient = _terms(problem, expected.output)
    out_roundings, grad_roundings = _roundings(case)
    if case.picks or not dtype.is_floating_point:
        forward = 0.0 if _equal(got.output, expected.output) else math.inf
    else:
        forward = _fraction(
            got.output,
            expected.output,
            magnitude.output,
            dtype,
            per_output,
            out_roundings,
            precision,
        )
    backward = max(
        (
            _fraction(mine, theirs, scale, dtype, terms, grad_roundings, precision)
            for mine, theirs, scale, terms in zip(
                got.gradients, expected.gradients, magnitude.gradients, per_gradient, strict=False
            )
        ),
        default=0.0,
    )
    return Outcome(forward, backward, tuple(mismatches))
