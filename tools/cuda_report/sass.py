"""Machine code as cuobjdump prints it: instructions, their widths and counts."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

_LINE = re.compile(r"/\*([0-9a-f]{4,})\*/\s+(@!?U?P[0-9T]+\s+)?([A-Z0-9_]+)(\S*)([^;]*);")
_WIDTH = re.compile(r"[US]?(8|16|64|128)")


@dataclass(frozen=True)
class Instruction:
    """One instruction: "@P0 LDG.E.128 R4, [R2]" has op "LDG" and modifiers "E" and "128"."""

    address: int
    predicate: str
    op: str
    modifiers: tuple[str, ...]
    operands: str

    @property
    def bytes(self) -> int:
        """What one thread moves, of an instruction that moves memory."""
        if self.op == "LDSM":  # 8x8 matrices, of each of which a thread gets four bytes
            return 4 * int(self.modifiers[-1]) if self.modifiers[-1].isdigit() else 4
        widths = [found[1] for found in map(_WIDTH.fullmatch, self.modifiers) if found]
        return int(widths[-1]) // 8 if widths else 4

    @property
    def target(self) -> int | None:
        """Where a branch goes; None for what is no branch, or goes where registers say."""
        found = re.search(r"\b0x([0-9a-f]+)$", self.operands) if self.op == "BRA" else None
        return int(found[1], 16) if found else None

    @property
    def conditional(self) -> bool:
        """Whether a branch or an exit may be passed by, for its predicate or one operand."""
        return bool(self.predicate) or "," in self.operands


def parse(text: str) -> tuple[Instruction, ...]:
    """The instructions of one function."""
    return tuple(
        Instruction(
            int(address, 16), predicate.strip(), op, tuple(rest.split(".")[1:]), operands.strip()
        )
        for address, predicate, op, rest, operands in _LINE.findall(text)
    )


def mix(code: Iterable[Instruction]) -> Counter[str]:
    """How often each operation occurs; the padding after a function's end does not count."""
    return Counter(instruction.op for instruction in code if instruction.op != "NOP")
