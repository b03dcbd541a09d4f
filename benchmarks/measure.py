"""Times a layer: checks that everybody computes the same, then runs them in turns.

Clocks, neighbours and temperatures change from second to second, so absolute times of two runs
cannot be compared. Here all contenders run once in each round, and what counts is the ratio within
a round: its median over the rounds, with the quartiles as its spread.
"""

from __future__ import annotations

import gc
import math
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

import cnnops.functional
from cnnops.plan import PHASES, Plan, plan_call

from .cases import Layer, first_line
from .devices import Device
from .machine import Machine
from .peers import (
    LAYOUTS,
    OWN,
    TORCH,
    Contender,
    Run,
    contenders,
    engine_runs,
    has_layout,
    lay_out_as,
    require,
)

#: What is timed: the forward pass, the gradient for the input, those for weight and bias, all
#: gradients at once, or forward and all gradients. A pooling has no gradients but the input's.
PASSES = PHASES

#: The largest difference from torch, as a fraction of the largest result. This is to find wrong
#: results, not lost digits: `cnnops check` has the bounds for those.
TOLERANCES = {
    torch.float32: 1e-4,
    torch.float64: 1e-12,
    torch.bfloat16: 4e-2,
    torch.float16: 5e-3,
}


@dataclass(frozen=True)
class Settings:
    """How to time.

    Attributes:
        passes: some of PASSES.
        layouts: some of `peers.LAYOUTS`.
        dtype: of all tensors, one of TOLERANCES.
        threads: how many compute.
        peers: some of `peers.OPTIONAL`, beside torch.
        rounds: how often each contender is sampled.
        sample: seconds that a sample takes at least; calls are repeated to fill it.

    Raises:
        ValueError: an unknown pass, layout or peer.
        ModuleNotFoundError: a peer that is not installed.
    """

    passes: tuple[str, ...] = ("fwd", "bwd")
    layouts: tuple[str, ...] = ("nchw",)
    dtype: torch.dtype = torch.float32
    threads: int = 1
    peers: tuple[str, ...] = ()
    rounds: int = 15
    sample: float = 5e-3

    def __post_init__(self) -> None:
        for what, given, known in (
            ("pass", self.passes, PASSES),
            ("layout", self.layouts, LAYOUTS),
        ):
            for name in given:
                if name not in known:
                    raise ValueError(f"{what} should be one of {', '.join(known)}, not {name!r}")
        require(self.peers)

    @property
    def quick(self) -> Settings:
        """The same with a few short samples: a look at whether all works, with rough figures."""
        return replace(self, rounds=3, sample=0.0)


@dataclass(frozen=True)
class Job:
    """One row to be: a layer in one pass and layout."""

    layer: Layer
    phase: str
    layout: str


@dataclass(frozen=True)
class Row:
    """What came out of a job.

    Attributes:
        name, call, family, count: of the layer.
        phase, layout, dtype, threads: what ran and how.
        seconds: median time of a call, by contender; empty when nothing was timed.
        speedup: time of torch in the same layout over that of cnnops: the median over the rounds.
        low, high: its quartiles.
        gflops, gbytes: what cnnops reached, in 1e9 operations and bytes per second.
        limit: the least time by the machine's measure, as a fraction of that of cnnops; None when
            the machine's peak is unknown. Data that stay in a cache can exceed 1.
        intensity: operations per byte of the tensors, each counted once.
        algorithm: the kernels of cnnops, and in `plan` why, with their tiles and workspace.
        workspace: bytes that cnnops takes at peak beside arguments and results, by its plan; None
            where it has none.
        torch_memory: the same of torch in the same layout, measured; None where unknown.
        absent: optional peers that could not take part, and why.
        error: why nothing was timed, or empty.

    """

    name: str
    call: str
    family: str
    count: int
    phase: str
    layout: str
    dtype: str
    threads: int
    seconds: Mapping[str, float]
    speedup: float = math.nan
    low: float = math.nan
    high: float = math.nan
    gflops: float = 0.0
    gbytes: float = 0.0
    limit: float | None = None
    intensity: float = 0.0
    algorithm: str = ""
    plan: str = ""
    workspace: int | None = None
    torch_memory: int | None = None
    absent: Mapping[str, str] = field(default_factory=dict)
    error: str = ""

    @property
    def best(self) -> float:
        """Median time of the fastest contender that is not cnnops over that of cnnops."""
        return min(time for name, time in self.seconds.items() if name != OWN) / self.seconds[OWN]


