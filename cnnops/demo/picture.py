"""The picture of a demo run: loss curves, first-layer filters and predicted test digits."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter, StrMethodFormatter
from torch import Tensor

INK, GRAY, BLUE, ORANGE, RED = "#1f2933", "#7b8794", "#0b6e99", "#e8871e", "#c62828"
DIGITS_SHOWN = 12
MISTAKES_SHOWN = 6
STYLE: Any = {  # matplotlib types each key on its own
    "font.size": 10,
    "text.color": INK,
    "axes.edgecolor": GRAY,
    "axes.labelcolor": INK,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlelocation": "left",
    "axes.titlepad": 12,
    "axes.titlesize": 12,
    "xtick.color": GRAY,
    "ytick.color": GRAY,
}


def save_picture(
    path: Path,
    title: str,
    losses: dict[str, Sequence[float]],
    filters: Tensor,
    images: Tensor,
    labels: Tensor,
    predictions: Tensor,
) -> None:
    """Draws one training run into `path`, whose ending chooses the format.

    Args:
        path: file to write.
        title: headline.
        losses: training loss of each epoch, by the name of the run; two runs, ours first.
        filters: weights `(6, 1, 5, 5)` of the first layer.
        images: test images `(N, 1, 28, 28)` to choose from; mistakes are shown first.
        labels: true classes `(N,)`.
        predictions: predicted classes `(N,)`.
    """
    with matplotlib.rc_context(STYLE):
        layout = ConstrainedLayoutEngine(w_pad=0.12, h_pad=0.1)
        figure = Figure(figsize=(10, 7.8), layout=layout, facecolor="white")
        figure.suptitle(title, x=0.02, ha="left", fontsize=13, fontweight="bold")
        # subfigures() is typed as one SubFigure, but gives an array of them here.
        rows: Any = figure.subfigures(2, 1, height_ratios=[1.25, 1], hspace=0.04)
        columns: Any = rows[0].subfigures(1, 2, width_ratios=[1.6, 1], wspace=0.04)
        _draw_losses(columns[0].subplots(), losses)
        _draw_filters(columns[1], filters)
        _draw_digits(rows[1], images, labels, predictions)
        figure.savefig(path, dpi=150)


def _draw_losses(axes: Axes, losses: dict[str, Sequence[float]]) -> None:
    """Loss curves on a logarithmic axis; the second run is dashed, so that both show."""
    looks: tuple[dict[str, Any], ...] = (
        {"color": BLUE, "lw": 4.5, "alpha": 0.45},
        {"color": ORANGE, "lw": 1.6, "ls": "--"},
    )
    for (name, values), look in zip(losses.items(), looks, strict=True):
        axes.plot(range(1, len(values) + 1), values, label=name, **look)
    axes.set_yscale("log")
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.set_title("Training loss (cross-entropy)")
    axes.set_xlabel("epoch")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(axis="y", color="#e4e7eb", lw=0.8)
    axes.set_axisbelow(True)
    axes.legend(frameon=False)


def _draw_filters(figure: SubFigure, filters: Tensor) -> None:
    """The filters on one color scale, symmetric about white = 0."""
    figure.suptitle("First layer: six learned 5x5 filters", x=0.03, ha="left", fontsize=12)
    limit = filters.abs().max().item()
    grid = figure.subplots(2, 3)
    for axes, weights in zip(grid.flat, filters, strict=True):
        shown = axes.imshow(weights[0].numpy(), cmap="RdBu_r", vmin=-limit, vmax=limit)
        axes.set(xticks=[], yticks=[])
        axes.spines[:].set_visible(False)
    bar = figure.colorbar(shown, ax=grid, orientation="horizontal", fraction=0.05, aspect=30)
    bar.outline.set_visible(False)


def _draw_digits(figure: SubFigure, images: Tensor, labels: Tensor, predictions: Tensor) -> None:
    """Twelve test digits, mistakes first, each titled with its prediction."""
    right = predictions == labels
    wrong, correct = (~right).nonzero()[:, 0], right.nonzero()[:, 0]
    chosen = [*wrong[:MISTAKES_SHOWN].tolist(), *correct.tolist()][:DIGITS_SHOWN]
    figure.suptitle(
        f"Test digits and predictions: {len(correct)} of {len(labels)} right"
        + (", mistakes first" if len(wrong) else ""),
        x=0.02,
        ha="left",
        fontsize=12,
    )
    for axes, index in zip(figure.subplots(2, DIGITS_SHOWN // 2).flat, chosen, strict=False):
        axes.imshow(images[index, 0].numpy(), cmap="gray_r")
        axes.set(xticks=[], yticks=[])
        axes.spines[:].set_visible(False)
        guess, truth = predictions[index].item(), labels[index].item()
        text, color = (f"{guess}", INK) if guess == truth else (f"{guess}, is {truth}", RED)
        axes.set_title(text, color=color, loc="center", pad=4, fontweight="bold")
