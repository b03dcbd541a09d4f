"""Removes each barrier and each wait of the kernels in turn: do emulated tests notice?

    python tests/emulator/mutate.py [part of a file name ...]

Prints a line for each and exits with 1 where one survives: then either the statement is not needed
or the tests do not reach what it is for. Mutants are built in build/mutants/, from a copy of the
sources.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from emulator import build

STATEMENT = re.compile(r"(__syncthreads|__syncwarp|(?:simt::)?cp_wait<[^>]*>)\(\);")

#: Of the emulated tests, one in so many runs on each mutant.
SHARE = 25

FOLDER = build.ROOT / "build" / "mutants"


@dataclass(frozen=True)
class Mutant:
    """One statement that is left out.

    Attributes:
        file: the source, relative to the tree.
        line: its number in there, from 1.
        begin: where the statement begins and ends in the text.
        end: see begin.
        statement: its text.

    """

    file: Path
    line: int
    begin: int
    end: int
    statement: str


def mutants(wanted: list[str]) -> Iterator[Mutant]:
    """All mutants of csrc/cuda whose file name contains one of `wanted`, if there are any."""
    for path in sorted((build.ROOT / "csrc" / "cuda").iterdir()):
        if path.suffix not in (".cu", ".cuh") or path.name == "simt.cuh":
            continue
        if wanted and not any(part in path.name for part in wanted):
            continue
        text = path.read_text()
        for found in STATEMENT.finditer(text):
            if text[text.rfind("\n", 0, found.start()) + 1 : found.start()].lstrip()[:2] == "//":
                continue
            line = text.count("\n", 0, found.start()) + 1
            yield Mutant(path.relative_to(build.ROOT), line, *found.span(), found[0])


def copy_sources() -> None:
    """Makes or refreshes the copy; what did not change keeps its time, and so its objects."""
    for name in ("csrc", "tests/emulator"):
        for path in (build.ROOT / name).rglob("*"):
            copy = FOLDER / path.relative_to(build.ROOT)
            if not path.is_file() or "__pycache__" in path.parts:
                continue
            if not copy.exists() or copy.read_bytes() != path.read_bytes():
                copy.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(path, copy)


def passes(tests: list[str]) -> bool:
    """Do the tests pass on the copy as it is?"""
    library = build.build("library", root=FOLDER)
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider"]
    command += ["--device", "cuda-emulated", "--share", str(SHARE), *tests]
    environment = {**os.environ, "CNNOPS_EMULATED_LIBRARY": str(library)}
    done = subprocess.run(
        command, env=environment, cwd=build.ROOT, capture_output=True, text=True, check=False
    )
    return done.returncode == 0


def main(wanted: list[str]) -> int:
    """The exit code: how many survive, at most 1."""
    copy_sources()
    tests = [f"tests/test_{name}.py" for name in ("pool", "conv", "conv_transpose")]
    if not passes(tests):
        raise SystemExit("the tests fail without any mutation")
    survivors = 0
    for mutant in mutants(wanted):
        copy = FOLDER / mutant.file
        text = copy.read_text()
        copy.write_text(text[: mutant.begin] + ";" + text[mutant.end :])
        try:
            survived = passes(tests)
        finally:
            copy.write_text(text)
        survivors += survived
        verdict = "SURVIVES" if survived else "found   "
        print(f"{verdict} {mutant.file}:{mutant.line} without {mutant.statement}", flush=True)
    print(f"{survivors} survive")
    return min(survivors, 1)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
