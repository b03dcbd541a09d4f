"""`cnnops bench`: what it times, whether it finds wrong results, what it stores. Never how fast."""

from __future__ import annotations

import dataclasses
import json
import math
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from rich.console import Console

from cnnops import _C
from cnnops.benchmarks import (
    NAMED,
    PASSES,
    Network,
    Settings,
    by_hand,
    charts,
    devices,
    measure,
    memory,
    networks,
    of_model,
    page,
    peers,
    report,
    results,
    summary,
)
from cnnops.benchmarks.machine import Machine
from cnnops.benchmarks.machine import measure as measure_machine
from cnnops.benchmarks.measure import Job, Row
from cnnops.benchmarks.peers import LAYOUTS, OWN, TORCH
from cnnops.cli import main

CPU = devices.find("cpu")
MACHINE = Machine("a processor", "baseline", 1, "2.10", "0.1", flops=100e9, bandwidth=10e9)

SMALL = (
    by_hand("conv1d", (2, 6, 20), (6, 1, 4), {"padding": 3, "groups": 6}),
    by_hand("conv2d", (2, 4, 9, 8), (6, 4, 3, 3), {"padding": "same", "dilation": 2}),
    by_hand("conv3d", (1, 3, 5, 6, 7), (4, 3, 3, 3, 3), {"stride": (2, 1, 2)}),
    by_hand("conv_transpose2d", (2, 4, 5, 6), (4, 3, 4, 4), {"stride": 2, "padding": 1}),
    by_hand("max_pool2d", (2, 4, 9, 8), (), {"kernel_size": 3, "stride": 2, "padding": 1}),
    by_hand("max_pool3d", (1, 3, 6, 6, 6), (), {"kernel_size": 2}),
    by_hand("adaptive_avg_pool2d", (2, 4, 9, 8), (), {"output_size": 3}),
    by_hand("adaptive_max_pool1d", (2, 4, 9), (), {"output_size": 3}),
)


def named(name: str) -> measure.Layer:
    return next(layer for layer in NAMED if layer.name == name)


def row(speedup: float, **changes: object) -> Row:
    """A row of a run in which torch took a millisecond."""
    seconds = {OWN: 1e-3 / speedup, TORCH: 1e-3}
    made = Row(
        *("a layer", "a call", "dense", 1, "fwd", "nchw", "float32", 1),
        *(seconds, speedup, speedup * 0.99, speedup * 1.01, 10.0, 1.0, 0.5, 10.0),
    )
    return dataclasses.replace(made, **changes)  # type: ignore[arg-type]


def test_named_layers_are_distinct_and_belong_to_every_family() -> None:
    assert len({layer.name for layer in NAMED}) == len({layer.call.name for layer in NAMED}) == 34
    assert Counter(layer.family for layer in NAMED) == {
        "dense": 16,
        "depthwise": 6,
        "grouped": 1,
        "transposed": 4,
        "pooling": 7,
    }


