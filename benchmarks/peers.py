"""Who computes a layer: cnnops, torch in both memory layouts, and others that are asked for.

torch is always there. torch.compile and the inference engines ONNX Runtime and OpenVINO take part
when named; the engines compute forward passes alone, hold the weights constant and may rearrange
them once, before anything is timed.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

import cnnops.functional
from cnnops.check.reference import lay_out

from .cases import Layer, first_line

#: What users call the layouts, and their names in `cnnops.check.reference.lay_out`.
LAYOUTS = {"nchw": "contiguous", "nhwc": "channels_last"}

OWN, TORCH = "cnnops", "torch"

#: Peers that take part when asked for, and what has to be installed for them.
OPTIONAL = {
    "compile": (),
    "onnxruntime": ("onnx", "onnxruntime"),
    "openvino": ("onnx", "openvino"),
}

#: Calls the contender once; returns the results.
Run = Callable[[], tuple[Tensor, ...]]


@dataclass(frozen=True)
class Contender:
    """One side of a comparison.

    Attributes:
        name: OWN, TORCH, or TORCH with the layout where that is the other one, or of OPTIONAL.
        function: what is called.
        layout: one of LAYOUTS, for all of its tensors.

    """

    name: str
    function: Callable[..., Any]
    layout: str


def require(peers: Sequence[str]) -> None:
    """Raises unless these optional peers are known and installed.

    Raises:
        ValueError: an unknown peer.
        ModuleNotFoundError: one that is not installed; the message says how to install it.
    """
    for peer in peers:
        if peer not in OPTIONAL:
            raise ValueError(f"peer should be one of {', '.join(OPTIONAL)}, not {peer!r}")
        missing = [name for name in OPTIONAL[peer] if importlib.util.find_spec(name) is None]
        if missing:
            raise ModuleNotFoundError(
                f"the peer {peer} needs {' and '.join(missing)}: pip install 'cnnops[bench]'"
            )


def has_layout(rank: int, layout: str) -> bool:
    """Whether tensors with this many spatial axes have the layout; 1-d knows NCHW alone."""
    return layout == "nchw" or rank > 1


def layouts(rank: int, layout: str) -> tuple[str, ...]:
    """`layout`, and the other one if tensors with this many spatial axes have it."""
    return layout, *(other for other in LAYOUTS if other != layout and has_layout(rank, other))


def torch_name(layout: str, own: str) -> str:
    """What torch is called in `layout` where cnnops runs in `own`."""
    return TORCH if layout == own else f"{TORCH} {layout}"


def contenders(function: str, rank: int, layout: str, compiled: bool) -> tuple[Contender, ...]:
    """Those who call a function of torch: cnnops, torch in each layout, and torch.compile."""
    theirs = getattr(F, function)
    sides = [Contender(OWN, getattr(cnnops.functional, function), layout)]
    sides += [Contender(torch_name(each, layout), theirs, each) for each in layouts(rank, layout)]
    if compiled:
        torch._dynamo.reset()  # every layer is a new function to it, of which it keeps few
        sides.append(Contender("compile", torch.compile(theirs, dynamic=False), layout))
    return tuple(sides)


def lay_out_as(value: Tensor, layout: str) -> Tensor:
    """A copy of `value` in this layout; a bias has but one."""
    return lay_out(value, LAYOUTS[layout] if value.dim() > 1 else "contiguous").clone()


def engine_runs(
    peers: Sequence[str], layer: Layer, values: Sequence[Tensor], threads: int
) -> tuple[dict[str, Run], dict[str, str]]:
    """Forward passes by the inference engines among `peers`, and why others of them cannot."""
    engines = {"onnxruntime": _onnxruntime, "openvino": _openvino}
    wanted = [peer for peer in peers if peer in engines]
    if not wanted:
        return {}, {}
    if values[0].dtype != torch.float32:
        return {}, dict.fromkeys(wanted, "timed in float32 only")
    from .onnx_layer import onnx_layer

    model = onnx_layer(layer, [value.numpy() for value in values[1:]])
    if model is None:
        return {}, dict.fromkeys(wanted, "ONNX has no such operator")
    runs, absent = {}, {}
    for peer in wanted:
        try:
            runs[peer] = engines[peer](model, values[0], threads)
        except Exception as problem:  # the engines' own kinds
            absent[peer] = first_line(problem)
    return runs, absent


def _onnxruntime(model: bytes, input: Tensor, threads: int) -> Run:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    # Its threads would go on spinning while others are timed.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    feed = {"input": input.numpy()}
    return lambda: (torch.from_numpy(session.run(None, feed)[0]),)


def _openvino(model: bytes, input: Tensor, threads: int) -> Run:
    import openvino

    core = openvino.Core()
    compiled = core.compile_model(
        core.read_model(model),
        "CPU",
        {
            "INFERENCE_NUM_THREADS": threads,
            "NUM_STREAMS": 1,
            "INFERENCE_PRECISION_HINT": "f32",
            "ENABLE_CPU_PINNING": False,
        },
    )
    request = compiled.create_infer_request()
    request.set_input_tensor(openvino.Tensor(input.numpy(), shared_memory=True))

    def run() -> tuple[Tensor, ...]:
        request.infer()
        return (torch.from_numpy(request.get_output_tensor().data),)

    return run