def jobs(layers: Sequence[Layer], settings: Settings) -> list[Job]:
    """Every layer in every layout and pass that exists for it."""
    return [
        Job(layer, phase, layout)
        for layout in settings.layouts
        for phase in settings.passes
        for layer in layers
        if has_layout(layer.call.rank, layout) and (layer.call.weight or phase != "bwd_weight")
    ]


def time_job(job: Job, settings: Settings, machine: Machine, device: Device) -> Row:
    """Runs one job; exceptions and disagreement become the row's error."""
    layer = job.layer
    row = Row(
        name=layer.name,
        call=layer.call.name,
        family=layer.family,
        count=layer.count,
        phase=job.phase,
        layout=job.layout,
        dtype=name_of(settings.dtype),
        threads=settings.threads,
        seconds={},
    )
    try:
        runs, absent = prepare(job, settings, device)
        error = disagreement(runs, device.tolerance(settings.dtype, TOLERANCES[settings.dtype]))
    except (RuntimeError, TypeError, ValueError) as problem:
        error = f"{type(problem).__name__}: {first_line(problem)}"
    if error:
        return replace(row, error=error)
    if device.name == "cpu":
        plan = plan_of(job, settings.dtype)
        row = replace(
            row,
            algorithm=plan.algorithm,
            plan=str(plan),
            workspace=plan.workspace(settings.threads),
        )
    row = replace(row, absent=absent, torch_memory=device.extra_memory(runs[TORCH]))
    return timed(row, runs, work(job, settings.dtype), settings, machine, device)


def name_of(dtype: torch.dtype) -> str:
    """`torch.float32` as "float32"."""
    return str(dtype).removeprefix("torch.")


def timed(
    row: Row,
    runs: Mapping[str, Run],
    amount: tuple[int, int],
    settings: Settings,
    machine: Machine,
    device: Device,
) -> Row:
    """`row` with the figures of these contenders; `amount` is operations and bytes of a call."""
    samples = in_turns(runs, settings.rounds, settings.sample, device)
    seconds = {name: statistics.median(times) for name, times in samples.items()}
    ratios = [theirs / own for theirs, own in zip(samples[TORCH], samples[OWN], strict=True)]
    low, median, high = statistics.quantiles(ratios, n=4, method="inclusive")
    flops, size = amount
    limit = machine.limit(flops, size)
    return replace(
        row,
        seconds=seconds,
        speedup=median,
        low=low,
        high=high,
        gflops=flops / seconds[OWN] / 1e9,
        gbytes=size / seconds[OWN] / 1e9,
        limit=None if limit is None or not size else limit / seconds[OWN],
        intensity=flops / size if size else 0.0,
    )


def work(job: Job, dtype: torch.dtype) -> tuple[int, int]:
    """Operations and bytes of a job: each gradient takes what the forward pass takes."""
    gradients = 2 if job.layer.call.weight else 1
    parts = {"bwd": gradients, "train": 1 + gradients}.get(job.phase, 1)
    return parts * job.layer.flops, parts * job.layer.elements * dtype.itemsize


def plan_of(job: Job, dtype: torch.dtype) -> Plan:
    """What cnnops will run for a job."""
    call = job.layer.call
    tensors = [
        lay_out_as(torch.empty(shape, dtype=dtype, device="meta"), job.layout)
        for shape in job.layer.shapes
    ]
    function = getattr(cnnops.functional, call.function)
    return plan_call(function, tensors, call.options, job.phase)