@pytest.mark.parametrize(
    ("name", "output", "flops", "elements"),
    [
        ("resnet 3x3 64@56", (1, 64, 56, 56), 2 * 64 * 64 * 9 * 3136, 2 * 200704 + 36864),
        ("mobilenet dw3s2 192@56", (1, 192, 28, 28), 2 * 192 * 9 * 784, 192 * (3136 + 784 + 9)),
        ("unet 2x2s2 128-64@56", (1, 64, 112, 112), 2 * 128 * 64 * 4 * 3136, 1236992),
        ("global avg 2048@7 b8", (8, 2048, 1, 1), 0, 8 * 2048 * 50),
    ],
)
def test_work_of_known_layers(
    name: str, output: tuple[int, ...], flops: int, elements: int
) -> None:
    layer = named(name)
    assert (layer.output, layer.flops, layer.elements) == (output, flops, elements)
    parts = 3 if flops else 2
    assert measure.work(Job(layer, "train", "nchw"), torch.float64) == (
        parts * flops,
        parts * elements * 8,
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("layer", SMALL, ids=lambda layer: layer.name)
def test_contenders_agree(layer: measure.Layer, dtype: torch.dtype) -> None:
    todo = measure.jobs([layer], Settings(PASSES, tuple(LAYOUTS), dtype))
    gradients = 5 if layer.call.weight else 4
    assert len(todo) == gradients * (1 if layer.call.rank == 1 else 2)
    for job in todo:
        runs, absent = measure.prepare(job, Settings(dtype=dtype), CPU)
        assert not absent
        assert len(runs) == (2 if layer.call.rank == 1 else 3)
        assert measure.disagreement(runs, measure.TOLERANCES[dtype]) == ""


def test_contenders_get_the_layout_they_are_named_for() -> None:
    layer = named("adaptive avg 6 256@13 b8")
    for layout, other in (("nchw", "nhwc"), ("nhwc", "nchw")):
        runs, _ = measure.prepare(Job(layer, "fwd", layout), Settings(), CPU)
        last = {name: run()[0].stride(-1) for name, run in runs.items()}
        stride = {"nchw": 1, "nhwc": 256}
        assert last == {
            OWN: stride[layout],
            TORCH: stride[layout],
            f"{TORCH} {other}": stride[other],
        }


@pytest.mark.parametrize(
    ("phase", "shapes"),
    [
        ("fwd", [(2, 6, 9, 8)]),
        ("bwd_input", [(2, 4, 9, 8)]),
        ("bwd_weight", [(6, 4, 3, 3)]),
        ("bwd", [(2, 4, 9, 8), (6, 4, 3, 3)]),
        ("train", [(2, 4, 9, 8), (6, 4, 3, 3)]),
    ],
)
def test_passes_compute_what_they_are_named_for(phase: str, shapes: list[tuple[int, ...]]) -> None:
    runs, _ = measure.prepare(Job(SMALL[1], phase, "nchw"), Settings(), CPU)
    assert [tuple(tensor.shape) for tensor in runs[OWN]()] == shapes


@pytest.mark.parametrize("wrong", [torch.ones(3) * 1.01, torch.full((3,), math.nan), torch.ones(2)])
def test_disagreement_is_found(wrong: torch.Tensor) -> None:
    runs = {OWN: lambda: (wrong,), TORCH: lambda: (torch.ones(3),)}
    assert TORCH in measure.disagreement(runs, 1e-3)


def test_a_call_that_torch_cannot_make_is_an_error_of_its_row() -> None:
    layer = by_hand("avg_pool3d", (1, 3, 6, 6, 6), (), {"kernel_size": 2})
    settings = Settings(dtype=torch.bfloat16)
    made = measure.time_job(Job(layer, "fwd", "nchw"), settings, MACHINE, CPU)
    assert made.error.startswith("NotImplementedError: ")
    assert not made.seconds


def test_rounds_take_turns() -> None:
    log: list[str] = []

    def logged(name: str) -> measure.Run:
        return lambda: (log.append(name), ())[1]

    times = measure.in_turns({name: logged(name) for name in "abc"}, 3, 0.0, CPU)
    assert {name: len(samples) for name, samples in times.items()} == dict.fromkeys("abc", 3)
    assert "".join(log) == "abc" + "aabbcc" + "bbccaa" + "ccaabb"


def test_resnet18_is_harvested_whole() -> None:
    layers = of_model("resnet18", (1, 3, 224, 224))
    counts = Counter[str]()
    for layer in layers:
        counts[layer.call.function] += layer.count
    assert counts == {"conv2d": 20, "max_pool2d": 1, "adaptive_avg_pool2d": 1}
    assert layers[0].call.name == "conv2d 1x3x224x224 w64x3x7x7 stride=2 padding=3"
    assert layers[2].call == named("resnet 3x3 64@56").call
    assert layers[2].count == 4
    # Multiply-adds of the convolutions of this network: 1.814 thousand millions.
    assert sum(layer.count * layer.flops for layer in layers) == 2 * 1_813_561_344


@pytest.mark.parametrize(
    ("name", "shape", "message"),
    [("no_such_model", (1, 3, 64, 64), "no_such_model"), ("resnet18", (1, 4, 64, 64), "1x4x64x64")],
)
def test_what_cannot_be_harvested(name: str, shape: tuple[int, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        of_model(name, shape)


@pytest.mark.parametrize(
    ("function", "shape", "weight", "options"),
    [
        ("softmax", (1, 2, 3, 4), (), {}),
        ("conv2d", (1, 2, 3, 4), (), {}),
        ("max_pool2d", (1, 2, 3, 4), (2, 2, 1, 1), {"kernel_size": 1}),
        ("max_pool2d", (2, 3, 4), (), {"kernel_size": 1}),
        ("conv2d", (1, 2, 3, 4), (2, 2, 1, 1), {"no_such_option": 1}),
        ("conv2d", (1, 2, 3, 4), (2, 2, 7, 7), {}),
    ],
)
def test_calls_that_cannot_be_made(
    function: str, shape: tuple[int, ...], weight: tuple[int, ...], options: dict[str, int]
) -> None:
    with pytest.raises(ValueError, match=r"."):
        by_hand(function, shape, weight, options)


@pytest.mark.skipif(shutil.which("cc") is None, reason="builds its loops with the C compiler")
@pytest.mark.parametrize("isa", _C.available_isas())
def test_machine_is_measured(isa: str, set_isa: Callable[[str], None]) -> None:
    set_isa(isa)
    found = measure_machine(torch.float32, threads=2)
    assert (found.isa, found.threads, found.torch) == (isa, 2, torch.__version__)
    assert found.flops is not None
    assert found.bandwidth is not None
    assert found.flops > 0 < found.bandwidth


def test_machine_without_a_compiler_has_no_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CC", "no-such-compiler")
    found = measure_machine(torch.float32, threads=1)
    assert found.flops is found.bandwidth is found.limit(1, 1) is None


def test_limit_is_the_slower_of_computing_and_moving() -> None:
    assert MACHINE.limit(flops=100e9, size=1) == 1
    assert MACHINE.limit(flops=1, size=20e9) == 2
    assert dataclasses.replace(MACHINE, flops=None).limit(1, 1) is None


def test_runs_are_read_as_they_were_written(tmp_path: Path) -> None:
    path = tmp_path / "run.json"
    rows = [row(2.0), row(0.5, phase="bwd", limit=None)]
    results.save(path, MACHINE, [*rows, row(1.0, seconds={}, error="no kernel")])
    assert results.load(path) == (MACHINE, rows)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"version": 0}', '{"version": 1, "rows": []}'])
def test_other_files_are_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "run.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=r"run\.json"):
        results.load(path)


@pytest.mark.parametrize(
    ("new", "regressed"),
    [
        (row(1.0), True),
        (row(1.93), False),  # within the noise
        (row(1.0, high=2.1), False),  # within the spread
        (row(3.0), False),
    ],
)
def test_a_slower_row_is_marked(new: Row, regressed: bool) -> None:
    old = row(2.0)
    assert results.regressed(new, old) is regressed
    console = Console(width=200, record=True)
    console.print(report.table([new], {results.key(old): old}, 200))
    assert ("REGRESSED" in console.export_text()) is regressed


def test_summary_has_the_geometric_mean_and_the_worst_row() -> None:
    rows = [row(4.0, name="fast"), row(1.0, name="slow"), row(9.0, family="pooling")]
    console = Console(width=200, record=True)
    console.print(report.summary_table(rows))
    lines = [line.split() for line in console.export_text().splitlines()]
    assert ["nchw", "fwd", "dense", "2", "2.00", "2.00", "1.00", "slow"] in lines
    assert ["nchw", "fwd", "all", "3", "3.30", "3.30", "1.00", "slow"] in lines


def test_command_times_stores_and_compares(tmp_path: Path) -> None:
    path = tmp_path / "run.json"
    arguments = ["bench", "--quick", "--threads", "1", "--filter", "adaptive"]
    threads = torch.get_num_threads()
    first = CliRunner().invoke(main, [*arguments, "--json", str(path)])
    assert first.exit_code == 0, first.output
    assert first.output.count("adaptive avg 6 256@13 b8") == 2 + 4  # in the table, in the summary
    assert "pool_blocks" in first.output
    assert torch.get_num_threads() == threads

    run = json.loads(path.read_text())
    assert [(it["phase"], it["layout"]) for it in run["rows"]] == [("fwd", "nchw"), ("bwd", "nchw")]
    for name in ("speedup", "low", "high"):
        run["rows"][0][name] = 1e6
    path.write_text(json.dumps(run))
    second = CliRunner().invoke(main, [*arguments, "--pass", "fwd", "--compare", str(path)])
    assert second.exit_code == 0, second.output
    assert second.output.count("REGRESSED") == 1
    assert "1 rows compared with the earlier run, 1 regressed" in second.output


def test_command_times_a_call_made_by_hand() -> None:
    call = "--op conv2d --shape 1,4,8,8 --weight 4,4,3,3 --set padding=same --set dilation=(2,1)"
    output = CliRunner().invoke(main, ["bench", "--quick", *call.split()])
    assert output.exit_code == 0, output.output
    assert "conv2d 1x4x8x8 w4x4x3x3 padding=same dilation=2x1" in output.output


def test_command_fails_on_a_wrong_result(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(measure.TOLERANCES, torch.float32, -1.0)
    result = CliRunner().invoke(main, ["bench", "--quick", "--filter", "adaptive", "--pass", "fwd"])
    assert result.exit_code == 1
    assert "FAILED adaptive avg 6 256@13 b8, nchw fwd: differs from torch" in result.output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--peers", "eigen"], "'eigen'"),
        (["--e2e", "--op", "conv2d", "--shape", "1,1,9,9"], "exclude"),
        (["--html", "no/such/folder/run.html"], "is no directory"),
        (["--pass", "fwd,sideways"], "'sideways'"),
        (["--layout", "hwcn"], "'hwcn'"),
        (["--filter", "no such layer"], "nothing to time"),
        (["--op", "conv2d"], "--shape"),
        (["--set", "padding=1"], "--op"),
        (["--shape", "1,x"], "separated by commas"),
        (["--op", "conv2d", "--shape", "1,1,9,9", "--set", "padding"], "NAME=VALUE"),
        (["--json", "no/such/folder/run.json"], "is no directory"),
        (["--op", "conv2d", "--shape", "1", "--model", "resnet18"], "exclude"),
    ],
)
def test_command_refuses(arguments: list[str], message: str) -> None:
    result = CliRunner().invoke(main, ["bench", *arguments])
    assert result.exit_code != 0
    assert message in result.output


def test_package_runs_from_the_tree() -> None:
    root = Path(__file__).parent.parent
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks", "--help"],
        cwd=root,
        capture_output=True,
        text=True,
        check=True,
    )
    assert "python -m benchmarks" in done.stdout


