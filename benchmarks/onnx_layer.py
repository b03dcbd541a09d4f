"""A layer as an ONNX model of one node, for the inference engines among the peers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from onnx import TensorProto, checker, helper, numpy_helper

from .cases import Layer

#: Both engines read it, and it has all that is needed here.
_OPSET = 19


def onnx_layer(layer: Layer, constants: Sequence[np.ndarray]) -> bytes | None:
    """The model that maps "input" to "output" as `layer` does; None where ONNX has no such node.

    Args:
        layer: what it computes.
        constants: weight and bias, if the layer has them; they become part of the model.
    """
    node = _node(layer)
    if node is None:
        return None
    operator, attributes = node
    names = ["weight", "bias"][: len(constants)]
    graph = helper.make_graph(
        [helper.make_node(operator, ["input", *names], ["output"], **attributes)],
        "layer",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, layer.call.input)],
        [helper.make_tensor_value_info("output", TensorProto.FLOAT, layer.output)],
        [
            numpy_helper.from_array(array, name)
            for array, name in zip(constants, names, strict=True)
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", _OPSET)])
    model.ir_version = 9  # what engines of that opset's time read
    checker.check_model(model)
    return bytes(model.SerializeToString())


def _node(layer: Layer) -> tuple[str, dict[str, Any]] | None:
    """The operator and its attributes."""
    call = layer.call
    rank, options = call.rank, call.options

    def each(name: str, default: Any) -> list[int]:
        value = options.get(name, default)
        return list(value) if isinstance(value, tuple) else [value] * rank

    if call.function.startswith("adaptive_avg_pool"):
        return ("GlobalAveragePool", {}) if each("output_size", 1) == [1] * rank else None
    if call.function.startswith("adaptive_max_pool"):
        return ("GlobalMaxPool", {}) if each("output_size", 1) == [1] * rank else None
    attributes: dict[str, Any] = {}
    if call.weight:
        kernel = list(call.weight[2:])
        attributes["group"] = options.get("groups", 1)
    else:
        kernel = each("kernel_size", 1)
        attributes["ceil_mode"] = int(options.get("ceil_mode", False))
    attributes["kernel_shape"] = kernel
    attributes["strides"] = each("stride", 1 if call.weight else tuple(kernel))
    attributes["dilations"] = dilation = each("dilation", 1)
    attributes["pads"] = _pads(options, rank, kernel, dilation)
    if call.transposed:
        attributes["output_padding"] = each("output_padding", 0)
        return "ConvTranspose", attributes
    if call.weight:
        return "Conv", attributes
    if call.function.startswith("max_pool"):
        return "MaxPool", attributes
    if options.get("divisor_override") is not None:
        return None
    attributes["count_include_pad"] = int(options.get("count_include_pad", True))
    return "AveragePool", attributes


def _pads(
    options: Mapping[str, Any], rank: int, kernel: Sequence[int], dilation: Sequence[int]
) -> list[int]:
    """All beginnings, then all ends."""
    padding = options.get("padding", 0)
    if padding == "same":
        totals = [(k - 1) * d for k, d in zip(kernel, dilation, strict=True)]
        return [total // 2 for total in totals] + [total - total // 2 for total in totals]
    if padding == "valid":
        padding = 0
    return list(padding if isinstance(padding, tuple) else (padding,) * rank) * 2
