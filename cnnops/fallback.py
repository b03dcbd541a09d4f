"""The one rule of falling back: torch takes over where cnnops has no kernel."""

import functools
from collections.abc import Callable
from typing import Any

from cnnops.support import UnsupportedError, warn_fallback

__all__ = ["or_torch"]


def or_torch(
    function: Callable[..., Any], torch_function: Callable[..., Any]
) -> Callable[..., Any]:
    """`function`, or `torch_function` on the same arguments where `function` is unsupported.

    Args:
        function: a function of cnnops, which raises UnsupportedError before it computes anything.
        torch_function: torch's function with the same signature and meaning.

    Returns:
        A function that warns with FallbackWarning, once per reason, when it turns to torch. Every
        exception other than UnsupportedError passes through.
    """

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        try:
            return function(*args, **kwargs)
        except UnsupportedError as error:
            warn_fallback(function.__name__, str(error))
        return torch_function(*args, **kwargs)

    return call