@pytest.mark.parametrize(
    ("layer", "engines"),
    [
        (SMALL[0], True),
        (SMALL[1], True),
        (SMALL[2], True),
        (SMALL[3], True),
        (
            by_hand("conv_transpose1d", (1, 4, 9), (4, 3, 3), {"stride": 2, "output_padding": 1}),
            True,
        ),
        (by_hand("max_pool2d", (1, 2, 9, 8), (), {"kernel_size": 3, "ceil_mode": True}), True),
        (by_hand("avg_pool2d", (1, 2, 9, 8), (), {"kernel_size": 3, "padding": 1}), True),
        (by_hand("adaptive_avg_pool2d", (1, 2, 9, 8), (), {"output_size": 1}), True),
        (SMALL[6], False),  # ONNX has no adaptive pooling but the global one
        (by_hand("avg_pool2d", (1, 2, 9, 8), (), {"kernel_size": 3, "divisor_override": 5}), False),
    ],
    ids=lambda value: value.name if isinstance(value, measure.Layer) else "",
)
def test_engines_agree_where_they_can_take_part(layer: measure.Layer, engines: bool) -> None:
    names = ("onnxruntime", "openvino")
    for name in names:
        pytest.importorskip(name, reason="an optional peer")
    runs, absent = measure.prepare(Job(layer, "fwd", "nchw"), Settings(peers=names), CPU)
    assert set(runs) >= {OWN, TORCH}
    assert all((name in runs) is engines and (name in absent) is not engines for name in names)
    assert measure.disagreement(runs, 1e-4) == ""


