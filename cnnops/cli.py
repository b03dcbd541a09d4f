"""The `cnnops` command: info, check, demo and bench."""

import ast
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import click
import torch
from rich.console import Console
from rich.table import Table

import cnnops
from cnnops import _C, cuda, support


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
    """The architectures that there are CUDA kernels for, or why there are none; and the GPUs."""
    kernels = cuda.MISSING or f"kernels for {', '.join(cuda.ARCHS)}"
    gpus = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    return f"{kernels}; {', '.join(gpus) or 'no GPU found'}"


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


class _Listed(click.ParamType):
    """Items separated by commas, as a tuple."""

    def __init__(self, name: str, kind: type[str] | type[int]) -> None:
        self.name, self.kind = name, kind

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[Any, ...]:
        """The items of `value`; click passes defaults that are tuples, too."""
        if isinstance(value, tuple):
            return value
        try:
            return tuple(map(self.kind, value.split(",")))
        except ValueError:
            self.fail(f"{value!r} should be {self.name} separated by commas", param, ctx)


_SHAPE = _Listed("sizes", int)


@main.command()
@click.option(
    "--pass",
    "passes",
    type=_Listed("passes", str),
    default="fwd,bwd",
    show_default=True,
    help="Some of fwd, bwd_input, bwd_weight, bwd (all gradients) and train (fwd and bwd). "
    "With --e2e: fwd (inference) and train (a training step).",
)
@click.option(
    "--layout",
    "layouts",
    type=_Listed("layouts", str),
    default="nchw",
    show_default=True,
    help="nchw, nhwc (which is channels_last) or nchw,nhwc.",
)
@click.option(
    "--dtype",
    type=click.Choice(["float32", "float64", "bfloat16", "float16"]),
    default="float32",
    show_default=True,
    help="Of all tensors.",
)
@click.option("--threads", type=click.IntRange(min=1), help="Default: torch's choice.")
@click.option("--filter", "pattern", metavar="TEXT", help="Only layers whose name contains TEXT.")
@click.option("--quick", is_flag=True, help="A few short samples: rough figures in seconds.")
@click.option("--model", metavar="NAME", help="The layers of this torchvision model instead.")
@click.option(
    "--e2e",
    is_flag=True,
    help="Whole models, as they are against converted: --model, or some well-known ones.",
)
@click.option(
    "--model-input",
    type=_SHAPE,
    help="Shape of the model's input. Default: 1,3,224,224, or what suits the model.",
)
@click.option("--op", metavar="NAME", help="One call instead, as of conv2d; needs --shape.")
@click.option("--shape", type=_SHAPE, help="Shape of its input.")
@click.option("--weight", type=_SHAPE, default=(), help="Shape of its weight, as torch has it.")
@click.option(
    "--set",
    "options",
    multiple=True,
    metavar="NAME=VALUE",
    help="An argument of it, as padding=1 or stride=(2,1); can be repeated.",
)
@click.option(
    "--device", type=click.Choice(["cpu", "cuda"]), default="cpu", show_default=True, help="Where."
)
@click.option(
    "--peers",
    type=_Listed("peers", str),
    default=(),
    metavar="NAMES",
    help="Beside torch: compile (torch.compile), onnxruntime, openvino (both forward only).",
)
@click.option(
    "--json",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Write the figures to this file.",
)
@click.option(
    "--compare",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Mark what is slower than in this file, which --json wrote.",
)
@click.option(
    "--plot",
    type=click.Path(file_okay=False, path_type=Path),
    metavar="DIR",
    help="Write the charts speedup.png and roofline.png to this folder.",
)
@click.option(
    "--html",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Write a report, one page that needs nothing else, to this file.",
)
def bench(
    passes: tuple[str, ...],
    layouts: tuple[str, ...],
    dtype: str,
    threads: int | None,
    pattern: str | None,
    quick: bool,
    model: str | None,
    e2e: bool,
    model_input: tuple[int, ...] | None,
    op: str | None,
    shape: tuple[int, ...] | None,
    weight: tuple[int, ...],
    options: tuple[str, ...],
    device: str,
    peers: tuple[str, ...],
    json: Path | None,
    compare: Path | None,
    plot: Path | None,
    html: Path | None,
) -> None:
    """Time layers of known networks, other layers or whole models against torch, side by side.

    Fails when a result disagrees with torch's or a call raises an error; never for its speed.
    """
    from cnnops import benchmarks

    if model is not None and op is not None:
        raise click.UsageError("--model and --op exclude each other")
    if (op is None) != (shape is None):
        raise click.UsageError("--op and --shape go together")
    if e2e and op is not None:
        raise click.UsageError("--e2e and --op exclude each other")
    if op is None and (weight or options):
        raise click.UsageError("--weight and --set describe the call of --op")
    try:
        settings = benchmarks.Settings(
            passes, layouts, getattr(torch, dtype), threads or torch.get_num_threads(), peers
        )
        where = benchmarks.devices.find(device)
        work: Sequence[Any] = benchmarks.NAMED
        if e2e:
            names = benchmarks.NETWORKS if model is None else (model,)
            work = [
                benchmarks.Network(name, model_input or benchmarks.default_input(name))
                for name in names
            ]
        elif model is not None:
            work = benchmarks.of_model(model, model_input)
        elif op is not None and shape is not None:
            work = (benchmarks.by_hand(op, shape, weight, dict(map(_argument, options))),)
        passed = benchmarks.run(
            [each for each in work if pattern is None or pattern in each.name],
            settings.quick if quick else settings,
            where,
            Console(),
            benchmarks.Files(json, compare, plot, html),
        )
    except (ModuleNotFoundError, ValueError) as error:
        raise click.ClickException(str(error)) from error
    if not passed:
        raise click.exceptions.Exit(1)


def _argument(text: str) -> tuple[str, Any]:
    """NAME=VALUE, the value as Python writes it or a plain word such as same."""
    name, equals, value = text.partition("=")
    if not equals:
        raise click.UsageError(f"--set takes NAME=VALUE, but got {text!r}")
    try:
        return name, ast.literal_eval(value)
    except (SyntaxError, ValueError):
        return name, value
