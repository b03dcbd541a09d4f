"""Handwritten digits as (N, 1, 28, 28) images of mean 0 and deviation 1, with their labels."""

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional

SIZE = 28
TRAIN_SHARE = 0.8


@dataclass(frozen=True)
class Digits:
    """A data set in two parts: images `(N, 1, 28, 28)` in float32, labels `(N,)` in int64."""

    name: str
    train_images: Tensor
    train_labels: Tensor
    test_images: Tensor
    test_labels: Tensor


def load_small_digits(seed: int) -> Digits:
    """The 1,797 digits of 8x8 pixels that come with scikit-learn; `seed` draws the 80/20 split.

    torch.nn.functional.interpolate enlarges them, bilinearly.
    """
    from sklearn.datasets import load_digits

    bunch = load_digits()
    small = torch.tensor(bunch.images, dtype=torch.float32)[:, None]
    images = functional.interpolate(small, (SIZE, SIZE), mode="bilinear", align_corners=False)
    labels = torch.tensor(bunch.target, dtype=torch.int64)
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(seed))
    split = round(TRAIN_SHARE * len(order))
    name = "scikit-learn's 1,797 handwritten digits, 8x8 enlarged to 28x28"
    return _digits(name, images, labels, order[:split], order[split:])


def load_mnist(directory: Path) -> Digits:
    """MNIST from the files in `directory`, laid out as torchvision.datasets.MNIST does.

    Raises FileNotFoundError when they are not there; nothing is downloaded.
    """
    from torchvision.datasets import MNIST

    try:
        train, test = (MNIST(str(directory), train=part, download=False) for part in (True, False))
    except RuntimeError as error:
        raise FileNotFoundError(
            f"No MNIST files in {directory}: torchvision.datasets.MNIST looks for "
            f"{directory / 'MNIST' / 'raw' / 'train-images-idx3-ubyte'} and its three companions"
        ) from error
    images = torch.cat([train.data, test.data])[:, None].float()
    labels = torch.cat([train.targets, test.targets])
    order = torch.arange(len(labels))
    return _digits("MNIST", images, labels, order[: len(train)], order[len(train) :])


def _digits(name: str, images: Tensor, labels: Tensor, train: Tensor, test: Tensor) -> Digits:
    """The two parts of a data set by index; the training part sets the scale of both."""
    images = (images - images[train].mean()) / images[train].std()
    return Digits(name, images[train], labels[train], images[test], labels[test])