def test_engines_take_part_in_forward_passes_of_float32_alone() -> None:
    for name in ("onnxruntime", "openvino"):
        pytest.importorskip(name, reason="an optional peer")
    settings = Settings(dtype=torch.float64, peers=("onnxruntime",))
    _, absent = measure.prepare(Job(SMALL[1], "fwd", "nchw"), settings, CPU)
    assert absent == {"onnxruntime": "timed in float32 only"}
    runs, absent = measure.prepare(Job(SMALL[1], "bwd", "nchw"), Settings(peers=("openvino",)), CPU)
    assert "openvino" not in {*runs, *absent}


def test_a_peer_that_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(peers.OPTIONAL, "openvino", ("no_such_engine",))
    with pytest.raises(ModuleNotFoundError, match=r"no_such_engine.*pip install 'cnnops\[bench\]'"):
        Settings(peers=("openvino",))


@pytest.mark.slow
@pytest.mark.parametrize("phase", ["fwd", "bwd", "train"])
def test_compiled_functions_agree(phase: str) -> None:
    runs, absent = measure.prepare(Job(SMALL[1], phase, "nchw"), Settings(peers=("compile",)), CPU)
    assert (set(runs) >= {"compile"}, absent) == (True, {})
    for _ in range(2):  # a backward pass can run again
        assert measure.disagreement(runs, 1e-4) == ""


