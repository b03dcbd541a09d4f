"""cnnops.convert and revert: what is swapped, what survives, and that models compute the same."""

import copy
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torchvision
from op_calls import GraphCalls, OpCalls, assert_on_cnnops, assert_same
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize, prune

import cnnops


def _model() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1, padding_mode="reflect"),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.ModuleList([nn.Conv2d(8, 8, 3, groups=4)])[0],
        nn.AvgPool2d(2),
        nn.ConvTranspose2d(8, 4, 3, stride=2),
        nn.AdaptiveMaxPool2d(2),
        nn.Flatten(),
        nn.Linear(16, 5),
    ).double()


def _input() -> Tensor:
    torch.manual_seed(1)
    return torch.randn(2, 3, 16, 16, dtype=torch.float64)


def _conv() -> nn.Conv2d:
    torch.manual_seed(2)
    return nn.Conv2d(3, 6, 3, padding=1).double()


def _assert_converted(module: nn.Module) -> None:
    """`module` computes with cnnops alone."""
    with OpCalls() as calls:
        module(_input())
    assert_on_cnnops(calls)


def test_convert_and_revert_change_nothing_but_classes() -> None:
    model = _model()
    model.tag = "kept"
    classes = [type(module) for module in model.modules()]
    state = [(id(module), dict(vars(module))) for module in model.modules()]
    text = repr(model)
    expected = model(_input())

    assert cnnops.convert(model) is model
    assert [isinstance(module, cls) for module, cls in zip(model.modules(), classes, strict=True)]
    swapped = {type(module).__module__.split(".")[0] for module in model if "Conv" in str(module)}
    assert swapped == {"cnnops"}
    assert repr(model) == text
    assert [(id(module), dict(vars(module))) for module in model.modules()] == state
    _assert_converted(model)
    model.load_state_dict(model.state_dict())

    assert cnnops.revert(model) is model
    assert [type(module) for module in model.modules()] == classes
    assert [(id(module), dict(vars(module))) for module in model.modules()] == state
    with OpCalls() as calls:
        model(_input())
    assert not calls.cnnops
    model.eval()
    assert expected.shape == model(_input()).shape


@pytest.mark.parametrize("name", cnnops.nn.__all__)
def test_every_class(name: str) -> None:
    arguments: dict[str, tuple[Any, ...]] = {
        "Conv": (4, 6, 3),
        "Lazy": (6, 3),
        "LPPo": (2, 3),
        "Frac": (2, 3),
    }
    module = getattr(nn, name)(*arguments.get(name[:4], (3,)))
    assert cnnops.convert(module) is module
    assert type(module) is getattr(cnnops.nn, name)
    assert type(cnnops.revert(module)) is getattr(nn, name)


def test_twice_is_once() -> None:
    model = cnnops.convert(_model())
    classes = [type(module) for module in model.modules()]
    cnnops.convert(model)
    assert [type(module) for module in model.modules()] == classes
    cnnops.revert(cnnops.revert(model))
    assert type(model[0]) is nn.Conv2d


def test_only_modules_are_taken() -> None:
    for function in (cnnops.convert, cnnops.revert):
        with pytest.raises(TypeError, match="Module"):
            function(_model)  # type: ignore[type-var]


def test_shared_modules_and_parameters_stay_shared() -> None:
    shared = _conv()
    tied = nn.Conv2d(3, 6, 3, padding=1).double()
    tied.weight = shared.weight
    model = nn.ModuleDict({"a": shared, "b": nn.Sequential(shared), "tied": tied})
    cnnops.convert(model)
    assert model["a"] is model["b"][0]
    assert model["tied"].weight is model["a"].weight
    assert type(shared) is cnnops.nn.Conv2d


def test_flags_hooks_and_buffers_survive() -> None:
    model = _model().eval()
    model[0].weight.requires_grad_(False)
    seen = []
    model[0].register_forward_pre_hook(lambda *_: seen.append("pre"))
    model[0].register_forward_hook(lambda *_: seen.append("post"))
    model[3].register_full_backward_hook(lambda *_: seen.append("backward"))
    model[0].register_buffer("counter", torch.zeros(1))
    cnnops.convert(model)
    model(_input().requires_grad_()).sum().backward()
    assert seen == ["pre", "post", "backward"]
    assert not any(module.training for module in model.modules())
    assert not model[0].weight.requires_grad
    assert "0.counter" in model.state_dict()


def test_hooks_that_were_removed_stay_removed() -> None:
    model = _model()
    handle = model[0].register_forward_hook(lambda *_: pytest.fail("was removed"))
    cnnops.convert(model)
    handle.remove()
    model(_input())