def prepare(job: Job, settings: Settings, device: Device) -> tuple[dict[str, Run], dict[str, str]]:
    """What computes the job once for each contender, all on the same numbers, and who cannot."""
    generator = torch.Generator().manual_seed(0)
    shapes = (*job.layer.shapes, job.layer.output)
    values = [
        torch.randn(shape, generator=generator).to(device.name, settings.dtype) for shape in shapes
    ]
    call = job.layer.call
    compiled = "compile" in settings.peers
    sides = contenders(call.function, call.rank, job.layout, compiled)
    runs = {side.name: _run_of(side, job, values) for side in sides}
    absent: dict[str, str] = {}
    if job.phase == "fwd" and device.name == "cpu":
        others, absent = engine_runs(settings.peers, job.layer, values[:-1], settings.threads)
        runs |= others
    if compiled:
        try:
            runs["compile"]()
        except Exception as problem:  # whatever the compiler raises
            del runs["compile"]
            absent["compile"] = first_line(problem)
    return runs, absent


def _run_of(side: Contender, job: Job, values: Sequence[Tensor]) -> Run:
    """One contender at one job; `values` are the layer's tensors and the gradient that arrives."""
    *tensors, cotangent = (lay_out_as(value, side.layout) for value in values)
    options = job.layer.call.options
    if job.phase == "fwd":
        return lambda: (side.function(*tensors, **options),)
    wanted = {"bwd_input": tensors[:1], "bwd_weight": tensors[1:]}.get(job.phase, tensors)
    for tensor in wanted:
        tensor.requires_grad_()
    if job.phase == "train":
        return lambda: torch.autograd.grad(side.function(*tensors, **options), wanted, cotangent)
    if side.name == "compile":
        return _compiled_backward(side, tensors, options, wanted, cotangent)
    output = side.function(*tensors, **options)
    return lambda: torch.autograd.grad(output, wanted, cotangent, retain_graph=True)


def _compiled_backward(
    side: Contender,
    tensors: Sequence[Tensor],
    options: Mapping[str, Any],
    wanted: Sequence[Tensor],
    cotangent: Tensor,
) -> Run:
    """The backward pass of a compiled function, which may run again only if told so beforehand."""
    from torch._functorch import config

    output: list[Tensor] = []

    def run() -> tuple[Tensor, ...]:
        if not output:
            with config.patch(donated_buffer=False):
                output.append(side.function(*tensors, **options))
        return torch.autograd.grad(output[0], wanted, cotangent, retain_graph=True)

    return run


def beside_own(runs: Mapping[str, Run]) -> Iterator[tuple[str, list[tuple[Tensor, Tensor]]]]:
    """Each other contender by name, with the results of cnnops in pairs with its own.

    Running them is also the first warm-up.
    """
    own = runs[OWN]()
    for name, run in runs.items():
        if name != OWN:
            yield name, list(zip(own, run(), strict=True))


def disagreement(runs: Mapping[str, Run], tolerance: float) -> str:
    """In which result another contender differs from ours by more than `tolerance`, or nothing."""
    for name, results in beside_own(runs):
        for mine, other in results:
            if mine.shape != other.shape:
                return f"shape {tuple(mine.shape)}, but {name} has {tuple(other.shape)}"
            difference = float((mine.double() - other.double()).abs().max())
            largest = float(other.abs().max())
            if not difference <= tolerance * largest:
                return f"differs from {name} by {difference:.3g}, of at most {largest:.3g}"
    return ""


def in_turns(
    runs: Mapping[str, Run], rounds: int, sample: float, device: Device
) -> dict[str, list[float]]:
    """Seconds of a call, by contender and round.

    Each round begins with another contender, so that none always runs in the wake of the same one.
    A sample is as many calls as take `sample` seconds, at least one, after one that is not counted
    and brings the contender's own data back into the caches.
    """
    repeats = {
        name: max(1, math.ceil(sample / device.seconds(run, 1))) for name, run in runs.items()
    }
    names = list(runs)
    times: dict[str, list[float]] = {name: [] for name in names}
    collecting = gc.isenabled()
    gc.disable()
    try:
        for turn in range(rounds):
            start = turn % len(names)
            for name in names[start:] + names[:start]:
                runs[name]()
                times[name].append(device.seconds(runs[name], repeats[name]))
    finally:
        if collecting:
            gc.enable()
    return times