@pytest.mark.parametrize("phase", networks.PHASES)
@pytest.mark.parametrize("layout", list(LAYOUTS))
def test_networks_are_timed_converted_against_as_they_are(phase: str, layout: str) -> None:
    settings = Settings((phase,), (layout,)).quick
    (job,) = networks.network_jobs([Network("squeezenet1_1", (1, 3, 32, 32))], settings)
    made = networks.time_network(job, settings, MACHINE, CPU)
    assert made.error == ""
    assert set(made.seconds) == {OWN, TORCH, f"{TORCH} {'nhwc' if layout == 'nchw' else 'nchw'}"}
    assert made.limit is None


def test_gradients_of_networks_are_compared_by_their_norms() -> None:
    own = (torch.ones(100), torch.zeros(3))
    flipped = torch.ones(100)
    flipped[7] = 0.0  # an activation that rounding switched over
    for other, wrong in (
        ((flipped, torch.full((3,), 1e-5)), False),
        ((torch.ones(100), torch.full((3,), 1.0)), True),
        ((0.7 * torch.ones(100), torch.zeros(3)), True),
        ((torch.full((100,), float("nan")), torch.zeros(3)), True),
    ):
        runs = {"cnnops": lambda: own, "torch": lambda other=other: other}
        assert bool(networks.gradient_disagreement(runs, networks.GRADIENT_TOLERANCE)) == wrong