def test_optimizer_continues() -> None:
    def train(model: nn.Module, swap: Callable[[int], object]) -> list[Tensor]:
        optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
        for step in range(4):
            swap(step)
            optimizer.zero_grad()
            model(_input()).square().sum().backward()
            optimizer.step()
        return [parameter.detach() for parameter in model.parameters()]

    expected = train(_model(), lambda step: None)
    model = _model()
    swaps = [
        lambda: None,
        lambda: cnnops.convert(model),
        lambda: None,
        lambda: cnnops.revert(model),
    ]
    # Adam divides by the gradient's size: rounding of gradients near zero is magnified.
    torch.testing.assert_close(
        train(model, lambda step: swaps[step]()), expected, atol=1e-8, rtol=0
    )


def test_deepcopy_and_pickle_of_a_converted_model() -> None:
    model = cnnops.convert(_model())
    expected = model(_input())
    for replica in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        _assert_converted(replica)
        assert_same(replica(_input()), expected)
        cnnops.revert(replica)
        assert type(replica[0]) is nn.Conv2d
    assert type(model[0]) is cnnops.nn.Conv2d


PARAMETRIZATIONS = [
    parametrizations.weight_norm,
    parametrizations.spectral_norm,
    parametrizations.orthogonal,
]


@pytest.mark.parametrize("parametrization", PARAMETRIZATIONS)
def test_parametrized(parametrization: Callable[[nn.Module], nn.Module]) -> None:
    module = parametrization(_conv()).eval()
    torch_class = type(module)
    expected = module(_input())
    text = repr(module)
    untouched = copy.deepcopy(module)

    cnnops.convert(module)
    assert isinstance(module, cnnops.nn.Conv2d)
    assert parametrize.is_parametrized(module, "weight")
    assert repr(module) == text
    _assert_converted(module)
    assert_same(module(_input()), expected)
    classes = [type(part) for part in module.modules()]
    cnnops.convert(module)
    assert [type(part) for part in module.modules()] == classes
    assert not isinstance(untouched, cnnops.nn.Conv2d)

    _assert_converted(copy.deepcopy(module))

    cnnops.revert(module)
    assert not isinstance(module, cnnops.nn.Conv2d)
    assert type(module).__name__ == torch_class.__name__
    assert type(module).__mro__[1:] == torch_class.__mro__[1:]
    assert_same(module(_input()), expected)
    parametrize.remove_parametrizations(module, "weight")
    assert type(module) is nn.Conv2d


@pytest.mark.parametrize("parametrization", PARAMETRIZATIONS)
def test_parametrization_removed_after_conversion(
    parametrization: Callable[[nn.Module], nn.Module],
) -> None:
    module = cnnops.convert(parametrization(_conv()).eval())
    expected = module(_input())
    parametrize.remove_parametrizations(module, "weight")
    assert type(module) is cnnops.nn.Conv2d
    assert_same(module(_input()), expected)
    assert type(cnnops.revert(module)) is nn.Conv2d


def test_parametrized_after_conversion() -> None:
    module = cnnops.convert(parametrizations.weight_norm(_conv()))
    parametrize.register_parametrization(module, "bias", nn.Identity())
    expected = module(_input())
    cnnops.revert(module)
    assert not isinstance(module, cnnops.nn.Conv2d)
    assert_same(module(_input()), expected)

    module = parametrizations.weight_norm(cnnops.convert(_conv()))
    _assert_converted(module)
    assert type(cnnops.revert(module)).__mro__[1] is nn.Conv2d
    assert_same(module(_input()), _conv()(_input()))


def test_parametrized_training_step() -> None:
    gradients = []
    for swap in (lambda module: module, cnnops.convert):
        module = swap(parametrizations.weight_norm(_conv()))
        loss = module(_input()).sin().sum()
        gradients.append(torch.autograd.grad(loss, list(module.parameters())))
    assert_same(gradients[1], gradients[0])


@pytest.mark.filterwarnings("ignore:.*weight_norm.*is deprecated:FutureWarning")
@pytest.mark.parametrize(
    ("norm", "remove"),
    [
        (nn.utils.weight_norm, nn.utils.remove_weight_norm),
        (nn.utils.spectral_norm, nn.utils.remove_spectral_norm),
    ],
)
def test_norms_by_hook(norm: Any, remove: Any) -> None:
    module = norm(_conv()).eval()
    expected = module(_input())
    cnnops.convert(module)
    _assert_converted(module)
    assert_same(module(_input()), expected)
    remove(module)
    assert_same(module(_input()), expected)
    assert type(cnnops.revert(module)) is nn.Conv2d


