"""docs/predict.md shows what the command prints, for the files that it shows."""

from __future__ import annotations

import re
import shlex
import textwrap
from pathlib import Path

import pytest
from click.testing import CliRunner

from harness.cli.main import main

PAGE = (Path(__file__).parents[2] / "docs" / "predict.md").read_text(encoding="utf-8")


def test_every_output_on_the_page_is_what_the_command_prints(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "policies").mkdir()
    policies, workloads = re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)
    (tmp_path / "policies" / "shop.yaml").write_text(policies)
    (tmp_path / "workloads.yaml").write_text(workloads)
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"(?:^    \$ harness .*\n(?:    .*\n)*)", PAGE, re.MULTILINE)
    assert len(blocks) == 5
    for block in blocks:
        command, _, shown = textwrap.dedent(block).partition("\n")
        result = CliRunner().invoke(main, shlex.split(command)[2:])
        assert result.output == shown, command
