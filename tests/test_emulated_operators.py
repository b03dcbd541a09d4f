"""The way to the emulated operators: every test that says cuda-emulated really runs them."""

from __future__ import annotations

import pytest
import torch
from emulator import build, library

from cnnops import functional

pytestmark = pytest.mark.skipif(
    build.missing() is not None, reason=f"the emulator cannot be built: {build.missing()}"
)


def of_cpu(namespace: str) -> set[str]:
    """The operators of a namespace that have kernels for CPU tensors."""
    registered = torch._C._dispatch_get_registrations_for_dispatch_key("CPU")
    names = (name.partition("::") for name in registered)
    return {operator for space, _, operator in names if space == namespace}


def test_every_operator_has_cuda_kernels() -> None:
    assert set(library.names()) == of_cpu("cnnops")


def test_calls_run_on_emulated_kernels_and_afterwards_on_those_of_the_cpu() -> None:
    x = torch.randn(1, 2, 6, 6, requires_grad=True)
    with library.counting() as costs:
        with library.emulated_cuda():
            functional.max_pool2d(x, 2).sum().backward()
        kernels = {cost.kernel for cost in costs()}
        assert any("pool" in kernel for kernel in kernels)
        before = costs()
        functional.max_pool2d(x, 2).sum().backward()
        assert costs() == before


def test_an_error_of_a_kernel_is_a_runtime_error_and_leaves_the_emulator_intact() -> None:
    x = torch.randn(1, 1, 4, 4)
    beyond = torch.tensor([[[[99]]]])
    with library.emulated_cuda():
        with pytest.raises(RuntimeError):
            torch.ops.cnnops.max_pool_gather(x, beyond)
        inside = torch.tensor([[[[5]]]])
        assert torch.ops.cnnops.max_pool_gather(x, inside).item() == x[0, 0, 1, 1]


def test_settings_are_undone_and_wrong_ones_refused() -> None:
    before = library.library().emulator_settings()
    with library.settings("schedule=ahead,seed=3,count=1"):
        assert library.library().emulator_settings() == b"schedule=ahead,seed=3,races=1,count=1"
    assert library.library().emulator_settings() == before
    for wrong in ("schedule=fast", "seed=x", "races=2", "speed=1"):
        with pytest.raises(ValueError, match="cannot read the setting"):
            library.configure(wrong)