def test_pruned() -> None:
    module = _conv()
    prune.l1_unstructured(module, "weight", amount=0.5)
    expected = module(_input())
    cnnops.convert(module)
    _assert_converted(module)
    assert_same(module(_input()), expected)
    prune.remove(module, "weight")
    assert int((module.weight == 0).sum()) == module.weight.numel() // 2
    assert_same(module(_input()), expected)


@pytest.mark.parametrize("name", ["LazyConv2d", "LazyConvTranspose2d"])
def test_lazy(name: str) -> None:
    module = cnnops.convert(getattr(nn, name)(6, 3))
    with OpCalls() as calls:
        module(_input().float())
    assert calls.cnnops
    assert type(module) is getattr(cnnops.nn, name.removeprefix("Lazy"))
    assert type(cnnops.revert(module)) is getattr(nn, name.removeprefix("Lazy"))


class Inheriting(nn.Conv2d):
    """A convolution with attributes and methods of its own, but torch's forward pass."""

    def __init__(self, *args: Any, note: str = "", **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.note = note

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, {self.note}"


def test_subclass_that_inherits_the_forward_pass() -> None:
    torch.manual_seed(2)
    module = Inheriting(3, 6, 3, note="mine").double()
    expected, text = module(_input()), repr(module)
    cnnops.convert(module)
    assert isinstance(module, Inheriting)
    assert isinstance(module, cnnops.nn.Conv2d)
    assert repr(module) == text
    for replica in (module, copy.deepcopy(module), pickle.loads(pickle.dumps(module))):
        assert type(replica) is type(module)
        _assert_converted(replica)
        assert_same(replica(_input()), expected)
    parametrizations.weight_norm(module)
    _assert_converted(module)
    cnnops.revert(module)
    assert not isinstance(module, cnnops.nn.Conv2d)
    parametrize.remove_parametrizations(module, "weight")
    assert type(module) is Inheriting
    assert_same(module(_input()), expected)


class OwnForward(nn.Conv2d):
    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input) + 1


class OwnConvolution(nn.Conv2d):
    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return super()._conv_forward(input, 2 * weight, bias)


@pytest.mark.parametrize("cls", [OwnForward, OwnConvolution])
def test_own_forward_pass_is_left_alone(cls: type[nn.Conv2d]) -> None:
    module = cls(3, 6, 3)
    parametrized = parametrizations.weight_norm(cls(3, 6, 3))
    class_of_parametrized = type(parametrized)
    cnnops.convert(nn.Sequential(module, parametrized))
    assert type(module) is cls
    assert type(parametrized) is class_of_parametrized


def test_forward_pass_of_the_instance_is_left_alone() -> None:
    module = _conv()
    forward = module.forward
    module.forward = lambda input: forward(input) + 1  # type: ignore[method-assign]
    expected = module(_input())
    cnnops.convert(module)
    assert type(module) is nn.Conv2d
    assert torch.equal(module(_input()), expected)


def test_subclasses_of_cnnops_modules_are_left_alone() -> None:
    class Mine(cnnops.nn.Conv2d):
        pass

    module = Mine(3, 6, 3)
    assert type(cnnops.convert(module)) is Mine
    assert type(cnnops.revert(module)) is Mine


@pytest.mark.filterwarnings("ignore:.*torch.jit.*:FutureWarning")
def test_torchscript_is_left_alone() -> None:
    scripted = torch.jit.script(_conv())
    model = cnnops.convert(nn.Sequential(scripted, _conv().requires_grad_(False)))
    assert model[0] is scripted
    assert type(model[1]) is cnnops.nn.Conv2d


def _compiled(model: nn.Module, backend: Any) -> nn.Module:
    return torch.compile(model, backend=backend, fullgraph=True)


def _compiled_in_place(model: nn.Module, backend: Any) -> nn.Module:
    model.compile(backend=backend, fullgraph=True)
    return model


@torch.no_grad()
@pytest.mark.parametrize("compiled", [_compiled, _compiled_in_place])
def test_compiled_model_notices_the_conversion(compiled: Callable[..., nn.Module]) -> None:
    torch._dynamo.reset()
    before, converted, reverted = GraphCalls(), GraphCalls(), GraphCalls()
    graphs = before
    model = compiled(_model().eval(), lambda graph, inputs: graphs(graph, inputs))
    expected = model(_input())
    assert before.torch

    graphs = converted
    assert cnnops.convert(model) is model
    assert_same(model(_input()), expected)
    assert_on_cnnops(converted)

    graphs = reverted
    cnnops.revert(model)
    assert_same(model(_input()), expected)
    assert not reverted.cnnops


