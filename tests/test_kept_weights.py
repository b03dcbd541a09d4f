"""Prepared weights that cnnops.nn keeps between calls: used when they may be, never when stale."""

from __future__ import annotations

import copy
import gc
import pickle
import threading
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from op_calls import OpCalls
from torch import Tensor, nn

import cnnops.functional
import cnnops.nn
from cnnops import _C
from cnnops.nn import kept_weights

CHANNELS = 48
SHAPE = (2, CHANNELS, 20, 22)


class Uses:
    """Stands in for torch.ops.cnnops_inference and the short way, and counts what they do."""

    def __init__(self) -> None:
        self.prepared = 0
        self.convolved = 0
        self.asked = 0
        self.weight_format = SimpleNamespace(default=self._ask)
        self.prepare_weight = SimpleNamespace(default=self._prepare)
        self.convolution = SimpleNamespace(default=self._convolve)

    def _ask(self, *args: Any) -> int:
        self.asked += 1
        return torch.ops.cnnops_inference.weight_format.default(*args)

    def _prepare(self, *args: Any) -> Tensor:
        self.prepared += 1
        return torch.ops.cnnops_inference.prepare_weight.default(*args)

    def _convolve(self, *args: Any) -> Tensor:
        self.convolved += 1
        return torch.ops.cnnops_inference.convolution.default(*args)

    def plainly(self, call: Callable[..., Tensor | None], place: int) -> Callable[..., Any]:
        """`call`, counted, whose argument at `place` are prepared weights, maybe none."""

        def counted(*args: Any) -> Tensor | None:
            output = call(*args)
            self.convolved += output is not None and bool(args[place])
            return output

        return counted


@pytest.fixture
def uses(monkeypatch: pytest.MonkeyPatch) -> Uses:
    """Counts preparations and convolutions with prepared weights."""
    counted = Uses()
    monkeypatch.setattr(kept_weights, "_OPS", counted)
    for name, place in (("_plain_conv", 8), ("_plain_convolution", 3)):
        counting = counted.plainly(getattr(kept_weights, name), place)
        monkeypatch.setattr(kept_weights, name, counting)
    return counted


def module(**options: Any) -> cnnops.nn.Conv2d:
    return cnnops.nn.Conv2d(CHANNELS, CHANNELS, **{"kernel_size": 3, "padding": 1, **options})


def assert_right(conv: nn.Conv2d, x: Tensor) -> None:
    """Several calls agree with torch in float64, without gradients."""
    mode = "constant" if conv.padding_mode == "zeros" else conv.padding_mode
    padded = F.pad(x.double(), conv._reversed_padding_repeated_twice, mode=mode)
    bias = None if conv.bias is None else conv.bias.double()
    expected = F.conv2d(padded, conv.weight.double(), bias, conv.stride, 0, conv.dilation)
    for _ in range(3):
        with torch.no_grad():
            actual = conv(x)
        assert (actual - expected).abs().max() < 2e-5 * expected.abs().max()


@pytest.mark.parametrize("isa", _C.available_isas())
@pytest.mark.parametrize("last", [False, True], ids=["contiguous", "channels_last"])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"bias": False, "padding_mode": "circular"},
        {"stride": 2},
        {"padding": "same"},
        {"dilation": 2, "padding_mode": "reflect"},
    ],
)
def test_same_results(
    options: dict[str, Any], last: bool, isa: str, uses: Uses, set_isa: Callable[[str], None]
) -> None:
    set_isa(isa)
    conv, x = module(**options), torch.randn(SHAPE)
    if last:
        x = x.contiguous(memory_format=torch.channels_last)
    with torch.no_grad():
        first, second, third = conv(x), conv(x), conv(x)
        unbatched = conv(x[0])
    assert torch.equal(first, second)
    assert torch.equal(first, third)
    torch.testing.assert_close(unbatched, first[0], rtol=1e-4, atol=1e-4)
    if last or not {"stride", "dilation"} & set(options):
        assert uses.convolved >= 2
    assert_right(conv, x)


def test_prepared_once_and_only_for_repeated_calls(uses: Uses) -> None:
    conv, x = module(), torch.randn(SHAPE)
    with torch.inference_mode():
        conv(x)
        assert (uses.prepared, uses.convolved) == (0, 0)
        for calls in range(1, 5):
            conv(x)
            assert (uses.prepared, uses.convolved) == (1, calls)


def in_place(conv: nn.Conv2d) -> None:
    with torch.no_grad():
        conv.weight.mul_(-2)


def in_inference_mode(conv: nn.Conv2d) -> None:
    with torch.inference_mode():
        conv.weight.mul_(-2)


def through_a_view(conv: nn.Conv2d) -> None:
    with torch.no_grad():
        conv.weight[3:5].zero_()


