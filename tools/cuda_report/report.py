"""Reads libraries, checks promises and budget, and prints a row for each kernel."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from cuda_report import budget, cubin, machine
from cuda_report.cubin import Kernel
from cuda_report.families import FORBIDDEN, Family, family_of, missing
from cuda_report.loops import main_loop
from cuda_report.sass import Instruction, mix


def used(kernel: Kernel) -> budget.Entry:
    """What the kernel takes of an SM."""
    family = family_of(kernel.name)
    shared = kernel.shared + (family.dynamic(kernel.name) if family else 0)
    blocks = machine.blocks(kernel.arch, kernel.registers, shared, kernel.threads)
    return budget.Entry(kernel.registers, blocks)


def broken_promises(kernel: Kernel) -> list[str]:
    """What the kernel has and must not have, or lacks, in sentences that begin with its name."""
    name = f"{kernel.name} {kernel.arch}"
    found = []
    if kernel.stack > 0:
        found.append(f"{name}: {kernel.stack} bytes of stack")
    present = FORBIDDEN & {instruction.op for instruction in kernel.code}
    found += [f"{name}: has {op}" for op in sorted(present)]
    family = family_of(kernel.name)
    if family is None:
        return [*found, f"{name}: no family in tools/cuda_report/families.py says what it promises"]
    found += [f"{name}: has no {want}" for want in missing(family.code, kernel.code)]
    lacking = missing(family.loop, main_loop(kernel.code))
    return found + [f"{name}: has no {want} in its main loop" for want in lacking]


def bound(loop: Sequence[Instruction], family: Family) -> tuple[str, str]:
    """The pipe of an H100 that limits a loop, and all that need half as long or longer."""
    cycles = machine.cycles(loop, family.from_l2)
    longest = max(cycles, key=lambda pipe: cycles[pipe])
    close = sorted(
        (pipe for pipe in cycles if cycles[pipe] >= cycles[longest] / 2),
        key=lambda pipe: -cycles[pipe],
    )
    return longest, ", ".join(f"{pipe} {cycles[pipe]:.0f}" for pipe in close)


def run(files: Sequence[Path], update: bool, pattern: str | None, console: Console) -> bool:
    """Prints what is in `files` and what is wrong with it; whether nothing is.

    Args:
        files: what to read, shared libraries or object files.
        update: whether to make what is there the budget; broken promises count all the same.
        pattern: print only the kernels whose names this regular expression finds.
        console: where to print.

    """
    kernels = cubin.read(files)
    if not kernels:
        console.print(f"[red]no CUDA kernels in {', '.join(map(str, files))}[/red]")
        return False
    found = [sentence for kernel in kernels for sentence in broken_promises(kernel)]
    entries = {(kernel.name, kernel.arch): used(kernel) for kernel in kernels}
    if update:
        budget.write(budget.updated(entries, budget.read()))
    else:
        found += budget.compare(entries, budget.read())
    shown = [k for k in kernels if pattern is None or re.search(pattern, k.name)]
    console.print(_table(shown))
    for sentence in found:
        console.print(
            f"FAIL {sentence}", style="red", markup=False, highlight=False, soft_wrap=True
        )
    archs = sorted({kernel.arch for kernel in kernels})
    console.print(
        f"{len(kernels)} kernels of {', '.join(archs)}: "
        + (f"{len(found)} findings" if found else "no spills, no atomics, promises and budget kept")
    )
    return not found


def _table(kernels: Iterable[Kernel]) -> Table:
    """Resources and the make-up of the main loop."""
    table = Table(box=None, pad_edge=False)
    table.add_column("kernel", overflow="fold")
    for name in ("arch", "regs", "shared", "threads", "blocks"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("main loop", overflow="fold")
    table.add_column("H100 cycles of a warp", overflow="fold")
    for kernel in kernels:
        family = family_of(kernel.name)
        if family is None:
            continue
        loop = main_loop(kernel.code)
        counts = mix(loop)
        parts = [f"{op} {n}" for op, n in counts.most_common(6)]
        dynamic = family.dynamic(kernel.name)
        table.add_row(
            kernel.name,
            kernel.arch,
            str(kernel.registers),
            str(kernel.shared + dynamic),
            str(kernel.threads),
            str(used(kernel).blocks),
            f"{sum(counts.values())}: " + " ".join(parts),
            bound(loop, family)[1],
        )
    return table
