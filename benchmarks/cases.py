"""What is timed: named layers of real networks, the layers of a torchvision model, or any call."""

from __future__ import annotations

import inspect
import math
import warnings
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

import cnnops.functional
from cnnops.check.cases import Case

#: The functions that can be timed: they take an input and, for convolutions, weight and bias.
FUNCTIONS = tuple(
    f"{family}{rank}d"
    for family in (
        "conv",
        "conv_transpose",
        "max_pool",
        "avg_pool",
        "adaptive_max_pool",
        "adaptive_avg_pool",
    )
    for rank in (1, 2, 3)
)


@dataclass(frozen=True)
class Layer:
    """A call to time.

    Attributes:
        name: what the report calls it.
        call: the function, shapes and options.
        count: how often a model makes this very call.

    """

    name: str
    call: Case
    count: int = 1

    @property
    def family(self) -> str:
        """The rows it is summed up with: the kind of layer, which decides what bounds its speed."""
        call = self.call
        if not call.weight:
            return "pooling"
        if call.transposed:
            return "transposed"
        groups = call.options.get("groups", 1)
        if groups == 1:
            return "dense"
        return "depthwise" if groups == call.input[-call.rank - 1] else "grouped"

    @property
    def output(self) -> tuple[int, ...]:
        """Shape of the result, from torch's own arithmetic on tensors without elements."""
        tensors = [torch.empty(shape, device="meta") for shape in self.shapes]
        return tuple(getattr(F, self.call.function)(*tensors, **self.call.options).shape)

    @property
    def shapes(self) -> tuple[tuple[int, ...], ...]:
        """Shapes of the input and, for convolutions, of weight and bias if there is one."""
        call = self.call
        shapes = [call.input]
        if call.weight:
            shapes.append(call.weight)
        if call.bias:
            groups = call.options.get("groups", 1)
            shapes.append((call.weight[1] * groups if call.transposed else call.weight[0],))
        return tuple(shapes)

    @property
    def flops(self) -> int:
        """Additions and multiplications of a forward pass, all taps counted; 0 for pooling.

        Each gradient of a convolution takes as many again.
        """
        if not self.call.weight:
            return 0
        swept = self.call.input if self.call.transposed else self.output
        return 2 * math.prod(swept) * math.prod(self.call.weight[1:])

    @property
    def elements(self) -> int:
        """Elements of all tensors of a forward pass, each counted once; of a gradient, the same."""
        return sum(map(math.prod, (*self.shapes, self.output)))


def _layer(
    name: str, function: str, input: Sequence[int], weight: Sequence[int] = (), **options: Any
) -> Layer:
    return Layer(name, Case(function, tuple(input), options, tuple(weight)))


def _image(name: str, batch: int, channels: int, size: int, weight: Any, **options: Any) -> Layer:
    """A conv2d of square images."""
    return _layer(name, "conv2d", (batch, channels, size, size), weight, **options)


def _upsampling(name: str, batch: int, size: int, weight: Any, **options: Any) -> Layer:
    """A conv_transpose2d of square images with stride 2; `weight` is (C_in, C_out / groups, *K)."""
    input = (batch, weight[0], size, size)
    return _layer(name, "conv_transpose2d", input, weight, stride=2, **options)


def _pool(name: str, kind: str, batch: int, channels: int, size: int, **options: Any) -> Layer:
    """A 2-d pooling of square images."""
    return _layer(name, f"{kind}_pool2d", (batch, channels, size, size), **options)


