"""The `cnnops` command: info, check and demo."""

import importlib.util
from collections.abc import Iterable
from pathlib import Path

import click
import torch
from rich.console import Console
from rich.table import Table

import cnnops
from cnnops import _C, support


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(cnnops.__version__, prog_name="cnnops")
def main() -> None:
    """Convolution and pooling kernels for PyTorch."""


@main.command()
def info() -> None:
    """Print versions, the instruction set in use, threads and devices."""
    table = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
    for name, value in _facts():
        table.add_row(name, value)
    Console().print(table)


def _facts() -> list[tuple[str, str]]:
    """The lines of `cnnops info`."""
    return [
        ("cnnops", cnnops.__version__),
        ("library", str(_C.__file__)),
        ("torch", f"{torch.__version__}, built for {_torch_build()}"),
        ("instruction set", f"{_C.isa()} (available: {', '.join(_C.available_isas())})"),
        ("threads", str(torch.get_num_threads())),
        ("CUDA", _cuda_state()),
        ("convolution dtypes", _names(support.dtypes("conv2d"))),
        ("max pooling dtypes", _names(support.dtypes("max_pool2d"))),
        ("average pooling dtypes", _names(support.dtypes("avg_pool2d"))),
    ]


def _names(dtypes: Iterable[torch.dtype]) -> str:
    """Dtypes without `torch.`, floating point first."""
    ordered = sorted(
        dtypes, key=lambda dtype: (not dtype.is_floating_point, -dtype.itemsize, str(dtype))
    )
    return ", ".join(str(dtype).removeprefix("torch.") for dtype in ordered)


def _torch_build() -> str:
    return "CPU only" if torch.version.cuda is None else f"CUDA {torch.version.cuda}"


def _cuda_state() -> str:
    """Whether this build has CUDA kernels and whether torch sees a GPU."""
    kernels = importlib.util.find_spec("cnnops._cuda") is not None
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU found"
    return f"{'kernels built' if kernels else 'no kernels in this build'}, {gpu}"


@main.command()
@click.option("--device", default="cpu", show_default=True, help="Where to run both sides.")
@click.option("--filter", "pattern", metavar="TEXT", help="Only cases whose name contains TEXT.")
def check(device: str, pattern: str | None) -> None:
    """Compare every operator with torch on this machine; fails when one misses its bound."""
    from cnnops import check as checks

    if checks.run(device, pattern, Console()):
        raise click.exceptions.Exit(1)


@main.command()
@click.option(
    "--data",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    metavar="DIR",
    help="Train on the MNIST files in DIR instead, as torchvision.datasets.MNIST lays them out.",
)
@click.option("--epochs", type=click.IntRange(min=1), help="Default: chosen for the data set.")
@click.option("--seed", type=int, help="Of the split, weights and batches. Default: 0.")
@click.option("--threads", type=click.IntRange(min=1), help="Default: torch's choice.")
@click.option(
    "--out",
    default="demo.png",
    show_default=True,
    type=click.Path(dir_okay=False, path_type=Path),
    help="Where to save the picture.",
)
def demo(
    data: Path | None, epochs: int | None, seed: int | None, threads: int | None, out: Path
) -> None:
    """Train LeNet-5 on handwritten digits with cnnops and with torch, side by side."""
    if threads is not None:
        torch.set_num_threads(threads)
    try:
        from cnnops import demo as demonstration
    except ModuleNotFoundError as error:
        raise click.ClickException(f"{error}. Install what the demo needs: cnnops[demo]") from error
    try:
        passed = demonstration.run(data, epochs, seed, out, Console())
    except FileNotFoundError as error:
        raise click.ClickException(str(error)) from error
    if not passed:
        raise click.exceptions.Exit(1)
