"""Training one network on the digits, the same way whatever its layers are."""

import copy
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn import functional

from cnnops.demo.data import Digits

BATCH = 32
LEARNING_RATE = 1e-3
# The largest random rotation, zoom and shift of a training image, drawn anew whenever it is seen.
ROTATION_DEGREES = 10
ZOOM = 0.1
SHIFT_PIXELS = 2


@dataclass
class History:
    """What one training run leaves behind."""

    losses: list[float] = field(default_factory=list)  # mean training loss of each epoch
    seconds: list[float] = field(default_factory=list)  # training time of each epoch
    after_first_step: dict[str, Tensor] = field(default_factory=dict)  # weights, by name


def train(
    model: nn.Module,
    digits: Digits,
    epochs: int,
    seed: int,
    after_batch: Callable[[float], None] = lambda loss: None,
) -> History:
    """Trains `model` in place with Adam at 1e-3, falling to zero along a cosine; batches of 32.

    The batches, in their order and with their distortions, follow from `seed` alone, so that two
    models see the same ones. `after_batch` is called with the loss of each.
    """
    generator = torch.Generator().manual_seed(seed)
    images, labels = digits.train_images, digits.train_labels
    optimizer = torch.optim.Adam(model.parameters(), lr=LEARNING_RATE)
    steps = epochs * batches_per_epoch(digits)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    history = History()
    model.train()
    for _ in range(epochs):
        total = 0.0
        started = time.perf_counter()
        for batch in torch.randperm(len(images), generator=generator).split(BATCH):
            optimizer.zero_grad()
            scores = model(distort(images[batch], generator))
            loss = functional.cross_entropy(scores, labels[batch])
            loss.backward()
            optimizer.step()
            schedule.step()
            if not history.after_first_step:
                history.after_first_step = copy.deepcopy(model.state_dict())
            total += loss.item() * len(batch)
            after_batch(loss.item())
        history.seconds.append(time.perf_counter() - started)
        history.losses.append(total / len(images))
    return history


def distort(images: Tensor, generator: torch.Generator) -> Tensor:
    """Each of `images` `(N, 1, 28, 28)` a little rotated, zoomed and shifted at random."""

    def draw(limit: float) -> Tensor:
        return (2 * torch.rand(len(images), generator=generator) - 1) * limit

    angle, zoom = draw(math.radians(ROTATION_DEGREES)), 1 + draw(ZOOM)
    # affine_grid's unit is half the image.
    right, down = (draw(2 * SHIFT_PIXELS / images.shape[-1]) for _ in range(2))
    cos, sin = angle.cos() * zoom, angle.sin() * zoom
    maps = torch.stack([cos, -sin, right, sin, cos, down], dim=1).view(-1, 2, 3)
    grid = functional.affine_grid(maps, list(images.shape), align_corners=False)
    return functional.grid_sample(images, grid, padding_mode="border", align_corners=False)


def batches_per_epoch(digits: Digits) -> int:
    """Number of optimizer steps in one epoch; the last batch may be smaller."""
    return -(-len(digits.train_images) // BATCH)


def predict(model: nn.Module, images: Tensor) -> Tensor:
    """The class `(N,)` that `model` gives each of `images` `(N, 1, 28, 28)`."""
    model.eval()
    with torch.no_grad():
        return torch.cat([model(part).argmax(1) for part in images.split(1000)])


def largest_difference(first: dict[str, Tensor], second: dict[str, Tensor]) -> float:
    """The largest absolute difference between two state dictionaries of the same keys."""
    return max((first[name] - second[name]).abs().max().item() for name in first)
