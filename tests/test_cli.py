"""The `cnnops` command."""

from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

import cnnops
from cnnops import _C
from cnnops.cli import main
from cnnops.demo import side_by_side


def test_info_names_what_runs() -> None:
    result = CliRunner().invoke(main, ["info"])
    assert result.exit_code == 0
    for fact in (cnnops.__version__, torch.__version__, _C.isa(), *_C.available_isas()):
        assert fact in result.output


def test_help_lists_the_commands() -> None:
    output = CliRunner().invoke(main, ["--help"]).output
    for command in ("info", "check", "demo", "bench"):
        assert command in output


def test_check_reports_one_operator() -> None:
    result = CliRunner().invoke(main, ["check", "--filter", "avg_pool1d"])
    assert result.exit_code == 0, result.output
    assert "avg_pool1d" in result.output


def test_check_fails_when_nothing_is_checked() -> None:
    assert CliRunner().invoke(main, ["check", "--filter", "no such case"]).exit_code == 1


def test_demo_prints_and_saves(tmp_path: Path) -> None:
    out = tmp_path / "demo.png"
    result = CliRunner().invoke(main, ["demo", "--epochs", "1", "--out", str(out)])
    assert result.exit_code == 0, result.output
    for text in ("61,706", "48,120", "test accuracy", "after the first step"):
        assert text in result.output
    assert out.exists()


def test_demo_fails_below_the_target(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(side_by_side, "SMALL_DIGITS_EPOCHS", 1)
    result = CliRunner().invoke(main, ["demo", "--out", str(tmp_path / "demo.png")])
    assert result.exit_code == 1
    assert "FAILED" in result.output


def test_demo_without_its_data_says_so(tmp_path: Path) -> None:
    result = CliRunner().invoke(main, ["demo", "--data", str(tmp_path)])
    assert result.exit_code == 1
    assert "No MNIST files" in result.output
