"""The committed budget: for each kernel and architecture, what it may use and must allow."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

FILE = Path(__file__).with_name("budget.tsv")
HEADER = (
    "# What each kernel may use. `make cuda-budget` writes it, `make cuda-report` holds a build\n"
    "# against it. For each architecture: registers of a thread at most /\n"
    "# blocks on an SM at least; - where the last build for it had no such kernel.\n"
)

Key = tuple[str, str]  # kernel, architecture


@dataclass(frozen=True)
class Entry:
    """What one kernel of one architecture uses: registers of a thread, and blocks on an SM."""

    registers: int
    blocks: int


def read(path: Path = FILE) -> dict[Key, Entry]:
    """The budget, by kernel and architecture."""
    rows = [line for line in path.read_text().splitlines() if line and not line.startswith("#")]
    _, *archs = rows[0].split("\t")
    budget = {}
    for row in rows[1:]:
        name, *cells = row.split("\t")
        for arch, cell in zip(archs, cells, strict=True):
            if cell != "-":
                registers, blocks = map(int, cell.split("/"))
                budget[name, arch] = Entry(registers, blocks)
    return budget


def write(used: Mapping[Key, Entry], path: Path = FILE) -> None:
    """Makes `used` the budget."""
    archs = sorted({arch for _, arch in used}, key=lambda arch: int(arch.removeprefix("sm_")))
    lines = ["\t".join(["kernel", *archs])]
    for name in sorted({name for name, _ in used}):
        entries = [used.get((name, arch)) for arch in archs]
        cells = [f"{entry.registers}/{entry.blocks}" if entry else "-" for entry in entries]
        lines.append("\t".join([name, *cells]))
    path.write_text(HEADER + "\n".join(lines) + "\n")


def updated(used: Mapping[Key, Entry], known: Mapping[Key, Entry]) -> dict[Key, Entry]:
    """The budget after a build that uses `used`: what it was of architectures not built for.

    Kernels that the build does not have are no more: they are compiled for all architectures.
    """
    archs, names = {arch for _, arch in used}, {name for name, _ in used}
    others = {(name, arch): entry for (name, arch), entry in known.items()
              if arch not in archs and name in names}  # fmt: skip
    return {**others, **used}


def compare(used: Mapping[Key, Entry], allowed: Mapping[Key, Entry]) -> list[str]:
    """What exceeds the budget or has none, and what the budget has of these archs in vain.

    Architectures that the budget does not have are not held against it, but one has to be.
    """
    archs = {arch for _, arch in used}
    budgeted = archs & {arch for _, arch in allowed}
    if not budgeted:
        return [f"the budget has none of {', '.join(sorted(archs))}: nothing was held against it"]
    found = []
    for (name, arch), entry in used.items():
        limit = allowed.get((name, arch))
        if limit is None:
            if arch in budgeted:
                found.append(f"{name} {arch}: has no budget; `make cuda-budget` writes one")
        elif entry.registers > limit.registers:
            found.append(f"{name} {arch}: {entry.registers} registers, budget {limit.registers}")
        elif entry.blocks < limit.blocks:
            found.append(f"{name} {arch}: {entry.blocks} blocks on an SM, budget {limit.blocks}")
    found += [
        f"{name} {arch}: in the budget, but not in the library"
        for name, arch in allowed
        if arch in archs and (name, arch) not in used
    ]
    return found