#: Layers as networks have them. `@` precedes the size of the input, `b` the batch if it is not 1,
#: s is the stride, d the dilation, g the groups, dw depthwise, op the output padding.
NAMED = (
    _image("resnet 3x3 64@56", 1, 64, 56, (64, 64, 3, 3), padding=1),
    _image("resnet 3x3 128@28 b8", 8, 128, 28, (128, 128, 3, 3), padding=1),
    _image("resnet 3x3 512@7", 1, 512, 7, (512, 512, 3, 3), padding=1),
    _image("resnet 1x1 256-64@56", 1, 256, 56, (64, 256, 1, 1)),
    _image("resnet 1x1 1024-256@14", 1, 1024, 14, (256, 1024, 1, 1)),
    _image("resnet 1x1s2 512-1024@28", 1, 512, 28, (1024, 512, 1, 1), stride=2),
    _image("resnet stem 7x7s2", 1, 3, 224, (64, 3, 7, 7), stride=2, padding=3),
    _image("vgg 3x3 64@224", 1, 64, 224, (64, 64, 3, 3), padding=1),
    _image("alexnet 11x11s4 b8", 8, 3, 224, (64, 3, 11, 11), stride=4, padding=2),
    _image("lenet 5x5 1-6@28 b64", 64, 1, 28, (6, 1, 5, 5), padding=2),
    _image("lenet 5x5 6-16@14 b64", 64, 6, 14, (16, 6, 5, 5)),
    _image("inception 1x7 192@17", 1, 192, 17, (192, 192, 1, 7), padding=(0, 3)),
    _image("deeplab d2 256@33", 1, 256, 33, (256, 256, 3, 3), padding=2, dilation=2),
    _image("aspp d12 2048-256@33", 1, 2048, 33, (256, 2048, 3, 3), padding=12, dilation=12),
    _image("resnext g32 128@56", 1, 128, 56, (128, 4, 3, 3), padding=1, groups=32),
    _image("mobilenet dw3 144@56", 1, 144, 56, (144, 1, 3, 3), padding=1, groups=144),
    _image("mobilenet dw3s2 192@56", 1, 192, 56, (192, 1, 3, 3), stride=2, padding=1, groups=192),
    _image("dw3 d2 256@28", 1, 256, 28, (256, 1, 3, 3), padding=2, dilation=2, groups=256),
    _image("convnext dw7 96@56 b4", 4, 96, 56, (96, 1, 7, 7), padding=3, groups=96),
    _image("replk dw31 128@56", 1, 128, 56, (128, 1, 31, 31), padding=15, groups=128),
    _layer("conv1d k9 256@2048 b4", "conv1d", (4, 256, 2048), (256, 256, 9), padding=4),
    _layer(
        "conv1d dw4 1024@2048 b2", "conv1d", (2, 1024, 2048), (1024, 1, 4), padding=3, groups=1024
    ),
    _layer("conv3d 3x3x3 64@8x28x28", "conv3d", (1, 64, 8, 28, 28), (64, 64, 3, 3, 3), padding=1),
    _upsampling("dcgan 4x4s2 512-256@8 b8", 8, 8, (512, 256, 4, 4), padding=1),
    _upsampling("unet 2x2s2 128-64@56", 1, 56, (128, 64, 2, 2)),
    _upsampling("transposed 3x3s2 op1 64@56", 1, 56, (64, 64, 3, 3), padding=1, output_padding=1),
    _upsampling("transposed dw 4x4s2 64@56", 1, 56, (64, 1, 4, 4), padding=1, groups=64),
    _pool("max 3x3s2 64@112 b4", "max", 4, 64, 112, kernel_size=3, stride=2, padding=1),
    _pool("max 2x2s2 64@224", "max", 1, 64, 224, kernel_size=2),
    _pool("max 3x3s1 480@14 b4", "max", 4, 480, 14, kernel_size=3, stride=1, padding=1),
    _pool("avg 2x2s2 128@56 b4", "avg", 4, 128, 56, kernel_size=2),
    _pool("avg 3x3s1 192@35", "avg", 1, 192, 35, kernel_size=3, stride=1, padding=1),
    _pool("global avg 2048@7 b8", "adaptive_avg", 8, 2048, 7, output_size=1),
    _pool("adaptive avg 6 256@13 b8", "adaptive_avg", 8, 256, 13, output_size=6),
)


def by_hand(
    function: str, shape: Sequence[int], weight: Sequence[int], options: Mapping[str, Any]
) -> Layer:
    """The layer that calls `function` with tensors of these shapes.

    Args:
        function: one of `FUNCTIONS`.
        shape: of the input, (N, C, *spatial).
        weight: of the weight as torch lays it out, empty for pooling.
        options: further arguments by their names in torch.nn.functional.

    Raises:
        ValueError: an unknown function, a weight for a pooling or none for a convolution, an
            input that is not batched, or arguments that torch refuses.
    """
    if function not in FUNCTIONS:
        raise ValueError(f"the function should be one of {', '.join(FUNCTIONS)}")
    if function.startswith("conv") != bool(weight):
        raise ValueError(f"{function} takes {'no' if weight else 'a'} weight")
    call = Case(function, tuple(shape), dict(options), tuple(weight))
    layer = Layer(call.name, call)
    if len(call.input) != call.rank + 2:
        raise ValueError(f"{function} should get an input of {call.rank + 2} axes, (N, C, ...)")
    try:
        _ = layer.output
    except (RuntimeError, TypeError, ValueError) as error:
        raise ValueError(first_line(error)) from error
    return layer


