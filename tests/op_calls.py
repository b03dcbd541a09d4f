"""Which operators of cnnops ran: proof that a call took the road it was meant to take."""

from collections import Counter
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode


class OpCalls(TorchDispatchMode):
    """Counts the calls of torch.ops.cnnops by name, and torch's own convolutions and poolings."""

    def __init__(self) -> None:
        super().__init__()
        self.cnnops: Counter[str] = Counter()
        self.torch: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        namespace, name = func.name().split("::")
        if namespace == "cnnops":
            self.cnnops[name.split(".")[0]] += 1
        elif "conv" in name or "pool" in name:
            self.torch[name.split(".")[0]] += 1
        return func(*args, **(kwargs or {}))


class GraphCalls:
    """A backend for torch.compile that runs graphs as they are and notes what they call.

    It stands in for OpCalls where torch.compile is at work, which does not compile under a
    dispatch mode.
    """

    def __init__(self) -> None:
        self.cnnops: list[str] = []
        self.torch: list[str] = []

    def __call__(self, graph: torch.fx.GraphModule, inputs: Any) -> Any:
        """Notes the convolutions and poolings of `graph`."""
        targets = [str(node.target) for node in graph.graph.nodes if node.op == "call_function"]
        self.cnnops += [target for target in targets if target.startswith("cnnops")]
        self.torch += [
            target
            for target in targets
            if ("conv" in target or "pool" in target) and not target.startswith("cnnops")
        ]
        return graph


def assert_on_cnnops(calls: OpCalls | GraphCalls) -> None:
    """Some operator of cnnops ran, and no convolution or pooling of torch."""
    assert calls.cnnops
    assert not calls.torch


def assert_same(actual: Any, expected: Any) -> None:
    """Tensors or tuples of tensors that agree in float64 to all but the last few of 16 digits.

    Rounding in float64 gives errors near 1e-15 of the largest summand, so 1e-11 leaves room for
    sums of thousands of terms and none for a wrong term.
    """
    torch.testing.assert_close(actual, expected, rtol=1e-11, atol=1e-11)
