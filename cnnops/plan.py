"""What a call will run: the algorithm, its tile and its workspace, and why.

The call is made on tensors without elements. Its operators go to their twins in
torch.ops.cnnops_plan, which take the way of the real ones (arguments, geometry, rules) and note the
kernel where the real ones start it. So a plan cannot differ from what runs.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from cnnops import _C, functional

__all__ = ["Plan", "Step", "plan"]

#: What of a function can be planned: the forward pass, the gradient for the input, those for weight
#: and bias, all gradients, or forward and all gradients. A pooling has no gradient but the input's.
PHASES = ("fwd", "bwd_input", "bwd_weight", "bwd", "train")


@dataclass(frozen=True)
class Step:
    """One kernel of a call.

    Attributes:
        operator: of torch.ops.cnnops, for example "convolution".
        algorithm: the kernel, by the name of its file in csrc/cpu/kernels.
        reason: why it was chosen.
        tile: elements that registers hold at a time, (broadcast, in vectors).
        shared: bytes of scratch that the step takes once: packed weights, partial sums, tables.
        per_thread: bytes of scratch that it takes on each thread.
        held: bytes of temporary tensors that it makes for the rest of the operator.

    """

    operator: str
    algorithm: str
    reason: str
    tile: tuple[int, int]
    shared: int
    per_thread: int
    held: int

    def __str__(self) -> str:
        parts = [f"{self.algorithm} ({self.reason})"]
        if math.prod(self.tile) > 1:
            parts.append("tile {}x{}".format(*self.tile))
        if self.held:
            parts.append(f"temporary tensor {_bytes(self.held)}")
        if self.shared or self.per_thread:
            parts.append(f"workspace {_bytes(self.shared)} + {_bytes(self.per_thread)} a thread")
        return ", ".join(parts)


@dataclass(frozen=True)
class Plan:
    """The steps of a call, in order; its text is one line."""

    steps: tuple[Step, ...]

    @property
    def algorithm(self) -> str:
        """The algorithms of all steps, each once."""
        return ", ".join(dict.fromkeys(step.algorithm for step in self.steps))

    def workspace(self, threads: int = 1) -> int:
        """Bytes of memory at peak beside arguments and results, with so many threads."""
        most = held = 0
        operator = ""
        for step in self.steps:
            if step.operator != operator:
                operator, held = step.operator, 0
            held += step.held
            most = max(most, held + step.shared + threads * step.per_thread)
        return most

    def __str__(self) -> str:
        times: dict[str, int] = {}
        for step in self.steps:
            text = f"{step.operator}: {step}"
            times[text] = times.get(text, 0) + 1
        return "; ".join(
            text if count == 1 else text.replace(": ", f": {count} x ", 1)
            for text, count in times.items()
        )


def plan(
    op: str,
    input: Sequence[int],
    weight: Sequence[int] | None = None,
    *,
    phase: str = "fwd",
    bias: bool = False,
    dtype: torch.dtype = torch.float32,
    memory_format: torch.memory_format = torch.contiguous_format,
    **options: Any,
) -> Plan:
    """How `cnnops.functional` computes a call with tensors of these shapes on the CPU.

    Args:
        op: a function of `cnnops.functional`, for example "conv2d" or "max_pool2d".
        input: shape of the input.
        weight: shape of the weight; None for poolings.
        phase: "fwd", "bwd_input", "bwd_weight", "bwd" (all gradients) or "train" (fwd and bwd).
        bias: whether there is one.
        dtype: of all tensors.
        memory_format: of input and weight.
        options: further arguments of the function, by name.

    Returns:
        The plan; printed, one line. It depends on the instruction set in use.

    Raises:
        ValueError: an unknown function or phase.
        RuntimeError, TypeError, ValueError: whatever the call itself would raise.

    Example:
        >>> print(cnnops.plan("conv2d", (1, 64, 56, 56), (64, 64, 3, 3), padding=1))
        convolution: gemm_planar (enough channels for a matrix product over pixels), tile ...
    """
    if op not in functional.__all__:
        raise ValueError(f"cnnops.functional has no function {op!r}")
    shapes = [input] if weight is None else [input, weight]
    tensors = [_tensor(shape, dtype, memory_format) for shape in shapes]
    if bias:
        if weight is None:
            raise ValueError(f"{op}: a bias needs a weight")
        groups = options.get("groups", 1)
        channels = weight[1] * groups if op.startswith("conv_transpose") else weight[0]
        tensors.append(torch.empty(channels, dtype=dtype, device="meta"))
    return plan_call(getattr(functional, op), tensors, options, phase)


def plan_call(
    function: Callable[..., Any],
    tensors: Sequence[torch.Tensor],
    options: Mapping[str, Any],
    phase: str,
) -> Plan:
    """The plan of `function(*tensors, **options)` for tensors on the meta device."""
    if phase not in PHASES:
        raise ValueError(f"phase should be one of {', '.join(PHASES)}, not {phase!r}")
    wanted = {"fwd": [], "bwd_input": tensors[:1], "bwd_weight": tensors[1:]}.get(phase, tensors)
    for tensor in wanted:
        tensor.requires_grad_()
    with _Planner() as planner:
        output = function(*tensors, **options)
        if phase not in ("fwd", "train"):
            planner.steps.clear()
        if wanted:
            torch.autograd.grad(output, wanted, torch.empty_like(output))
    return Plan(tuple(planner.steps))


def _tensor(
    shape: Sequence[int], dtype: torch.dtype, memory_format: torch.memory_format
) -> torch.Tensor:
    return torch.empty(tuple(shape), dtype=dtype, device="meta", memory_format=memory_format)


class _Planner(TorchDispatchMode):
    """Sends the operators of cnnops to their twins that plan, and keeps what these note."""

    def __init__(self) -> None:
        super().__init__()
        self.steps: list[Step] = []

    def __torch_dispatch__(
        self,
        func: Any,
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        if func.namespace != "cnnops":
            return func(*args, **(kwargs or {}))
        name = func._opname
        _C.take_plans()  # what a call that raised may have left
        result = getattr(torch.ops.cnnops_plan, name)(*args, **(kwargs or {}))
        self.steps += [
            Step(name, algorithm, reason, (rows, columns), shared, per_thread, held)
            for algorithm, reason, rows, columns, shared, per_thread, held in _C.take_plans()
        ]
        return result


def _bytes(count: int) -> str:
    """1536 as 1.5 KB."""
    size, unit = float(count), "B"
    for larger in ("KB", "MB", "GB"):
        if size < 1000:
            break
        size, unit = size / 1024, larger
    return f"{size:.0f} {unit}" if unit == "B" or size >= 100 else f"{size:.1f} {unit}"