def first_line(error: Exception) -> str:
    """The message of an exception without the traces that torch appends; its type if empty."""
    return (str(error).splitlines() or [type(error).__name__])[0]


class _Recorder(TorchFunctionMode):
    """Counts the calls of `FUNCTIONS` that the code in its context makes."""

    def __init__(self) -> None:
        super().__init__()
        # A call holds a dict and has no hash; its name tells it from every other.
        self.calls: dict[str, Case] = {}
        self.counts: Counter[str] = Counter()

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "")
        if name in FUNCTIONS:
            call = _describe(name, args, kwargs)
            self.calls.setdefault(call.name, call)
            self.counts[call.name] += 1
        return func(*args, **kwargs)


def _describe(name: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Case:
    """A call of torch's function `name`; arguments that have their default value are left out."""
    signature = inspect.signature(getattr(cnnops.functional, name))
    arguments = signature.bind(*args, **kwargs).arguments
    tensors = {
        key: tuple(arguments.pop(key).shape)
        for key in ("input", "weight", "bias")
        if isinstance(arguments.get(key), Tensor)
    }
    options = {}
    for key, value in arguments.items():
        default = signature.parameters[key].default
        if isinstance(value, (tuple, list)):
            value = tuple(value)
            if len(set(value)) == 1:
                value = value[0]
        if value != default:
            options[key] = value
    if options.get("stride") == options.get("kernel_size"):
        options.pop("stride", None)  # what a pooling does when no stride is given
    return Case(name, tensors["input"], options, tensors.get("weight", ()), "bias" in tensors)


#: Models of a folder of torchvision.models take this input, unless told otherwise.
_INPUTS = {"video": (1, 3, 16, 224, 224), "optical_flow": (1, 3, 128, 128)}
_IMAGE = (1, 3, 224, 224)


def _folder(name: str) -> str:
    """The folder of torchvision.models that holds the model `name`; empty for classification."""
    import torchvision

    parts = torchvision.models.get_model_builder(name).__module__.split(".")
    return str(parts[2]) if len(parts) > 3 else ""


def default_input(name: str) -> tuple[int, ...]:
    """The shape of input that suits the torchvision model `name`.

    Raises:
        ValueError: there is none of that name.
        ModuleNotFoundError: torchvision is not installed.
    """
    return _INPUTS.get(_folder(name), _IMAGE)


def build(name: str) -> nn.Module:
    """The torchvision model `name` with random weights.

    Raises:
        ValueError: there is none of that name.
        ModuleNotFoundError: torchvision is not installed.
    """
    import torchvision

    builder = torchvision.models.get_model_builder(name)
    known = inspect.signature(builder).parameters
    with warnings.catch_warnings():
        # Some warn of how they initialize weights.
        warnings.simplefilter("ignore", FutureWarning)
        # Without this, models on a backbone download weights for it.
        return builder(**{"weights_backbone": None} if "weights_backbone" in known else {})


def of_model(name: str, shape: Sequence[int] | None = None) -> tuple[Layer, ...]:
    """The convolutions and poolings that a torchvision model makes in a forward pass.

    Args:
        name: as torchvision.models.list_models has it, for example "resnet18".
        shape: of the model's input, (N, 3, H, W) for images; None: `default_input`.

    The pass runs on the meta device: neither parameters nor activations take memory. Only detectors
    do compute, since what they do depends on what they see.

    Raises:
        ValueError: an unknown model, or one that does not take a tensor of this shape.
        ModuleNotFoundError: torchvision is not installed.
    """
    shape = tuple(shape or default_input(name))
    folder = _folder(name)
    device = "cpu" if folder == "detection" else "meta"
    try:
        with torch.device(device):
            model = build(name)
    except NotImplementedError:  # a model that computes its sizes with tensors
        model = build(name).to(device)
    image = torch.zeros(shape, device=device)
    inputs: tuple[Any, ...] = (image,)
    if folder == "detection":
        inputs = (list(image),)
    elif folder == "optical_flow":
        inputs = (image, image)
    recorder = _Recorder()
    try:
        with torch.no_grad(), recorder:
            model.eval()(*inputs)
    except Exception as error:  # whatever the model's own code raises
        size = "x".join(map(str, shape))
        raise ValueError(
            f"{name} does not run on an input of {size}: {first_line(error)}"
        ) from error
    return tuple(
        Layer(text, recorder.calls[text], count) for text, count in recorder.counts.items()
    )
