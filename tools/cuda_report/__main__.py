"""`python tools/cuda_report [FILES]`: report on the kernels of a build; fails on any finding."""

from __future__ import annotations

import sys
from pathlib import Path

TOOLS = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(TOOLS))

import click  # noqa: E402
from rich.console import Console  # noqa: E402

from cuda_report import report  # noqa: E402

LIBRARY = TOOLS.parent / "cnnops" / "_cuda.abi3.so"


@click.command()
@click.argument("files", nargs=-1, type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--update", is_flag=True, help="Make what this build uses the budget.")
@click.option("--filter", "pattern", help="Print only kernels whose names match.")
@click.option("--width", default=200, show_default=True, help="Columns of the table.")
def main(files: tuple[Path, ...], update: bool, pattern: str | None, width: int) -> None:
    """Check registers, spills, occupancy and instructions of every CUDA kernel of FILES.

    They are libraries or object files; by default the library that was built in this tree.
    """
    if not files and not LIBRARY.exists():
        raise click.ClickException(f"there is no {LIBRARY}: docs/gpu.md says what builds it")
    if not report.run(files or (LIBRARY,), update, pattern, Console(width=width)):
        raise SystemExit(1)


main()
