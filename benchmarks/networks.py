"""Whole torchvision models: as they are, and with the modules of `cnnops.convert`.

The two differ in nothing but convolutions and poolings, so these ratios tell what a user gains and
not what a kernel does.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from cnnops.convert import convert

from .cases import build, first_line
from .devices import Device
from .machine import Machine
from .measure import Row, Settings, beside_own, disagreement, name_of, timed
from .peers import LAYOUTS, OWN, Run, layouts, torch_name

#: Models that are timed when none is named: dense, depthwise and large-kernel convolutions.
DEFAULT = ("resnet18", "mobilenet_v2", "convnext_tiny")

#: Phases of a network: inference, and a training step without the optimizer, which is torch's.
PHASES = ("fwd", "train")

#: As `measure.TOLERANCES`, of the output.
TOLERANCE = 1e-3

#: The largest difference of a parameter's gradient from torch's, in Euclidean norms. Rounding
#: switches some activations and maxima over, so that torch itself differs as much between its two
#: layouts; a wrong gradient is off by about its own size.
GRADIENT_TOLERANCE = 0.2

#: Norms below this share of that of all gradients are rounding errors: a bias before a batch norm,
#: for one, has no influence.
NEGLIGIBLE = 1e-3


@dataclass(frozen=True)
class Network:
    """A model of torchvision by its name and the shape of its input, (N, 3, H, W) for images."""

    name: str
    shape: tuple[int, ...]

    @property
    def call(self) -> str:
        """What tells it from others in results."""
        return f"{self.name} {'x'.join(map(str, self.shape))}"


@dataclass(frozen=True)
class NetworkJob:
    """One row to be: a network in one phase and layout."""

    layer: Network
    phase: str
    layout: str


def network_jobs(networks: Sequence[Network], settings: Settings) -> list[NetworkJob]:
    """Every network in every layout, and in those phases of the settings that networks have."""
    return [
        NetworkJob(network, phase, layout)
        for layout in settings.layouts
        for phase in settings.passes
        if phase in PHASES
        for network in networks
    ]


def time_network(job: NetworkJob, settings: Settings, machine: Machine, device: Device) -> Row:
    """Runs one job; exceptions and disagreement become the row's error."""
    row = Row(
        name=job.layer.name,
        call=job.layer.call,
        family="network",
        count=1,
        phase=job.phase,
        layout=job.layout,
        dtype=name_of(settings.dtype),
        threads=settings.threads,
        seconds={},
    )
    try:
        runs = _runs(job, settings, device)
        if job.phase == "fwd":
            error = disagreement(runs, device.tolerance(settings.dtype, TOLERANCE))
        else:
            tolerance = device.tolerance(settings.dtype, GRADIENT_TOLERANCE)
            error = gradient_disagreement(runs, tolerance)
    except (RuntimeError, TypeError, ValueError) as problem:
        error = f"{type(problem).__name__}: {first_line(problem)}"
    if error:
        return replace(row, error=error)
    # ONNX Runtime and OpenVINO would need the model exported: another program than the one here.
    absent = {peer: "does not run models of torch" for peer in settings.peers if peer not in runs}
    return timed(replace(row, absent=absent), runs, (0, 0), settings, machine, device)


def gradient_disagreement(runs: Mapping[str, Run], tolerance: float) -> str:
    """Which gradient of another contender differs from ours too much, or nothing.

    `tolerance` is a share of its norm.
    """
    for name, gradients in beside_own(runs):
        norms = [float(other.double().norm()) for _, other in gradients]
        whole = math.hypot(*norms)
        for index, ((mine, other), norm) in enumerate(zip(gradients, norms, strict=True)):
            difference = float((mine.double() - other.double()).norm())
            if not difference <= tolerance * (norm + NEGLIGIBLE * whole):
                return f"gradient {index} differs from {name} by {difference:.3g}, of {norm:.3g}"
    return ""


def _runs(job: NetworkJob, settings: Settings, device: Device) -> dict[str, Run]:
    """The network as it is in each layout and, in that of the job, converted."""
    generator = torch.Generator().manual_seed(0)
    torch.manual_seed(0)
    model = build(job.layer.name).to(device.name, settings.dtype)
    image = torch.randn(job.layer.shape, generator=generator).to(device.name, settings.dtype)
    step = _inference if job.phase == "fwd" else _training
    runs = {OWN: step(convert(_copy(model, job.layout)), _lay_out(image, job.layout))}
    for layout in layouts(2, job.layout):
        runs[torch_name(layout, job.layout)] = step(_copy(model, layout), _lay_out(image, layout))
    if "compile" in settings.peers:
        torch._dynamo.reset()
        compiled: Any = torch.compile(_copy(model, job.layout), dynamic=False)
        runs["compile"] = step(compiled, _lay_out(image, job.layout))
    return runs


def _copy(model: nn.Module, layout: str) -> nn.Module:
    made = copy.deepcopy(model)
    return made.to(memory_format=torch.channels_last) if layout == "nhwc" else made


def _lay_out(image: Tensor, layout: str) -> Tensor:
    formats = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}
    return image.contiguous(memory_format=formats[LAYOUTS[layout]])


def _inference(model: nn.Module, image: Tensor) -> Run:
    model.eval()

    def run() -> tuple[Tensor, ...]:
        with torch.inference_mode():
            return (_first(model(image)),)

    return run


def _training(model: nn.Module, image: Tensor) -> Run:
    model.train()
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]

    def run() -> tuple[Tensor, ...]:
        torch.manual_seed(0)  # dropout drops the same for every contender
        loss = _first(model(image)).float().square().mean()
        return torch.autograd.grad(loss, parameters, allow_unused=True, materialize_grads=True)

    return run


def _first(output: Any) -> Tensor:
    """The tensor that matters of what a model returns: some return more when they train."""
    if isinstance(output, dict):
        output = next(iter(output.values()))
    while not isinstance(output, Tensor):
        output = output[0]
    return output