def test_data_parallel_replicates() -> None:
    replica = cnnops.convert(_conv())._replicate_for_data_parallel()
    assert type(replica) is cnnops.nn.Conv2d


# ---------------------------------------------------------------------------------------------
# Networks of torchvision.


def _without_dense_layers(model: Any) -> nn.Module:
    """AlexNet and VGG hold 95 % of their parameters in dense layers that convert does not touch."""
    features = next(layer for layer in model.classifier if isinstance(layer, nn.Linear))
    model.classifier = nn.Linear(features.in_features, 10)
    return model


def _googlenet() -> nn.Module:
    return torchvision.models.googlenet(weights=None, init_weights=False, num_classes=10)


def _inception() -> nn.Module:
    # The auxiliary classifier needs images of 299 pixels.
    return torchvision.models.inception_v3(
        weights=None, init_weights=False, aux_logits=False, num_classes=10
    )


def _plain(name: str) -> Callable[[], nn.Module]:
    return lambda: getattr(torchvision.models, name)(weights=None, num_classes=10)


def _segmentation() -> nn.Module:
    return torchvision.models.segmentation.deeplabv3_mobilenet_v3_large(
        weights=None, weights_backbone=None, num_classes=5
    )


slow = pytest.mark.slow
NETWORKS = [
    pytest.param(lambda: _without_dense_layers(_plain("alexnet")()), 64, id="alexnet"),
    pytest.param(lambda: _without_dense_layers(_plain("vgg11")()), 64, id="vgg11", marks=slow),
    pytest.param(_plain("resnet18"), 64, id="resnet18"),
    pytest.param(_googlenet, 64, id="googlenet"),
    pytest.param(_inception, 96, id="inception_v3", marks=slow),
    pytest.param(_plain("mobilenet_v3_small"), 64, id="mobilenet_v3_small"),
    pytest.param(_plain("shufflenet_v2_x1_0"), 64, id="shufflenet_v2_x1_0"),
    pytest.param(_plain("convnext_tiny"), 64, id="convnext_tiny", marks=slow),
    pytest.param(_segmentation, 64, id="deeplabv3_mobilenet_v3_large"),
]


def _tensors(output: Any) -> list[Tensor]:
    """The tensors of a network's output: one, a named tuple or a dictionary of them."""
    if isinstance(output, Tensor):
        return [output]
    values = output.values() if isinstance(output, dict) else output
    return [value for value in values if value is not None]


def _step(model: nn.Module, size: int) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
    """Output, gradients and the state after one training step, with a fixed generator state."""
    torch.manual_seed(3)
    images = torch.randn(2, 3, size, size, dtype=torch.float64)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    outputs = _tensors(model(images))
    loss = sum(output.square().mean() for output in outputs)
    torch.autograd.backward(loss)
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    optimizer.step()
    return outputs, gradients, list(model.state_dict().values())


def _assert_close_for(tensors: list[Tensor], expected: list[Tensor]) -> None:
    """Errors within 1e-9 of the largest element.

    Of the largest in the list, because single tensors can be all rounding, such as the gradient
    of a bias before batch normalization. Random networks of some 100 layers magnify the 1e-16 of
    float64; a wrong border or stride in one layer changes the leading digits.
    """
    scale = max(float(tensor.detach().abs().max()) for tensor in expected)
    for actual, reference in zip(tensors, expected, strict=True):
        torch.testing.assert_close(actual, reference, rtol=0, atol=1e-9 * scale)


@pytest.mark.parametrize(("build", "size"), NETWORKS)
def test_network_trains_as_with_torch(build: Callable[[], nn.Module], size: int) -> None:
    torch.manual_seed(0)
    model = build().double().train()
    converted = cnnops.convert(copy.deepcopy(model))
    expected = _step(model, size)
    with OpCalls() as calls:
        actual = _step(converted, size)
    for tensors, references in zip(actual, expected, strict=True):
        _assert_close_for(tensors, references)
    # torch runs what a model calls as a function; convert swaps modules.
    assert not [name for name in calls.torch if "conv" in name]
    assert calls.cnnops["convolution"] >= 5
    assert calls.cnnops["convolution_grad_weight"] == calls.cnnops["convolution"]


@pytest.mark.parametrize(("build", "size"), NETWORKS[5:7])
def test_untouched_network_under_enable(build: Callable[[], nn.Module], size: int) -> None:
    torch.manual_seed(0)
    model = build().double().train()
    expected = _step(copy.deepcopy(model), size)
    with OpCalls() as calls, cnnops.enable():
        actual = _step(model, size)
    assert_on_cnnops(calls)
    for tensors, references in zip(actual, expected, strict=True):
        _assert_close_for(tensors, references)
