"""LeNet-5 in the layers of any namespace that is spelled like torch.nn."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn


def lenet5(layers: Any = nn) -> nn.Sequential:
    """LeNet-5 for `(N, 1, 28, 28)` images and ten classes: 61,706 parameters.

    `layers` gives Conv2d and AvgPool2d: torch.nn or cnnops.nn. The others are always torch's.
    """
    return nn.Sequential(
        layers.Conv2d(1, 6, 5, padding="same"),
        nn.ReLU(),
        layers.AvgPool2d(2),
        layers.Conv2d(6, 16, 5),
        nn.ReLU(),
        layers.AvgPool2d(2),
        layers.Conv2d(16, 120, 5),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(120, 84),
        nn.ReLU(),
        nn.Linear(84, 10),
    )


@dataclass(frozen=True)
class LayerRow:
    """One line of a network's summary."""

    layer: str
    weight: tuple[int, ...]  # empty where the layer has none
    output: tuple[int, ...]  # without the batch axis
    parameters: int


def summary(model: nn.Sequential, image: Tensor) -> list[LayerRow]:
    """The layers of `model`, with their outputs for the batch `image` `(N, C, H, W)`."""
    rows = []
    activations = image
    with torch.no_grad():
        for layer in model:
            activations = layer(activations)
            parameters = dict(layer.named_parameters())
            weight = tuple(parameters["weight"].shape) if "weight" in parameters else ()
            count = sum(parameter.numel() for parameter in parameters.values())
            rows.append(LayerRow(type(layer).__name__, weight, tuple(activations.shape[1:]), count))
    return rows
