"""The loops of a function, by its control flow, and the one that a kernel spends its time in."""

from __future__ import annotations

from collections.abc import Sequence

from cuda_report.sass import Instruction, mix

Code = Sequence[Instruction]

#: What tells the main loop: the first of these that any loop has, and then the loop with most.
_WORK = (("HMMA",), ("FFMA", "DFMA"), ("FADD", "DADD", "FMNMX", "FSETP", "DSETP"))
_MEMORY = (("LDS", "LDSM"), ("LDG", "LDGSTS", "STG"))


def main_loop(code: Code) -> tuple[Instruction, ...]:
    """The loop with most of the work, the smallest of those that have it; all without loops."""
    found = loops(code)
    for ops in (*_WORK, *_MEMORY):
        counts = [sum(mix(loop)[op] for op in ops) for loop in found]
        if any(counts):
            most = max(counts)
            return min((loop for loop, n in zip(found, counts, strict=True) if n == most), key=len)
    return tuple(code)


def loops(code: Code) -> list[tuple[Instruction, ...]]:
    """The natural loops of a function, inner and outer ones."""
    blocks = _blocks(code)
    index = {block[0].address: i for i, block in enumerate(blocks)}
    after = [_successors(blocks, i, index) for i in range(len(blocks))]
    order = _reverse_postorder(after)
    before: list[list[int]] = [[] for _ in blocks]
    for i in order:
        for j in after[i]:
            before[j].append(i)
    dominator = _dominators(order, before)
    bodies: dict[int, set[int]] = {}
    for tail in order:
        for head in after[tail]:
            if _dominates(head, tail, dominator):
                bodies.setdefault(head, {head}).update(_reaching(tail, head, before))
    return [tuple(i for b in sorted(body) for i in blocks[b]) for body in bodies.values()]


def _blocks(code: Code) -> list[Code]:
    """The function cut at branches and at their targets."""
    starts = {instruction.target for instruction in code} | {code[0].address if code else None}
    blocks: list[list[Instruction]] = []
    ended = True
    for instruction in code:
        if ended or instruction.address in starts:
            blocks.append([])
        blocks[-1].append(instruction)
        ended = instruction.op in ("BRA", "EXIT", "RET", "BRX")
    return list(blocks)


def _successors(blocks: Sequence[Code], i: int, index: dict[int, int]) -> list[int]:
    """Where control goes from a block.

    BRA.DIV is left out: it leaves for a slow way around shuffles where a warp has diverged, which
    warps of these kernels do not.
    """
    last = blocks[i][-1]
    to = [index[last.target]] if last.target in index and "DIV" not in last.modifiers else []
    ends = last.op in ("BRA", "EXIT", "RET", "BRX") and not last.conditional
    return to if ends or i + 1 == len(blocks) else [*to, i + 1]


def _reverse_postorder(after: Sequence[Sequence[int]]) -> list[int]:
    order: list[int] = []
    seen = {0}
    stack = [(0, iter(after[0]))] if after else []
    while stack:
        _, rest = stack[-1]
        step = next((j for j in rest if j not in seen), None)
        if step is None:
            order.append(stack.pop()[0])
        else:
            seen.add(step)
            stack.append((step, iter(after[step])))
    return order[::-1]


def _dominators(order: Sequence[int], before: Sequence[Sequence[int]]) -> dict[int, int]:
    """The immediate dominator of each reachable block, by the iteration of Cooper et al. (2001)."""
    rank = {block: i for i, block in enumerate(order)}
    dominator = {order[0]: order[0]} if order else {}
    changed = True
    while changed:
        changed = False
        for block in order[1:]:
            known = [p for p in before[block] if p in dominator]
            best = known[0]
            for other in known[1:]:
                while best != other:
                    if rank[best] > rank[other]:
                        best = dominator[best]
                    else:
                        other = dominator[other]
            if dominator.get(block) != best:
                dominator[block] = best
                changed = True
    return dominator


def _dominates(head: int, block: int, dominator: dict[int, int]) -> bool:
    while block != head and dominator[block] != block:
        block = dominator[block]
    return block == head


def _reaching(tail: int, head: int, before: Sequence[Sequence[int]]) -> set[int]:
    """The blocks from which `tail` is reached without passing `head`."""
    found = {tail}
    stack = [tail] if tail != head else []
    while stack:
        for block in before[stack.pop()]:
            if block != head and block not in found:
                found.add(block)
                stack.append(block)
    return found