def by_an_optimizer(conv: nn.Conv2d) -> None:
    conv(torch.randn(SHAPE)).sum().backward()
    torch.optim.SGD(conv.parameters(), lr=0.1).step()


def by_load_state_dict(conv: nn.Conv2d) -> None:
    conv.load_state_dict(module().state_dict())


def by_assigned_state_dict(conv: nn.Conv2d) -> None:
    conv.load_state_dict(module().state_dict(), assign=True)


def by_data(conv: nn.Conv2d) -> None:
    conv.weight.data = torch.randn_like(conv.weight)


def by_a_new_parameter(conv: nn.Conv2d) -> None:
    conv.weight = nn.Parameter(torch.randn_like(conv.weight))


def to_half_and_back(conv: nn.Conv2d) -> None:
    conv.half()
    conv.float()


def to_channels_last(conv: nn.Conv2d) -> None:
    conv.to(memory_format=torch.channels_last)


# Without a kept weight each thread packs or transforms what it multiplies; rows that are no
# multiple of a group of them.
@pytest.mark.parametrize("isa", _C.available_isas())
@pytest.mark.parametrize("last", [False, True], ids=["contiguous", "channels_last"])
@pytest.mark.parametrize(
    ("channels", "rows", "size"),
    [(24, 140, (10, 11)), (96, 80, (12, 12)), (192, 48, (7, 7)), (20, 24, (60, 50))],
)
def test_same_results_as_each_thread_makes(
    channels: int,
    rows: int,
    size: tuple[int, int],
    last: bool,
    isa: str,
    set_isa: Callable[[str], None],
) -> None:
    set_isa(isa)
    conv = cnnops.nn.Conv2d(channels, rows, 3, padding=1)
    x = torch.randn(2, channels, *size)
    if last:
        x = x.contiguous(memory_format=torch.channels_last)
    assert_right(conv, x)
    with torch.no_grad():
        kept, made = conv(x), cnnops.functional.conv2d(x, conv.weight, conv.bias, padding=1)
    assert torch.equal(kept, made)


@pytest.mark.parametrize(
    "change",
    [
        in_place,
        in_inference_mode,
        through_a_view,
        by_an_optimizer,
        by_load_state_dict,
        by_assigned_state_dict,
        by_data,
        by_a_new_parameter,
        to_half_and_back,
        to_channels_last,
    ],
)
def test_a_changed_weight_is_never_stale(change: Callable[[nn.Conv2d], None], uses: Uses) -> None:
    conv, x = module(), torch.randn(SHAPE)
    assert_right(conv, x)
    assert uses.convolved > 0
    change(conv)
    assert_right(conv, x)
    change(conv)
    assert_right(conv, x)


def test_other_dtypes(uses: Uses) -> None:
    conv = module()
    x = torch.randn(SHAPE).contiguous(memory_format=torch.channels_last)
    assert_right(conv, x)
    conv.double()
    assert_right(conv, x.double())
    conv.float()
    assert_right(conv, x)
    assert uses.prepared == 3


def test_other_instruction_set_and_precision(uses: Uses, set_isa: Callable[[str], None]) -> None:
    conv, x = module(), torch.randn(SHAPE)
    for isa in [*_C.available_isas(), *_C.available_isas()]:
        set_isa(isa)
        assert_right(conv, x)
    before = torch.backends.mkldnn.conv.fp32_precision
    try:
        torch.backends.mkldnn.conv.fp32_precision = "ieee"
        prepared = uses.prepared
        assert_right(conv, x)
        assert uses.prepared == prepared + 1  # for another kernel
    finally:
        torch.backends.mkldnn.conv.fp32_precision = before
    assert_right(conv, x)


def test_weights_that_are_read_as_they_lie_are_not_prepared(uses: Uses) -> None:
    assert_right(module(kernel_size=1, padding=0), torch.randn(SHAPE))
    assert (uses.prepared, uses.convolved) == (0, 0)


@pytest.mark.skipif(
    tuple(int(part) for part in torch.__version__.split(".")[:2]) < (2, 14),
    reason="torch before 2.14 has no short way",
)
def test_the_short_way_finds_what_is_kept_by_itself(uses: Uses) -> None:
    squeeze, conv = cnnops.nn.Conv2d(96, CHANNELS, 1), module()
    small, x = torch.randn(1, 96, 1, 1), torch.randn(SHAPE)
    with torch.no_grad():
        for _ in range(6):
            squeeze(small)
        assert uses.asked == 0
        for _ in range(3):
            conv(x)
            conv(x[:1, :, :9, :8].contiguous(memory_format=torch.channels_last))
        asked, convolved = uses.asked, uses.convolved
        for calls in range(2, 8, 2):
            conv(x)
            conv(x[:1, :, :9, :8].contiguous(memory_format=torch.channels_last))
            assert (uses.asked, uses.convolved) == (asked, convolved + calls)


