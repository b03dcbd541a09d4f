"""The mutants of the CUDA kernels: small changes to their text that should make some test fail.

Each has a kind, the class of mistake it stands for:

    barrier   a barrier, a warp barrier, a wait for copies or a commit of them is missing
    wait      a wait leaves one group of copies too many in flight
    bound     a comparison includes one more or one less
    loop      a loop ends one step early, or starts one late
    guard     one of the conditions that protect an access is dropped
    fill      what lies outside is read instead of filled with zeros
    offset    a +1 or -1 is missing
    index     a quotient for a remainder, a product for a sum, and the like
    stride    the stride, size or divisor of another axis
    narrow    64-bit arithmetic in 32 bits
    mistake   one of mistakes.py

All but the last are found by regular expressions, which clang-format makes reliable: comparisons
have spaces around them, angle brackets of templates have none.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from emulator.mistakes import MISTAKES

KINDS = (
    "barrier", "wait", "bound", "loop", "guard", "fill", "offset", "index", "stride", "narrow",
    "mistake",
)  # fmt: skip
#: Those that concern the order of threads and copies; every one of them is tried.
SYNCHRONISATION = ("barrier", "wait")


@dataclass(frozen=True)
class Mutant:
    """One change of one line.

    Attributes:
        file: name of the source in csrc/cuda.
        line: its number, from 1.
        kind: see the module.
        old: what is replaced, and by what.
        new: see old.
        begin: where in the text of the file `old` begins.
        source: the line as it is, without the blanks around it.

    """

    file: str
    line: int
    kind: str
    old: str
    new: str
    begin: int
    source: str

    def apply(self, text: str) -> str:
        """The text of the file with this change."""
        return text[: self.begin] + self.new + text[self.begin + len(self.old) :]

    def __str__(self) -> str:
        return f"{self.file}:{self.line} {self.kind}: {self.source!r}: {self.old!r} -> {self.new!r}"


#: kind, pattern, replacement. Of the pattern the group `it`, or all of it, is replaced.
_RULES: list[tuple[str, str, str]] = [
    ("barrier", r"(__syncthreads|__syncwarp|(?:simt::)?cp_wait<[^>]*>|simt::cp_commit)\(\);", ";"),
    ("wait", r"cp_wait<(?P<it>[^>]*)>\(\);", r"\g<it> + 1"),
    ("bound", r" (?P<it><) ", "<="),
    ("bound", r" (?P<it><=) ", "<"),
    ("bound", r" (?P<it>>=) ", ">"),
    ("bound", r" (?P<it>>) ", ">="),
    ("loop", r"\bfor \([^;]*; [^;]*? < (?P<it>[^;&]+)(?: && [^;]*)?;", r"\g<it> - 1"),
    ("loop", r"\bfor \([^;]*= (?P<it>0);", "1"),
    ("guard", r"(?P<it>&&)", "||"),
    ("guard", r"(?P<it>\|\|)", "&&"),
    ("fill", r"cp_async<[^>]*>\([^;]*, (?P<it>\w+)\);", "true"),
    ("fill", r"copy_element<T>\([^;]*, (?P<it>\w+)\);", "true"),
    ("fill", r"(?P<it>\b(?:reads|inside)) \?", "true"),
    ("offset", r"(?P<it> \+ 1)\b(?! -)", ""),
    ("offset", r"(?P<it> - 1)\b", ""),
    ("index", r" (?P<it>/) ", "%"),
    ("index", r" (?P<it>%) ", "/"),
    ("index", r" (?P<it>\+) (?!1\b)", "-"),
    ("index", r" (?P<it>-) (?!1\b)", "+"),
    ("index", r" (?P<it>\*) ", "+"),
    ("stride", r"(?:axis|by_\w+|at|dest|source|size|input|output|kernel)(?P<it>\[0\])", "[1]"),
    ("stride", r"(?:axis|by_\w+|at|dest|source|size|input|output|kernel)(?P<it>\[1\])", "[2]"),
    ("stride", r"(?:axis|by_\w+|at|dest|source|size|input|output|kernel)(?P<it>\[2\])", "[1]"),
    ("stride", r"strides\.(?P<it>batch)\b", "channel"),
    ("stride", r"strides\.(?P<it>channel)\b", "batch"),
    ("stride", r"strides\.(?P<it>row)\b", "depth"),
    ("stride", r"strides\.(?P<it>depth)\b", "row"),
    ("stride", r"strides\.(?P<it>group)\b", "row"),
    ("narrow", r"(?:static_cast<(?P<it>int64_t)>\(|\b(?P<or>int64_t)\{)", "int32_t"),
]

# What is not a kernel's doing: preprocessing, declarations of templates, and what the compiler
# checks; the extent of an array, and a loop whose bound it knows, which unrolls.
_SKIPPED = re.compile(r"^\s*(#|//|template <|static_assert|using |SIMT_SHARED|static constexpr)")
_CONSTANT_LOOP = re.compile(r"\bfor \(.*[<>]=? (?:\w+::)*k[A-Z]\w*(?: - 1)?;")


def mutants(path: Path, kinds: tuple[str, ...]) -> Iterator[Mutant]:
    """All mutants of a source of these kinds, in the order of the text."""
    text = path.read_text()
    code = re.sub(r"//[^\n]*", lambda comment: " " * len(comment[0]), text)
    found = []
    for kind, pattern, replacement in _RULES:
        if kind not in kinds:
            continue
        for match in re.finditer(pattern, code):
            groups = match.groupdict()
            group = next((name for name in ("it", "or") if groups.get(name)), 0)
            begin, old = match.start(group), match[group]
            start = text.rfind("\n", 0, begin) + 1
            source = text[start : text.find("\n", begin)]
            loop = kind not in SYNCHRONISATION and _CONSTANT_LOOP.search(source)
            if _SKIPPED.match(source) or loop:
                continue
            new = replacement.replace(r"\g<it>", old)
            line = text.count("\n", 0, begin) + 1
            found.append(Mutant(path.name, line, kind, old, new, begin, source.strip()))
    if "mistake" in kinds:
        for name, what, old, new in MISTAKES:
            if name != path.name:
                continue
            if text.count(old) != 1:
                raise ValueError(f"{name} has {text.count(old)} times, not once: {old}")
            begin = text.index(old)
            line = text.count("\n", 0, begin) + 1
            found.append(Mutant(name, line, "mistake", old, new, begin, what))
    return iter(sorted(found, key=lambda it: (it.begin, it.new)))


def sample(found: list[Mutant], count: int, seed: int) -> list[Mutant]:
    """`count` of them, always the same for a seed, however the lines around them move."""

    def rank(mutant: Mutant) -> int:
        return zlib.crc32(
            f"{seed} {mutant.file} {mutant.source} {mutant.old} {mutant.new}".encode()
        )

    chosen = set(sorted(found, key=rank)[:count])
    return [mutant for mutant in found if mutant in chosen]
