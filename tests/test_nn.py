"""cnnops.nn against torch.nn: construction, state, forward and backward pass of every module."""

import copy
import inspect
import io
import pickle
import re
import warnings
from typing import Any

import pytest
import torch
from op_calls import OpCalls, assert_on_cnnops, assert_same
from torch import Tensor, nn

import cnnops
from cnnops import support

SIZES = (9, 8, 7)


def _cases() -> list[Any]:
    """Class name, constructor arguments and keyword arguments."""
    cases: list[tuple[str, tuple[Any, ...], dict[str, Any]]] = []
    for rank in (1, 2, 3):
        several = tuple(range(1, rank + 1))
        cases += [
            (f"Conv{rank}d", (4, 6, 3), {}),
            (f"Conv{rank}d", (4, 6, 3), {"stride": 2, "padding": several, "groups": 2}),
            (f"Conv{rank}d", (4, 4, 2), {"dilation": 2, "groups": 4, "bias": False}),
            (f"Conv{rank}d", (4, 6, 4), {"padding": "same"}),
            (f"Conv{rank}d", (4, 6, 3), {"padding": "valid"}),
            (f"ConvTranspose{rank}d", (4, 6, 3), {}),
            (
                f"ConvTranspose{rank}d",
                (4, 6, 3),
                {"stride": 2, "padding": 1, "output_padding": 1, "groups": 2, "dilation": 2},
            ),
            (f"MaxPool{rank}d", (3,), {}),
            (f"MaxPool{rank}d", (3, 2, 1), {"ceil_mode": True, "return_indices": True}),
            (f"MaxPool{rank}d", (2, 1), {"dilation": 2}),
            (f"AvgPool{rank}d", (3,), {}),
            (f"AvgPool{rank}d", (3, 2, 1), {"ceil_mode": True, "count_include_pad": False}),
            (f"AdaptiveAvgPool{rank}d", (3,), {}),
            (f"AdaptiveMaxPool{rank}d", (3,), {}),
            (f"AdaptiveMaxPool{rank}d", (3,), {"return_indices": True}),
            (f"LPPool{rank}d", (2, 3), {}),
            (f"LPPool{rank}d", (4, 2), {"stride": 1, "ceil_mode": True}),
        ]
        if rank > 1:
            samples = torch.rand(2, 4, rank, dtype=torch.float64)
            cases += [
                (f"AvgPool{rank}d", (3,), {"divisor_override": 5}),
                (f"AdaptiveAvgPool{rank}d", ((None, 3, 2)[:rank],), {}),
                (
                    f"FractionalMaxPool{rank}d",
                    (2,),
                    {"output_size": 4, "_random_samples": samples, "return_indices": True},
                ),
                (
                    f"FractionalMaxPool{rank}d",
                    (2,),
                    {"output_ratio": (0.5,) * rank, "_random_samples": samples},
                ),
            ]
    return [pytest.param(*case, id=f"{case[0]}-{number}") for number, case in enumerate(cases)]


CASES = _cases()
RANKS = pytest.mark.parametrize("rank", [1, 2, 3])


def _pair(name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, Any]:
    """torch's module and ours with the same arguments, from the same state of the generator."""
    torch.manual_seed(0)
    theirs = getattr(nn, name)(*args, **kwargs)
    torch.manual_seed(0)
    ours = getattr(cnnops.nn, name)(*args, **kwargs)
    return theirs, ours


def _input(rank: int) -> Tensor:
    torch.manual_seed(1)
    return torch.randn(2, 4, *SIZES[:rank], dtype=torch.float64)


def _rank(name: str) -> int:
    return int(name[-2])


def _assert_same_function(theirs: nn.Module, ours: nn.Module, *inputs: Any) -> None:
    """Equal outputs and equal gradients of the input and the parameters."""
    theirs, ours = theirs.double(), ours.double()
    results = []
    for module in (theirs, ours):
        leaf = inputs[0].clone(memory_format=torch.preserve_format).requires_grad_()
        output = module(leaf, *inputs[1:])
        values = output[0] if isinstance(output, tuple) else output
        gradients = torch.autograd.grad(values.sin().sum(), [leaf, *module.parameters()])
        results.append((output, gradients))
    assert_same(results[1], results[0])