def test_networks_run_the_modules_of_cnnops(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []
    monkeypatch.setattr(
        networks, "disagreement", lambda runs, _: [seen.append(name) for name in runs] and ""
    )
    monkeypatch.setattr(networks, "convert", lambda model: model.apply(lambda it: seen.append("x")))
    settings = Settings().quick
    (job,) = networks.network_jobs([Network("squeezenet1_1", (1, 3, 32, 32))], settings)[:1]
    networks.time_network(job, settings, MACHINE, CPU)
    assert seen.count("x") > 50  # modules of one model, that of cnnops
    assert seen[-3:] == [OWN, TORCH, f"{TORCH} nhwc"]


def test_phases_that_networks_have_not_are_left_out() -> None:
    network = Network("resnet18", (1, 3, 64, 64))
    assert [job.phase for job in networks.network_jobs([network], Settings(PASSES))] == [
        "fwd",
        "train",
    ]


@pytest.mark.skipif(sys.platform != "linux", reason="read from Linux")
def test_memory_of_a_call_is_what_it_takes_beside_its_result() -> None:
    megabytes = 1 << 20

    def run() -> tuple[torch.Tensor, ...]:
        temporary = torch.ones(64 * megabytes, dtype=torch.uint8)
        return (temporary[: 16 * megabytes].clone(),)

    found = memory.peak_of(run)
    assert found is not None
    # The result is there while the temporary still is; pages of 2 MB count whole.
    assert 60 * megabytes < found < 72 * megabytes


def test_memory_is_unknown_where_it_cannot_be_read(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(memory, "_CLEAR", tmp_path / "no" / "file")
    assert memory.peak_of(lambda: ()) is None


def test_rows_have_plan_and_workspace() -> None:
    made = measure.time_job(Job(SMALL[1], "bwd", "nhwc"), Settings().quick, MACHINE, CPU)
    assert made.error == ""
    assert "convolution_grad_weight: " in made.plan
    assert made.algorithm
    assert made.workspace


def test_charts_are_pictures(tmp_path: Path) -> None:
    rows = [row(2.0, name="one"), row(0.5, name="two"), row(3.0, phase="bwd", name="one")]
    rows.append(row(1.5, family="pooling", intensity=0.0))
    paths = charts.save(tmp_path / "new", [*rows, row(1.0, seconds={}, error="no")], MACHINE)
    assert [path.name for path in paths] == ["speedup.png", "roofline.png"]
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in paths)
    assert list(charts.figures(rows, dataclasses.replace(MACHINE, flops=None))) == ["speedup"]
    assert charts.figures([], MACHINE) == {}


def test_chart_has_a_bar_for_every_row() -> None:
    figure = charts.speedup([row(2.0, name="one"), row(0.5, name="two"), row(3.0, phase="bwd")])
    panels = figure.axes
    assert [panel.get_title() for panel in panels] == ["nchw, fwd", "nchw, bwd"]
    ends = [[bar.get_x() + bar.get_width() for bar in panel.patches] for panel in panels]
    assert ends == [[2.0, 0.5], [3.0]]


def test_page_needs_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "run.html"
    rows = [row(2.0, name="<one>"), row(1.0, name="two", seconds={}, error="differs & fails")]
    old = {results.key(rows[0]): row(4.0)}
    page.save(path, rows, MACHINE, old)
    text = path.read_text()
    assert "&lt;one&gt;" in text
    assert "differs &amp; fails" in text
    assert "4.00 regressed" in text
    assert text.count("<svg") == 2
    for outside in ("src=", "<link", "@import", "url(http"):
        assert outside not in text


def test_groups_sum_up_rows() -> None:
    groups = summary.summarize([row(4.0), row(1.0, name="slow"), row(2.0, phase="bwd")])
    assert [(it.phase, it.family, it.rows, round(it.geomean, 9)) for it in groups] == [
        ("fwd", "dense", 2, 2.0),
        ("fwd", "all", 2, 2.0),
        ("bwd", "dense", 1, 2.0),
        ("bwd", "all", 1, 2.0),
    ]
    assert groups[0].worst.name == "slow"


def test_command_times_whole_models_and_writes_everything(tmp_path: Path) -> None:
    call = "--e2e --model squeezenet1_1 --model-input 1,3,32,32 --pass fwd --threads 1"
    outputs = ["--plot", str(tmp_path / "plots"), "--html", str(tmp_path / "run.html")]
    done = CliRunner().invoke(main, ["bench", "--quick", *call.split(), *outputs])
    assert done.exit_code == 0, done.output
    assert "squeezenet1_1" in done.output
    assert (tmp_path / "plots" / "speedup.png").exists()
    assert "squeezenet1_1" in (tmp_path / "run.html").read_text()
