"""The run of `cnnops demo`, from the data to the picture."""

import statistics
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from torch import nn

import cnnops.nn
from cnnops.demo.data import Digits, load_mnist, load_small_digits
from cnnops.demo.lenet import lenet5, summary
from cnnops.demo.picture import save_picture
from cnnops.demo.train import (
    BATCH,
    LEARNING_RATE,
    ROTATION_DEGREES,
    SHIFT_PIXELS,
    ZOOM,
    History,
    batches_per_epoch,
    largest_difference,
    predict,
    train,
)

DEFAULT_SEED = 0
SMALL_DIGITS_EPOCHS = 40
MNIST_EPOCHS = 5
TARGET = 0.985  # test accuracy that the run with default settings has to reach


def run(
    data: Path | None, epochs: int | None, seed: int | None, out: Path, console: Console
) -> bool:
    """Trains LeNet-5 with cnnops and with torch and reports both on `console`.

    Args:
        data: folder of MNIST files, or None for the digits that come with scikit-learn.
        epochs: None for 40 (scikit-learn's digits) or 5 (MNIST).
        seed: of the split, the initial weights and the batches; None for 0.
        out: file of the picture.
        console: where to print.

    Returns:
        False when this is the run with default settings and cnnops misses 98.5 % accuracy.

    Raises:
        FileNotFoundError: when `data` has no MNIST files.
    """
    judged = data is None and epochs is None and seed in (None, DEFAULT_SEED)
    seed = DEFAULT_SEED if seed is None else seed
    digits = load_small_digits(seed) if data is None else load_mnist(data)
    if epochs is None:
        epochs = SMALL_DIGITS_EPOCHS if data is None else MNIST_EPOCHS
    console.print(
        f"{digits.name}:\n{len(digits.train_images):,} to train on, "
        f"{len(digits.test_images):,} to test on.\n"
    )
    torch.manual_seed(seed)
    ours = lenet5(cnnops.nn)
    theirs = lenet5(nn)
    theirs.load_state_dict(ours.state_dict())
    _print_summary(ours, digits, console)

    console.print(
        f"\nTraining {epochs} epochs with each library (threads: {torch.get_num_threads()}).\n"
        f"Adam, {LEARNING_RATE:g} falling along a cosine, batches of {BATCH};\n"
        f"each image is rotated by up to {ROTATION_DEGREES} degrees, zoomed by up to {ZOOM:.0%}\n"
        f"and shifted by up to {SHIFT_PIXELS} pixels at random."
    )
    histories = {
        name: _train(name, model, digits, epochs, seed, console)
        for name, model in (("cnnops", ours), ("torch", theirs))
    }
    _print_losses(histories, console)
    predictions = predict(ours, digits.test_images)
    accuracies = {
        name: (guesses == digits.test_labels).double().mean().item()
        for name, guesses in (
            ("cnnops", predictions),
            ("torch", predict(theirs, digits.test_images)),
        )
    }
    _print_results(histories, accuracies, console)
    save_picture(
        out,
        f"LeNet-5 trained by cnnops: {accuracies['cnnops']:.2%} of test digits right",
        {name: history.losses for name, history in histories.items()},
        next(ours.parameters()).detach(),
        digits.test_images,
        digits.test_labels,
        predictions,
    )
    console.print(f"\nPicture saved as {out}.")
    if judged and accuracies["cnnops"] < TARGET:
        console.print(f"FAILED: the default run has to reach {TARGET:.1%} test accuracy.")
        return False
    return True


def _train(
    name: str, model: nn.Module, digits: Digits, epochs: int, seed: int, console: Console
) -> History:
    """train() under a progress bar; where there is no terminal, one line when it ends."""
    columns = (
        TextColumn("{task.description:<8}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("batches, loss {task.fields[loss]:.4f}"),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console) as progress:
        total = epochs * batches_per_epoch(digits)
        task = progress.add_task(name, total=total, loss=float("nan"))
        return train(
            model,
            digits,
            epochs,
            seed,
            lambda loss: progress.update(task, advance=1, loss=loss),
        )


def _print_summary(model: nn.Sequential, digits: Digits, console: Console) -> None:
    """The network layer by layer."""
    table = Table(title="LeNet-5", title_justify="left")
    table.add_column("layer")
    for name in ("weight", "output", "parameters"):
        table.add_column(name, justify="right")
    rows = summary(model, digits.train_images[:1])
    for row in rows:
        shapes = (" x ".join(map(str, shape)) for shape in (row.weight, row.output))
        table.add_row(row.layer, *shapes, f"{row.parameters:,}" if row.parameters else "")
    table.add_section()
    table.add_row("total", "", "", f"{sum(row.parameters for row in rows):,}")
    console.print(table)


def _print_losses(histories: dict[str, History], console: Console) -> None:
    """Training loss of every epoch, a column for each library."""
    table = Table(title="Training loss", title_justify="left")
    table.add_column("epoch", justify="right")
    for name in histories:
        table.add_column(name, justify="right")
    losses = (history.losses for history in histories.values())
    for epoch, row in enumerate(zip(*losses, strict=True), start=1):
        table.add_row(str(epoch), *(f"{loss:.6f}" for loss in row))
    console.print(table)


def _print_results(
    histories: dict[str, History], accuracies: dict[str, float], console: Console
) -> None:
    """Accuracy and time of both, and how far apart their weights were after one step."""
    table = Table(title="Results", title_justify="left")
    table.add_column("")
    for name in histories:
        table.add_column(name, justify="right")
    table.add_row("test accuracy", *(f"{accuracy:.2%}" for accuracy in accuracies.values()))
    seconds = (statistics.median(history.seconds) for history in histories.values())
    table.add_row("seconds per epoch (median)", *(f"{value:.3f}" for value in seconds))
    console.print(table)
    first, second = (history.after_first_step for history in histories.values())
    console.print(
        "Largest weight difference after the first step: "
        f"{largest_difference(first, second):.1e}\n(Adam's first step moves a weight by up to "
        f"{LEARNING_RATE:.0e})."
    )