def test_modules_share_what_is_kept_of_a_shared_weight(uses: Uses) -> None:
    one, other = module(), module(padding_mode="circular")
    other.weight = one.weight
    x = torch.randn(SHAPE)
    assert_right(one, x)
    assert_right(other, x)
    assert uses.prepared == 1
    in_place(one)
    assert_right(other, x)
    assert_right(one, x)


def test_memory_is_bounded_and_freed(uses: Uses) -> None:
    conv = module()
    with torch.no_grad():
        for size in range(8, 40):
            for layout in (torch.contiguous_format, torch.channels_last):
                x = torch.randn(1, CHANNELS, size, size).contiguous(memory_format=layout)
                conv(x)
                conv(x)
    kept = kept_weights._kept[id(conv.weight)]
    weight_bytes = conv.weight.numel() * 4
    assert 0 < len(kept.prepared) <= kept_weights.MOST_FORMATS
    assert all(p.numel() <= 4 * weight_bytes + 4096 for p in kept.prepared.values())
    entries = len(kept_weights._kept)
    del kept, conv
    gc.collect()
    assert len(kept_weights._kept) == entries - 1


def test_forget(uses: Uses) -> None:
    conv, x = module(), torch.randn(SHAPE)
    assert_right(conv, x)
    conv.weight.data.mul_(2)  # torch does not count this
    kept_weights.forget(conv.weight)
    assert_right(conv, x)


def test_nothing_is_stored_on_the_module(uses: Uses) -> None:
    conv, x = module(), torch.randn(SHAPE)
    before = set(vars(conv)), set(vars(conv.weight))
    assert_right(conv, x)
    assert (set(vars(conv)), set(vars(conv.weight))) == before
    for twin in (copy.deepcopy(conv), pickle.loads(pickle.dumps(conv))):
        in_place(twin)
        assert_right(twin, x)
    assert_right(conv, x)


def test_not_used_where_something_records_or_transforms(uses: Uses) -> None:
    conv, x = module(), torch.randn(SHAPE)
    assert_right(conv, x)
    convolved = uses.convolved
    conv(x)
    with OpCalls() as calls, torch.no_grad():
        conv(x)
    assert calls.cnnops["convolution"] == 1
    with torch.no_grad():
        conv(x.requires_grad_())  # no gradient is recorded here
        assert uses.convolved == (convolved := convolved + 1)
        torch.func.vjp(conv, x.detach())
        torch.func.jvp(conv, (x.detach(),), (x.detach(),))
        with torch.autocast("cpu", torch.bfloat16):
            conv(x)
        torch.func.functional_call(conv, {"weight": torch.randn_like(conv.weight)}, (x,))
        torch.jit.trace(conv, x.detach(), check_trace=False)
        torch.compile(conv, backend="eager", fullgraph=True)(x)
    assert uses.convolved == convolved


def test_many_threads(uses: Uses) -> None:
    conv, x = module(), torch.randn(SHAPE)
    with torch.no_grad():
        expected = conv(x)
    wrong: list[float] = []

    def work() -> None:
        with torch.no_grad():
            for _ in range(20):
                if not torch.equal(conv(x), expected):
                    wrong.append(1)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    assert uses.prepared == 1


def test_a_prepared_weight_that_does_not_fit_does_no_harm() -> None:
    ops = torch.ops.cnnops_inference
    x, weight = torch.randn(SHAPE), torch.randn(CHANNELS, CHANNELS, 3, 3)
    geometry = ((1, 1), (1, 1, 1, 1), (1, 1), 1, "zeros")
    expected = torch.ops.cnnops.convolution(x, weight, None, *geometry)
    prepared = ops.prepare_weight(x, weight, *geometry)
    assert torch.equal(ops.convolution(x, weight, None, prepared, *geometry), expected)
    small = torch.randn(20, CHANNELS, 3, 3)
    for other in (
        torch.empty(0, dtype=torch.uint8),
        torch.zeros(100, dtype=torch.uint8),
        prepared[:64],
        prepared[:-1],
        prepared[64:],
        prepared[1:],
        ops.prepare_weight(x, small, *geometry),
    ):
        assert torch.equal(
            ops.convolution(x, weight, None, other.contiguous(), *geometry), expected
        )
    for bad in (prepared.view(torch.float32), prepared.reshape(1, -1), prepared[::2]):
        with pytest.raises(RuntimeError, match="prepare_weight"):
            ops.convolution(x, weight, None, bad, *geometry)
