"""The Python blocks of the README run as they stand."""

import re
from pathlib import Path

import pytest

README = Path(__file__).parents[1] / "README.md"
BLOCKS = re.findall(r"^### (.+?)$|^```python\n(.*?)^```", README.read_text(), re.M | re.S)


def titled_blocks() -> list[object]:
    """Each block with the heading above it as its name."""
    parameters, title = [], ""
    for heading, code in BLOCKS:
        if code:
            parameters.append(pytest.param(code, id=title))
        else:
            title = heading
    return parameters


def test_every_block_was_found() -> None:
    assert len(titled_blocks()) == README.read_text().count("```python") > 0


@pytest.mark.parametrize("code", titled_blocks())
def test_block_runs(code: str) -> None:
    exec(compile(code, str(README), "exec"), {"__name__": "readme"})
