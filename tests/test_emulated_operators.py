"""The way to the emulated operators: every test that says cuda-emulated really runs them."""

from __future__ import annotations

import devices
import pytest
import torch
from emulator import library

from cnnops import functional

pytestmark = devices.needs_emulator


def of_cpu(namespace: str) -> set[str]:
    """The operators of a namespace that have kernels for CPU tensors."""
    registered = torch._C._dispatch_get_registrations_for_dispatch_key("CPU")
    names = (name.partition("::") for name in registered)
    return {operator for space, _, operator in names if space == namespace}


def test_every_operator_has_cuda_kernels() -> None:
    assert set(library.names()) == of_cpu("cnnops")


@pytest.mark.parametrize("requires_grad", [False, True])
@pytest.mark.parametrize("name", ["conv2d", "conv_transpose2d", "max_pool2d", "avg_pool2d"])
def test_calls_run_on_emulated_kernels_and_afterwards_on_those_of_the_cpu(
    name: str, requires_grad: bool
) -> None:
    x = torch.randn(1, 2, 6, 6, requires_grad=requires_grad)
    argument = torch.randn(2, 2, 3, 3) if "conv" in name else 2

    def call() -> None:
        output = getattr(functional, name)(x, argument)
        if requires_grad:
            output.sum().backward()

    with library.counting() as costs:
        with library.emulated_cuda():
            call()
        emulated = costs()
        assert {cost.kind for cost in emulated} >= {"global read", "global write"}
        call()
        assert costs() == emulated


def test_settings_are_undone_and_wrong_ones_refused() -> None:
    before = library.library().emulator_settings()
    with library.settings("schedule=ahead,seed=3,count=1"):
        assert library.library().emulator_settings() == b"schedule=ahead,seed=3,races=1,count=1"
    assert library.library().emulator_settings() == before
    for wrong in ("schedule=fast", "seed=x", "races=2", "speed=1"):
        with pytest.raises(ValueError, match="cannot read the setting"):
            library.configure(wrong)