def test_every_convolution_and_pooling_module_of_torch_is_there() -> None:
    theirs = {
        name for name in dir(nn) if re.search(r"(Conv|ConvTranspose|Pool|Unpool)[123]d$", name)
    }
    assert set(cnnops.nn.__all__) == theirs


@pytest.mark.parametrize("name", cnnops.nn.__all__)
def test_class(name: str) -> None:
    theirs, ours = getattr(nn, name), getattr(cnnops.nn, name)
    assert issubclass(ours, theirs)
    assert ours.__name__ == name
    assert inspect.signature(ours) == inspect.signature(theirs)
    assert inspect.getdoc(ours)


# What torch says of its own convolution; ours copies nothing.
@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")
@pytest.mark.parametrize(("name", "args", "kwargs"), CASES)
def test_module(name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    theirs, ours = _pair(name, args, kwargs)
    assert repr(ours) == repr(theirs)
    for (key, value), (their_key, their_value) in zip(
        ours.state_dict().items(), theirs.state_dict().items(), strict=True
    ):
        assert key == their_key
        assert torch.equal(value, their_value)
    input = _input(_rank(name))
    _assert_same_function(theirs, ours, input)
    with OpCalls() as calls:
        ours(input)
    assert_on_cnnops(calls)


@pytest.mark.parametrize(("name", "args", "kwargs"), CASES)
def test_unbatched(name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    if "_random_samples" in kwargs:
        kwargs = kwargs | {"_random_samples": kwargs["_random_samples"][:1]}
    theirs, ours = _pair(name, args, kwargs)
    _assert_same_function(theirs, ours, _input(_rank(name))[0])


@pytest.mark.parametrize(
    ("name", "args", "kwargs"), [case for case in CASES if "1d" not in case.values[0]]
)
def test_channels_last(name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    theirs, ours = _pair(name, args, kwargs)
    memory_format = torch.channels_last if _rank(name) == 2 else torch.channels_last_3d
    input = _input(_rank(name)).to(memory_format=memory_format)
    _assert_same_function(theirs, ours, input)
    if "Conv" in name:
        assert ours(input).is_contiguous(memory_format=memory_format)


@pytest.mark.parametrize(("name", "args", "kwargs"), [case for case in CASES if "Conv" in case.id])
def test_state_dict_loads_both_ways(
    name: str, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> None:
    theirs, ours = getattr(nn, name)(*args, **kwargs), getattr(cnnops.nn, name)(*args, **kwargs)
    input = _input(_rank(name))
    ours.load_state_dict(theirs.state_dict())
    _assert_same_function(theirs, ours, input)
    ours.reset_parameters()
    theirs.load_state_dict(ours.state_dict())
    _assert_same_function(theirs, ours, input)


@RANKS
@pytest.mark.parametrize("padding_mode", ["zeros", "reflect", "replicate", "circular"])
@pytest.mark.parametrize("padding", ["same", "valid", 2, (3, 1, 2)])
def test_padding_mode(rank: int, padding_mode: str, padding: Any) -> None:
    padding = padding[:rank] if isinstance(padding, tuple) else padding
    # An even kernel makes the two sides of 'same' differ, a dilation per axis their order matter.
    kernel, dilation = (4, 2, 3)[:rank], (1, 3, 2)[:rank]
    arguments = {"padding": padding, "padding_mode": padding_mode, "dilation": dilation}
    theirs, ours = _pair(f"Conv{rank}d", (4, 6, kernel), arguments)
    assert repr(ours) == repr(theirs)
    input = _input(rank)
    _assert_same_function(theirs, ours, input)
    _assert_same_function(theirs, ours, input[0])
    with OpCalls() as calls:
        ours(input)
    assert calls.cnnops == {"convolution": 1}
    assert not calls.torch


def test_padding_mode_under_autocast() -> None:
    theirs, ours = _pair("Conv2d", (4, 6, 3), {"padding": 1, "padding_mode": "reflect"})
    input = _input(2).float()
    with torch.autocast("cpu", torch.bfloat16):
        actual, expected = ours(input), theirs(input)
    assert actual.dtype == expected.dtype == torch.bfloat16
    # Two roundings of a sum of 36 products of order one to the 8 bits of bfloat16.
    torch.testing.assert_close(actual, expected, rtol=2**-7, atol=2**-7)


@RANKS
def test_max_unpool(rank: int) -> None:
    input = _input(rank)
    pool = nn.__dict__[f"MaxPool{rank}d"](3, 2, 1, return_indices=True)
    values, indices = pool(input)
    theirs, ours = _pair(f"MaxUnpool{rank}d", (3, 2, 1), {})
    assert repr(ours) == repr(theirs)
    size = list(input.shape[2:])
    _assert_same_function(theirs, ours, values, indices, size)
    _assert_same_function(theirs, ours, values, indices, list(input.shape))
    _assert_same_function(theirs, ours, values[0], indices[0], size)
    with OpCalls() as calls:
        ours(values, indices, output_size=size)
    assert calls.cnnops == {"max_unpool": 1}


@RANKS
def test_output_size_of_transposed_convolution(rank: int) -> None:
    theirs, ours = _pair(f"ConvTranspose{rank}d", (4, 6, 3), {"stride": 3, "padding": 1})
    input = _input(rank)
    smallest = [3 * (size - 1) + 1 for size in SIZES[:rank]]
    for extra in (0, 2):
        size = [length + extra for length in smallest]
        _assert_same_function(theirs, ours, input, size)
        _assert_same_function(theirs, ours, input, [2, 6, *size])
        assert list(ours(input, output_size=size).shape[2:]) == size
    with pytest.raises(ValueError, match="requested an output size"):
        ours(input, output_size=[1] * rank)
    with pytest.raises(ValueError, match="output_size must have"):
        ours(input, output_size=[20] * (rank + 1))


@RANKS
@pytest.mark.parametrize("kind", ["Conv", "ConvTranspose"])
def test_lazy(kind: str, rank: int) -> None:
    theirs, ours = _pair(f"Lazy{kind}{rank}d", (6, 3), {"stride": 2})
    assert repr(ours) == repr(theirs)
    input = _input(rank).float()
    torch.manual_seed(2)
    expected = theirs(input)
    torch.manual_seed(2)
    with OpCalls() as calls:
        actual = ours(input)
    assert calls.cnnops
    assert "convolution" not in calls.torch
    # Sums of at most 108 products in float32.
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-5)
    assert type(ours) is getattr(cnnops.nn, f"{kind}{rank}d")
    assert repr(ours) == repr(theirs)
    _assert_same_function(theirs, ours, input.double())


def test_lazy_takes_the_state_of_an_initialized_module() -> None:
    lazy = cnnops.nn.LazyConv2d(6, 3)
    lazy.load_state_dict(nn.Conv2d(4, 6, 3).state_dict())
    assert lazy(_input(2).float()).shape == (2, 6, 7, 6)
    assert type(lazy) is cnnops.nn.Conv2d


def _pickled(module: nn.Module) -> nn.Module:
    return pickle.loads(pickle.dumps(module))


def _saved(module: nn.Module) -> nn.Module:
    file = io.BytesIO()
    torch.save(module, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


@pytest.mark.parametrize("duplicate", [copy.copy, copy.deepcopy, _pickled, _saved])
@pytest.mark.parametrize(("name", "args", "kwargs"), CASES[::5])
def test_copies(duplicate: Any, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    module = getattr(cnnops.nn, name)(*args, **kwargs).double()
    replica = duplicate(module)
    assert type(replica) is type(module)
    _assert_same_function(module, replica, _input(_rank(name)))


def test_subclass_may_call_the_forward_pass_with_its_own_weight() -> None:
    class Standardized(cnnops.nn.Conv2d):
        def forward(self, input: Tensor) -> Tensor:
            return self._conv_forward(input, self.weight - self.weight.mean(), self.bias)

    module = Standardized(4, 6, 3).double()
    input = _input(2)
    expected = nn.functional.conv2d(input, module.weight - module.weight.mean(), module.bias)
    with OpCalls() as calls:
        actual = module(input)
    assert calls.cnnops == {"convolution": 1}
    assert_same(actual, expected)


@pytest.mark.parametrize(
    ("name", "args", "kwargs"), [case for case in CASES if "2d" in case.values[0]]
)
def test_compiles_without_a_graph_break(
    name: str, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> None:
    theirs, ours = _pair(name, args, kwargs)
    torch._dynamo.reset()
    compiled = torch.compile(ours, backend="aot_eager", fullgraph=True)
    _assert_same_function(theirs, compiled, _input(2))


@pytest.mark.parametrize("padding_mode", ["zeros", "reflect"])
def test_is_traced_by_fx(padding_mode: str) -> None:
    model = nn.Sequential(
        cnnops.nn.Conv2d(4, 4, 3, padding=1, padding_mode=padding_mode),
        cnnops.nn.MaxPool2d(2, return_indices=False),
        cnnops.nn.ConvTranspose2d(4, 4, 3),
        cnnops.nn.AdaptiveAvgPool2d(2),
        cnnops.nn.LPPool2d(2, 2),
    ).double()
    graph = torch.fx.symbolic_trace(model)
    with OpCalls() as calls:
        actual = graph(_input(2))
    assert_on_cnnops(calls)
    assert_same(actual, model(_input(2)))


@pytest.fixture
def no_warning_yet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(support, "_warned", set())


@pytest.mark.usefixtures("no_warning_yet")
@pytest.mark.parametrize("padding_mode", ["zeros", "circular"])
def test_falls_back_to_torch_with_one_warning(padding_mode: str) -> None:
    arguments = {"padding": 1, "padding_mode": padding_mode, "dtype": torch.complex64}
    theirs, ours = _pair("Conv2d", (4, 6, 3), arguments)
    input = _input(2).to(torch.complex64)
    with pytest.warns(cnnops.FallbackWarning, match="conv2d.*complex64"):
        actual = ours(input)
    torch.testing.assert_close(actual, theirs(input))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ours(input)
        copy.deepcopy(ours)(input)


@pytest.mark.usefixtures("no_warning_yet")
@pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="torch without mkldnn")
def test_pooling_falls_back_to_torch() -> None:
    input = _input(2).float()
    with pytest.warns(cnnops.FallbackWarning, match="mkldnn"):
        actual = cnnops.nn.MaxPool2d(3)(input.to_mkldnn())
    assert torch.equal(actual.to_dense(), nn.MaxPool2d(3)(input))


def test_errors_are_not_taken_for_a_lack_of_kernels() -> None:
    input = _input(2).float()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(RuntimeError, match="channels"):
            cnnops.nn.Conv2d(5, 6, 3)(input)
        with pytest.raises(RuntimeError):
            cnnops.nn.Conv2d(4, 6, 3, padding=20, padding_mode="reflect")(input)
        with pytest.raises(RuntimeError):
            cnnops.nn.MaxPool2d(2, padding=2)(input)


@pytest.mark.parametrize(
    ("name", "args", "kwargs", "message"),
    [
        ("Conv2d", (4, 6, 3), {"groups": 3}, "divisible"),
        ("Conv2d", (4, 6, 3), {"groups": 0}, "positive"),
        ("Conv2d", (4, 6, 3), {"padding": "full"}, "padding string"),
        ("Conv2d", (4, 6, 3), {"padding": "same", "stride": 2}, "strided"),
        ("Conv2d", (4, 6, 3), {"padding_mode": "mirror"}, "padding_mode"),
        ("ConvTranspose2d", (4, 6, 3), {"padding_mode": "reflect"}, 'Only "zeros"'),
    ],
)
def test_constructor_errors(
    name: str, args: tuple[Any, ...], kwargs: dict[str, Any], message: str
) -> None:
    for module in (nn, cnnops.nn):
        with pytest.raises(ValueError, match=message):
            getattr(module, name)(*args, **kwargs)
