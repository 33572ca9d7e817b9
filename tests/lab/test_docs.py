"""docs/lab.md says what there is, and nothing that is not."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import click
import pytest

from harness.cli.lab import lab
from harness.cli.lab.up import _case

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docs/lab.md").read_text()
CALLS = [match[1] for match in re.finditer(r"harness lab ((?:[a-z]+ )?[^\n`|]*)", TEXT)]


def test_every_command_is_described() -> None:
    for name in lab.commands:
        assert f"`{name}" in TEXT or f"`{name}`" in TEXT, name


@pytest.mark.parametrize("call", sorted(set(CALLS)))
def test_every_command_line_shown_would_be_understood(call: str) -> None:
    words = shlex.split(call, comments=True)
    command = lab.commands.get(words[0]) if words else None
    assert command is not None, call
    arguments = [word for word in words[1:] if word != "..."]
    with click.Context(lab) as parent:
        command.make_context(words[0], arguments, parent=parent, resilient_parsing=True)
    known = {option for each in command.params for option in each.opts}
    given = arguments[: arguments.index("--")] if "--" in arguments else arguments
    assert {word for word in given if word.startswith("-") and word != "-"} <= known, call


def test_the_case_that_the_first_lines_bring_up_is_one() -> None:
    shown = re.search(r"harness lab up (suites/\S+\.yaml) ", TEXT)
    assert shown
    case, phase = _case(str(ROOT / shown[1]), None)
    assert phase == case.phases[-1].name
