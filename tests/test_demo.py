"""The demo: its network is LeNet-5, its trainings are comparable, its data are as it says."""

from pathlib import Path

import pytest
import torch
from torch import nn

import cnnops.nn
from cnnops.demo.data import Digits, load_mnist, load_small_digits
from cnnops.demo.lenet import lenet5, summary
from cnnops.demo.picture import save_picture
from cnnops.demo.train import batches_per_epoch, distort, largest_difference, predict, train


@pytest.fixture(scope="module")
def digits() -> Digits:
    """The digits of the default run, 96 of them to train on."""
    full = load_small_digits(seed=0)
    return Digits(
        full.name,
        full.train_images[:96],
        full.train_labels[:96],
        full.test_images,
        full.test_labels,
    )


@pytest.mark.parametrize("layers", [nn, cnnops.nn], ids=["torch", "cnnops"])
def test_lenet5_has_the_textbook_figures(layers: object) -> None:
    rows = summary(lenet5(layers), torch.zeros(1, 1, 28, 28))
    assert [row.parameters for row in rows if row.parameters] == [156, 2416, 48120, 10164, 850]
    assert sum(row.parameters for row in rows) == 61706
    outputs = [row.output for row in rows if row.layer in ("Conv2d", "AvgPool2d", "Linear")]
    assert outputs == [
        (6, 28, 28), (6, 14, 14), (16, 10, 10), (16, 5, 5), (120, 1, 1), (84,), (10,)
    ]  # fmt: skip


def test_small_digits_are_split_by_seed() -> None:
    first, again, other = (load_small_digits(seed) for seed in (0, 0, 1))
    assert first.train_images.shape == (1438, 1, 28, 28)
    assert first.test_images.shape == (359, 1, 28, 28)
    assert first.test_images.equal(again.test_images)
    assert not first.test_labels.equal(other.test_labels)
    assert first.train_images.mean().abs() < 1e-5
    counts = torch.cat([first.train_labels, first.test_labels]).bincount()
    assert counts.tolist() == [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]


def test_missing_mnist_names_what_it_looked_for(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="train-images-idx3-ubyte"):
        load_mnist(tmp_path)


def test_mnist_files_are_read(tmp_path: Path) -> None:
    raw = tmp_path / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for part, count in (("train", 3), ("t10k", 2)):
        pixels, labels = bytes(range(count)) * 784, bytes(range(count))
        header = b"".join(n.to_bytes(4, "big") for n in (0x803, count, 28, 28))
        (raw / f"{part}-images-idx3-ubyte").write_bytes(header + pixels)
        header = b"".join(n.to_bytes(4, "big") for n in (0x801, count))
        (raw / f"{part}-labels-idx1-ubyte").write_bytes(header + labels)
    mnist = load_mnist(tmp_path)
    assert mnist.train_images.shape == (3, 1, 28, 28)
    assert mnist.test_images.shape == (2, 1, 28, 28)
    assert mnist.train_labels.tolist() == [0, 1, 2]


def test_distortion_is_mild_and_drawn_from_the_generator(digits: Digits) -> None:
    images = digits.train_images
    first, again = (distort(images, torch.Generator().manual_seed(5)) for _ in range(2))
    assert first.equal(again)
    assert not first.equal(images)
    correlation = torch.corrcoef(torch.stack([first.flatten(), images.flatten()]))[0, 1]
    assert correlation > 0.7


def test_both_libraries_train_alike(digits: Digits) -> None:
    torch.manual_seed(0)
    ours = lenet5(cnnops.nn)
    theirs = lenet5(nn)
    theirs.load_state_dict(ours.state_dict())
    batches: list[float] = []
    history = train(ours, digits, epochs=2, seed=0, after_batch=batches.append)
    other = train(theirs, digits, epochs=2, seed=0)
    assert len(batches) == 2 * batches_per_epoch(digits) == 6
    assert len(history.losses) == len(history.seconds) == 2
    assert largest_difference(history.after_first_step, other.after_first_step) < 1e-4
    torch.testing.assert_close(history.losses, other.losses, rtol=1e-3, atol=0)
    assert history.losses[1] < history.losses[0]
    with torch.no_grad():
        expected = ours(digits.test_images).argmax(1)
    assert predict(ours, digits.test_images).equal(expected)


@pytest.mark.parametrize("mistakes", [0, 3, 359])
def test_picture_is_drawn(digits: Digits, tmp_path: Path, mistakes: int) -> None:
    predictions = digits.test_labels.clone()
    predictions[:mistakes] = (predictions[:mistakes] + 1) % 10
    out = tmp_path / "demo.png"
    save_picture(
        out,
        "title",
        {"cnnops": [1.0, 0.5], "torch": [1.0, 0.4]},
        torch.randn(6, 1, 5, 5),
        digits.test_images,
        digits.test_labels,
        predictions,
    )
    assert out.read_bytes().startswith(b"\x89PNG")
